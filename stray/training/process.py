"""Memory and number formats of a training process."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from stray.training.worker import Worker

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

KEPT_BYTES = 2**30
"""Bytes: tensors of up to this size use memory that the process keeps, and up to this much of it is kept unused."""

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Environment of a process that trains in another thread than its main one. glibc gives such a thread heaps of 64 MiB
of its own and returns each as soon as it is empty, whatever it is told; it asks for this as the process starts.
"""


@cache
def keep_freed_memory() -> bool:
    """Tell the C library of this process not to return freed memory to the system; return whether it complies (glibc).

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


GIB = 2**30


def process_memory(name: str) -> int:
    """Return this process's `VmRSS` (resident now) or `VmHWM` (at its peak) in bytes; 0 where the system does not tell.

    Not `ru_maxrss`: that begins with the parent's. Both count what is read of shared memory, such as Ray's object
    store, though it is there once for all processes.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def peak_memory(worker: Worker) -> dict[str, float]:
    """Return the peak memory of the worker with the largest peak, since its process began, in GiB:
    `peak_memory_gib`, and beside GPUs `peak_gpu_memory_gib`. Every rank must call it.
    """
    taken = {"peak_memory_gib": process_memory("VmHWM")}
    if worker.device.type == "cuda":
        taken["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated(worker.device)
    # A worker's only collective is a sum: each rank writes its own entry of a vector of zeros.
    of_WM = torch.zeros(worker.world_size, len(taken), dtype=torch.float64, device=worker.device)
    of_WM[worker.rank] = torch.tensor(list(taken.values()), dtype=torch.float64, device=worker.device)
    most_M = worker.all_reduce(of_WM).amax(dim=0) / GIB
    return dict(zip(taken, most_M.tolist(), strict=True))


@contextmanager
def matrix_products(precision: Literal["fp32", "mixed"]) -> Iterator[None]:
    """Set the precision of float32 matrix products within the context: exact, or torch's `medium`, in which factors may
    be rounded (to bf16 or TF32) where the hardware is faster at it and sums are float32.

    On a CPU without such hardware `medium` rounds nothing, and still multiplies by oneDNN, which can be twice as fast
    as the library behind exact products.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def half_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the dtype of the towers' products under `precision`; None: the type of their weights."""
    if precision == "auto":
        return torch.bfloat16 if multiplies_bf16(device) else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A private function of torch: if it is missing, the answer is no.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
