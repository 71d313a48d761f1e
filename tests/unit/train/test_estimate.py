"""The plan's estimate counts a shared stage once, and goes by what was measured where something was."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cohort.dataset import PairedDataset
from stray.experiment.cells import Group
from stray.experiment.estimate import Estimator
from stray.experiment.schedule import jobs_of
from stray.stages.results import keep_rate
from stray.stages.spec import ImageStage
from tests.support.small_cohort import prepared_cell, small_recipe


def test_a_stage_that_groups_share_is_counted_once(folder: Path, dataset: PairedDataset, tmp_path: Path) -> None:
    one = prepared_cell(small_recipe(folder), dataset, tmp_path)
    assert isinstance(one.scored, ImageStage)
    for config in (one.scored.gene.config, one.scored.config):
        keep_rate(config, one.scored.root, [{"spots_per_second": 50.0}])
    estimator = Estimator(dataset.manifest.patch.size_px, dataset.manifest.n_genes)
    jobs = jobs_of([Group((one,))], estimator)
    assert [job.needs for job in jobs] == [(), (jobs[0].key,)]
    assert all(job.seconds > 0 for job in jobs)
    assert jobs_of([Group((one,)), Group((one,))], estimator) == jobs


def test_a_speed_that_was_measured_is_taken(folder: Path, dataset: PairedDataset, tmp_path: Path) -> None:
    gene = prepared_cell(small_recipe(folder), dataset, tmp_path).scored.gene
    keep_rate(gene.config, gene.root, [{"spots_per_second": rate} for rate in (1.0, 100.0, 120.0, 80.0)])
    estimator = Estimator(dataset.manifest.patch.size_px, dataset.manifest.n_genes)
    assert estimator.stage(gene) == pytest.approx(len(gene.rows) * gene.config.epochs / 100.0)
    assert estimator.measured == 1
