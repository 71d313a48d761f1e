"""Runs functions in several processes of a real gloo group, and gives back what each returned."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

Job = tuple[Callable[..., Any], tuple[Any, ...]]

IMPORTED_ONCE = (
    "torch",
    "stray.stages.run",
    "stray.stages.contrastive.run",
    "stray.stages.gene.run",
    "stray.data.local",
)
"""Modules of which a job needs most: imported by the process from which the others are forked, once for all groups."""


def run_on(world_size: int, jobs: Mapping[str, Job]) -> dict[str, list[Any]]:
    """What each job (a function that is importable by its module, and its arguments) returned on each rank.

    All jobs run one after the other in the same processes: starting them takes longer than most jobs.
    """
    if world_size == 1:
        return {name: [function(*args)] for name, (function, args) in jobs.items()}
    multiprocessing.set_forkserver_preload(list(IMPORTED_ONCE))
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_enter, (world_size, folder, dict(jobs)), nprocs=world_size, start_method="forkserver")
        ranks = [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(world_size)]
    return {name: [found[name] for found in ranks] for name in jobs}


def _enter(rank: int, world_size: int, folder: str, jobs: dict[str, Job]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    try:
        found = {name: function(*args) for name, (function, args) in jobs.items()}
        (Path(folder) / str(rank)).write_bytes(pickle.dumps(found))
        dist.barrier()  # none takes its group down while another still talks to it
    finally:
        dist.destroy_process_group()
    # Torch's threads may outlive the interpreter's end and abort the process, after all is said and written.
    os._exit(0)
