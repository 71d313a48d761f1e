"""Trials that ended well in an earlier command come to a store that lacks them: real MLflow stores, no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stray.cohort.panel import fit_panel
from stray.cohort.split import Fold
from stray.data.local import LocalData
from stray.experiment.cells import Group
from stray.experiment.trials import TrialPlan
from stray.on_ray.progress import NullProgress
from stray.on_ray.tracking import Tracking
from stray.on_ray.trial import METRIC, Shared, deliver_trial, trial_key
from stray.recipe import apply
from stray.stages.run import run_stage
from stray.track.mlflow_reader import MlflowReader
from stray.track.records import RunRecord
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import small_dataset, small_recipe

SETTINGS = {"contrastive.optim.lr": 0.002}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A search with one trial, whose stages are done."""
    folder = tmp_path_factory.mktemp("trials")
    dataset, recipe = small_dataset(folder), apply(small_recipe(folder), {"gene.epochs": 1})
    none: Any = None
    fold, root = Fold("search", ("P2",), ("P3",)), str(folder / "runs" / "smoke")
    plan = TrialPlan(recipe=recipe, method="clip_scvi", dataset=dataset, folds=(fold,), root=root)
    shared = Shared(plan, none, none, none, "search-of-this-test")
    (cell,) = plan.cells(SETTINGS)
    panel = Path(cell.scored.gene.panel_path)
    panel.parent.mkdir(parents=True)
    panel.write_text(fit_panel(dataset, fold.train, cell.scored.gene.config.panel).to_json())
    for stage in Group((cell,)).stages():
        run_stage(stage, LocalData(dataset), LocalWorker(), MemoryTracker())
    return shared


@contextmanager
def command(shared: Shared, uri: str) -> Iterator[Tracking]:
    recipe = apply(shared.plan.recipe, {"track.uri": uri})
    with Tracking(recipe, kind="search", key="k", dataset="d", progress=NullProgress()) as tracking:
        yield tracking


def runs(uri: str, kind: str = "trial") -> list[RunRecord]:
    return MlflowReader(uri, "smoke").runs({"stray.kind": kind})


def test_a_store_gets_each_trial_that_it_lacks_once(shared: Shared, tmp_path: Path) -> None:
    first, other = f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/other.db"
    for uri in (first, first, other):  # again, and after the store was lost
        with command(shared, uri) as tracking:
            deliver_trial("t1", SETTINGS, {"inner/P2/seed_0": 0.625}, shared, tracking)
        (run,) = runs(uri)
        assert run.status == "FINISHED"
        assert run.metrics[METRIC] == 0.625
        assert {"gene/elbo", "contrastive/loss"} <= set(run.metrics)
        assert run.params["search.contrastive.optim.lr"] == run.params["contrastive.optim.lr"] == "0.002"
        assert (run.tags["stray.method"], run.tags["stray.fold"]) == ("clip_scvi", "search-P2")
        assert run.tags["mlflow.parentRunId"] == runs(uri, "search")[0].run_id
        assert [path.name for path in tmp_path.rglob(f"{run.run_id}/**/codes_*.png")] == ["codes_scvi.png"]
        client = MlflowReader(uri, "smoke")._client
        assert len(client.get_metric_history(run.run_id, METRIC)) == 1


def test_a_trial_of_this_command_and_one_whose_results_are_gone_are_left_alone(shared: Shared, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with command(shared, uri) as tracking:
        (cell,) = shared.plan.cells(SETTINGS)
        tracking.open(
            trial_key(shared.experiment, "t1"), "a trial of this command", cell.recipe, {"stray.kind": "trial"}
        )
        tracking.close(trial_key(shared.experiment, "t1"))
        deliver_trial("t1", SETTINGS, {"one": 0.5}, shared, tracking)
        deliver_trial("t2", {"contrastive.optim.lr": 0.5}, {"one": 0.5}, shared, tracking)
    (run,) = runs(uri)
    assert METRIC not in run.metrics
