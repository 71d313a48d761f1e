"""What a person sees of the gene codes: their separation by batch and class every epoch, and the figure."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import silhouette_score

from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.data.local import LocalData
from stray.on_ray.score import log_codes
from stray.recipe import apply
from stray.stages.gene import monitor
from stray.stages.gene.monitor import CodeMonitor
from stray.stages.gene.task import GeneTask
from stray.stages.run import run_stage
from stray.stages.spec import CODES_FIGURE, GeneStage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, replace_patient, small_cell, small_recipe

NAMES = ("batch_silhouette", "batch_knn_purity", "class_silhouette", "class_knn_purity")


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    # Half of the 80 training spots are held out, so that classes have several.
    return apply(small_recipe(folder), {"gene.epochs": 3, "gene.validation_share": 0.5})


def ran(stage: GeneStage, dataset: PairedDataset) -> MemoryTracker:
    tracker = MemoryTracker()
    run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
    return tracker


@pytest.mark.parametrize("kind", ["scvi", "scanvi"])
def test_the_separation_of_the_codes_is_logged_and_kept_every_epoch(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, kind: str
) -> None:
    stage = prepared_cell(apply(recipe, {"gene.model.kind": kind}), dataset, tmp_path).scored.gene
    tracker = ran(stage, dataset)
    history = stage.folder.read_json("history.json")
    for name in NAMES:
        assert [step for step, _ in tracker.series(f"gene/{name}")] == [1, 2, 3]
        assert [value for _, value in tracker.series(f"gene/{name}")] == [epoch[name] for epoch in history]
        assert -1 <= history[0][name] <= 1


def test_it_is_that_of_the_posterior_means_of_the_held_out_training_spots(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    stage, worker = prepared_cell(recipe, dataset, tmp_path).scored.gene, LocalWorker()
    counts = LocalData(dataset).counts(stage.panel(), stage.rows)
    task = GeneTask(stage.config, counts, stage.batch, stage.label, seed=stage.seed, device=worker.device)
    task.module.train()  # as a validation finds it
    found = task.validate(0).reduce(worker.all_reduce)
    held_out = task._held_out
    assert len(held_out) == 40
    codes = task.module.eval().encode(counts.gather(held_out)).double().numpy()
    label, labelled = stage.label[held_out], stage.label[held_out] != ""
    several = labelled & np.isin(label, [name for name in set(label) if (label == name).sum() > 1])
    assert found["batch_silhouette"] == pytest.approx(silhouette_score(codes, stage.batch[held_out]), abs=1e-6)
    assert found["class_silhouette"] == pytest.approx(silhouette_score(codes[several], label[several]), abs=1e-6)


def test_labels_that_are_only_watched_do_not_change_the_stages_key_nor_its_weights(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    found = []
    for root, sources in (("a", ["annotated"]), ("b", ["nobody"])):
        changed = apply(recipe, {"eval.label_sources.train": sources})
        stage = prepared_cell(changed, dataset, tmp_path / root).scored.gene
        ran(stage, dataset)
        found.append(stage)
    known, unknown = found
    assert (known.label != "").any()
    assert not (unknown.label != "").any()
    assert known.key == unknown.key
    np.testing.assert_array_equal(*(stage.folder.read_array("codes.npy") for stage in found))
    assert not any("class" in name for name in unknown.folder.read_json("history.json")[0])
    assert unknown.folder.read_json("history.json")[0]["batch_silhouette"] < 1
    # What a model learns from is a part of its key.
    learns = small_cell(apply(recipe, {"gene.model.kind": "scanvi"}), dataset, root="r").scored.gene
    assert learns.key != replace(learns, label=np.full_like(learns.label, "")).key


def test_an_excluded_class_is_no_class(recipe: Recipe, dataset: PairedDataset) -> None:
    label = small_cell(recipe, dataset, root="r").scored.gene.label
    gone = sorted(set(label.tolist()) - {""})[0]
    changed = apply(recipe, {"eval.exclude_classes": [gone]})
    left = small_cell(changed, dataset, root="r").scored.gene.label
    np.testing.assert_array_equal(left, np.where(label == gone, "", label))


def test_the_held_out_patient_enters_neither_the_numbers_nor_the_figure(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    """Its counts and labels are replaced by others."""
    other = tmp_path / "other"
    shutil.copytree(dataset.path, other)
    replace_patient(other, "P1", "P2")
    found = []
    for path, root in ((dataset.path, "a"), (str(other), "b")):
        data = PairedDataset.open(path)
        stage = prepared_cell(apply(recipe, {"dataset": path}), data, tmp_path / root).scored.gene
        ran(stage, data)
        history = [{name: epoch[name] for name in NAMES} for epoch in stage.folder.read_json("history.json")]
        found.append((history, (Path(stage.folder.path) / CODES_FIGURE).read_bytes()))
    assert found[0] == found[1]


def test_nothing_is_measured_without_held_out_spots_or_of_one_patient(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    stage = prepared_cell(apply(recipe, {"gene.validation_share": 0.001}), dataset, tmp_path).scored.gene
    assert not any("silhouette" in name for name in ran(stage, dataset).history[-1][1])
    alone = CodeMonitor(np.arange(10), np.full(20, "P1"), np.full(20, ""), seed=0)
    assert alone.measure(lambda positions: pytest.fail("is not even coded")) == ({}, 0.0)


def test_the_sample_is_bounded_and_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "MOST_SPOTS", 30)
    batch = np.tile(["A", "B"], 100)
    one, same, other = (CodeMonitor(np.arange(50, 150), batch, batch, seed=seed) for seed in (0, 0, 1))
    assert len(one.positions) == len(set(one.positions)) == 30
    assert set(one.positions) <= set(range(50, 150))
    assert one.positions.tolist() == same.positions.tolist() != other.positions.tolist()


def test_every_cell_logs_the_figure_of_each_of_its_gene_stages_whoever_ran_them(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path
) -> None:
    changed = apply(recipe, {"gene.model": {"kind": "scanvi", "scvi_epochs": 1}})
    cell = prepared_cell(changed, dataset, tmp_path)
    tracker = MemoryTracker()
    log_codes(tracker, cell)
    assert tracker.artifacts == {}  # nothing was done yet, or an earlier version did it
    assert cell.scored.gene.start is not None
    for stage in (cell.scored.gene.start, cell.scored.gene):
        ran(stage, dataset)
        with Image.open(io.BytesIO((Path(stage.folder.path) / CODES_FIGURE).read_bytes())) as picture:
            assert min(picture.size) > 500
            assert np.asarray(picture.convert("L")).std() > 5
    for _ in range(2):  # a second cell finds the stages done
        tracker = MemoryTracker()
        log_codes(tracker, cell)
        assert set(tracker.artifacts) == {"figures/codes_scvi.png", "figures/codes_scanvi.png"}
    untrained = small_cell(changed, dataset, root=str(tmp_path), train=False)
    tracker = MemoryTracker()
    log_codes(tracker, untrained)
    assert tracker.artifacts == {}  # it has no part in the gene stage


@pytest.mark.parametrize("kind", ["pca", "log_counts"])
def test_models_that_are_fitted_in_one_pass_have_their_figure_too(
    recipe: Recipe, dataset: PairedDataset, tmp_path: Path, kind: str
) -> None:
    stage = prepared_cell(apply(recipe, {"gene.model.kind": kind}), dataset, tmp_path).scored.gene
    ran(stage, dataset)
    assert (Path(stage.folder.path) / CODES_FIGURE).stat().st_size > 10_000
