"""Batches of a training set that is read from its files in every epoch: shards in a seeded order, through a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from stray.cohort.dataset import PairedDataset
from stray.cohort.residence import residence, shards
from stray.config import Recipe
from stray.errors import Problem, raise_if_any
from stray.noise import numpy_generator
from stray.training.plan import BatchPlan


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Settings of a stream of spots: all that its batches are a function of, but for seed and epoch."""

    window: int
    """Spots from which the next one is drawn."""
    shard_N: np.ndarray = field(repr=False)
    """The shard (row group of a file) that holds each spot; shards are numbered in the order of the files."""

    def at(self, places: np.ndarray) -> Stream:
        """Return the stream of some of the spots."""
        return replace(self, shard_N=self.shard_N[places])

    @property
    def key(self) -> list[object]:
        """Return the key of what a result is a function of besides the rows and the dataset, which tell the shards."""
        return ["streamed", self.window]


def stream_of(recipe: Recipe, dataset: PairedDataset, rows: np.ndarray) -> Stream | None:
    """Return the stream of the pairs at `rows`; None where their patches fit the memory budget, or are coded once.

    Raises InputError where settings ask for batches that a stream cannot give, or for memory past the budget.
    """
    config = recipe.contrastive
    if config.trains.kind == "nothing" or residence(dataset, recipe.run) != "streamed":
        return None
    problems, remedy = [], "raise run.memory_budget_gib so that the patches fit, or "
    if not config.batches.plain:
        what = "batches of chosen patients or classes are drawn from all spots, and a stream holds a window of them"
        problems.append(Problem("contrastive.batches", what, remedy + "draw batches uniformly"))
    if config.accumulate > 1 and config.accumulate_batch_norm == "per_chunk":
        what = "a stream's batches are in the order of the files: a chunk's statistics would be those of a section"
        problems.append(Problem("contrastive.accumulate_batch_norm", what, remedy + "take contrastive.accumulate=1"))
    raise_if_any(problems)
    return Stream(window=recipe.run.window_spots, shard_N=shards(dataset, rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamPlan(BatchPlan):
    """Global batches as a stream through a window gives them, drawn anew each epoch without replacement.

    Shards come in an order drawn from (seed, epoch). The first `window` spots fill the window; then each next spot of
    the stream takes the place of one drawn uniformly from it, and at the end the window is emptied in a drawn order. A
    window of all spots is a uniform shuffle.

    A batch lists its spots in the order of the files, so that each worker's share of it lies in few shards: over an
    epoch a worker reads about its share of them, not all.
    """

    stream: Stream

    def batches(self, epoch: int) -> list[np.ndarray]:
        """See `BatchPlan.batches`."""
        return self._epoch(epoch)

    @cached_property
    def _epoch(self) -> Callable[[int], list[np.ndarray]]:
        return lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch: int) -> list[np.ndarray]:
        generator = numpy_generator(self.seed, "stream", epoch)
        order = windowed(shard_order(self.stream.shard_N, generator), self.stream.window, generator)
        ends = np.cumsum(self.sizes())
        return [np.sort(order[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def shard_order(shard_N: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return positions shard by shard, the shards in a drawn order, those of a shard in theirs."""
    found, shard_index_N = np.unique(shard_N, return_inverse=True)
    return np.argsort(generator.permutation(len(found))[shard_index_N], kind="stable")


def windowed(stream_N: np.ndarray, window: int, generator: np.random.Generator) -> np.ndarray:
    """Return the values of `stream_N` in the order in which they leave a window that they pass through.

    The t-th to leave is among the first `window + t` to come: no more than `window` are held at any time.
    """
    count, window = len(stream_N), min(window, len(stream_N))
    # At time t the value in a drawn slot leaves, and value number window + t takes the slot. Who is in a slot came
    # when the slot was drawn last: sorted by slot, and by time within it, that is the entry before.
    slot_t = generator.integers(0, window, count - window)
    time_t = np.argsort(slot_t, kind="stable")
    again_t = np.diff(slot_t[time_t], prepend=-1) == 0
    leaves_t = slot_t.copy()
    leaves_t[time_t[again_t]] = window + time_t[np.flatnonzero(again_t) - 1]
    last_w = np.arange(window)
    last_w[slot_t] = window + np.arange(count - window)  # the last of equal slots is kept
    return stream_N[np.concatenate([leaves_t, generator.permutation(last_w)])]
