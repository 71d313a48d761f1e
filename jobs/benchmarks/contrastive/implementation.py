"""One implementation of the contrastive stage's benchmark, alone in its processes.

`python -m jobs.benchmarks.contrastive.implementation JOB RANK` runs the job in a file as one of its processes. The
first leaves what it measured beside it.

Processes of their own, so that no other's threads, caches and object store are in the way.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from jobs.benchmarks.contrastive.loader import EncodedImages, InMemoryData, LoaderData, LoaderPatches
from stray.cohort.dataset import PairedDataset
from stray.cohort.decode import decode_patch
from stray.cohort.residence import shards
from stray.config import RunConfig
from stray.data.batches import BatchPlan
from stray.data.decoding import PatchDecoder
from stray.data.source import PatchSource
from stray.data.streaming import Stream, StreamedPatches, StreamPlan
from stray.stages.spec import ImageStage

What = Literal["train in memory", "train from a loader", "decode", "load", "read and load", "read and decode"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Measurement to make: a training of `stage`, or its patches decoded or loaded without a model."""

    what: What
    stage: ImageStage
    dataset: str
    workers: int
    """Processes that train together."""
    threads: int
    """Threads of each."""
    processes: int = 0
    """That decode for each; 0: its own."""
    seconds: float = 1.0
    """Least seconds of decoding or loading."""
    niceness: int = 0
    """Niceness of its processes, for the system's scheduler."""

    @property
    def batches(self) -> list[np.ndarray]:
        """Batches to load: those of the stage's first epoch, whole."""
        return BatchPlan(
            len(self.stage.rows), self.stage.config.batch_size, self.stage.gene.seed, keep_remainder=False
        ).batches(0)


def train(job: Job) -> dict[str, Any]:
    """Train the stage in this process and its peers; its history holds the measurements."""
    from stray.stages.run import run_stage
    from stray.track.tracker import NullTracker
    from stray.training.worker import LocalWorker

    dataset = PairedDataset.open(job.dataset)
    data = InMemoryData(dataset) if job.what == "train in memory" else LoaderData(dataset, job.processes)
    device = f"cuda:{dist.get_rank() if job.workers > 1 else 0}" if torch.cuda.is_available() else "cpu"
    run_stage(job.stage, data, LocalWorker(device=device), NullTracker(), RunConfig(checkpoint_every=job.stage.epochs))
    return {}


def per_second(once: Callable[[], int], seconds: float) -> float:
    """Return the patches per second of `once`, which tells how many it did, called until `seconds` are over; after a
    first call that does not count: it imports and starts what a process needs once.
    """
    once()
    done, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds or not done:
        done += once()
    return done / max(took, 1e-9)


def load(job: Job) -> dict[str, float]:
    """Load the batches of an epoch from the DataLoader."""
    source = LoaderPatches(PairedDataset.open(job.dataset), job.stage.rows, job.processes)
    return {"rate": per_second(lambda: _epoch_of(source, job.batches), job.seconds)}


def read_and_load(job: Job) -> dict[str, float]:
    """Load the same with everything that a first epoch costs the DataLoader: reading the files, starting its
    processes.
    """
    dataset = PairedDataset.open(job.dataset)

    def once() -> int:
        _forget(dataset)
        return _epoch_of(LoaderPatches(dataset, job.stage.rows, job.processes), job.batches)

    return {"rate": per_second(once, job.seconds)}


def _epoch_of(source: PatchSource, batches: Sequence[np.ndarray]) -> int:
    source.expect(batches)
    return sum(len(source.gather(positions)) for positions in batches)


def decode(job: Job) -> dict[str, float]:
    """Decode every picture and throw it away, by threads or by processes: no loader can be faster."""
    held = EncodedImages(PairedDataset.open(job.dataset), job.stage.rows)
    encoded = [image.as_py() for image in held.images]
    pieces = [list(piece) for piece in np.array_split(np.arange(len(encoded)), 4 * max(job.threads, job.processes))]

    def piece_of(numbers: list[int]) -> int:
        return sum(len(decode_patch(encoded[i], held.size_px, str)) > 0 for i in numbers)

    if job.processes:
        global _inherited
        _inherited = piece_of  # functions cannot be sent, but what a process is forked with it has
        with multiprocessing.get_context("fork").Pool(job.processes) as pool:
            return {"rate": per_second(lambda: sum(pool.imap_unordered(_call, pieces)), job.seconds)}
    with ThreadPoolExecutor(job.threads) as pool:
        return {"rate": per_second(lambda: sum(pool.map(piece_of, pieces)), job.seconds)}


_inherited: Callable[[list[int]], int] = len


def _call(numbers: list[int]) -> int:
    return _inherited(numbers)


def read_and_decode(job: Job) -> dict[str, float]:
    """Decode epochs streamed from the files, which are not in the system's cache where it lets go of them."""
    dataset, rows = PairedDataset.open(job.dataset), job.stage.rows
    source = StreamedPatches(dataset, rows, PatchDecoder(dataset.manifest.patch.size_px, job.threads))
    stream = Stream(window=RunConfig().window_spots, shard_N=shards(dataset, rows))
    batches = StreamPlan(len(rows), job.stage.config.batch_size, 0, keep_remainder=True, stream=stream).batches(0)

    def once() -> int:
        _forget(dataset)
        return _epoch_of(source, batches)

    return {"rate": per_second(once, job.seconds)}


def _forget(dataset: PairedDataset) -> None:
    """Drop the pictures' files from the system's cache, where they are local ones."""
    for path in [file.path for file in dataset.fragments(images=True)] if hasattr(os, "posix_fadvise") else []:
        if os.path.exists(path):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


DOES: dict[What, Callable[[Job], dict[str, Any]]] = {
    "train in memory": train,
    "train from a loader": train,
    "decode": decode,
    "load": load,
    "read and load": read_and_load,
    "read and decode": read_and_decode,
}


def main(words: list[str]) -> None:
    """Run one process of a job."""
    warnings.simplefilter("ignore")
    file, rank = Path(words[0]), int(words[1])
    job: Job = pickle.loads(file.read_bytes())
    os.setpriority(os.PRIO_PROCESS, 0, job.niceness)
    torch.set_num_threads(job.threads)
    if job.workers > 1:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        meet = f"file://{file}.rendezvous"
        dist.init_process_group(backend, init_method=meet, rank=rank, world_size=job.workers)
    found = DOES[job.what](job)
    if rank == 0:
        file.with_suffix(".json").write_text(json.dumps(found))
    if job.workers > 1:
        dist.barrier()
        dist.destroy_process_group()
    # Torch's threads may outlive the interpreter's end and abort the process, after all is said and written.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
