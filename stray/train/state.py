"""A checkpoint: everything needed to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stray.config import OptimConfig


def build_optimizer(module: torch.nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam, or AdamW where the decay is decoupled; neither decays scalars, biases and norms when decoupled."""
    trained = [p for p in module.parameters() if p.requires_grad]
    if not config.decoupled:
        return torch.optim.Adam(trained, lr=config.lr, eps=config.eps, weight_decay=config.weight_decay, fused=True)
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, eps=config.eps, fused=True)


class TrainState:
    """Module, optimiser, and the epoch that comes next. Randomness needs no state: it is keyed by (seed, epoch,
    step).
    """

    def __init__(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.module, self.optimizer = module, optimizer
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] | None = None

    def mark_best(self) -> None:
        """Keep a copy of the weights as the best so far."""
        self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def go_to_best(self) -> None:
        """Take the best weights, where some were marked."""
        if self.best is not None:
            self.module.load_state_dict(self.best)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from here."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history, self.best = state["epoch"], list(state["history"]), state["best"]
