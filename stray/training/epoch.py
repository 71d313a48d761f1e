"""Losses, sums and times of an epoch's steps, and the step that is not finite.

Losses, norms and the finiteness of every spot stay on the device and are read once an epoch, and before every
checkpoint within it: reading them every step would synchronise the GPU.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stray.collective import rank_rows
from stray.data.feed import Prefetcher
from stray.training.averages import Averages
from stray.training.checkpoints import LastCheckpoint
from stray.training.task import StepOutput
from stray.training.worker import Worker


class NonFiniteStep(FloatingPointError):
    """The loss or the gradient of a step is not finite. Raised on every rank."""

    def __init__(
        self,
        epoch: int,
        step: int,
        steps: int,
        loss: float,
        gradient_norm: float,
        last_checkpoint: LastCheckpoint,
        term: str | None,
        positions: np.ndarray | None,
    ) -> None:
        """`epoch` and `step` count from 0, of `steps` in an epoch. `term` is the first of `StepOutput.finite` that is
        not finite, at `positions` of its global batch; None where every spot's own terms are finite.
        """
        self.epoch, self.step, self.steps, self.loss, self.gradient_norm = epoch, step, steps, loss, gradient_norm
        self.last_checkpoint, self.term, self.positions = last_checkpoint, term, positions
        super().__init__(f"epoch {epoch + 1}, step {step + 1} of {steps}: loss {loss}, gradient norm {gradient_norm}")


class Steps:
    """The steps of one epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._pending: list[Tensor] = []
        self._finite: list[Mapping[str, Tensor]] = []
        self._good_S3 = torch.empty(0, 3, dtype=torch.float64)

    def add(self, output: StepOutput, step_3: Tensor) -> None:
        """Keep a step's global loss, gradient norm and whether it was taken (3,), and which of this rank's spots were
        finite.
        """
        self._pending.append(step_3)
        self._finite.append(output.finite)

    def state(self) -> Tensor:
        """Return the values given to `add` for each step (S, 3), on the host, once `check` has passed."""
        return self._good_S3

    def load(self, good_S3: Tensor) -> None:
        """Go back to where `state` gave this."""
        self._good_S3 = good_S3.cpu()

    @property
    def skipped(self) -> int:
        """Steps that were not taken, of those that `check` has passed."""
        return int((self._good_S3[:, 2] == 0).sum())

    def check(self, steps: int, worker: Worker, last: LastCheckpoint) -> tuple[Tensor, Tensor]:
        """Return the global losses (S,) of the steps so far and the gradient norms of those that were taken, on the
        host, once all are known to be finite.

        Every rank must call it; an epoch has `steps` steps. Raises NonFiniteStep on every rank alike for the first step
        that was not finite.
        """
        if self._pending:
            host_S3 = torch.stack(self._pending).double().cpu()
            finite_S = host_S3[:, 0].isfinite() & (host_S3[:, 1].isfinite() | (host_S3[:, 2] == 0))
            if not finite_S.all():
                # Both are sums over all ranks, so all ranks arrive here together, with the same step.
                first = int((~finite_S).nonzero()[0])
                loss, norm, _ = host_S3[first].tolist()
                found = _first_term_at_fault(self._finite[first], worker)
                raise NonFiniteStep(self._epoch, len(self._good_S3) + first, steps, loss, norm, last, *found)
            self._good_S3 = torch.cat([self._good_S3, host_S3])
            self._pending, self._finite = [], []
        return self._good_S3[:, 0], self._good_S3[self._good_S3[:, 2] > 0, 1]


def _first_term_at_fault(finite: Mapping[str, Tensor], worker: Worker) -> tuple[str | None, np.ndarray | None]:
    """Return the first term that is not finite at some spot, and their positions in the global batch; the same on every
    rank. Later terms add no information: batch norm carries one spot's value to all others.
    """
    for term, finite_n in finite.items():
        count = int(worker.all_reduce(torch.tensor(float(len(finite_n)), device=worker.device)))
        bad_N = torch.zeros(count, device=worker.device)
        bad_N[rank_rows(count)] = (~finite_n).to(bad_N)
        positions = np.flatnonzero(worker.all_reduce(bad_N).cpu().numpy() > 0)
        if len(positions):
            return term, positions
    return None, None


class EpochSoFar:
    """Losses, sums and seconds of the completed steps of one epoch, on this rank."""

    def __init__(self, epoch: int, worker: Worker, data: Prefetcher, saved: Mapping[str, Any] | None) -> None:
        """`saved` is what `state_dict` gave at some step of the same epoch; None at its start."""
        self._worker, self._data = worker, data
        self._steps, self._averages = Steps(epoch), Averages()
        self._seconds_before, self._waited_before, self._started = 0.0, 0.0, time.perf_counter()
        if saved is not None:
            self._steps.load(saved["steps"])
            self._averages.load(saved["sums"], worker)
            self._seconds_before, self._waited_before = saved["seconds"], saved["waited"]

    def add(self, output: StepOutput, step_3: Tensor) -> None:
        """Add a step: its output on this rank, and the result of `update` (3,)."""
        self._steps.add(output, step_3)
        self._averages.add(output.sums, output.count)

    def check(self, steps: int, last: LastCheckpoint) -> tuple[Tensor, Tensor]:
        """See `Steps.check`."""
        return self._steps.check(steps, self._worker, last)

    def means(self) -> dict[str, float]:
        """Return the means of the metrics over all workers' items so far; every rank must call it."""
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
