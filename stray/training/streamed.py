"""Patches read from the files in every epoch, in the order in which the batches ask for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor

from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import EncodedBlock, fragments, place_of, read_group
from stray.cohort.residence import shards
from stray.training.decoding import PatchDecoder


class StreamedPatches:
    """`blocks.Patches` of which no more is held than what the batches to come will ask of shards that are read.

    A shard (row group) is read when a batch first asks for one of its spots, the next one beside it, and of it the
    spots are kept, encoded, that this worker's batches still ask for. What was never expected is read and let go.
    """

    def __init__(self, dataset: PairedDataset, rows: np.ndarray, decoder: PatchDecoder) -> None:
        self.rows, self._decode = rows, decoder
        self._files = fragments(dataset, images=True)
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
