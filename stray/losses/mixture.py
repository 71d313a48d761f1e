"""The weighted sum of losses that the contrastive stage minimises and the search searches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from stray.config import LossesConfig
from stray.losses.clip import clip_loss
from stray.losses.expression import Explained, expression_loss
from stray.losses.gather import Gathered
from stray.losses.guided import guided_chance, guided_loss, n_labelled
from stray.losses.siglip import siglip_chance, siglip_loss
from stray.losses.smoothed import smoothed_loss


@dataclass(frozen=True)
class Mixed:
    """A rank's shares, scalars: those of all ranks add up to the numbers of the global batch."""

    loss: Tensor
    """The weighted sum, which is minimised."""
    terms: dict[str, Tensor]
    """Each loss by its name, unweighted."""
    chances: dict[str, Tensor]
    """Value of each loss at chance: all similarities equal, or counts independent of the picture."""
    health: dict[str, Tensor]
    """Metrics that tell whether each loss has an effect."""


def mixture(
    config: LossesConfig,
    codes: Gathered,
    scales: Mapping[str, Tensor],
    siglip_bias: Tensor | None = None,
    explained: Explained | None = None,
) -> Mixed:
    """Return the losses whose weight is not 0, at the logit scales `scales` by the losses' names and siglip's bias.

    `explained` holds what the decoder makes of the local pictures, where the expression loss has a weight.
    """
    terms: dict[str, Tensor] = {}
    chances: dict[str, Tensor] = {}
    health: dict[str, Tensor] = {}
    share = codes.image_nD.new_tensor(len(codes.image_nD) / codes.count)
    if config.clip.weight > 0:
        terms["clip"] = clip_loss(codes, scales["clip"], config.chunk)
        chances["clip"] = share * math.log(codes.count)
    if (smoothed := config.smoothed).weight > 0:
        terms["smoothed"], health["smoothed_off_diagonal"] = smoothed_loss(
            codes,
            scales["smoothed"],
            target_temperature=smoothed.target_temperature,
            targets=smoothed.targets,
            chunk=config.chunk,
        )
        chances["smoothed"] = share * math.log(codes.count)
    if (guided := config.guided).weight > 0:
        terms["guided"] = guided_loss(codes, scales["guided"], unlabelled=guided.unlabelled, chunk=config.chunk)
        chances["guided"] = share * guided_chance(codes, guided.unlabelled)
        health["guided_labelled"] = share * n_labelled(codes) / codes.count
    if config.siglip.weight > 0:
        assert siglip_bias is not None
        terms["siglip"] = siglip_loss(codes, scales["siglip"], siglip_bias, config.chunk)
        chances["siglip"] = share * siglip_chance(codes.count)
    if config.expression.weight > 0:
        assert explained is not None
        terms["expression"] = expression_loss(explained, codes.count)
        chances["expression"] = share * explained.chance
    # Every parameter gets a gradient, be it 0: what the optimiser does then does not hang on the number of workers.
    total = (codes.image_nD.sum() + codes.gene_nD.sum()) * 0.0
    for name, weight in config.weights.items():
        total = total + weight * terms[name]
    return Mixed(total, terms, chances, health)
