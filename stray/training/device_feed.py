"""Batches on the device before their step: pinned where they are gathered, copied while the step before them runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")


def each_tensor(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with `change` done to every tensor in it: a tensor, or a dataclass of tensors and of such
    dataclasses.

    What is neither stays as it is.
    """
    if isinstance(batch, Tensor):
        return change(batch)  # pyright: ignore[reportReturnType]
    if is_dataclass(batch) and not isinstance(batch, type):
        held = {field.name: getattr(batch, field.name) for field in fields(batch)}
        return replace(batch, **{name: each_tensor(value, change) for name, value in held.items()})  # pyright: ignore
    return batch


def pinned(batch: Batch, device: torch.device) -> Batch:
    """Return the batch in pinned memory where a GPU waits for it, else as it is."""
    if device.type != "cuda":
        return batch
    return each_tensor(batch, lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())


class DeviceFeed:
    """Brings batches to a device, one ahead of the one that is used; on a GPU by a stream of its own, so that the copy
    runs beside the step. On the CPU the same code copies nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def over(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield each key with its batch on the device, in order."""
        ahead = None
        for key, batch in batches:
            begun = (key, *self._begin(batch))
            if ahead is not None:
                yield self._ready(*ahead)
            ahead = begun
        if ahead is not None:
            yield self._ready(*ahead)

    def _begin(self, batch: Batch) -> tuple[Batch, Any]:
        """Begin to copy a batch; return it, and the event at which it is done."""
        with torch.cuda.stream(self._side) if self._side is not None else nullcontext():
            moved = each_tensor(batch, lambda tensor: tensor.to(self._device, non_blocking=True))
        return moved, None if self._side is None else self._side.record_event()

    def _ready(self, key: Any, batch: Batch, done: Any) -> tuple[Any, Batch]:
        """Return the batch, which what comes next on the current stream may use."""
        if self._side is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            # Freed when the step lets go of it, not while the step still reads it.
            each_tensor(batch, lambda tensor: (tensor.record_stream(current), tensor)[1])
        return key, batch
