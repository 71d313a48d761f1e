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
    """Adam's epsilon."""
    decoupled: bool = False
    """Decoupled weight decay (AdamW) rather than an L2 term (Adam)."""
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    """Learning rate after the warm-up: constant, cosine decay to zero at the last step, or reduced at every plateau of
    the held-out ELBO (gene stage).
    """
    plateau_patience: Annotated[int, Field(ge=1)] = 30
    """Epochs without a better held-out ELBO that count as a plateau."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Factor on the learning rate at every plateau."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises linearly from zero."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest global gradient norm; larger gradients are scaled down to it. None: never."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveOptimConfig(OptimConfig):
    """Optimiser of the contrastive stage, with layer-wise learning rates and an average of the weights."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate of the image encoder for every layer below the heads: f for layer4 of a ResNet, f^2
    for layer3, up to f^5 for its stem; 1: one rate for all layers.
    """
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay d of an exponential moving average of the weights, which is kept instead of the last weights. After t steps
    d is at most (1 + t) / (10 + t), so that short runs forget their start too. null: keep the last weights.
    """
