"""Whole stages on several gloo processes: what is decided is decided alike, and what is wrong stops all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stray.cohort.dataset import PairedDataset
from stray.collective import rank
from stray.data.batches import BatchPlan
from stray.data.local import LocalData
from stray.errors import NotFiniteError
from stray.noise import Noise
from stray.recipe import apply
from stray.stages.gene.task import GeneTask
from stray.stages.run import run_stage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.gloo import run_on
from tests.support.small_cohort import NanCounts, prepared_cell, small_dataset, small_recipe

PATIENCE = {
    "gene.epochs": 200,
    "gene.patience": 2,
    "gene.keep": "best",
    "gene.optim.lr": 0.05,
    "gene.model.kl_warmup_share": 0.0,
}


def stopped_early(folder: str, root: str, optim: dict[str, Any]) -> list[dict[str, float]]:
    """The history as this rank took its decisions."""
    dataset, worker = PairedDataset.open(f"{folder}/dataset"), LocalWorker()
    made = prepared_cell(apply(small_recipe(Path(folder)), PATIENCE | optim), dataset, Path(root) / str(rank()))
    run_stage(made.scored.gene, LocalData(dataset), worker, MemoryTracker())
    return worker.reports


def labelled_batches(folder: str, root: str) -> dict[tuple[int, int], tuple[list[float], list[int]]]:
    """Of every step of two epochs: the count totals and classes of this rank's labelled spots of a balanced batch."""
    dataset, worker = PairedDataset.open(f"{folder}/dataset"), LocalWorker()
    recipe = apply(small_recipe(Path(folder)), {"gene.model": {"kind": "scanvi", "balanced": True}})
    stage = prepared_cell(recipe, dataset, Path(root) / str(rank())).scored.gene
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    task = GeneTask(stage.config, counts, stage.batch, stage.label, seed=0, device=worker.device)
    found = {}
    for epoch in range(2):
        for step, batch in enumerate(task.plan.batches(epoch)):
            noise = Noise.of_rank(0, epoch, step, len(batch))
            mine = task.gather(batch[noise.rows], noise)
            assert mine.labelled_x is not None
            assert mine.class_m is not None
            found[epoch, step] = mine.labelled_x.total_n.tolist(), mine.class_m.tolist()
    return found


def told(folder: str, root: str, which: str, place: int) -> str:
    """What a rank says of a spot, at `place` among the stage's rows, that is not finite."""
    dataset, worker = PairedDataset.open(f"{folder}/dataset"), LocalWorker()
    recipe = apply(small_recipe(Path(folder)), {"contrastive.gene_tower": {"kind": "mlp"}})
    made = prepared_cell(recipe, dataset, Path(root) / str(rank()))
    stage = made.scored.gene if which == "gene" else made.scored
    try:
        run_stage(stage, NanCounts(dataset, place), worker, MemoryTracker())
    except NotFiniteError as error:
        return str(error)
    return "nothing"


LAST_OF_RANK_1 = 31
"""Place in a global batch of 32 that two workers share."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> PairedDataset:
    return small_dataset(folder)


@pytest.fixture(scope="module")
def places(dataset: PairedDataset, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """A spot of each stage that rank 1 holds at the second step."""
    stage = prepared_cell(small_recipe(folder), dataset, tmp_path_factory.mktemp("place")).scored.gene
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    task = GeneTask(stage.config, counts, stage.batch, stage.label, seed=0, device=LocalWorker().device)
    pairs = BatchPlan(len(stage.rows), 32, 0, keep_remainder=False).batches(0)[1]
    return {"gene": int(task.places(None, 0, 1)[LAST_OF_RANK_1]), "contrastive": int(pairs[LAST_OF_RANK_1])}


@pytest.fixture(scope="module")
def found(
    folder: Path, places: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, dict[str, list[Any]]]:
    """By the number of processes."""
    everything = {}
    for size in (1, 2):
        root = str(tmp_path_factory.mktemp(f"on_{size}"))
        plateau = {"gene.optim.schedule": "plateau", "gene.optim.plateau_patience": 1, "gene.patience": 4}
        jobs = {
            "early stopping": (stopped_early, (str(folder), f"{root}/early", {})),
            "early stopping and plateau": (stopped_early, (str(folder), f"{root}/plateau", plateau)),
            "balanced": (labelled_batches, (str(folder), f"{root}/balanced")),
            "gene": (told, (str(folder), f"{root}/gene", "gene", places["gene"])),
            "contrastive": (told, (str(folder), f"{root}/contrastive", "contrastive", places["contrastive"])),
        }
        everything[size] = run_on(size, jobs)
    return everything


@pytest.mark.parametrize("name", ["early stopping", "early stopping and plateau"])
def test_all_workers_stop_at_the_same_epoch(found: dict[int, dict[str, list[Any]]], name: str) -> None:
    first, second = found[2][name]
    assert 3 <= len(first) < 200
    assert [epoch["epoch"] for epoch in first] == [epoch["epoch"] for epoch in second]
    for name in ("gene/validation_elbo", "gene/loss", "gene/learning_rate"):
        assert [epoch[name] for epoch in first] == [epoch[name] for epoch in second], name


def test_two_workers_share_the_balanced_labelled_batches_of_one(found: dict[int, dict[str, list[Any]]]) -> None:
    alone, (first, second) = found[1]["balanced"][0], found[2]["balanced"]
    assert alone.keys() == first.keys() == second.keys()
    assert len(alone) == 2 * 3
    for step, (totals, classes) in alone.items():
        assert totals == first[step][0] + second[step][0], step
        assert classes == first[step][1] + second[step][1], step
        assert len(first[step][0]) == len(second[step][0]) == 16
        assert np.ptp(np.bincount(classes)) <= 1, "every class comes alike often"


@pytest.mark.parametrize("which", ["gene", "contrastive"])
def test_a_spot_of_one_worker_that_is_not_finite_stops_all_with_the_same_words(
    found: dict[int, dict[str, list[Any]]], places: dict[str, int], dataset: PairedDataset, which: str
) -> None:
    spots = dataset.spots()
    rows = np.flatnonzero(spots.patient != "P1")
    spot = spots.take(rows[[places[which]]])
    first, second = found[2][which]
    assert first == second
    assert "step 2 of" in first
    assert f"1 of 32 spots: 1 of section {spot.section[0]} ({spot.spot_id[0]})" in first
    assert found[1][which][0].split("; ", 1)[1] == first.split("; ", 1)[1]
