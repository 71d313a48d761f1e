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
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: kept, or cosine to zero at the last step."""
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps over which the learning rate rises linearly from zero."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest global gradient norm; larger gradients are scaled down to it. None: never."""
