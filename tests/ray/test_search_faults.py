"""Faults in a search: settings that cannot train, a loss that is not finite, a worker and a driver killed with SIGKILL.
Its results are those of an undisturbed search.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest

from stray.experiment.study import SearchStudy, StudyTrial
from stray.recipe import load_recipe
from stray.track.mlflow_reader import MlflowReader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
TRIALS = 6
RATE, HEAD = "contrastive.optim.lr", "contrastive.projection.kind"
SPACE = (
    f"search.space={{{RATE}: {{kind: choice, values: [1.0e-3, 1.1e-3, 1.0e+30]}},"
    f" {HEAD}: {{kind: choice, values: [linear, mlp, none]}}}}"
)


def settings(folder: Path, name: str) -> list[str]:
    """A search with one slot of one CPU, whose sampler asks for no earlier score."""
    sets = [f"dataset={folder}/dataset", f"output={folder}/{name}", f"search.trials={TRIALS}", SPACE]
    sets += ["search.sampler={kind: random}", "search.seed=289", "search.validation=[]", "search.inner_folds=2"]
    sets += ["search.held_out=[]", "contrastive.epochs=3", "run.cpus_per_worker=1", "run.slots=1"]
    return sets


def command(folder: Path, name: str) -> list[str]:
    words = [word for one in settings(folder, name) for word in ("--set", one)]
    return [sys.executable, "-m", "stray", "search", "smoke", *words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("search-faults")
    ingest = [sys.executable, "-m", "stray", "ingest", f"{made}/dataset", "--recipe", "smoke"]
    subprocess.run(ingest, check=True, capture_output=True, cwd=made)
    return made


def study(folder: Path, name: str) -> tuple[StudyTrial, ...]:
    """The trials of a search, without the names that Tune gave them."""
    address = f"sqlite:///{folder}/{name}/smoke/search.db"
    if not (folder / name / "smoke" / "search.db").exists() or not (names := optuna.get_all_study_names(address)):
        return ()
    found = optuna.load_study(study_name=names[0], storage=address)
    trials = SearchStudy(found, load_recipe("smoke", settings(folder, name))).trials()
    return tuple(replace(trial, runner="") for trial in trials)


def until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train for a driver."""
    family = psutil.Process(process.pid).children(recursive=True)
    return [one for one in family if "RayTrainWorker" in one.name() or "RayTrainWorker" in " ".join(one.cmdline())]


def ended(folder: Path, name: str) -> int:
    return sum(trial.state != "running" for trial in study(folder, name))


def test_a_search_that_loses_a_worker_and_then_its_driver_finds_what_an_undisturbed_one_finds(folder: Path) -> None:
    whole = subprocess.run(command(folder, "whole"), capture_output=True, text=True, cwd=folder, check=False)
    assert whole.returncode == 0, whole.stderr
    expected = study(folder, "whole")
    states = {trial.state for trial in expected}
    assert len(expected) == TRIALS
    assert {"complete", "failed"} <= states, states
    for trial in expected:
        if trial.settings[HEAD] == "none":  # the towers' features are not as many
            assert trial.state == "failed"
            assert "share no space" in trial.error
        elif trial.settings[RATE] > 1:
            assert trial.state == "failed"
            assert "not finite" in trial.error or "nan" in trial.error
        else:
            assert trial.state in ("complete", "pruned")

    family: list[psutil.Process] = []
    with subprocess.Popen(
        command(folder, "hurt"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder, text=True
    ) as first:
        try:
            until(first, lambda: ended(folder, "hurt") >= 1 and bool(workers(first)))
            workers(first)[0].kill()
            until(first, lambda: ended(folder, "hurt") >= 3)
            family = psutil.Process(first.pid).children(recursive=True)
        finally:
            first.kill()
    assert psutil.wait_procs(family, timeout=120)[1] == []
    before = ended(folder, "hurt")
    assert before < TRIALS
    again = subprocess.run(command(folder, "hurt"), capture_output=True, text=True, cwd=folder, check=False)
    assert again.returncode == 0, again.stderr
    found = study(folder, "hurt")
    assert [(t.settings, t.state, t.values) for t in found] == [(t.settings, t.state, t.values) for t in expected]
    best = (folder / "hurt" / "smoke" / "best.yaml").read_text()
    assert best.replace("/hurt", "/whole") == (folder / "whole" / "smoke" / "best.yaml").read_text()
    runs = MlflowReader(f"sqlite:///{folder}/hurt/mlflow.db", "smoke").runs({"stray.kind": "trial"})
    scored = [run for run in runs if "eval/inner_balanced_accuracy" in run.metrics and run.status == "FINISHED"]
    assert len(scored) == sum(trial.state == "complete" for trial in expected), "no trial is lost, or counted twice"
    kept = folder / "hurt" / "smoke" / "checkpoints"
    assert not kept.exists() or not list(kept.iterdir()), "nothing is left of what was stopped"
