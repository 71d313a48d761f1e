"""The comparison of quality, as far as it goes without scvi-tools."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.benchmarks.quality import quality, scvi_tools
from jobs.benchmarks.quality.quality import held_out_elbo, jobs
from stray.cohort.dataset import PairedDataset
from stray.config import GeneConfig, OptimConfig, PcaConfig, Recipe, ScanviConfig, ScviConfig
from stray.data.local import LocalData
from stray.errors import InputError
from stray.stages.gene import task as gene_task
from stray.training.process import matrix_products
from tests.support.benchmarks_at_hand import prepared_jobs, small_comparison


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, PairedDataset]:
    return small_comparison(tmp_path_factory.mktemp("benchmark"))


def test_the_implementations_of_a_fold_and_seed_stand_beside_each_other(comparison, tmp_path) -> None:
    recipe, dataset = comparison
    listed = jobs(recipe, dataset, [], str(tmp_path))
    assert [(job.side, job.cells[0].fold.name, job.cells[0].seed) for job in listed] == [
        (side, fold, seed) for seed in (0, 1) for fold in ("P1", "P2") for side in ("stray", "scvi-tools")
    ]
    for ours, theirs in zip(listed[::2], listed[1::2], strict=True):
        assert [one.method for one in ours.cells] == ["scvi", "scanvi"]
        assert [one.scored.gene.key for one in ours.cells] == [one.scored.gene.key for one in theirs.cells]


def test_scanvi_starts_from_the_scvi_that_is_compared(comparison, tmp_path) -> None:
    recipe, dataset = comparison
    scvi, scanvi = (one.scored.gene for one in jobs(recipe, dataset, [], str(tmp_path))[0].cells)
    assert scanvi.start is not None
    assert scanvi.start.key == scvi.key


def test_settings_that_scvi_tools_lacks_are_refused_all_at_once(comparison, tmp_path) -> None:
    recipe, dataset = comparison
    other = replace(recipe, gene=replace(recipe.gene, min_count=5, optim=OptimConfig(clip_norm=1.0)))
    with pytest.raises(InputError) as refused:
        jobs(other, dataset, ["scvi", "scanvi", "log_counts"], str(tmp_path))
    assert [problem.place for problem in refused.value.problems] == [
        "scvi: gene.min_count",
        "scvi: gene.optim.clip_norm",
        "scanvi: gene.min_count",
        "scanvi: gene.optim.clip_norm",
        "log_counts: gene.model.kind",
    ]


def test_a_recipe_without_anything_to_compare_says_so(comparison, tmp_path) -> None:
    recipe, dataset = comparison
    with pytest.raises(InputError, match="no method of the recipe"):
        jobs(replace(recipe, methods={"log_counts": recipe.methods["log_counts"]}), dataset, [], str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        GeneConfig(model=ScviConfig(batch_correction=False)),
        GeneConfig(model=ScviConfig(inject="first", n_layers=2)),
        GeneConfig(model=ScviConfig(norm="layer")),
        GeneConfig(model=ScanviConfig(balanced=True)),
        GeneConfig(model=PcaConfig()),
        GeneConfig(keep="best"),
        GeneConfig(patience=3),
        GeneConfig(optim=OptimConfig(schedule="cosine")),
        GeneConfig(optim=OptimConfig(warmup_share=0.1)),
        GeneConfig(optim=OptimConfig(decoupled=True)),
    ],
    ids=lambda config: str(config)[:10],
)
def test_each_setting_that_differs_is_named(config: GeneConfig) -> None:
    assert len(scvi_tools.problems(config)) == 1
    assert scvi_tools.problems(GeneConfig()) == []


def test_without_scvi_tools_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'stray-st\[parity\]'"):
        scvi_tools.require()


@pytest.fixture(scope="module")
def ran(comparison, tmp_path_factory: pytest.TempPathFactory) -> quality.Job:
    """The job of stray with both methods, run."""
    job = prepared_jobs(comparison, tmp_path_factory.mktemp("ran"))[0]
    job.run()
    return job


def test_a_job_scores_the_held_out_patient_and_is_not_done_twice(ran, comparison, monkeypatch) -> None:
    dataset = comparison[1]
    found = ran.done()
    assert found is not None
    labelled = dataset.spots().label != None  # noqa: E711  # an array of objects
    for one in found:
        assert one.n_trained + one.n_held_out == 80
        assert one.n_held_out == 8
        assert sum(map(sum, one.confusion)) == int((labelled & (dataset.spots().patient == "P1")).sum())
        assert one.elbo < 0
        assert 0 < one.elbo_error < 0.05 * abs(one.elbo)
    monkeypatch.setattr(quality, "train", lambda *_: pytest.fail("it was trained before"))
    assert ran.run() == found


def test_a_result_that_is_missing_is_made_anew_from_what_was_trained(ran, monkeypatch) -> None:
    found = ran.done()
    Path(ran.path(ran.cells[1])).unlink()
    assert ran.done() is None
    monkeypatch.setattr(gene_task.GeneTask, "step", lambda *_: pytest.fail("it was trained before"))
    assert ran.run() == found


def test_the_first_draw_of_the_elbo_is_what_training_watches(comparison, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gene_task, "RECALIBRATE_BELOW_STEPS", 0)
    job = prepared_jobs(comparison, tmp_path, "scvi")[0]
    job.run()
    stage, data = job.cells[0].scored.gene, LocalData(comparison[1])
    counts = data.counts(stage.panel(), stage.rows)
    task = scvi_tools.task_of(stage, counts)
    task.module.load_state_dict(stage.folder.read_weights("weights.pt"))
    with matrix_products(stage.config.precision):  # some CPUs round the factors of products in a training
        elbo_D = held_out_elbo(task, counts, np.searchsorted(task.names, stage.batch), draws=3)
    assert len(set(elbo_D)) == 3
    assert elbo_D[0] == pytest.approx(stage.folder.read_json("history.json")[-1]["validation_elbo"], rel=1e-6)
