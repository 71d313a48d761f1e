"""Sigmoid loss of each pair of a picture and a gene code (SigLIP: Zhai et al. 2023, "Sigmoid Loss for Language
Image Pre-Training", algorithm 1).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from stray.losses.chunks import Rows, sum_over_rows
from stray.losses.gather import Gathered


def siglip_loss(codes: Gathered, logit_scale: Tensor, bias: Tensor, chunk: int | None = None) -> Tensor:
    """Return this rank's part of the loss: its pictures' pairs over the global count, a scalar in nats.

    With L = s image gene^T + b (N, N), s the logit scale and b the bias, and z = 1 on the diagonal and -1 elsewhere,
    the loss of the global batch of N spots is -sum(log sigmoid(z L)) / N. Chance is `siglip_chance`.
    """
    place_n = codes.place_n

    def term(rows: Rows) -> Tensor:
        logit_kN = logit_scale * codes.image_nD[rows] @ codes.gene_ND.T + bias
        # log sigmoid(L) = log sigmoid(-L) + L: all pairs as if none belonged together, then those that do.
        return -F.logsigmoid(-logit_kN).sum() - logit_kN.gather(1, place_n[rows, None]).sum()

    return sum_over_rows(term, len(place_n), chunk) / codes.count


def siglip_chance(count: int) -> float:
    """Return the least loss of `count` spots whose similarities are all equal, at the best bias -ln(count - 1)."""
    return math.log(count) + (count - 1) * math.log(count / (count - 1)) if count > 1 else 0.0
