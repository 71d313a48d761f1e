"""The memory that a worker takes."""

from __future__ import annotations

from pathlib import Path

import torch

from stray.training.worker import Worker

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
    """Return the most that a worker has taken since its process began, of the worker that took most, in GiB:
    `peak_memory_gib`, and beside GPUs `peak_gpu_memory_gib`. Every rank must call it.
    """
    taken = {"peak_memory_gib": process_memory("VmHWM")}
    if worker.device.type == "cuda":
        taken["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated(worker.device)
    # A sum is the one collective that a worker has: of vectors in which every rank has a place of its own.
    of_WM = torch.zeros(worker.world_size, len(taken), dtype=torch.float64, device=worker.device)
    of_WM[worker.rank] = torch.tensor(list(taken.values()), dtype=torch.float64, device=worker.device)
    most_M = worker.all_reduce(of_WM).amax(dim=0) / GIB
    return dict(zip(taken, most_M.tolist(), strict=True))
