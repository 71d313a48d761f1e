"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A step's tensors in turn: pages that the kernel must hand out anew are counted as minor faults of the process.
FAULTS = """
import resource, sys
import torch
from stray.train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    made = [torch.ones(12 * 2**20) for _ in range(2)]
    return sum(float(t[0]) for t in made)
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which only Linux has")
def test_a_step_like_the_one_before_it_takes_no_new_pages() -> None:
    # Not none at all: the system may reclaim what lies idle.
    assert 5 * faults("kept") < faults("as it comes")
