"""The gene stage's settings hold of all that it does: fewest counts, and the steps behind the weights that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.data.local import LocalData
from stray.errors import InputError
from stray.recipe import apply
from stray.stages.gene import task as gene_task
from stray.stages.gene.task import GeneTask
from stray.stages.run import run_stage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_recipe


def made(folder: Path, dataset: PairedDataset, root: Path, **changes: object):
    settings = {name.replace("__", "."): value for name, value in changes.items()}
    return prepared_cell(apply(small_recipe(folder), settings), dataset, root).scored.gene


def test_spots_with_too_few_counts_teach_no_class(folder: Path, dataset: PairedDataset, tmp_path: Path) -> None:
    stage = made(folder, dataset, tmp_path, gene__model__kind="scanvi")
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    totals = counts.totals()
    fewest = int(np.median(totals))
    stage = made(folder, dataset, tmp_path, gene__model__kind="scanvi", gene__min_count=fewest)
    task = GeneTask(stage.config, counts, stage.batch, stage.label, seed=0, device=torch.device("cpu"))
    assert task._labelled is not None
    assert (totals[task._labelled.positions] >= fewest).all()
    nobody = np.where(totals >= fewest, "", stage.label)
    with pytest.raises(InputError, match="labelled spots has enough counts") as caught:
        GeneTask(stage.config, counts, stage.batch, nobody, seed=0, device=torch.device("cpu"))
    assert caught.value.problems[0].place == "gene.min_count"


@pytest.mark.parametrize(("epochs", "estimated"), [(1, True), (2, False)])
def test_statistics_are_estimated_anew_after_few_steps(
    folder: Path, dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, estimated: bool
) -> None:
    stage = made(folder, dataset, tmp_path, gene__epochs=9)
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    task = GeneTask(stage.config, counts, stage.batch, stage.label, seed=0, device=torch.device("cpu"))
    monkeypatch.setattr(gene_task, "RECALIBRATE_BELOW_STEPS", 2 * task.plan.steps)
    before = {name: value.clone() for name, value in task.module.state_dict().items() if "running_mean" in name}
    task.finish(epochs)
    after = task.module.state_dict()
    assert all(torch.equal(value, after[name]) != estimated for name, value in before.items())


def test_the_steps_that_count_are_those_behind_the_kept_weights(
    folder: Path, dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    finish = GeneTask.finish

    def spy(task: GeneTask, epochs: int) -> None:
        told.append(epochs)
        finish(task, epochs)

    monkeypatch.setattr(GeneTask, "finish", spy)
    # A rate this high makes some early epoch the best one.
    changes = {"gene__epochs": 6, "gene__keep": "best", "gene__optim__lr": 0.5, "gene__validation_share": 0.5}
    stage = made(folder, dataset, tmp_path, gene__model__kl_warmup_share=0.0, **changes)
    run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    elbo = [epoch["validation_elbo"] for epoch in stage.folder.read_json("history.json")]
    assert told == [int(np.nanargmax(elbo)) + 1]  # at such a rate some are nan, on some processors
