"""Batches balanced over patients or classes, or of few patients each: a function of (seed, epoch, step) too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np

from stray.config import BatchesConfig, ContrastiveConfig
from stray.data.batches import BatchPlan
from stray.errors import Problem, raise_if_any
from stray.noise import numpy_generator

PLACE = "contrastive.batches"


def check_batches(config: BatchesConfig, patient_N: np.ndarray, class_N: np.ndarray | None) -> None:
    """Raise InputError when there are fewer patients than a batch asks for, or no class to balance over is known."""
    wanted, found = config.patients_per_batch, len(np.unique(patient_N.astype(str)))
    problems = []
    if wanted is not None and wanted > found:
        what = f"a batch of {wanted} patients cannot be drawn from {found}"
        problems.append(Problem(f"{PLACE}.patients_per_batch", what, f"at most {found}, or null"))
    if config.sampling == "classes" and (class_N is None or not (class_N != "").any()):
        what = "no training spot has a class that batches could be balanced over"
        problems.append(Problem(f"{PLACE}.sampling", what, "take `patients` or `uniform`"))
    raise_if_any(problems)


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledPlan(BatchPlan):
    """Batches of `batch_size` spots (all where there are fewer), as many an epoch as of uniform draws.

    A spot comes twice into a batch only where its patient or class has fewer spots than its part of the batch.
    """

    config: BatchesConfig
    patient_N: np.ndarray = field(repr=False)
    """The patient of each spot."""
    class_N: np.ndarray | None = field(default=None, repr=False)
    """The class of each, empty where it is not known; where classes are balanced."""

    @cached_property
    def _epoch(self) -> Callable[[int], list[np.ndarray]]:
        return lru_cache(maxsize=2)(self._draw)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """See `BatchPlan.batches`."""
        return self._epoch(epoch)

    def _draw(self, epoch: int) -> list[np.ndarray]:
        generator = numpy_generator(self.seed, "plan", epoch)
        pool = self._pool(generator)
        return [generator.permutation(pool.take(size)) for size in self.sizes()]

    def repeated(self, epoch: int, step: int) -> float:
        """Return the share of a batch's places that a spot fills again which is in it already."""
        batch = self.batches(epoch)[step]
        return 1.0 - len(np.unique(batch)) / len(batch)

    def _pool(self, generator: np.random.Generator) -> _Pool:
        everyone, k = np.arange(self.count), self.config.patients_per_batch
        by_patient = list(_split(everyone, self.patient_N).values())
        if k is not None:
            # Balanced over patients, none is owed more than another.
            owed = [1.0 if self.config.sampling == "patients" else float(len(spots)) for spots in by_patient]
            who = chosen(np.array(owed), k, self.steps, generator)
            return _OfSome([self._within(spots, generator) for spots in by_patient], who, generator)
        if self.config.sampling == "patients":
            return _Balanced([_Turns(spots, generator) for spots in by_patient], generator)
        return self._within(everyone, generator)

    def _within(self, spots: np.ndarray, generator: np.random.Generator) -> _Pool:
        """Return a pool of some spots: balanced over their classes where classes are balanced."""
        if self.config.sampling != "classes":
            return _Turns(spots, generator)
        assert self.class_N is not None
        known = self.class_N[spots] != ""
        labelled, others = spots[known], spots[~known]
        of_class = [_Turns(members, generator) for members in _split(labelled, self.class_N[labelled]).values()]
        if len(of_class) == 0:
            return _Turns(others, generator)
        balanced = _Balanced(of_class, generator)
        return _InShare(balanced, _Turns(others, generator), generator) if len(others) else balanced


def _split(spots: np.ndarray, group: np.ndarray) -> dict[str, np.ndarray]:
    """Return the spots of each group, by the groups' names in their order; `group` names that of each spot."""
    return {str(name): spots[group == name] for name in np.unique(group.astype(str))}


