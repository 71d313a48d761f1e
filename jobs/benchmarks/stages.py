"""Each stage measured twice in one run: through Ray Data and Ray Train, and as the same loop in one plain process."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray

from jobs.benchmarks.fit import fit_alone
from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, patients
from stray.config import Recipe
from stray.experiment.cells import cell
from stray.on_ray.data import place_counts, place_patches
from stray.on_ray.panels import fit_panels
from stray.on_ray.progress import Progress
from stray.stages.spec import ImageStage, Stage, upstream

GENE_EPOCHS = 25


@dataclass(frozen=True)
class Measured:
    """One stage's epochs after the first."""

    stage: str
    spots: int
    """Spots of an epoch."""
    spots_per_second: float
    """Median over the epochs after the first, through Ray."""
    first_epoch: float
    """Spots per second of the first epoch, through Ray."""
    waiting_share: float
    """Share of the time spent waiting for data, through Ray, after the first epoch."""
    plain_spots_per_second: float
    """The same loop in one process of the same threads, data in its own memory; median after the first epoch."""

    @property
    def ratio(self) -> float:
        """Return the speed through Ray over that of the plain process."""
        return self.spots_per_second / self.plain_spots_per_second


def measure(recipe: Recipe, *, root: str, cpus: int, progress: Progress) -> list[Measured]:
    """Train both stages on all patients of `recipe.dataset`, with one worker of `cpus` CPUs, and again in one plain
    process.

    Results go under `root`, which should be fresh: a stage that is done there is not measured.
    """
    dataset = PairedDataset.open(recipe.dataset)
    fold = Fold("none", (), patients(dataset.spots()))
    made = {
        where: cell(recipe, dataset, fold, 0, storage.join(root, where), method="benchmark")
        for where in ("ray", "plain")
    }
    fit_panels(dataset, list(made.values()), progress.say)
    gene = made["ray"].scored.gene
    placed = place_patches(dataset, recipe.run)
    panel = gene.panel()
    placed = placed.with_counts(panel.key, place_counts(dataset, panel, fold.train))
    image = made["ray"].scored
    assert isinstance(image, ImageStage)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for where, one in made.items():
        stages: Sequence[Stage] = (*upstream(one.scored.gene), one.scored.gene, one.scored)
        progress.start(where, f"both stages, {'Ray Data and Ray Train' if where == 'ray' else 'one plain process'}")
        if where == "ray":
            found[where] = _through_ray(stages, placed, root, cpus, recipe)
        else:
            found[where] = ray.get(_plain.options(num_cpus=cpus).remote(stages, recipe.dataset, cpus))
        progress.finish(where)
    return [
        Measured(
            stage=prefix,
            spots=len(stage.rows),
            spots_per_second=_median(found["ray"][prefix], "spots_per_second"),
            first_epoch=found["ray"][prefix][0]["spots_per_second"],
            waiting_share=_median(found["ray"][prefix], "waiting_for_data_share"),
            plain_spots_per_second=_median(found["plain"][prefix], "spots_per_second"),
        )
        for prefix, stage in (("gene", gene), ("contrastive", image))
    ]


def _median(epochs: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(epoch[name] for epoch in epochs[1:] or epochs)


def _through_ray(
    stages: Sequence[Stage], placed: Any, root: str, cpus: int, recipe: Recipe
) -> dict[str, list[dict[str, float]]]:
    fit_alone(stages, placed, recipe, root, cpus)
    return {stage.prefix: stage.folder.read_json("history.json") for stage in stages}


@ray.remote
def _plain(stages: Sequence[Stage], dataset: str, threads: int) -> dict[str, list[dict[str, float]]]:
    """Run the same stages in one process that holds the data itself; a process of its own, so that both start alike."""
    import torch

    from stray.data.local import LocalData
    from stray.stages.run import run_stage
    from stray.track.tracker import NullTracker
    from stray.training.worker import LocalWorker

    torch.set_num_threads(threads)
    data = LocalData(PairedDataset.open(dataset))
    for stage in stages:
        run_stage(stage, data, LocalWorker(), NullTracker())
    return {stage.prefix: stage.folder.read_json("history.json") for stage in stages}


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """Return the recipe with `epochs` epochs of the contrastive stage, `GENE_EPOCHS` times as many of the gene stage,
    whose epochs are over in a tenth of a second, and a checkpoint at the end alone.
    """
    return replace(
        recipe,
        gene=replace(recipe.gene, epochs=GENE_EPOCHS * epochs),
        contrastive=replace(recipe.contrastive, epochs=epochs),
        run=replace(recipe.run, checkpoint_every=GENE_EPOCHS * epochs, checkpoint_every_steps=None),
    )
