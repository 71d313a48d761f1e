"""The optimiser and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Adam (decoupled weight decay where `decoupled`), with warm-up and schedule."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """Weight decay."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Term that keeps Adam's division finite."""
    decoupled: bool = False
    """AdamW's decay (true) or Adam's L2 term (false)."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """Learning rate after the warm-up: kept, cosine to zero at the last step, or lowered at every plateau of the
    held-out ELBO (gene stage).
    """
    plateau_patience: Annotated[int, Field(ge=1)] = 30
    """Epochs without a better held-out ELBO that make a plateau."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Factor on the learning rate at every plateau."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises linearly from zero."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest global gradient norm; larger gradients are scaled down to it. None: never."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveOptimConfig(OptimConfig):
    """The contrastive stage's optimiser: the image encoder may learn more slowly below, and its average be kept."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate of the image encoder for every layer below the heads: f for layer4 of a ResNet, f^2
    for layer3, to f^5 for its stem; 1: everything learns alike.
    """
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep the exponential moving average of the weights, old share d a step, rather than the last weights. After t
    steps d is at most (1 + t) / (10 + t), so that a short run forgets its start too. None: the last weights.
    """
