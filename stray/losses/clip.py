"""Symmetric InfoNCE (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
figure 3).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stray.losses.chunks import Rows, sum_over_rows
from stray.losses.gather import Gathered


def clip_loss(codes: Gathered, logit_scale: Tensor, chunk: int | None = None) -> Tensor:
    """Return this rank's part of the loss: its rows' terms over the global count, a scalar in nats.

    The shares of all ranks add up to the mean over the N spots of the global batch of

        (cross-entropy(s image gene^T, own gene) + cross-entropy(s gene image^T, own image)) / 2,   s the logit scale.

    Chance is ln N. At most `chunk` rows of the two (n, N) matrices are held at a time.
    """
    place_n = codes.place_n

    def term(rows: Rows) -> Tensor:
        to_gene_kN = logit_scale * codes.image_nD[rows] @ codes.gene_ND.T
        to_image_kN = logit_scale * codes.gene_nD[rows] @ codes.image_ND.T
        return F.cross_entropy(to_gene_kN, place_n[rows], reduction="sum") + F.cross_entropy(
            to_image_kN, place_n[rows], reduction="sum"
        )

    return sum_over_rows(term, len(place_n), chunk) / (2 * codes.count)
