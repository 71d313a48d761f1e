"""The memory of a Ray and of all that it started. In a module of its own, for a Ray that has done nothing yet: the
workers of other tests would end meanwhile, and the store keeps the pages that they wrote.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import ray

from jobs.benchmarks.scale.memory import LONGEST_S, PeakMemory
from stray.on_ray.session import SessionInfo


@pytest.mark.slow
def test_memory_is_that_of_descendants_and_of_the_object_store(ray_session: SessionInfo) -> None:
    @ray.remote(num_cpus=1)
    def hold(megabytes: int) -> int:
        held = np.ones(megabytes * 2**17)
        time.sleep(LONGEST_S + 1)  # until it has been seen
        return int(held.sum())

    with PeakMemory() as before:
        ray.get(hold.remote(1))
    with PeakMemory() as worker:
        ray.get(hold.remote(400))
    with PeakMemory() as store:
        kept = ray.put(np.ones(150 * 2**17))
    assert worker.peak_bytes - before.peak_bytes > 250 * 2**20
    # Part of what the worker took may be given back already; the store's 150 MiB stand.
    assert store.peak_bytes - before.peak_bytes > 100 * 2**20
    del kept
