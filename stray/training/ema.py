"""The exponential moving average of a module's weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """average <- d * average + (1 - d) * weights after every step, from the initial weights on, with
    d = min(decay, (1 + t) / (10 + t)) after t steps, as TensorFlow's ExponentialMovingAverage has it.

    Everything in the module's state that is a float is averaged, batch norm's statistics too: they belong to the
    weights beside them. Integers (its counter of batches) are the last.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        """`decay` is the share of the old average, above 0 and below 1."""
        self._decay, self.steps = decay, 0
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def add(self, module: torch.nn.Module) -> None:
        """Take in the weights after one more step."""
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
