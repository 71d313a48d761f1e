"""Numbers that change while training, as functions of progress (0 at the first step, 1 after the last)."""

from __future__ import annotations

import math

from stray.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate of global step `step` (counted from 0) of `total_steps`: a linear warm-up, then constant or
    cosine.
    """
    warmup = round(config.warmup_share * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(1, total_steps - warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def kl_weight(weight: float, warmup_share: float, epoch: int, epochs: int) -> float:
    """Weight of the KL term in epoch `epoch` of `epochs`: rises linearly from 0 over the share of the epochs that
    warm up.
    """
    warmup = warmup_share * epochs
    return weight if epoch >= warmup else weight * epoch / warmup
