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

from stray.cohort.fragments import CompactRows, CountBlock, PatchBlock
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
        """Yield block, places in the batch, offsets in the block."""
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
        """Do nothing: all are at hand."""

    def gather(self, positions: np.ndarray) -> Tensor:
        """Return patches (n, 3, px, px) uint8, channels last in memory (as they are stored, and as convolutions like
        them).
        """
        out_nHWC = np.empty((len(positions), *self._patches[0].shape[1:]), dtype=np.uint8)
        for block, places, offsets in self._parts(positions):
            out_nHWC[places] = self._patches[block][offsets]
        return torch.from_numpy(out_nHWC).permute(0, 3, 1, 2)


class Counts(Blocks):
    """Counts over the panel of some global rows, sparse."""

    def __init__(self, blocks: Sequence[CountBlock], rows: np.ndarray) -> None:
        """Raises ValueError when a row is in no block."""
        super().__init__([b.rows for b in blocks], rows)
        self._blocks = blocks
        self._counts: list[sp.csr_matrix | CompactRows] = [b.counts for b in blocks]
        self.n_genes: int = blocks[0].n_genes
        first = np.cumsum([0, *(len(b.rows) for b in blocks)])
        place = first[self._block] + self._offset
        sums = zip(*(_row_sums(counts) for counts in self._counts), strict=True)
        self._total, self._log_factorial = (np.concatenate(of_blocks)[place] for of_blocks in sums)
        # Where each position's entries start in its block, and how many they are.
        self._start = np.concatenate([m.indptr[:-1] for m in self._counts]).astype(np.int64)[place]
        self._length = np.concatenate([np.diff(m.indptr) for m in self._counts]).astype(np.int64)[place]

    def totals(self) -> np.ndarray:
        """Return counts over the panel of each position."""
        return self._total

    def log_factorials(self) -> np.ndarray:
        """Return the sum of log(count!) over the panel of each position."""
        return self._log_factorial

    def matrix(self) -> sp.csr_matrix:
        """Return counts (N, G) of all positions in their order, one copy in this process."""
        stacked = sp.csr_matrix(sp.vstack([block.matrix() for block in self._blocks]))
        first = np.cumsum([0, *(len(block.indptr) - 1 for block in self._counts)])
        return sp.csr_matrix(stacked[first[self._block] + self._offset])

    def gather(self, positions: np.ndarray) -> Tensor:
        """Return counts (n, G) as float32."""
        found = self.entries(positions)
        return found.dense(found.x_e)

    def entries(self, positions: np.ndarray) -> SparseCounts:
        """Return counts (n, G) as their non-zero entries, float32, in the order of `positions`: the same however the
        rows are spread over blocks.
        """
        order = np.argsort(self._block[positions], kind="stable")
        sorted_n = positions[order]
        where_e = _runs(self._start[sorted_n], self._length[sorted_n])
        values_e, genes_e = np.empty(len(where_e), np.float32), np.empty(len(where_e), np.int64)
        before_n = np.cumsum(self._length[sorted_n]) - self._length[sorted_n]
        blocks, first_n = np.unique(self._block[sorted_n], return_index=True)
        ends = np.append(before_n[first_n], len(where_e))
        for block, start, stop in zip(blocks, ends[:-1], ends[1:], strict=True):
            held, where = self._counts[block], where_e[start:stop]
            values_e[start:stop] = held.data.take(where)
            genes_e[start:stop] = held.indices.take(where)
        length_n = self._length[positions]
        if len(blocks) > 1:
            back_e = _runs(before_n[np.argsort(order)], length_n)
            values_e, genes_e = values_e.take(back_e), genes_e.take(back_e)
        row_e = np.repeat(np.arange(len(positions)), length_n)
        of_spots = (torch.from_numpy(a[positions].astype(np.float32)) for a in (self._total, self._log_factorial))
        of_entries = (torch.from_numpy(a) for a in (row_e, genes_e, values_e))
        return SparseCounts(self.n_genes, *of_entries, *of_spots)


