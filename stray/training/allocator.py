"""Memory that a step frees is kept for the next one."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

KEPT_BYTES = 2**30
"""Tensors of up to this size come out of memory that the process keeps, and up to this much of it is kept unused."""

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment of a process that trains in another thread than its main one. glibc gives such a thread heaps of 64 MiB
of its own and returns each as soon as it is empty, whatever it is told; it asks for this as the process starts.
"""


@cache
def keep_freed_memory() -> bool:
    """Tell the C library of this process not to give freed memory back to the system; True where it listens (glibc).

    As it starts, it gives blocks of 128 KiB and more back at once and learns slowly not to. A step allocates the same
    tensors as the step before; each page of them would be zeroed by the kernel anew at every step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # Before glibc 2.35 the largest threshold is 32 MiB.
    blocks = any(mallopt(_M_MMAP_THRESHOLD, size) for size in (KEPT_BYTES, 2**25))
    return blocks and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))
