"""The losses of the contrastive stage: weights, temperatures, and what goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class _ContrastConfig:
    """Settings of every loss over pairs of embeddings."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the sum of losses; 0: left out."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature at the start (the logit scale is its inverse)."""
    learned: bool = True
    """Whether the temperature is trained."""
    max_logit_scale: Annotated[float, Field(gt=0)] = 100.0
    """The logit scale is clamped to this after each step."""


@dataclass(frozen=True, kw_only=True)
class ClipLossConfig(_ContrastConfig):
    """Symmetric InfoNCE over the global batch (Radford et al. 2021)."""

    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight in the sum of losses; 0: left out."""


@dataclass(frozen=True, kw_only=True)
class SmoothedLossConfig(_ContrastConfig):
    """Contrast against targets smoothed by the similarity of the spots themselves (BLEEP, Xie et al. 2023)."""

    target_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the targets, fixed; watch `smoothed_off_diagonal`: near 0 nothing is smoothed, near 1 nothing is
    asked for.
    """
    targets: Literal["detached", "published"] = "detached"
    """Constants, along each direction's own axis; or as in BLEEP's code: transposed for one direction, with gradient
    through them.
    """


@dataclass(frozen=True, kw_only=True)
class GuidedLossConfig(_ContrastConfig):
    """Spots of one class are positives of each other (supervised contrast, Khosla et al. 2020). Labels of training
    patients only, by the rules of `eval.label_sources` and `eval.exclude_classes`.
    """

    unlabelled: Literal["out", "negatives"] = "out"
    """Spots without a label take no part, or they are negatives of the labelled ones."""


@dataclass(frozen=True, kw_only=True)
class SiglipLossConfig(_ContrastConfig):
    """Every pair judged by itself, by a sigmoid (SigLIP, Zhai et al. 2023)."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature at the start (the logit scale is its inverse)."""
    bias: float = -10.0
    """Bias of the logits at the start: most pairs do not belong together."""
    learned_bias: bool = True
    """Whether the bias is trained."""


@dataclass(frozen=True, kw_only=True)
class ExpressionLossConfig:
    """The code of the picture, through the frozen gene decoder, explains the spot's counts. Needs a frozen scVI or
    scANVI as gene tower.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight in the sum of losses; 0: left out. The loss is in nats per spot and gene."""


@dataclass(frozen=True, kw_only=True)
class LossesConfig:
    """The weighted sum that the contrastive stage minimises."""

    clip: ClipLossConfig = field(default_factory=ClipLossConfig)
    """Symmetric InfoNCE."""
    smoothed: SmoothedLossConfig = field(default_factory=SmoothedLossConfig)
    """Contrast against smoothed targets."""
    guided: GuidedLossConfig = field(default_factory=GuidedLossConfig)
    """Spots of one class attract each other."""
    siglip: SiglipLossConfig = field(default_factory=SiglipLossConfig)
    """Every pair judged by itself."""
    expression: ExpressionLossConfig = field(default_factory=ExpressionLossConfig)
    """The picture explains the counts."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Rows of the similarity matrix that a worker holds at a time, computed anew in the backward pass; None: all of
    its rows at once. Value and gradient are the same.
    """

    @property
    def contrasts(self) -> dict[str, _ContrastConfig]:
        """The losses over pairs of codes, with temperatures, whose weight is not 0."""
        every: dict[str, _ContrastConfig] = {
            "clip": self.clip,
            "smoothed": self.smoothed,
            "guided": self.guided,
            "siglip": self.siglip,
        }
        return {name: loss for name, loss in every.items() if loss.weight > 0}

    @property
    def weights(self) -> dict[str, float]:
        """The weights that are not 0."""
        found = {name: loss.weight for name, loss in self.contrasts.items()}
        return found if self.expression.weight == 0 else found | {"expression": self.expression.weight}
