"""Benchmark of the contrastive stage: the real stage through Ray Data and Ray Train, the same step on tensors in
memory, and a plain DataLoader over the same files, in turn; and loading alone, without a model.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from jobs.benchmarks.contrastive.implementation import Job, per_second
from jobs.benchmarks.contrastive.results import ImageSpeed, Loaded, Trained, run_job, trained
from jobs.benchmarks.fit import fit_alone
from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, patients
from stray.config import Recipe, TorchvisionConfig
from stray.errors import InputError, Problem
from stray.experiment.cells import Group, cell
from stray.on_ray.data import Placed, PlacedData, place_counts, place_patches
from stray.on_ray.panels import fit_panels
from stray.on_ray.progress import Progress
from stray.on_ray.resources import resources
from stray.stages.spec import ImageStage

MEMORY, STRAY = "tensors in memory", "stray"
LOADERS = ("DataLoader, in the process", "DataLoader, worker processes")
DECODERS = ("the decoder alone, threads", "the decoder alone, processes")
COLD = "cold Parquet"
COLD_LOADERS = ("DataLoader, cold Parquet, in the process", "DataLoader, cold Parquet, worker processes")
RESIDENT = {"encoded residence": "encoded", "decoded residence": "decoded"}
LOAD_S = 3.0
"""Seconds that loading is measured for, at least, in each round."""


def measure(
    recipe: Recipe,
    *,
    root: str,
    workers: int,
    cpus: int,
    loading_cpus: int,
    rounds: int,
    epochs: int,
    progress: Progress,
) -> ImageSpeed:
    """Compare on all patients of `recipe.dataset`, with `workers` of `cpus` CPUs in all: `rounds` times an epoch and
    then `epochs` that count; loading alone has `loading_cpus`. Results go under `root`, which should be fresh.

    Raises InputError when there are more workers than CPUs.
    """
    if workers > cpus:
        raise InputError(Problem("--workers", f"{workers} workers on {cpus} CPUs", f"at most {cpus}"))
    setup = _prepare(recipe, root, workers, cpus, loading_cpus, epochs, progress)
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in (MEMORY, STRAY, *LOADERS)}
    loads: dict[str, list[float]] = {name: [] for name in (COLD, *COLD_LOADERS, *setup.resident, *LOADERS, *DECODERS)}
    progress.start("rounds", "rounds", total=rounds * (len(found) + len(loads)))
    done = 0
    for number in range(rounds):
        # Each round begins with another, so that nobody always follows the same neighbour.
        for name in np.roll(np.array(list(found)), -number).tolist():
            progress.update("rounds", done, f"round {number + 1}, {name}")
            found[name].append(setup.train(name, number))
            done += 1
        for name in np.roll(np.array(list(loads)), -number).tolist():
            progress.update("rounds", done, f"round {number + 1}, loading: {name}")
            loads[name].append(setup.load(name))
            done += 1
    progress.finish("rounds")
    stage, image = setup.stage, setup.stage.config.image
    return ImageSpeed(
        spots=len(stage.rows),
        patch_px=setup.dataset.manifest.patch.size_px,
        encoder=image.name if isinstance(image, TorchvisionConfig) else image.factory,
        batch_size=stage.config.batch_size,
        workers=workers,
        threads=setup.threads,
        loading_threads=loading_cpus,
        rounds=rounds,
        epochs=epochs,
        residence=setup.placed.residence,
        place_s=setup.place_s,
        trained=tuple[Trained, ...](trained(name, histories) for name, histories in found.items()),
        loaded=tuple(Loaded(name=name, rates=tuple(rates)) for name, rates in loads.items()),
    )


@dataclass(frozen=True, kw_only=True)
class _Setup:
    recipe: Recipe
    dataset: PairedDataset
    stage: ImageStage
    placed: Placed
    resident: dict[str, Placed]
    """The patches both ways, where they fit the memory budget."""
    place_s: float
    niceness: int
    """Niceness of Ray's workers, and so of every implementation."""
    root: str
    workers: int
    cpus: int
    """That train."""
    loading_cpus: int

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, self.cpus // self.workers)

    def train(self, name: str, number: int) -> list[dict[str, float]]:
        """Train once and return the history."""
        root = storage.join(self.root, f"{name.replace(', ', '-').replace(' ', '-')}-{number}")
        stage = replace(self.stage, root=root)
        if name == STRAY:
            shape: dict[str, Any] = {"workers": self.workers, "use_gpu": resources().gpus >= self.workers}
            fit_alone([stage], self.placed, self.recipe, root, self.cpus, **shape)
        else:
            what = "train in memory" if name == MEMORY else "train from a loader"
            processes = self.threads if name == LOADERS[1] else 0
            self._job(what=what, stage=stage, workers=self.workers, threads=self.threads, processes=processes)
        return stage.folder.read_json("history.json")

    def load(self, name: str) -> float:
        """Return the patches per second of loading, without a model."""
        cpus = self.loading_cpus
        if name in self.resident:
            rate = _resident.options(num_cpus=cpus).remote(self.resident[name], self.stage, cpus, LOAD_S)
            return ray.get(rate)
        does = {LOADERS: "load", COLD_LOADERS: "read and load", DECODERS: "decode", (COLD,): "read and decode"}
        what = next(what for names, what in does.items() if name in names)
        processes = cpus if name in (LOADERS[1], COLD_LOADERS[1], DECODERS[1]) else 0
        return self._job(what=what, stage=self.stage, workers=1, threads=cpus, processes=processes)["rate"]

    def _job(self, **what: Any) -> dict[str, Any]:
        job = Job(dataset=self.recipe.dataset, seconds=LOAD_S, niceness=self.niceness, **what)
        return run_job(job, storage.join(self.root, "jobs"))


