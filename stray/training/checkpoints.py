"""Schedule of checkpoints: every so many epochs, and every so many steps within them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stray.training.state import TrainState
from stray.training.worker import Worker


@dataclass(frozen=True, kw_only=True)
class CheckpointInterval:
    """Interval between checkpoints."""

    epochs: int = 1
    """Epochs between checkpoints."""
    steps: int | None = None
    """Steps between checkpoints, counted over the whole training; None: at the ends of epochs alone."""
    also: frozenset[int] = frozenset()
    """Further epochs that end with a checkpoint."""


class Checkpoints:
    """Writer of the checkpoints of one training."""

    def __init__(self, every: CheckpointInterval, worker: Worker, state: TrainState, steps: int) -> None:
        """`state` is where the training begins or goes on; an epoch has `steps` steps."""
        self._every, self._worker, self._state, self._steps = every, worker, state, steps
        self.last = LastCheckpoint(state.epoch, None, state.step)
        """The last good checkpoint."""

    def due_after(self, step: int) -> bool:
        """Return whether one is due after this step of the state's epoch. The end of an epoch leaves its own."""
        done = step + 1
        return done < self._steps and self._falls_on(self._state.epoch * self._steps + done)

    def within(self) -> None:
        """Write one between two steps; every rank must call it."""
        self._write({})

    def epoch_over(self, metrics: Mapping[str, float], *, last: bool) -> None:
        """Report the epoch before the state's, with a checkpoint where one is due; every rank must call it."""
        epoch = self._state.epoch
        if last or epoch in self._every.also or epoch % self._every.epochs == 0 or self._falls_on(epoch * self._steps):
            self._write(metrics)
        else:
            self._worker.report({**metrics, "epoch": epoch}, None)

    def _falls_on(self, total_steps: int) -> bool:
        return self._every.steps is not None and total_steps % self._every.steps == 0

    def _write(self, metrics: Mapping[str, float]) -> None:
        state = self._state
        at = {"epoch": state.epoch} if state.step == 0 else {"epoch": state.epoch, "step": state.step}
        place = self._worker.report({**metrics, **at}, state.state_dict())
        self.last = LastCheckpoint(state.epoch, place, state.step)


class LastCheckpoint(NamedTuple):
    """The last good checkpoint."""

    epoch: int
    """Whole epochs in it."""
    place: str | None
    """Its path; None where unknown."""
    step: int = 0
    """Steps of the next epoch in it."""
