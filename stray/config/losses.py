"""The losses of the contrastive stage: weights, temperatures, and what goes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class _ContrastConfig:
    """What every loss over pairs of codes has."""

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
class LossesConfig:
    """The weighted sum that the contrastive stage minimises."""

    clip: ClipLossConfig = field(default_factory=ClipLossConfig)
    """Symmetric InfoNCE."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Rows of the similarity matrix that a worker holds at a time, computed anew in the backward pass; None: all of
    its rows at once. Value and gradient are the same.
    """

    @property
    def contrasts(self) -> dict[str, _ContrastConfig]:
        """The losses over pairs of codes, with temperatures, whose weight is not 0."""
        return {"clip": self.clip} if self.clip.weight > 0 else {}

    @property
    def weights(self) -> dict[str, float]:
        """The weights that are not 0."""
        return {name: loss.weight for name, loss in self.contrasts.items()}
