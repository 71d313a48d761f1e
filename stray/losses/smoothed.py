"""Contrast against smoothed targets: spots that resemble each other in both modalities are no negatives of each other
(BLEEP: Xie et al. 2023, "Spatially Resolved Gene Expression Prediction from H&E Histology Images via Bi-modal
Contrastive Learning", equations 1 and 2).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stray.losses.chunks import Rows, over_rows, sum_over_rows
from stray.losses.gather import Gathered


def smoothed_loss(
    codes: Gathered,
    logit_scale: Tensor,
    *,
    target_temperature: float,
    targets: Literal["detached", "published"] = "detached",
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return this rank's parts of the loss (scalar, nats) and of the mean target mass off the diagonal (scalar, 0 to
    1).

    With S = image image^T + gene gene^T (N, N), T = softmax(S / (2 tau_t)) along each row, s the logit scale and CE(T,
    L) = -sum(T * log softmax(L)) along rows, the loss of the global batch of N spots is

        (CE(T, s image gene^T) + CE(T, s gene image^T)) / (2 N).

    "detached": targets are constants. "published": as in BLEEP's code the first term's targets are T^T, whose rows do
    not add up to 1, and gradient flows through them. Chance is ln N in both. T is nearly the identity where no two
    spots are alike at tau_t: the loss is then clip's, and the mass off the diagonal near 0.
    """
    place_n, width = codes.place_n, 2 * target_temperature
    published = targets == "published"

    def similarity(image_kD: Tensor, gene_kD: Tensor) -> Tensor:
        return (image_kD @ codes.image_ND.T + gene_kD @ codes.gene_ND.T) / width

    # T^T[i, j] = exp(S[j, i]) / Z[j]: the rows of other ranks have normalisers too.
    def normalisers(rows: Rows) -> Tensor:
        return similarity(codes.image_ND[rows], codes.gene_ND[rows]).logsumexp(dim=1)

    log_z_N = over_rows(normalisers, codes.count, chunk) if published else None

    def term(rows: Rows) -> Tensor:
        image_kD, gene_kD = codes.image_nD[rows], codes.gene_nD[rows]
        with torch.set_grad_enabled(published and torch.is_grad_enabled()):
            similarity_kN = similarity(image_kD, gene_kD)
            target_kN = similarity_kN.softmax(dim=1)
            of_image_kN = target_kN if log_z_N is None else (similarity_kN - log_z_N).exp()
        to_gene_kN = (logit_scale * image_kD @ codes.gene_ND.T).log_softmax(dim=1)
        to_image_kN = (logit_scale * gene_kD @ codes.image_ND.T).log_softmax(dim=1)
        loss = -(of_image_kN * to_gene_kN).sum() - (target_kN * to_image_kN).sum()
        own_k = target_kN.detach().gather(1, place_n[rows, None])
        return torch.stack([loss / 2, (1 - own_k).sum()])

    loss, off_diagonal = (sum_over_rows(term, len(place_n), chunk) / codes.count).unbind()
    return loss, off_diagonal.detach()
