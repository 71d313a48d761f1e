"""A method that chooses among others: by inner validation patients, which the test scores again by its own means."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import recall_score

from stray.cli import main
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import fit_panel
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.data.local import LocalData
from stray.evaluate import fit_probe
from stray.experiment.cells import cell
from stray.on_ray.session import SessionInfo
from stray.recipe import for_method, load_recipe
from stray.stages.run import run_stage
from stray.track.mlflow_reader import MlflowReader
from stray.track.records import RunRecord
from stray.track.tracker import NullTracker
from stray.training.worker import LocalWorker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]

RECIPE = """
name: choosing
dataset: {folder}/dataset
output: {folder}/runs
folds: {{held_out: [P1, P4], inner: 2}}
methods:
  one: {{train: gene, set: {{gene.model: {{kind: pca, n_latent: 1}}}}}}
  three: {{train: gene, set: {{gene.model: {{kind: pca, n_latent: 3}}}}}}
  few: {{train: gene, set: {{gene.model: {{kind: pca, n_latent: 3}}, gene.panel.n_genes: 10}}}}
  counts: {{train: gene, set: {{gene.model.kind: log_counts}}}}
  scvi: {{train: gene}}
  best: {{choose: [one, three, few, counts]}}
  other: {{choose: [scvi, one]}}
  untrained: {{train: nothing}}
  clip: {{set: {{contrastive.gene_tower.kind: mlp}}}}
  pictured: {{choose: [untrained, clip]}}