def _prepare(
    recipe: Recipe, root: str, workers: int, cpus: int, loading_cpus: int, epochs: int, progress: Progress
) -> _Setup:
    """Prepare everything that the contrastive stage needs: panel, gene stage, counts and patches in the object
    store.
    """
    recipe = replace(
        recipe,
        # The codes of two epochs take as long to meet as any.
        gene=replace(recipe.gene, epochs=2),
        contrastive=replace(recipe.contrastive, epochs=1 + epochs),
        run=replace(recipe.run, checkpoint_every=1 + epochs, checkpoint_every_steps=None),
    )
    dataset = PairedDataset.open(recipe.dataset)
    fold = Fold("none", (), patients(dataset.spots()))
    made = cell(recipe, dataset, fold, recipe.seeds[0], storage.join(root, "gene"), method="benchmark")
    progress.start("place", "patches to the object store")
    started = time.perf_counter()
    placed = place_patches(dataset, recipe.run)
    place_s = time.perf_counter() - started
    resident = {}
    for name, kept in RESIDENT.items():
        with contextlib.suppress(InputError):  # it does not fit
            both = {"residence": kept, "decode_threads": loading_cpus}
            resident[name] = place_patches(dataset, replace(recipe.run, **both))
    progress.finish("place")
    fit_panels(dataset, [made], progress.say)
    panel = made.scored.gene.panel()
    placed = placed.with_counts(panel.key, place_counts(dataset, panel, fold.train))
    if first := Group((made,)).stages()[:-1]:
        progress.start("gene", "gene stage")
        fit_alone(first, placed, recipe, storage.join(root, "gene"), cpus)
        progress.finish("gene")
    assert isinstance(made.scored, ImageStage)
    # What is embedded at the end is not measured: as few spots as the workers can share.
    stage = replace(made.scored, embed_rows=made.scored.rows[:workers])
    return _Setup(
        recipe=recipe,
        dataset=dataset,
        stage=stage,
        placed=placed,
        resident=resident,
        place_s=place_s,
        niceness=ray.get(_niceness.remote()),
        root=root,
        workers=workers,
        cpus=cpus,
        loading_cpus=loading_cpus,
    )


@ray.remote(num_cpus=0)
def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@ray.remote
def _resident(placed: Placed, stage: ImageStage, threads: int, seconds: float) -> float:
    """Return the patches per second that a worker gathers from the object store."""
    job = Job(what="load", stage=stage, dataset="", workers=1, threads=threads)
    source = PlacedData(placed).patches(stage.rows)
    return per_second(lambda: sum(len(source.gather(positions)) for positions in job.batches), seconds)