def _runs(start_n: np.ndarray, length_n: np.ndarray) -> np.ndarray:
    """Return start, start + 1, ... of each run, one run after the other."""
    before_n = np.cumsum(length_n) - length_n
    runs = np.repeat(start_n - before_n, length_n)
    runs += np.arange(len(runs))
    return runs


_LOG_FACTORIAL = gammaln(np.arange(1, 2**16 + 1, dtype=np.float64))
"""log(k!) of every k that a uint16 holds."""
_ROWS_AT_ONCE = 1024


def _row_sums(counts: sp.csr_matrix | CompactRows) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the sum of its counts, and of log(count!); some rows at a time, for blocks are large."""
    total, log_factorial = np.zeros(len(counts.indptr) - 1), np.zeros(len(counts.indptr) - 1)
    for first in range(0, len(total), _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, len(total)))
        ends = counts.indptr[rows.start : rows.stop + 1].astype(np.int64)
        x = counts.data[ends[0] : ends[-1]]
        logs = _LOG_FACTORIAL[x] if x.dtype == np.uint16 else gammaln(x.astype(np.float64) + 1)
        total[rows], log_factorial[rows] = (_segment_sums(values, ends - ends[0]) for values in (x, logs))
    return total, log_factorial


def _segment_sums(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return sums of values[ends[i] : ends[i + 1]], float64; 0 where that is empty."""
    # A zero more, because the last segments may be empty, and start past the end.
    sums = np.add.reduceat(np.append(values, np.zeros(1, values.dtype)).astype(np.float64), ends[:-1])
    return np.where(np.diff(ends) > 0, sums, 0.0)


class ResidentCounts:
    """`Counts` as one sparse matrix on a device: genes and counts in 16 bits each where they fit, 4 bytes an entry.

    Gathers the entries that `Counts.entries` gathers on the host, without waiting for the device: how many a spot has
    is known on both sides.
    """

    def __init__(self, counts: Counts, device: torch.device) -> None:
        matrix = counts.matrix()
        self.n_genes, self.device = counts.n_genes, device
        self._length_N = np.diff(matrix.indptr)
        self._start_N = torch.from_numpy(matrix.indptr[:-1].astype(np.int64)).to(device)
        self._lengths_N = torch.from_numpy(self._length_N.astype(np.int64)).to(device)
        self._gene_E = _narrow(matrix.indices).to(device)
        self._x_E = _narrow(matrix.data).to(device)
        self._total_N, self._log_factorial_N = (
            torch.from_numpy(values.astype(np.float32)).to(device)
            for values in (counts.totals(), counts.log_factorials())
        )

    def entries(self, positions: np.ndarray) -> SparseCounts:
        """Return counts (n, G) of the spots at `positions` as their non-zero entries, float32, on the device."""
        total = int(self._length_N[positions].sum())
        place_n = torch.from_numpy(positions).to(self.device, non_blocking=True)
        length_n = self._lengths_N[place_n]
        row_e = torch.repeat_interleave(torch.arange(len(positions), device=self.device), length_n, output_size=total)
        # Entry k of a row lies k after the row's start.
        before_n = length_n.cumsum(0) - length_n
        where_e = torch.arange(total, device=self.device) + (self._start_N[place_n] - before_n)[row_e]
        return SparseCounts(
            self.n_genes,
            row_e,
            _wide(self._gene_E[where_e]),
            _wide(self._x_E[where_e]).float(),
            self._total_N[place_n],
            self._log_factorial_N[place_n],
        )


def _narrow(values: np.ndarray) -> Tensor:
    """Return counts as 16 bits where they fit: torch gathers int16, not uint16, so the bits are kept and the sign
    undone later.
    """
    if values.max(initial=0) < 2**16:
        return torch.from_numpy(values.astype(np.uint16).view(np.int16))
    return torch.from_numpy(values.astype(np.int64))


def _wide(values_e: Tensor) -> Tensor:
    return values_e.long() & 0xFFFF if values_e.dtype == torch.int16 else values_e