gene: {{panel: {{n_genes: 60}}, epochs: 1, batch_size: 32}}
contrastive: {{epochs: 1, batch_size: 32, projection: {{size: 16}}}}
eval: {{bootstrap: 50}}
"""
SMALL = ["ingest.sources.0.patients=4"]
INNER = {"P1": ("P2", "P3"), "P4": ("P1", "P2")}
CANDIDATES = {"best": ("one", "three", "few", "counts"), "other": ("scvi", "one"), "pictured": ("untrained", "clip")}


@pytest.fixture(scope="module")
def folder(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choosing")
    build_dataset(load_recipe("smoke", SMALL).ingest, f"{folder}/dataset")
    (folder / "choosing.yaml").write_text(RECIPE.format(folder=folder))
    assert main(["train", str(folder / "choosing.yaml")]) == 0
    return folder


def runs(folder: Path, kind: str) -> dict[tuple[str, str], RunRecord]:
    found = MlflowReader(f"sqlite:///{folder}/runs/mlflow.db", "choosing").runs({"stray.kind": kind})
    assert all(run.status == "FINISHED" for run in found)
    keyed = {(run.tags["stray.method"], run.tags["stray.fold"]): run for run in found}
    assert len(keyed) == len(found)
    return keyed


def inner_score(recipe: Recipe, method: str, held_out: str, validation: tuple[str, ...], root: Path) -> float:
    """The score of a gene method on `validation`, without Ray: its panel, codes and probe made anew in one process."""
    dataset = PairedDataset.open(recipe.dataset)
    train = tuple(sorted({"P1", "P2", "P3", "P4"} - {held_out, *validation}))
    fold = Fold("again", validation, train)
    own, seen = for_method(recipe, method), (*train, *validation)
    made = cell(own, dataset, fold, 0, str(root), method=method, train="gene", embed_patients=seen)
    gene = made.scored.gene
    Path(gene.panel_path).parent.mkdir(parents=True, exist_ok=True)
    Path(gene.panel_path).write_text(fit_panel(dataset, train, gene.config.panel).to_json())
    for stage in (gene, made.scored):
        run_stage(stage, LocalData(dataset), LocalWorker(), NullTracker())
    codes, rows = (made.scored.folder.read_array(name) for name in ("features.npy", "rows.npy"))
    spots = dataset.spots()
    probe = fit_probe(codes, rows, spots, train, recipe.eval)
    scores = []
    for patient in validation:
        known = (spots.patient[rows] == patient) & np.isin(spots.label[rows].astype(str), probe.classes)
        truth = spots.label[rows][known].astype(str)
        guess = np.array(probe.classes)[probe.probabilities(codes[known]).argmax(axis=1)]
        scores.append(recall_score(truth, guess, average="macro", labels=np.unique(truth)))
    return float(np.mean(scores))


def test_the_choice_is_made_by_the_inner_scores(folder: Path, tmp_path: Path) -> None:
    recipe, cells = load_recipe(str(folder / "choosing.yaml")), runs(folder, "cell")
    for held_out, validation in INNER.items():
        run = cells["best", held_out]
        assert run.tags["stray.inner"] == "+".join(validation)
        again = {m: inner_score(recipe, m, held_out, validation, tmp_path) for m in CANDIDATES["best"]}
        assert len(set(again.values())) > 1, "nothing to choose between"
        assert {m: run.metrics[f"choice/{m}"] for m in again} == pytest.approx(again, abs=1e-6)
        assert run.tags["stray.chosen"] == max(again, key=lambda m: again[m])


@pytest.mark.parametrize("method", list(CANDIDATES))
def test_a_choosing_method_repeats_the_scores_of_the_chosen_cell(folder: Path, method: str) -> None:
    cells, inner = runs(folder, "cell"), runs(folder, "inner")
    for held_out in INNER:
        run = cells[method, held_out]
        chosen = cells[run.tags["stray.chosen"], held_out]
        own = {name: value for name, value in run.metrics.items() if name.startswith("eval/")}
        assert own == {name: value for name, value in chosen.metrics.items() if name.startswith("eval/")}
        scores = {m: run.metrics[f"choice/{m}"] for m in CANDIDATES[method]}
        assert run.tags["stray.chosen"] == max(scores, key=lambda m: scores[m])
        for candidate, score in scores.items():
            assert inner[candidate, held_out].metrics["eval/inner_balanced_accuracy"] == score
            assert inner[candidate, held_out].tags["mlflow.parentRunId"] == run.tags["mlflow.parentRunId"]
        settings = {name: value for name, value in chosen.params.items() if name.startswith(("gene.", "contrastive."))}
        assert settings.items() <= run.params.items()


def test_what_was_chosen_is_on_disk_and_in_the_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [json.loads(path.read_text()) for path in (folder / "runs" / "choosing").glob("cell-*/choice.json")]
    assert len(found) == len(CANDIDATES) * len(INNER)
    cells = runs(folder, "cell")
    told = {run.tags["stray.chosen"] for run in cells.values() if "stray.chosen" in run.tags}
    assert {one["method"] for one in found} == told
    uri = f"sqlite:///{folder}/runs/mlflow.db"
    page = folder / "page.html"
    assert main(["compare", "--uri", uri, "--experiment", "choosing", "--per-patient", "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "What best was on each fold" in shown
    assert "P2+P3" in shown
    assert "Macro-F1 of every held-out patient" in shown


def test_the_same_command_again_trains_and_chooses_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "choosing").rglob("done.json")}
    start = time.time_ns()
    assert main(["train", str(folder / "choosing.yaml")]) == 0
    after = {path: path.stat().st_mtime_ns for path in (folder / "runs" / "choosing").rglob("done.json")}
    assert after == before
    assert max(after.values()) < start


def test_a_plan_lists_the_inner_cells_and_a_choosing_method_brings_its_candidates(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(folder / "choosing.yaml"), "--set", f"output={folder}/x", "--plan", "--method", "best"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "8 cells, 8 inner ones to choose by" in shown
    assert "held out P4, inner P1+P2" in shown
    assert "best of 4 on P1+P2" in shown
    assert "scvi" not in shown


def test_a_choice_may_be_made_for_all_patients(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(folder / "choosing.yaml"), "--folds", "none", "--method", "other"]) == 0
    said = capsys.readouterr().err
    assert "other, all patients, seed 0: " in said
    assert said.count("model: ") == 3
