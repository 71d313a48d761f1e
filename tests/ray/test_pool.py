"""The worker pool on real Ray: what fails takes nothing with it, and what is lost is done by others."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, fields, replace
from pathlib import Path

import psutil
import pytest
import torch

from stray.cohort.build import build_dataset
from stray.config import Recipe, RunConfig
from stray.errors import NotFiniteError, RunError
from stray.on_ray import experiment
from stray.on_ray.assignment import Assignment
from stray.on_ray.events import listen
from stray.on_ray.pool import fit
from stray.on_ray.resources import SlotPlan
from stray.on_ray.session import SessionInfo
from stray.recipe import apply
from stray.stages.spec import GeneStage, ImageStage, Stage
from stray.track.mlflow_reader import MlflowReader
from stray.track.records import RunRecord
from tests.ray.test_training import Heard, Setup
from tests.support.small_cohort import small_recipe

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def setup(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("pool"))


def runs(recipe: Recipe) -> dict[str, RunRecord]:
    """The runs of a small experiment by method."""
    found = MlflowReader(f"sqlite:///{recipe.output}/mlflow.db", recipe.name).runs({"stray.kind": "cell"})
    return {run.tags["stray.method"]: run for run in found}


@pytest.mark.beside
@pytest.mark.slow
def test_a_run_that_fails_is_recorded_with_its_error_the_others_go_on_and_only_it_is_repeated(
    ray_session: SessionInfo, tmp_path: Path
) -> None:
    methods = {
        "untrained": {"train": "nothing"},
        "broken": {"set": {"contrastive.optim.lr": 1e30, "contrastive.optim.clip_norm": None}},
        "clip_scvi": {},
    }
    changes = {"methods": methods, "contrastive.epochs": 3, "run.slots": 2}
    recipe = apply(small_recipe(tmp_path), changes)
    build_dataset(recipe.ingest, recipe.dataset)
    with pytest.raises(NotFiniteError):
        experiment.run(recipe)
    first = runs(recipe)
    assert {name: run.status for name, run in first.items()} == {
        "untrained": "FINISHED",
        "broken": "FAILED",
        "clip_scvi": "FINISHED",
    }
    assert "lower contrastive.optim.lr" in first["broken"].tags["stray.error"]
    assert any("balanced_accuracy" in name for name in first["clip_scvi"].metrics)
    with pytest.raises(NotFiniteError):
        experiment.run(recipe)
    again = runs(recipe)
    assert {name for name, run in again.items() if run.end_time != first[name].end_time} == {"broken"}


@dataclass(frozen=True, kw_only=True)
class Raising(ImageStage):
    """A stage whose worker raises each time, and leaves a mark."""

    marks: str
    driver: int

    @property
    def inputs(self) -> tuple[GeneStage, ...]:
        if os.getpid() != self.driver:
            with open(self.marks, "a") as marks:
                marks.write(f"{os.getpid()}\n")
            raise RuntimeError("this code is wrong")
        return super().inputs


def placed(setup: Setup, stage: Stage, title: str) -> Assignment:
    return Assignment(stage=stage, placed=setup.placed, title=title)


@pytest.mark.slow
def test_a_stage_whose_code_raises_is_tried_in_new_processes_and_fails_alone(setup: Setup) -> None:
    marks = setup.folder / "raised"
    stage = setup.cell("raising").scored
    known = {field.name: getattr(stage, field.name) for field in fields(ImageStage)}
    raising = Raising(**known, marks=str(marks), driver=os.getpid())
    # The same stage would be one with it.
    other = apply(setup.recipe, {"contrastive.epochs": 1}).contrastive
    beside = setup.cell("beside").scored
    assert isinstance(beside, ImageStage)
    good = replace(beside, config=other)
    with listen(Heard()) as events, pytest.raises(RunError, match="RuntimeError: this code is wrong") as caught:
        fit(
            [placed(setup, raising, "raising"), placed(setup, good, "beside")],
            plan=SlotPlan(1, 1, 1),
            run=RunConfig(max_failures=1),
            root=str(setup.folder / "checkpoints" / "raising"),
            events=events,
        )
    (problem,) = caught.value.problems
    assert problem.place == "raising"
    assert "failed 2 times" in problem.what
    assert len(set(marks.read_text().split())) == 2
    assert good.folder.is_done()


def slot_controllers() -> list[psutil.Process]:
    """The processes of Ray Train that keep the slots of this process's own cluster."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if process.name().startswith("ray::TrainCont")]


@pytest.mark.slow
def test_a_slot_that_is_killed_whole_is_replaced_and_its_stage_ends_with_the_same_weights(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.train(setup.image("whole"), "whole", workers=1)
    heard, killed = threading.Event(), []
    original = Heard.__call__

    def hear(self: Heard, event: object) -> None:
        original(self, event)  # type: ignore[arg-type]
        if self.epoch.is_set():
            heard.set()

    monkeypatch.setattr(Heard, "__call__", hear)

    def kill() -> None:
        assert heard.wait(timeout=200)
        for process in slot_controllers():
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    setup.train(setup.image("killed"), "killed", workers=1)
    killer.join()
    assert killed
    expected, found = setup.weights("whole"), setup.weights("killed")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
