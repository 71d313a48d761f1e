"""Patches that are kept as the files' bytes and decoded for each batch, in several threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from stray.cohort.decode import decode_patch
from stray.cohort.fragments import EncodedBlock
from stray.data.blocks import Blocks

PIECES = 4
"""Pieces that each thread gets of a batch: pictures take unequally long, and the last thread is waited for."""


class PatchDecoder:
    """Decodes a batch in a pool of threads: the codecs let go of the interpreter while they work."""

    def __init__(self, size_px: int, threads: int | None = None) -> None:
        """`threads` None: as many as torch computes with, one a CPU of the worker."""
        self.size_px, self.threads = size_px, torch.get_num_threads() if threads is None else threads
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, encoded: Sequence[bytes | memoryview], name: Callable[[int], str]) -> Tensor:
        """Return pictures (n,) as (n, 3, px, px) uint8, channels last in memory; `name` tells where the i-th comes
        from.

        Raises InputError that names the first one that cannot be decoded.
        """
        out_nPPC = np.empty((len(encoded), self.size_px, self.size_px, 3), dtype=np.uint8)

        def decode(piece: range) -> None:
            for i in piece:
                out_nPPC[i] = decode_patch(encoded[i], self.size_px, partial(name, i))

        if self.threads == 1:
            decode(range(len(encoded)))
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
            size = max(1, -(-len(encoded) // (PIECES * self.threads)))
            pieces = (range(i, min(i + size, len(encoded))) for i in range(0, len(encoded), size))
            for _ in self._pool.map(decode, pieces):
                pass
        return torch.from_numpy(out_nPPC).permute(0, 3, 1, 2)


class EncodedPatches(Blocks):
    """`blocks.Patches` over encoded pictures: the same patches to the last bit, in less memory and more time."""

    def __init__(
        self, blocks: Sequence[EncodedBlock], rows: np.ndarray, decoder: PatchDecoder, place: Callable[[int], str]
    ) -> None:
        """`place` names file, row group and row of a global row. Raises ValueError when a row is in no block."""
        super().__init__([b.rows for b in blocks], rows)
        self._decode, self._place = decoder, place
        # The pictures of a node are not copied into its workers.
        self._views = [Views(block) for block in blocks]

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """Do nothing: all are at hand."""

    def gather(self, positions: np.ndarray) -> Tensor:
        """See `PatchSource.gather`."""
        block_n, offset_n = self._block[positions].tolist(), self._offset[positions].tolist()
        encoded = [self._views[block][offset] for block, offset in zip(block_n, offset_n, strict=True)]
        return self._decode(encoded, lambda i: self._place(int(self.rows[positions[i]])))


class Views(Sequence[memoryview]):
    """The bytes of each picture of a block, where they lie."""

    def __init__(self, block: EncodedBlock) -> None:
        images = block.images
        self._bytes = memoryview(images.buffers()[2] or b"")
        ends = np.frombuffer(images.buffers()[1], dtype=np.int64)  # pyright: ignore[reportArgumentType]
        self._ends = ends[images.offset : images.offset + len(images) + 1]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> memoryview:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._bytes[self._ends[place] : self._ends[place + 1]]
