"""Optimiser, learning-rate schedule, and the exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stray.config import ContrastiveOptimConfig, OptimConfig
from stray.models.image_encoder import ImageEncoder
from stray.models.towers import TunedTower


class WeightAverage:
    """average <- d * average + (1 - d) * weights after every step, from the initial weights on, with
    d = min(decay, (1 + t) / (10 + t)) after t steps, as in TensorFlow's ExponentialMovingAverage.

    Everything in the module's state that is a float is averaged, batch norm's statistics too: they belong to the
    weights beside them. Integers (its counter of batches) are the last.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        """`decay` is the weight of the old average, above 0 and below 1."""
        self._decay, self.steps = decay, 0
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def add(self, module: torch.nn.Module) -> None:
        """Update the average with the weights after a step."""
        self.steps += 1
        old: list[Any] = []
        new: list[Any] = []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                old.append(self.weights[name])
                new.append(value)
            else:
                self.weights[name].copy_(value)
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(old, new, self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue from here."""
        return {"weights": self.weights, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.steps = int(state["steps"])
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


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


LR_MULTIPLIER = "lr_multiplier"
"""Key of a parameter group: its learning-rate multiplier, if not 1."""


def build_optimizer(module: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return Adam, or AdamW where the decay is decoupled; neither decays scalars, biases and norms when decoupled.

    One group for each learning-rate multiplier (when decoupled, two: with and without decay); multipliers below 1 are
    kept under `LR_MULTIPLIER`, and the group's learning rate already includes them.
    """
    shares = lr_multipliers(module, config)
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for decayed in (True, False) if config.decoupled else (True,):
        for name, p in module.named_parameters():
            if p.requires_grad and (not config.decoupled or decayed == (p.dim() > 1)):
                groups.setdefault((shares[name], decayed), []).append(p)
    made = [
        {"params": params, "lr": config.lr * share, "weight_decay": config.weight_decay if decayed else 0.0}
        | ({} if share == 1.0 else {LR_MULTIPLIER: share})
        for (share, decayed), params in groups.items()
    ]
    kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
    return kind(made, lr=config.lr, eps=config.eps, fused=True)


def lr_multipliers(module: torch.nn.Module, config: OptimConfig) -> dict[str, float]:
    """Return each parameter's learning-rate multiplier, by name: layer_decay^depth in image encoders (depth as they
    count it), what a tuned gene tower says in it, 1 elsewhere.
    """
    shares = {name: 1.0 for name, _ in module.named_parameters()}
    if isinstance(config, ContrastiveOptimConfig):
        for place, part in module.named_modules():
            if isinstance(part, ImageEncoder):
                below = f"{place}." if place else ""
                shares |= {below + name: config.layer_decay**depth for name, depth in part.depths().items()}
            elif isinstance(part, TunedTower):
                shares |= {f"{place}.{name}": part.lr_multiplier for name, _ in part.named_parameters()}
    return shares
