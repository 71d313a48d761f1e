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


class _Blocks:
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


class Patches(_Blocks):
    """Patches of some global rows."""

    def __init__(self, blocks: Sequence[PatchBlock], rows: np.ndarray) -> None:
        """Raises ValueError when a row is in no block."""
        super().__init__([b.rows for b in blocks], rows)
        self._patches = [b.patches for b in blocks]

    def gather(self, positions: np.ndarray) -> Tensor:
        """Patches (n, 3, px, px) uint8, channels last in memory (as they are stored, and as convolutions like them)."""
        out_nHWC = np.empty((len(positions), *self._patches[0].shape[1:]), dtype=np.uint8)
        for block, places, offsets in self._parts(positions):
            out_nHWC[places] = self._patches[block][offsets]
        return torch.from_numpy(out_nHWC).permute(0, 3, 1, 2)


class Counts(_Blocks):
    """Counts over the panel of some global rows, sparse."""

    def __init__(self, blocks: Sequence[CountBlock], rows: np.ndarray) -> None:
        """Raises ValueError when a row is in no block."""
        super().__init__([b.rows for b in blocks], rows)
        self._counts = [b.counts for b in blocks]
        self.n_genes: int = blocks[0].n_genes
        sums = [_row_sums(counts) for counts in self._counts]
        first = np.cumsum([0, *(len(total) for total, _ in sums)])
        place = first[self._block] + self._offset
        self._total, self._log_factorial = (np.concatenate(of_blocks)[place] for of_blocks in zip(*sums, strict=True))

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
        """Counts (n, G) as their non-zero entries, float32."""
        rows: list[np.ndarray] = [np.empty(0, np.int64)]
        genes: list[np.ndarray] = [np.empty(0, np.int64)]
        values: list[np.ndarray] = [np.empty(0, np.float32)]
        for block, places, offsets in self._parts(positions):
            counts = self._counts[block]
            starts = counts.indptr[offsets].astype(np.int64)
            lengths = counts.indptr[offsets + 1] - starts
            # Entry k of a row lies k after the row's start.
            ends = np.cumsum(lengths)
            where = np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)
            rows.append(np.repeat(places, lengths))
            genes.append(counts.indices[where])
            values.append(counts.data[where])
        row_e = torch.from_numpy(np.concatenate(rows))
        x_e = torch.from_numpy(np.concatenate(values).astype(np.float32))
        gene_e = torch.from_numpy(np.concatenate(genes).astype(np.int64))
        of_spots = (torch.from_numpy(a[positions].astype(np.float32)) for a in (self._total, self._log_factorial))
        return SparseCounts(self.n_genes, row_e, gene_e, x_e, *of_spots)


def _row_sums(counts: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Of each row: the sum of its counts, and of log(count!)."""
    logs = gammaln(counts.data.astype(np.float32) + 1)
    log_factorials = sp.csr_matrix((logs, counts.indices, counts.indptr), shape=counts.shape)
    total, log_factorial = (np.asarray(m.sum(axis=1, dtype=np.float64)).ravel() for m in (counts, log_factorials))
    return total, log_factorial
