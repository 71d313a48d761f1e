"""Symmetric InfoNCE (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
figure 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(
    image_nD: Tensor, gene_nD: Tensor, image_ND: Tensor, gene_ND: Tensor, rows: slice, logit_scale: Tensor
) -> Tensor:
    """This rank's share of the loss: its rows' terms over the global count, a scalar in nats.

    n local items at places `rows` among the N gathered ones, embeddings of length one in D dimensions. The shares of
    all ranks add up to the mean over the global batch of

        (cross-entropy(s image gene^T, own gene) + cross-entropy(s gene image^T, own image)) / 2,   s the logit scale.

    Chance is ln N.
    """
    target_n = torch.arange(rows.start, rows.stop, device=image_nD.device)
    to_gene_nN = logit_scale * image_nD @ gene_ND.T
    to_image_nN = logit_scale * gene_nD @ image_ND.T
    terms = F.cross_entropy(to_gene_nN, target_n, reduction="sum") + F.cross_entropy(
        to_image_nN, target_n, reduction="sum"
    )
    return terms / (2 * len(gene_ND))
