"""The verbs in the order of work, on the shipped smoke recipe: real Ray, real MLflow, real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import stray
from stray.cli import main
from stray.cohort.build import build_dataset
from stray.cohort.manifest import Manifest
from stray.config import PatchConfig
from stray.on_ray.session import SessionInfo
from stray.recipe import load_recipe
from stray.track.mlflow_reader import MlflowReader
from tests.support.small_model import small_model

# A test here starts several worker groups, each some ten seconds on a quiet machine and a minute on a busy one.
pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


class Place:
    """Where this module's cohort, results and store are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets = ["--set", f"dataset={folder}/dataset", "--set", f"output={folder}/runs"]
        self.uri = f"sqlite:///{folder}/runs/mlflow.db"

    def runs(self, kind: str) -> list:
        return MlflowReader(self.uri, "smoke").runs({"stray.kind": kind})


@pytest.fixture(scope="module")
def place(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Place:
    found = Place(tmp_path_factory.mktemp("smoke"))
    assert main(["ingest", f"{found.folder}/dataset", "--recipe", "smoke"]) == 0
    return found


@pytest.fixture(scope="module")
def trained(place: Place) -> Place:
    assert main(["train", "smoke", *place.sets]) == 0
    return place


def test_a_plan_lists_the_cells_and_starts_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "train",
                "smoke",
                "--set",
                f"dataset={place.folder}/dataset",
                "--set",
                f"output={place.folder}/x",
                "--plan",
            ]
        )
        == 0
    )
    out = capsys.readouterr()
    assert "3 cells" in out.out
    assert "80 spots x 1 epochs" in out.out
    assert "Nothing was started" in out.err
    assert not (place.folder / "x").exists()


def test_each_cell_is_a_finished_child_run_with_its_scores_curves_and_recipe(trained: Place) -> None:
    (parent,) = trained.runs("experiment")
    cells = {run.tags["stray.method"]: run for run in trained.runs("cell")}
    assert set(cells) == {"untrained", "clip_mlp", "clip_scvi"}
    for run in cells.values():
        assert run.tags["mlflow.parentRunId"] == parent.run_id
        assert run.tags["stray.fold"] == "P1"
        assert run.status == "FINISHED"
        assert 0 <= run.metrics["eval/annotated/probe/balanced_accuracy"] <= 1
    for name in ("gene/elbo", "contrastive/loss", "contrastive/spots_per_second"):
        assert name in cells["clip_scvi"].metrics
    assert "gene/elbo" not in cells["clip_mlp"].metrics
    assert cells["clip_mlp"].params["contrastive.gene_tower.kind"] == "mlp"
    predictions = trained.folder.rglob("predictions.parquet")
    assert len(list(predictions)) == 3


def test_the_same_command_again_trains_nothing(trained: Place) -> None:
    before = {path: path.stat().st_mtime_ns for path in (trained.folder / "runs" / "smoke").rglob("done.json")}
    assert main(["train", "smoke", *trained.sets]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(trained.runs("cell")) == 3


def test_compare_prints_every_method_and_writes_one_page(trained: Place, capsys: pytest.CaptureFixture[str]) -> None:
    page = trained.folder / "page.html"
    assert main(["compare", "--uri", trained.uri, "--experiment", "smoke", "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    for row in ("majority class", "untrained", "clip_mlp", "clip_scvi"):
        assert row in shown
        assert row in page.read_text()
    assert 'src="http' not in page.read_text()


def test_evaluate_scores_again_without_training(trained: Place) -> None:
    assert main(["evaluate", "smoke", *trained.sets, "--set", "eval.knn_k=3"]) == 0
    assert len(list((trained.folder / "runs" / "smoke").glob("image-*"))) == 3


def test_evaluate_names_the_cells_that_are_not_trained(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "smoke", *place.sets, "--set", "contrastive.optim.lr=0.02"]) == 2
    assert "clip_scvi, held out P1, seed 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_runs_its_trials_and_writes_the_best_recipe(
    trained: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "smoke", *trained.sets]) == 0
    assert "Trials, best first" in capsys.readouterr().out
    trials = trained.runs("trial")
    assert len(trials) == 2
    assert {run.tags["stray.state"] for run in trials} == {"complete"}
    (parent,) = trained.runs("search")
    scores = [run.metrics["eval/inner_balanced_accuracy"] for run in trials]
    assert parent.metrics["eval/inner_balanced_accuracy"] == max(scores)
    assert {run.tags["mlflow.parentRunId"] for run in trials} == {parent.run_id}
    for run in trials:
        figures = {path.name for path in trained.folder.rglob(f"{run.run_id}/**/codes_*.png")}
        assert figures == {"codes_scvi.png"}, "what the gene stage did is shown by every trial that uses it"
    best = load_recipe(str(trained.folder / "runs" / "smoke" / "best.yaml"))
    tuned = best.methods["clip_scvi_tuned"].set
    assert set(tuned) == set(best.search.space)
    assert best.methods["clip_scvi"] == load_recipe("smoke").methods["clip_scvi"]
    winner = trials[int(np.argmax(scores))]
    assert winner.params["search.contrastive.optim.lr"] == str(tuned["contrastive.optim.lr"])


