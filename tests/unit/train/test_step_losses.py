"""Losses of single steps are logged evenly over an epoch, and not all of them."""

from __future__ import annotations

import itertools
from pathlib import Path

from stray.cohort.dataset import PairedDataset
from stray.data.local import LocalData
from stray.recipe import apply
from stray.stages.run import run_stage
from stray.track.tracker import MemoryTracker
from stray.training.loop import STEP_LOSSES
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_recipe


def test_a_long_epoch_logs_a_few_of_its_steps_evenly(folder: Path, dataset: PairedDataset, tmp_path: Path) -> None:
    recipe = apply(small_recipe(folder), {"gene.epochs": 2, "gene.batch_size": 4})
    tracker = MemoryTracker()
    run_stage(prepared_cell(recipe, dataset, tmp_path).scored.gene, LocalData(dataset), LocalWorker(), tracker)
    steps = [step for step, _ in tracker.series("gene/step_loss") if step is not None]
    assert len(steps) <= 2 * STEP_LOSSES
    first = steps[: len(steps) // 2]
    assert len(first) > STEP_LOSSES / 2
    assert {b - a for a, b in itertools.pairwise(first)} == {first[1]}
    assert first[1] > 1, "the epoch must have more steps than are logged, else this tests nothing"
