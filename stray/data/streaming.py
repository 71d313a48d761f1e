"""Patches that fit no memory: shards read in a seeded order through a window, in every epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from torch import Tensor

from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import EncodedBlock, place_of, read_group
from stray.cohort.residence import residence, shards
from stray.config import Recipe
from stray.data.batches import BatchPlan
from stray.data.decoding import PatchDecoder
from stray.errors import Problem, raise_if_any
from stray.noise import numpy_generator


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
        """Return the key of all that batches depend on besides rows and dataset, which determine the shards."""
        return ["streamed", self.window]


def stream_of(recipe: Recipe, dataset: PairedDataset, rows: np.ndarray) -> Stream | None:
    """Return the stream of the pairs at `rows`; None where their patches fit the memory budget, or are coded once.

    Raises InputError where settings ask for batches that a stream cannot give, or for memory past the budget.
    """
    config = recipe.contrastive
    if config.trainable.kind == "none" or residence(dataset, recipe.run) != "streamed":
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
    # At time t the value in a drawn slot leaves, and value number window + t takes the slot. The value in a slot came
    # when the slot was drawn last: sorted by slot, and by time within it, that is the entry before.
    slot_t = generator.integers(0, window, count - window)
    time_t = np.argsort(slot_t, kind="stable")
    again_t = np.diff(slot_t[time_t], prepend=-1) == 0
    leaves_t = slot_t.copy()
    leaves_t[time_t[again_t]] = window + time_t[np.flatnonzero(again_t) - 1]
    last_w = np.arange(window)
    last_w[slot_t] = window + np.arange(count - window)  # the last of equal slots is kept
    return stream_N[np.concatenate([leaves_t, generator.permutation(last_w)])]


class StreamedPatches:
    """`blocks.Patches` of which no more is held than what the batches to come will ask of shards that are read.

    A shard (row group) is read when a batch first asks for one of its spots, the next one beside it, and of it the
    spots are kept, encoded, that this worker's batches still ask for. What was never expected is read and let go.
    """

    def __init__(self, dataset: PairedDataset, rows: np.ndarray, decoder: PatchDecoder) -> None:
        self.rows, self._decode = rows, decoder
        self._files = dataset.fragments(images=True)
        self._groups = [(file, group) for file in self._files for group in range(file.n_groups)]
        self._shard_N = shards(dataset, rows)
        self._by_shard = np.argsort(self._shard_N, kind="stable")
        self._first = np.searchsorted(self._shard_N, np.arange(len(self._groups) + 1), sorter=self._by_shard)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._held: dict[int, bytes] = {}
        self._expected_N = np.zeros(len(rows), dtype=np.int32)  # how often each is still asked for
        self._order: deque[int] = deque()
        self._ahead: tuple[int, Future[EncodedBlock]] | None = None
        self.most_held = 0
        """Most spots that were held at a time."""
        self.reads = 0
        """Shards that were read."""

    def __len__(self) -> int:
        return len(self.rows)

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """See `PatchSource.expect`."""
        positions = np.concatenate([np.empty(0, np.int64), *upcoming])
        self._expected_N = np.bincount(positions, minlength=len(self.rows)).astype(np.int32)
        self._held = {position: held for position, held in self._held.items() if self._expected_N[position] > 0}
        asked, first = np.unique(self._shard_N[positions], return_index=True)
        self._order, self._ahead = deque(asked[np.argsort(first)].tolist()), None

    def gather(self, positions: np.ndarray) -> Tensor:
        """See `PatchSource.gather`."""
        asked = positions.tolist()
        missing = np.array([position for position in asked if position not in self._held], dtype=np.int64)
        for shard in dict.fromkeys(self._shard_N[missing].tolist()):
            self._keep(shard, self._block(shard), missing)
        self.most_held = max(self.most_held, len(self._held))
        tensor = self._decode(
            [self._held[position] for position in asked],
            lambda i: place_of(self._files, int(self.rows[positions[i]])),
        )
        np.subtract.at(self._expected_N, positions, 1)
        self._expected_N[positions] = np.maximum(self._expected_N[positions], 0)
        for position in asked:
            if self._expected_N[position] == 0:
                self._held.pop(position, None)
        return tensor

    def _keep(self, shard: int, block: EncodedBlock, asked: np.ndarray) -> None:
        """Keep of a shard's spots those that are asked for now or expected."""
        of_shard = self._by_shard[self._first[shard] : self._first[shard + 1]]
        wanted = of_shard[(self._expected_N[of_shard] > 0) | np.isin(of_shard, asked)]
        places = np.searchsorted(block.rows, self.rows[wanted])
        for position, place in zip(wanted.tolist(), places.tolist(), strict=True):
            # A copy: a view would hold the whole shard.
            self._held[position] = block.images[place].as_py()

    def _block(self, shard: int) -> EncodedBlock:
        """Return the shard, read already if it is the next one in order; the one after it is begun."""
        ahead = self._ahead
        future = ahead[1] if ahead is not None and ahead[0] == shard else self._submit(shard)
        while self._order and self._order[0] != shard and shard in self._order:
            self._order.popleft()
        if self._order and self._order[0] == shard:
            self._order.popleft()
            self._ahead = (self._order[0], self._submit(self._order[0])) if self._order else None
        return future.result()

    def _submit(self, shard: int) -> Future[EncodedBlock]:
        self.reads += 1
        return self._reader.submit(read_group, *self._groups[shard])
