"""A batch in chunks whose loss and gradients are those of the whole batch (GradCache: Gao et al. 2021, "Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup").

The codes of all chunks are computed first, without what a backward pass needs; the loss is taken over the codes of the
whole batch; its gradient on them is then carried through each chunk, computed anew with the same noise. One chunk's
activations are held at a time. This is torch's checkpoint applied chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from stray.collective import rank_rows, world_size
from stray.errors import InputError, Problem

Codes = tuple[Tensor, ...]
"""Tensors with one row per spot."""


def in_chunks(code: Callable[[slice], Codes], module: nn.Module, count: int, chunks: int) -> Codes:
    """Return code(all local rows) from `chunks` chunks of this rank's rows of a global batch of `count` spots.

    `code` must be a function of its rows: no random number but keyed ones. Every rank takes as many chunks, fewer than
    asked for where a rank has fewer rows. Batch norm of `module` in training takes the statistics of each chunk, over
    all ranks, and counts them once.
    """
    rows = rank_rows(count)
    n, chunks = rows.stop - rows.start, max(1, min(chunks, count // world_size()))
    if chunks == 1:
        return code(slice(0, n))
    parts = [
        checkpoint(
            code,
            rank_rows(n, of, chunks),
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(module)),
        )
        for of in range(chunks)
    ]
    return tuple(torch.cat(chunked) for chunked in zip(*parts, strict=True))


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Redirect the statistics that batch norm tracks to buffers that are thrown away: the first pass has counted the
    chunk.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        # Replace the tensors instead of their values: the first pass's graph may hold the originals.
        norm._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)


def check_batch_norm(module: nn.Module) -> None:
    """Raise InputError when `module` has batch norm that takes its statistics from the batch in training: from chunks,
    they would not be those of the batch.
    """
    was = module.training
    names = [name for name, m in module.train().named_modules() if isinstance(m, _BatchNorm) and m.training]
    module.train(was)
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        what = f"{names[0]}{more} normalise by the statistics of the whole batch, which chunks do not have"
        remedy = "accumulate_batch_norm=per_chunk (a chunk's statistics), a model without batch norm, or no chunks"
        raise InputError(Problem("contrastive.accumulate", what, remedy))
