"""Collectives with gradient: a gather of rows and a sum over workers.

Both are exact inverses of what a single process does on the whole batch. The convention everywhere in stray: each rank
computes *its share* of a global sum (its rows' terms over the global count), and gradients are **summed** over ranks.
With one process, or outside a process group, both are the identity.

torch's SyncBatchNorm does not run on the CPU and `torch.distributed.nn` needs an all-to-all that gloo lacks, hence
these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes in the group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the *global* rank of this process; 0 where there is no group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def rank_rows(count: int, of: int | None = None, size: int | None = None) -> slice:
    """Return the rows of a global batch of `count` that rank `of` holds: contiguous, sizes that differ by at most
    one.
    """
    of = rank() if of is None else of
    size = world_size() if size is None else size
    base, extra = divmod(count, size)
    start = of * base + min(of, extra)
    return slice(start, start + base + (1 if of < extra else 0))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_nD: Tensor, count: int) -> Tensor:
        size, largest = world_size(), -(-count // world_size())
        ctx.rows = rank_rows(count)
        padded = local_nD.new_zeros((largest, *local_nD.shape[1:]))
        padded[: len(local_nD)] = local_nD
        parts = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(parts, padded)
        sizes = [rank_rows(count, r) for r in range(size)]
        return torch.cat([part[: s.stop - s.start] for part, s in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Every rank's loss depends on these rows: the gradient of the global sum is the sum of the ranks' gradients.
        grad_ND = grad_ND.contiguous().clone()
        dist.all_reduce(grad_ND)
        return grad_ND[ctx.rows], None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def gather_rows(local_nD: Tensor, count: int) -> Tensor:
    """Return all ranks' rows (count, D) in the order of the global batch, with gradient to the rank that made each.

    `local_nD` holds the rows `rank_rows(count)` of the global batch. Local sizes may differ by one: the shorter are
    padded for the collective and cut again, so a remainder is neither lost nor counted twice.

    Raises ValueError when `local_nD` is not this rank's share.
    """
    rows = rank_rows(count)
    if len(local_nD) != rows.stop - rows.start:
        raise ValueError(f"rank {rank()} holds {len(local_nD)} rows, its share of {count} is {rows.stop - rows.start}")
    if world_size() == 1:
        return local_nD
    gathered: Tensor = _Gather.apply(local_nD, count)  # pyright: ignore[reportAssignmentType]
    return gathered


def all_sum(local: Tensor) -> Tensor:
    """Return the sum over ranks, differentiable: the gradient of each rank's part is the sum of all ranks'
    gradients.
    """
    if world_size() == 1:
        return local
    return _untraced_sum(local)


_untraced_sum: Callable[[Tensor], Tensor] = torch.compiler.disable(_Sum.apply)  # pyright: ignore[reportAssignmentType]
"""A compiled step leaves its graph for a collective."""
