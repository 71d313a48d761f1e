"""Protocol of a training process, and its implementation without a cluster."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stray import collective, storage


class Worker(Protocol):
    """One process of a training."""

    rank: int
    """The global rank."""
    world_size: int
    """Number of processes."""
    device: torch.device
    """Device of the tensors."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over all workers."""
        ...

    def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
        """Report metrics; every worker calls it at the same points. A `state` becomes the newest checkpoint,
        atomically. Returns the path of the newest checkpoint, None if this worker does not know it.
        """
        ...

    def restore(self) -> dict[str, Any] | None:
        """Return the newest whole checkpoint's state, or None at the start."""
        ...


class LocalWorker:
    """A single process, or one of a plain process group (gloo, nccl): a unit test, a notebook, a debugger."""

    def __init__(self, checkpoint: str | Path | None = None, device: str = "cpu") -> None:
        """`checkpoint` is the file of the state; without it no state is kept."""
        self.rank, self.world_size = collective.rank(), collective.world_size()
        self.device = torch.device(device)
        self.reports: list[dict[str, float]] = []
        self._file = None if checkpoint is None else storage.absolute(checkpoint)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return collective.all_sum(tensor.detach())

    def report(self, metrics: Mapping[str, float], state: Mapping[str, Any] | None) -> str | None:
        self.reports.append(dict(metrics))
        if state is not None and self._file is not None and self.rank == 0:
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            storage.write_bytes(self._file, buffer.getvalue())
        return self._file

    def restore(self) -> dict[str, Any] | None:
        if self._file is None or not storage.exists(self._file):
            return None
        return torch.load(io.BytesIO(storage.read_bytes(self._file)), map_location=self.device, weights_only=True)
