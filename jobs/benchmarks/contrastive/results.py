"""Results of the contrastive stage's benchmark, and how its implementations outside Ray are run."""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmarks.contrastive.implementation import Job


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One way to bring the patches to the step, over the rounds."""

    name: str
    rates: tuple[float, ...]
    """Spots a second: the median epoch of each round, the first epoch left out."""
    first: tuple[float, ...]
    """Spots a second of the first epoch of each round."""
    waiting: tuple[float, ...]
    """Share of the time waiting for data: the median epoch of each round, the first left out."""

    @property
    def spots_per_second(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rates)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Patches a second without a model, of each round."""

    name: str
    rates: tuple[float, ...]

    @property
    def patches_per_second(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.rates)


@dataclass(frozen=True, kw_only=True)
class ImageSpeed:
    """Measurements of the contrastive stage's benchmark."""

    spots: int
    """That train."""
    patch_px: int
    encoder: str
    batch_size: int
    workers: int
    threads: int
    """Threads of each worker."""
    loading_threads: int
    """That load without a model."""
    rounds: int
    epochs: int
    """Epochs of a round, after its first."""
    residence: str
    """Residence of the patches through Ray."""
    place_s: float
    """Reading the patches into the object store through Ray Data, in seconds, once for all rounds."""
    trained: tuple[Trained, ...]
    loaded: tuple[Loaded, ...]


def ratio(of: Trained | Loaded, to: Trained | Loaded) -> tuple[float, float, float]:
    """Return the median, smallest and largest over the rounds of `of`'s speed over `to`'s in the same round."""
    by_round = [a / b for a, b in zip(of.rates, to.rates, strict=True)]
    return statistics.median(by_round), min(by_round), max(by_round)


def faster(names: Sequence[str], found: Sequence[Any]) -> Any:
    """Return of those with such a name the one whose median is highest."""
    return max((one for one in found if one.name in names), key=lambda one: statistics.median(one.rates))


def trained(name: str, histories: Sequence[Sequence[dict[str, float]]]) -> Trained:
    """Return the measurements from the history of each round."""
    steady = [history[1:] or history for history in histories]
    return Trained(
        name=name,
        rates=tuple(statistics.median(e["spots_per_second"] for e in some) for some in steady),
        first=tuple(history[0]["spots_per_second"] for history in histories),
        waiting=tuple(statistics.median(e["waiting_for_data_share"] for e in some) for some in steady),
    )


def run_job(job: Job, folder: str) -> dict[str, Any]:
    """Run `job` in processes of its own, with its files in `folder`; what its first process measured.

    Raises RuntimeError with the end of a process's output when it fails.
    """
    file = Path(folder) / f"{uuid.uuid4().hex}.job"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(job))
    environment = os.environ | {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    command = [sys.executable, "-m", "jobs.benchmarks.contrastive.implementation", str(file)]
    logs = [file.with_suffix(f".{rank}.log") for rank in range(job.workers)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for rank, log in enumerate(logs):
            with log.open("wb") as out:
                running.append(subprocess.Popen([*command, str(rank)], env=environment, stdout=out, stderr=out))
        for process, log in zip(running, logs, strict=True):
            if process.wait() != 0:
                raise RuntimeError(f"{job.what} failed:\n{log.read_text(errors='replace')[-4000:]}")
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return json.loads(file.with_suffix(".json").read_text())
