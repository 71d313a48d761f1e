"""Gather batches beside the step and copy them to the device before it: threads, pinned memory, a side stream."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor


class Prefetcher:
    """Gathers the next batches in a thread, one after the other, while the current one is used, and measures the time
    spent waiting for them.
    """

    def __init__(self, gather: Callable[[Any], Any], ahead: int = 1) -> None:
        """`ahead`: batches that are gathered before they are asked for; 0: each when it is asked for, in no thread."""
        self._gather, self._ahead = gather, ahead
        self.waited_s = 0.0

    def over(self, keys: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield each key with its batch, in order. An error in gathering is raised where its batch is asked for."""
        if self._ahead == 0:
            for key in keys:
                yield key, self._timed(lambda key=key: self._gather(key))
            return
        left, waiting = iter(keys), deque[tuple[Any, Future[Any]]]()
        pool = ThreadPoolExecutor(1, thread_name_prefix="gather")
        try:
            while True:
                while len(waiting) < self._ahead and (key := next(left, _END)) is not _END:
                    waiting.append((key, pool.submit(self._gather, key)))
                if not waiting:
                    return
                key, future = waiting.popleft()
                batch = self._timed(future.result)
                if (another := next(left, _END)) is not _END:
                    waiting.append((another, pool.submit(self._gather, another)))
                yield key, batch
        finally:
            # A consumer that stops half-way waits only for the batch that is being gathered.
            pool.shutdown(cancel_futures=True)

    def _timed(self, get: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        batch = get()
        self.waited_s += time.perf_counter() - start
        return batch


_END = object()


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
