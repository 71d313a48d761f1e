"""Numbers that change while training, as functions of progress (0 at the first step, 1 after the last)."""

from __future__ import annotations

import math

from stray.config import OptimConfig, ScviConfig


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of global step `step` (counted from 0) of `total_steps`: a linear warm-up, then constant
    or cosine.
    """
    warmup = round(config.warmup_share * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule != "cosine":
        return config.lr
    progress = (step - warmup) / max(1, total_steps - warmup)
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def kl_weight(config: ScviConfig, epoch: int, epochs: int, step: int) -> float:
    """Return the weight of the KL term in epoch `epoch` of `epochs` at global step `step`: rises linearly from 0, by
    epochs or by steps as `config` says.
    """
    done, warmup = float(epoch), config.kl_warmup_share * epochs
    if config.kl_warmup_steps is not None:
        done, warmup = float(step), float(config.kl_warmup_steps)
    return config.kl_weight if done >= warmup else config.kl_weight * done / warmup
