"""Batches are gathered while the steps before them run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


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
            # Whoever stops half-way waits for the batch in work alone.
            pool.shutdown(cancel_futures=True)

    def _timed(self, get: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        batch = get()
        self.waited_s += time.perf_counter() - start
        return batch


_END = object()