def test_the_python_interface_finds_the_same_scores(trained: Place) -> None:
    result = stray.train("smoke", dataset=f"{trained.folder}/dataset", set={"output": f"{trained.folder}/runs"})
    assert result.uri == trained.uri
    table = result.table[result.table["method"] != "majority class"]
    scores = {run.tags["stray.method"]: run.metrics for run in trained.runs("cell")}
    assert set(table["method"]) == set(scores)
    for row in table.to_dict("records"):
        metric = f"eval/{row['source']}/probe/balanced_accuracy"
        assert row["balanced_accuracy"] == scores[row["method"]][metric]
        assert (row["fold"], row["seed"]) == ("P1", 0)


@pytest.mark.slow
def test_a_model_trained_on_all_patients_classifies_a_section_that_has_pictures_only(trained: Place) -> None:
    assert main(["train", "smoke", *trained.sets, "--folds", "none", "--method", "clip_scvi"]) == 0
    (model,) = (trained.folder / "runs" / "smoke" / "models").glob("clip_scvi-seed0-*")
    new = pictures_only(trained.folder)
    assert Manifest.load(str(new)).sections[0].has_counts is False
    out, features = trained.folder / "classes.parquet", trained.folder / "features.parquet"
    assert main(["predict", str(model), str(new), "--out", str(out)]) == 0
    assert main(["embed", str(model), str(new), "--out", str(features)]) == 0
    table = pq.read_table(out)
    facts = json.loads((model / "model.json").read_text())["facts"]
    assert set(table["class"].to_pylist()) <= set(facts["classes"])
    probability = np.stack([table[f"probability/{name}"].to_numpy() for name in facts["classes"]])
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-6)
    assert len(pq.read_table(features)["features"][0]) == 512


def test_patches_of_another_size_are_refused_with_the_command_that_makes_them_right(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("smoke", ["ingest.patch.size_px=24"])
    build_dataset(recipe.ingest, str(place.folder / "small"))
    model = small_model(place.folder / "model", PatchConfig(size_um=112, size_px=32))
    assert main(["predict", model, str(place.folder / "small")]) == 2
    assert "--patch-um 112 --patch-px 32" in capsys.readouterr().err


def pictures_only(folder: Path) -> Path:
    """A dataset of one section without counts or labels, ingested from an .h5ad file without genes."""
    import anndata
    import pandas as pd

    from stray.cohort.readers.synthetic import SyntheticReader
    from stray.config import SyntheticSourceConfig

    section = SyntheticReader(SyntheticSourceConfig(seed=5, spots_per_section=40, genes=120)).read("P1S1")
    assert section.image is not None
    picture = np.asarray(section.image.load())
    names = [f"{i}" for i in range(len(section.spots))]
    table = anndata.AnnData(obs=pd.DataFrame({"patient": "N", "section": "N1"}, index=names))
    table.obsm["spatial"] = section.xy_px
    table.uns["spatial"] = {
        "N1": {
            "images": {"hires": picture},
            "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 30.0},
            "metadata": {"microns_per_pixel": section.microns_per_pixel},
        }
    }
    table.write_h5ad(folder / "N1.h5ad")
    out = folder / "new"
    if not out.exists():
        assert (
            main(["ingest", str(out), "--h5ad", str(folder / "N1.h5ad"), "--patch-um", "112", "--patch-px", "32"]) == 0
        )
    return out
