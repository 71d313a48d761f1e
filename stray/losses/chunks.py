"""Sums over the rows of the similarity matrix in chunks, which bounds its memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Rows = slice
"""Places among a rank's local rows."""


def sum_over_rows(term: Callable[[Rows], Tensor], count: int, chunk: int | None) -> Tensor:
    """Return term(all `count` rows), for a `term` that is a sum over rows, as the sum over chunks of at most `chunk`
    rows.

    Each chunk's intermediate tensors are freed after it and computed anew in the backward pass. `term` must be a
    function of its rows alone: no collective, no random number. None: all rows at once.
    """
    if chunk is None or chunk >= count:
        return term(slice(0, count))
    return torch.stack([_anew(term, rows) for rows in _parts(count, chunk)]).sum(dim=0)


def over_rows(values: Callable[[Rows], Tensor], count: int, chunk: int | None) -> Tensor:
    """Return values(all `count` rows), for `values` of a tensor a row, concatenated from chunks as in
    `sum_over_rows`.
    """
    if chunk is None or chunk >= count:
        return values(slice(0, count))
    return torch.cat([_anew(values, rows) for rows in _parts(count, chunk)])


def _parts(count: int, chunk: int) -> list[Rows]:
    return [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]


def _anew(function: Callable[[Rows], Tensor], rows: Rows) -> Tensor:
    return torch.as_tensor(checkpoint(function, rows, use_reentrant=False, preserve_rng_state=False))
