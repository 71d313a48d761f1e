"""Losses of an epoch's steps, kept until it ends, and the spots at fault where a step was not finite.

Losses, norms and the finiteness of every spot stay on the device and are looked at once an epoch, and before every
checkpoint within it: a look at every step would make a GPU wait for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from stray.cohort.dataset import SpotTable
from stray.collective import share
from stray.data.feed import Prefetcher
from stray.errors import InputError, NotFiniteError, Problem
from stray.training.averages import Averages
from stray.training.checkpoints import Kept
from stray.training.task import StepOutput, Task
from stray.training.worker import Worker

SpotsAt = Callable[[np.ndarray], SpotTable]
"""Facts about the spots at some places among the stage's rows."""

SECTIONS_SHOWN, SPOTS_SHOWN = 5, 3
"""Sections that a message names, and spots in each: the rest is counted, so that it fits on a screen."""


class Steps:
    """The steps of one epoch."""

    def __init__(self, prefix: str, epoch: int) -> None:
        self._prefix, self._epoch = prefix, epoch
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

    def check(self, task: Task, worker: Worker, spots_at: SpotsAt, kept: Kept) -> tuple[Tensor, Tensor]:
        """Return the global losses (S,) of the steps so far and the gradient norms of those that were taken, on the
        host, once all are known to be finite.

        Every rank must call it. Raises NotFiniteError on every rank alike, naming the first step that was not finite,
        the spots and sections at fault, and the last good checkpoint `kept`.
        """
        if self._pending:
            host_S3 = torch.stack(self._pending).double().cpu()
            finite_S = host_S3[:, 0].isfinite() & (host_S3[:, 1].isfinite() | (host_S3[:, 2] == 0))
            if not finite_S.all():
                # Both are sums over all ranks, so every rank comes here together, with the same step.
                self._fail(int((~finite_S).nonzero()[0]), host_S3, task, worker, spots_at, kept)
            self._good_S3 = torch.cat([self._good_S3, host_S3])
            self._pending, self._finite = [], []
        return self._good_S3[:, 0], self._good_S3[self._good_S3[:, 2] > 0, 1]

    def _fail(
        self, place_of_step: int, host_S3: Tensor, task: Task, worker: Worker, spots_at: SpotsAt, kept: Kept
    ) -> NoReturn:
        """Raise the error of the first step at fault; `place_of_step` counts the steps that are not yet known to be
        good.
        """
        loss, norm, _ = host_S3[place_of_step].tolist()
        step = len(self._good_S3) + place_of_step
        place = f"{self._prefix} epoch {self._epoch + 1}, step {step + 1} of {task.plan.steps}"
        remedy = f"lower {self._prefix}.optim.lr or set {self._prefix}.optim.clip_norm"
        cause, at_fault = "every spot's own terms are finite, the gradient over them is not; the batch is", None
        for name, finite_n in self._finite[place_of_step].items():
            places = task.spots(name, self._epoch, step)
            bad = _gathered(~finite_n, places, worker)
            at_fault = places if at_fault is None else at_fault
            if len(bad) == 0:
                continue
            # Only the first: batch norm carries one spot's value to all others, so later terms would tell no more.
            cause, at_fault = f"{name} is not finite at {len(bad)} of {len(places)} spots:", bad
            if len(bad) == len(places):
                cause = f"{name} is not finite at any of {len(places)} spots, so none of them alone is at fault:"
            else:
                remedy = f"look at these spots in the data; if they are as they should be, {remedy}"
            break
        what = f"loss {loss}, gradient norm {norm}; {cause} {sections(at_fault, spots_at)}"
        raise NotFiniteError(Problem(place, what, remedy), *kept)


def _gathered(bad_n: Tensor, places: np.ndarray, worker: Worker) -> np.ndarray:
    """Return those of the global batch's `places` that are bad on the rank that holds them; the same on every rank."""
    bad_N = torch.zeros(len(places), device=worker.device)
    bad_N[share(len(places))] = bad_n.to(bad_N)
    return places[worker.all_reduce(bad_N).cpu().numpy() > 0]


def sections(places: np.ndarray | None, spots_at: SpotsAt) -> str:
    """Return sections and some of their spots, for a message."""
    if places is None:
        return "spots that were not watched"
    try:
        spots = spots_at(np.sort(places))
    except (InputError, OSError) as error:
        return f"{len(places)} spots whose sections cannot be read ({error})"
    parts = []
    names = list(dict.fromkeys(spots.section))
    for section in names[:SECTIONS_SHOWN]:
        ids = spots.spot_id[spots.section == section]
        shown = ", ".join(ids[:SPOTS_SHOWN]) + (", ..." if len(ids) > SPOTS_SHOWN else "")
        parts.append(f"{len(ids)} of section {section} ({shown})")
    if len(names) > SECTIONS_SHOWN:
        parts.append(f"and more of {len(names) - SECTIONS_SHOWN} other sections")
    return ", ".join(parts)


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
