"""Gene counts as their non-zero entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseCounts:
    """Counts (n, G) as their non-zero entries: a zero needs no lgamma. What depends on counts alone comes with them.

    Legend: e entries in any order, each place at most once.
    """

    n_genes: int
    row_e: Tensor
    """Spot of each entry, int64."""
    gene_e: Tensor
    """Gene of each entry, int64."""
    x_e: Tensor
    """Its count, as floating point."""
    total_n: Tensor
    """Sum of each spot's counts; its length is the number of spots."""
    log_factorial_n: Tensor
    """Sum of lgamma(x + 1) of each spot: the part of its log-probability that no parameter changes."""

    @staticmethod
    def of(x_nG: Tensor) -> SparseCounts:
        """Return the non-zero entries of a dense matrix."""
        row_e, gene_e = x_nG.nonzero(as_tuple=True)
        log_factorial_n = torch.lgamma(x_nG + 1).sum(dim=1)
        return SparseCounts(x_nG.shape[1], row_e, gene_e, x_nG[row_e, gene_e], x_nG.sum(dim=1), log_factorial_n)

    def __len__(self) -> int:
        return len(self.total_n)

    @property
    def place_e(self) -> Tensor:
        """Place of each entry in the flattened (n, G) matrix."""
        return self.row_e * self.n_genes + self.gene_e

    def dense(self, values_e: Tensor) -> Tensor:
        """Return (n, G) with `values_e` at the entries and zeros elsewhere."""
        out_n_G = values_e.new_zeros(len(self) * self.n_genes)
        return out_n_G.index_put_((self.place_e,), values_e).view(len(self), self.n_genes)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SparseCounts:
        """Return the same on a device."""
        tensors = (self.row_e, self.gene_e, self.x_e, self.total_n, self.log_factorial_n)
        return SparseCounts(self.n_genes, *(t.to(device, non_blocking=non_blocking) for t in tensors))
