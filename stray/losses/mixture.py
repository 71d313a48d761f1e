"""The weighted sum of losses that the contrastive stage minimises and the search searches."""

from __future__ import annotations

from torch import Tensor

from stray.config import LossesConfig
from stray.losses.clip import clip_loss
from stray.losses.gather import Gathered


def mixture(config: LossesConfig, codes: Gathered, logit_scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """This rank's share of the weighted sum, and the unweighted share of each term by its name.

    The shares of all ranks add up to the loss of the global batch.
    """
    terms: dict[str, Tensor] = {}
    if config.clip.weight > 0:
        terms["clip"] = clip_loss(codes.image_nD, codes.gene_nD, codes.image_ND, codes.gene_ND, codes.rows, logit_scale)
    weights = {"clip": config.clip.weight}
    total = codes.image_nD.sum() * 0.0
    for name, term in terms.items():
        total = total + weights[name] * term
    return total, terms
