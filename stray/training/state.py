"""State of a training, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stray.config import ContrastiveOptimConfig, OptimConfig
from stray.training.optim import WeightAverage, build_optimizer


class TrainState:
    """Module, optimiser, the average of the weights where one is kept, and the epoch and step that come next.
    Randomness and batches need no state: they are keyed by (seed, epoch, step).
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.module, self.optimizer, self.average, self.scaler = module, optimizer, average, scaler
        self.skipped = False
        """Whether the last step was skipped because its scaled gradient overflowed."""
        self.epoch = self.step = 0
        self.so_far: dict[str, Any] | None = None
        """The unfinished epoch, between two of its steps."""
        self.history: list[dict[str, float]] = []
        self.step_losses: list[tuple[int, float]] = []
        """(step of the whole training, loss) of the steps whose loss is logged."""
        self.best: dict[str, torch.Tensor] | None = None

    @staticmethod
    def start(module: torch.nn.Module, config: OptimConfig, scaler: torch.amp.GradScaler | None = None) -> TrainState:
        """Return the state before the first step; `module` must be on its device. `scaler` where gradients are fp16."""
        average = None
        if isinstance(config, ContrastiveOptimConfig) and config.ema_decay is not None:
            average = WeightAverage(module, config.ema_decay)
        return TrainState(module, build_optimizer(module, config), average, scaler)

    def after_step(self) -> None:
        """Update the average of the weights, if one is kept, after an optimiser step; do nothing if the step was
        skipped.
        """
        if self.average is not None and not self.skipped:
            self.average.add(self.module)

    def mark_best(self) -> None:
        """Keep a copy of the weights as the best so far."""
        self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def take_kept(self) -> None:
        """Load the final weights: the best if some were marked, else their average if one is kept, else the last."""
        if self.best is not None:
            self.module.load_state_dict(self.best)
        elif self.average is not None:
            self.module.load_state_dict(self.average.weights)

    def between_steps(self, step: int, so_far: dict[str, Any]) -> None:
        """Record that the first `step` steps of the epoch are done, with their values."""
        self.step, self.so_far = step, so_far

    def epoch_over(self, metrics: dict[str, float]) -> None:
        """Record that the epoch is done, with its metrics."""
        self.epoch, self.step, self.so_far = self.epoch + 1, 0, None
        self.history.append(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue from here."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "so_far": self.so_far,
            "history": self.history,
            "step_losses": self.step_losses,
            "best": self.best,
        }
        if self.average is not None:
            state["average"] = self.average.state_dict()
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.history, self.best = state["epoch"], list(state["history"]), state["best"]
        self.step_losses = [(step, loss) for step, loss in state.get("step_losses", ())]
        self.step, self.so_far = state.get("step", 0), state.get("so_far")
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
