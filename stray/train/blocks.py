"""The training data as a worker holds it: read-only blocks of arrays (views into shared memory under Ray), gathered
by position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch
from scipy.special import gammaln
from torch import Tensor

from stray.cohort.fragments import CountBlock, PatchBlock
from stray.likelihood.counts import SparseCounts


class Blocks:
    """Rows kept in several blocks: `position` i is the i-th of `rows`, wherever its block lies."""

    def __init__(self, block_rows: Sequence[np.ndarray], rows: np.ndarray) -> None:
        held = np.concatenate(block_rows) if block_rows else np.empty(0, dtype=np.int64)
        block = np.repeat(np.arange(len(block_rows)), [len(r) for r in block_rows])
        offset = np.concatenate([np.arange(len(r)) for r in block_rows]) if block_rows else held
        order = np.argsort(held, kind="stable")
        place = np.searchsorted(held, rows, sorter=order)
        if (
            len(held) == 0
            or (place >= len(held)).any()
            or (held[order[np.minimum(place, len(held) - 1)]] != rows).any()
        ):
            raise ValueError("a training spot is in none of the blocks")
        self.rows = rows
        self._block, self._offset = block[order[place]], offset[order[place]]

    def __len__(self) -> int:
        return len(self.rows)

    def _parts(self, positions: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Block, places in the batch, offsets in the block."""
        block = self._block[positions]
        found = [(int(b), np.flatnonzero(block == b)) for b in np.unique(block)]
        return [(b, places, self._offset[positions[places]]) for b, places in found]


class Patches(Blocks):
    """Decoded patches of some global rows."""

    def __init__(self, blocks: Sequence[PatchBlock], rows: np.ndarray) -> None:
        """Raises ValueError when a row is in no block."""
        super().__init__([b.rows for b in blocks], rows)
        self._patches = [b.patches for b in blocks]

    def expect(self, upcoming: Sequence[np.ndarray]) -> None:
        """Nothing: all are at hand."""

    def gather(self, positions: np.ndarray) -> Tensor:
        """Patches (n, 3, px, px) uint8, channels last in memory (as they are stored, and as convolutions like them)."""
        out_nHWC = np.empty((len(positions), *self._patches[0].shape[1:]), dtype=np.uint8)
        for block, places, offsets in self._parts(positions):
            out_nHWC[places] = self._patches[block][offsets]
        return torch.from_numpy(out_nHWC).permute(0, 3, 1, 2)


class Counts(Blocks):
    """Counts over the panel of some global rows, sparse."""

    def __init__(self, blocks: Sequence[CountBlock], rows: np.ndarray) -> None:
        """Raises ValueError when a row is in no block."""
        super().__init__([b.rows for b in blocks], rows)
        self._counts = [b.counts for b in blocks]
        self.n_genes: int = blocks[0].n_genes
        first = np.cumsum([0, *(len(b.rows) for b in blocks)])
        place = first[self._block] + self._offset
        sums = zip(*(_row_sums(counts) for counts in self._counts), strict=True)
        self._total, self._log_factorial = (np.concatenate(of_blocks)[place] for of_blocks in sums)
        # Where each position's entries start and end in its block.
        self._start = np.concatenate([m.indptr[:-1] for m in self._counts]).astype(np.int64)[place]
        self._stop = np.concatenate([m.indptr[1:] for m in self._counts]).astype(np.int64)[place]

    def totals(self) -> np.ndarray:
        """Counts over the panel of each position."""
        return self._total

    def log_factorials(self) -> np.ndarray:
        """Sum of log(count!) over the panel of each position."""
        return self._log_factorial

    def matrix(self) -> sp.csr_matrix:
        """Counts (N, G) of all positions in their order, one copy in this process."""
        stacked = sp.csr_matrix(sp.vstack(self._counts))
        first = np.cumsum([0, *(len(block.indptr) - 1 for block in self._counts)])
        return sp.csr_matrix(stacked[first[self._block] + self._offset])

    def gather(self, positions: np.ndarray) -> Tensor:
        """Counts (n, G) as float32."""
        found = self.entries(positions)
        return found.dense(found.x_e)

    def entries(self, positions: np.ndarray) -> SparseCounts:
        """Counts (n, G) as their non-zero entries, float32, in the order of `positions`: the same however the rows are
        spread over blocks.
        """
        start_n, stop_n = self._start[positions], self._stop[positions]
        # A slice a spot: to copy what lies together is several times faster than to index every entry, and of a large
        # cohort a batch touches many blocks.
        places = [
            (self._counts[block], slice(start, stop))
            for block, start, stop in zip(
                self._block[positions].tolist(), start_n.tolist(), stop_n.tolist(), strict=True
            )
        ]
        values = np.concatenate([np.empty(0, np.float32), *(m.data[at] for m, at in places)], dtype=np.float32)
        genes = np.concatenate(
            [np.empty(0, np.int64), *(m.indices[at] for m, at in places)], dtype=np.int64, casting="unsafe"
        )
        row_e = torch.from_numpy(np.repeat(np.arange(len(positions)), stop_n - start_n))
        of_spots = (torch.from_numpy(a[positions].astype(np.float32)) for a in (self._total, self._log_factorial))
        return SparseCounts(self.n_genes, row_e, torch.from_numpy(genes), torch.from_numpy(values), *of_spots)


_LOG_FACTORIAL = gammaln(np.arange(1, 2**16 + 1, dtype=np.float64))
"""log(k!) of every k that a uint16 holds."""
_ROWS_AT_ONCE = 1024


def _row_sums(counts: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Of each row: the sum of its counts, and of log(count!); some rows at a time, for blocks are large."""
    total, log_factorial = np.zeros(len(counts.indptr) - 1), np.zeros(len(counts.indptr) - 1)
    for first in range(0, len(total), _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, len(total)))
        ends = counts.indptr[rows.start : rows.stop + 1].astype(np.int64)
        x = counts.data[ends[0] : ends[-1]]
        logs = _LOG_FACTORIAL[x] if x.dtype == np.uint16 else gammaln(x.astype(np.float64) + 1)
        total[rows], log_factorial[rows] = (_segment_sums(values, ends - ends[0]) for values in (x, logs))
    return total, log_factorial


def _segment_sums(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of values[ends[i] : ends[i + 1]], float64; 0 where that is empty."""
    # A zero more, because the last segments may be empty, and start past the end.
    sums = np.add.reduceat(np.append(values, np.zeros(1, values.dtype)).astype(np.float64), ends[:-1])
    return np.where(np.diff(ends) > 0, sums, 0.0)
