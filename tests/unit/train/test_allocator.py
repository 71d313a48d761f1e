"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stray.training.process import ONE_ARENA

# A step's tensors in turn: pages that the kernel must hand out anew are counted as minor faults of the process.
FAULTS = """
import resource, sys, threading
import torch
from stray.training.process import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    made = [torch.ones(int(sys.argv[2]) * 2**20) for _ in range(2)]
    return sum(float(t[0]) for t in made)
def train():
    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
if sys.argv[3] == "thread":
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
else:
    train()
"""


def faults(word: str, millions: int = 12, where: str = "main", **environment: str) -> int:
    command = [sys.executable, "-c", FAULTS, word, str(millions), where]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return int(done.stdout)


def takes_fewer(kept: tuple, other: tuple, **environment: str) -> bool:
    """Whether a process that keeps memory has under a fifth of the faults of another one, in one of three tries: where
    memory is short, the system takes pages back from any of them.
    """
    return any(5 * faults(*kept, **environment) < faults(*other) for _ in range(3))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which only Linux has")
def test_a_step_like_the_one_before_it_takes_no_new_pages() -> None:
    assert takes_fewer(("kept",), ("as it comes",))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc, which only Linux has")
def test_nor_does_one_in_another_thread_where_there_is_one_arena() -> None:
    # 40 MB a tensor: each takes a heap of its own, of those that threads have.
    assert takes_fewer(("kept", 10, "thread"), ("kept", 10, "thread"), **ONE_ARENA)
