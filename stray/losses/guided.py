"""Class-guided contrast: spots of one class are positives of each other, across the modalities (the supervised
contrastive loss of Khosla et al. 2020, "Supervised Contrastive Learning", equation 2, between pictures and gene codes).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stray.losses.chunks import Rows, sum_over_rows
from stray.losses.gather import Gathered

Unlabelled = Literal["out", "negatives"]


def guided_loss(
    codes: Gathered, logit_scale: Tensor, *, unlabelled: Unlabelled = "out", chunk: int | None = None
) -> Tensor:
    """Return this rank's part of the loss: its labelled rows' terms over all labelled spots of the batch, in nats.

    For a labelled spot i of class y_i, P(i) are the spots of its class, itself included, and A(i) the labelled spots
    ("out") or all spots ("negatives": an unlabelled one may be of the same class unseen). With the logits L = s image
    gene^T of one direction and s the logit scale, the term of i is

        log(sum over a in A(i) of exp L[i, a]) - (mean over p in P(i) of L[i, p]);

    the mean over positives stands outside the logarithm. The shares of all ranks add up to the mean over labelled
    spots and both directions; 0 where the global batch has none. Raises ValueError when `codes` came without classes.
    """
    if codes.class_N is None:
        raise ValueError("guided_loss needs the classes of the spots")
    class_N, least = codes.class_N, torch.finfo(codes.image_nD.dtype).min
    class_n = class_N[codes.rows]
    # A number rather than -inf: where no spot is labelled, infinities would make gradients of 0 * inf.
    left_out_N = class_N < 0 if unlabelled == "out" else torch.zeros_like(class_N, dtype=torch.bool)

    def term(rows: Rows) -> Tensor:
        labelled_k1 = class_n[rows, None] >= 0
        positive_kN = (class_n[rows, None] == class_N) & labelled_k1
        n_positive_k = positive_kN.sum(dim=1).clamp_min(1)

        def direction(from_nD: Tensor, to_ND: Tensor) -> Tensor:
            logit_kN = logit_scale * from_nD[rows] @ to_ND.T
            among_k = logit_kN.masked_fill(left_out_N, least).logsumexp(dim=1)
            towards_k = (logit_kN * positive_kN).sum(dim=1) / n_positive_k
            return torch.where(labelled_k1[:, 0], among_k - towards_k, 0.0).sum()

        return direction(codes.image_nD, codes.gene_ND) + direction(codes.gene_nD, codes.image_ND)

    return sum_over_rows(term, len(class_n), chunk) / (2 * n_labelled(codes).clamp_min(1))


def n_labelled(codes: Gathered) -> Tensor:
    """Return the number of labelled spots in the global batch."""
    assert codes.class_N is not None
    return (codes.class_N >= 0).sum()


def guided_chance(codes: Gathered, unlabelled: Unlabelled) -> Tensor:
    """Return the loss where all similarities are equal: the logarithm of the number of spots that each is held
    against.
    """
    n = n_labelled(codes)
    if unlabelled == "out":
        return n.clamp_min(1).to(codes.image_nD.dtype).log()
    return torch.where(n > 0, codes.image_nD.new_tensor(codes.count).log(), 0.0)
