"""An epoch as far as it has come: kept in a checkpoint within it, so that a resumed epoch ends with the metrics of an
uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stray.training.averages import Averages
from stray.training.finite import Kept, SpotsAt, Steps
from stray.training.prefetch import Prefetcher
from stray.training.task import StepOutput, Task
from stray.training.worker import Worker


class EpochSoFar:
    """Losses, sums and seconds of the steps of one epoch that are done, on this rank."""

    def __init__(
        self, prefix: str, epoch: int, worker: Worker, data: Prefetcher, saved: Mapping[str, Any] | None
    ) -> None:
        """`saved` is what `state_dict` gave at some step of the same epoch; None at its start."""
        self._worker, self._data = worker, data
        self._steps, self._averages = Steps(prefix, epoch), Averages()
        self._seconds_before, self._waited_before, self._started = 0.0, 0.0, time.perf_counter()
        if saved is not None:
            self._steps.load(saved["steps"])
            self._averages.load(saved["sums"], worker)
            self._seconds_before, self._waited_before = saved["seconds"], saved["waited"]

    def add(self, output: StepOutput, step_3: Tensor) -> None:
        """Take in a step: what it gave on this rank, and what `update` returned of it (3,)."""
        self._steps.add(output, step_3)
        self._averages.add(output.sums, output.count)

    def check(self, task: Task, spots_at: SpotsAt, kept: Kept) -> tuple[Tensor, Tensor]:
        """See `Steps.check`."""
        return self._steps.check(task, self._worker, spots_at, kept)

    def means(self) -> dict[str, float]:
        """Return the means of what was summed, over all workers' items so far; every rank must call it."""
        return self._averages.reduce(self._worker.all_reduce)

    @property
    def skipped(self) -> int:
        """Steps that were skipped, of those that `check` has passed."""
        return self._steps.skipped

    @property
    def seconds(self) -> float:
        """Seconds that the epoch has taken, over all processes that worked on it one after the other."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def waited_s(self) -> float:
        """Seconds of these spent waiting for data."""
        return self._waited_before + self._data.waited_s

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue from here, once `check` has passed; every rank must call it."""
        return {
            "steps": self._steps.state(),
            "sums": self._averages.state_dict(self._worker),
            "seconds": self.seconds,
            "waited": self.waited_s,
        }
