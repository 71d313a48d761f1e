"""Counts in the memory of the device that trains on them: nothing but the places of a batch's spots crosses to it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stray.likelihood.counts import SparseCounts
from stray.training.blocks import Counts


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