def chosen(weight_P: np.ndarray, k: int, steps: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Return `k` different ones of P for each step, each in proportion to its weight but at most once a step.

    Systematic sampling: inclusion probabilities laid end to end on a line of length k, read at points 1 apart. Starting
    points that are evenly spaced over the steps give each its expected number of steps, rounded up or down.
    """
    probability_P = np.zeros(len(weight_P))
    free = np.ones(len(weight_P), dtype=bool)
    while True:
        left = k - (~free).sum()
        probability_P[free] = left * weight_P[free] / weight_P[free].sum() if free.any() else 0.0
        if not (past := free & (probability_P > 1.0)).any():
            break
        probability_P[past], free = 1.0, free & ~past
    order = generator.permutation(len(weight_P))
    ends = np.cumsum(probability_P[order])
    ends[-1] = k  # rounding must not leave the last point past the line's end
    starts = (generator.permutation(steps) + generator.random()) / steps
    return [order[np.searchsorted(ends, start + np.arange(k), side="right")] for start in starts]


class _Pool(Protocol):
    """Pool that spots are drawn from."""

    @property
    def size(self) -> int:
        """Different spots in it."""
        ...

    def take(self, count: int) -> np.ndarray:
        """Return the next `count`, in any order; different ones where there are enough."""
        ...


class _Turns:
    """Values in turn: all of them before one comes again, in a new order each time."""

    def __init__(self, values: np.ndarray, generator: np.random.Generator) -> None:
        self._values, self._generator = values, generator
        self._queue = values[:0]

    @property
    def size(self) -> int:
        return len(self._values)

    def take(self, count: int) -> np.ndarray:
        while len(self._queue) < count:
            more = self._generator.permutation(self._values)
            # What is taken now, at the end of a round, comes last in the next one: not twice in this batch.
            taken, times = np.unique(np.concatenate([self._values, self._queue]), return_counts=True)
            often = times[np.searchsorted(taken, more)]
            self._queue = np.concatenate([self._queue, more[np.argsort(often, kind="stable")]])
        found, self._queue = self._queue[:count], self._queue[count:]
        return found


class _Balanced:
    """Pools that each give equally many, within one of another however often is drawn."""

    def __init__(self, pools: Sequence[_Pool], generator: np.random.Generator) -> None:
        self._pools = pools
        self._turns = _Turns(np.arange(len(pools)), generator)
        self.size = sum(pool.size for pool in pools)

    def take(self, count: int) -> np.ndarray:
        parts = np.bincount(self._turns.take(count), minlength=len(self._pools))
        return np.concatenate([pool.take(int(part)) for pool, part in zip(self._pools, parts, strict=True)])


class _InShare:
    """Two pools, drawn from in proportion to their sizes; fractions of a spot are carried over to the next draw."""

    def __init__(self, first: _Pool, second: _Pool, generator: np.random.Generator) -> None:
        self._first, self._second = first, second
        self.size = first.size + second.size
        self._owed = float(generator.random())

    def take(self, count: int) -> np.ndarray:
        self._owed += count * self._first.size / self.size
        part = min(int(self._owed), count)
        self._owed -= part
        return np.concatenate([self._first.take(part), self._second.take(count - part)])


class _OfSome:
    """Draws equal parts of each batch from its patients; a patient with too few spots leaves the rest to the others."""

    def __init__(self, pools: Sequence[_Pool], who: Sequence[np.ndarray], generator: np.random.Generator) -> None:
        self._pools, self._who, self._generator = pools, iter(who), generator
        self.size = sum(pool.size for pool in pools)

    def take(self, count: int) -> np.ndarray:
        pools = [self._pools[i] for i in self._generator.permutation(next(self._who))]
        parts = equal_parts(count, np.array([pool.size for pool in pools]))
        return np.concatenate([pool.take(int(part)) for pool, part in zip(pools, parts, strict=True)])


def equal_parts(count: int, size_K: np.ndarray) -> np.ndarray:
    """Return `count` in K parts, equal but for one, none larger than its size while another has room; past all sizes,
    equal again.
    """
    over = max(0, count - int(size_K.sum()))
    base, extra = divmod(over, len(size_K))
    part_K, left = np.zeros(len(size_K), dtype=np.int64), count - over
    while left:
        room = np.flatnonzero(part_K < size_K)[:left]
        each = max(1, min(left // len(room), int((size_K - part_K)[room].min())))
        part_K[room] += each
        left -= each * len(room)
    return part_K + base + (np.arange(len(size_K)) < extra)


def plan_of(
    config: ContrastiveConfig, count: int, seed: int, patient_N: np.ndarray | None, label_N: np.ndarray | None
) -> BatchPlan:
    """Return the batches of a contrastive stage over `count` spots, of patients and classes (N,) where these are known.

    Raises InputError as `check_batches` does.
    """
    # A batch without its whole set of negatives would change the loss: the remainder sits the epoch out.
    if config.batches.plain:
        return BatchPlan(count, config.batch_size, seed, keep_remainder=False)
    assert patient_N is not None
    check_batches(config.batches, patient_N, label_N)
    return SampledPlan(
        count,
        config.batch_size,
        seed,
        keep_remainder=False,
        config=config.batches,
        patient_N=patient_N,
        class_N=label_N,
    )
