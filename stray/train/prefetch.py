"""Batches are gathered while the step before them runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Prefetcher:
    """Gathers the next batch in a thread while the current one is used, and measures the time spent waiting for it."""

    def __init__(self, gather: Callable[[Any], Any]) -> None:
        self._gather = gather
        self.waited_s = 0.0

    def over(self, keys: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Each key with its batch, in order. An error in gathering is raised where its batch is asked for."""
        with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
            ahead = pool.submit(self._gather, keys[0]) if keys else None
            for i, key in enumerate(keys):
                assert ahead is not None
                start = time.perf_counter()
                batch = ahead.result()
                self.waited_s += time.perf_counter() - start
                ahead = pool.submit(self._gather, keys[i + 1]) if i + 1 < len(keys) else None
                yield key, batch
