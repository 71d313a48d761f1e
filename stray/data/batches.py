"""Batches of spots, and which spots are held out: functions of (seed, epoch, step), never of workers or of timing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from stray.noise import numpy_generator


@dataclass(frozen=True)
class BatchPlan:
    """Global batches over `count` training spots, drawn anew each epoch without replacement.

    The remainder of an epoch (fewer spots than a batch) sits the epoch out, or forms a smaller batch of its own;
    where that batch would be smaller than `smallest`, it joins the one before it.
    """

    count: int
    batch_size: int
    seed: int
    keep_remainder: bool
    smallest: int = 2

    def sizes(self) -> list[int]:
        """Return the number of spots in each global batch of an epoch."""
        if self.count <= self.batch_size:
            return [self.count]
        whole, rest = divmod(self.count, self.batch_size)
        sizes = [self.batch_size] * whole
        if rest and self.keep_remainder:
            if rest >= self.smallest:
                sizes.append(rest)
            else:
                sizes[-1] += rest
        return sizes

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.sizes())

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Return the epoch's global batches: positions 0..count-1 among the training spots."""
        order = numpy_generator(self.seed, "plan", epoch).permutation(self.count)
        ends = np.cumsum(self.sizes())
        return [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def hold_out(
    places: np.ndarray, group_N: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of `places` that train, and the `share` of each group that does not; both in ascending order.

    `group_N` numbers or names the group at each place there is. At least one spot of a group always trains.
    """
    held_out = [places[:0]]
    for group in np.unique(group_N[places]):
        members = generator.permutation(places[group_N[places] == group])
        held_out.append(members[: min(round(share * len(members)), len(members) - 1)])
    watched = np.sort(np.concatenate(held_out))
    return np.setdiff1d(places, watched), watched


class LabelledPlan:
    """Global batches of labelled spots, a function of (seed, epoch, step) like those of `BatchPlan`.

    In turn: every labelled spot comes before one comes again. Balanced: every class alike, and within a class every
    spot before one comes again; a class of one spot is that spot each time.
    """

    def __init__(self, class_N: np.ndarray, batch_size: int, steps: int, seed: int, *, balanced: bool) -> None:
        """`class_N` is the class of each training spot, -1 where it is not known; `steps` are those of an epoch."""
        self.positions = np.flatnonzero(class_N >= 0)
        self._class_L = class_N[self.positions]
        # Batch norm has no statistics over one spot, so a single labelled spot is drawn twice: it makes a single class,
        # whose cross-entropy is zero either way.
        self.batch_size = batch_size if balanced else min(batch_size, max(len(self.positions), 2))
        self._steps, self._seed, self._balanced = steps, seed, balanced
        self._epoch = lru_cache(maxsize=2)(self._draw)

    def batch(self, epoch: int, step: int) -> np.ndarray:
        """Return the positions among the training spots of the global labelled batch of this step."""
        chosen = self._epoch(epoch)[step * self.batch_size : (step + 1) * self.batch_size]
        return self.positions[chosen]

    def _draw(self, epoch: int) -> np.ndarray:
        """Return places among the labelled spots for every step of the epoch."""
        needed = self._steps * self.batch_size
        generator = numpy_generator(self._seed, "labelled", epoch)
        if not self._balanced:
            return _in_turn(np.arange(len(self.positions)), needed, generator)
        classes = np.unique(self._class_L)
        slots = _in_turn(classes, needed, generator)
        places = np.empty(needed, dtype=np.int64)
        for name in classes:
            mine = slots == name
            places[mine] = _in_turn(np.flatnonzero(self._class_L == name), int(mine.sum()), generator)
        return places


def _in_turn(values: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return `count` of the values: shuffled, all of them before one comes again."""
    rounds = -(-count // len(values))
    return np.concatenate([generator.permutation(values) for _ in range(rounds)])[:count]
