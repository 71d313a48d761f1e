"""The searcher under a real Ray Tune: trials that a scheduler stops, trials that fail, a search that is continued."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune import Tuner
from ray.tune.schedulers import ASHAScheduler

from stray.config import Recipe
from stray.experiment.study import SearchStudy
from stray.on_ray.searcher import EPOCH, StudySearcher
from stray.on_ray.session import session
from stray.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LR = "contrastive.optim.lr"
SCORE = "score"


def recipe_in(folder: str) -> Recipe:
    space = f"search.space={{{LR}: {{kind: loguniform, low: 1e-4, high: 1e-2}}}}"
    return load_recipe(None, [space, f"output={folder}/runs"])


def tuner(folder: str, trainable: Any, trials: int, **config: Any) -> Tuner:
    searcher = StudySearcher(partial(SearchStudy.open, recipe_in(folder), "s"), trials, [SCORE], "rung")
    return Tuner(
        trainable,
        tune_config=tune.TuneConfig(search_alg=searcher, num_samples=trials, max_concurrent_trials=1, **config),
        run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
    )


def quick(settings: dict[str, Any]) -> None:
    """Score better the larger the rate; the third fails, the fourth has no number."""
    lr = settings[LR]
    with open(os.environ["STRAY_TEST_LOG"], "a") as log:
        log.write(f"{lr}\n")
    number = len(Path(os.environ["STRAY_TEST_LOG"]).read_text().splitlines())
    if number == 3:
        raise ValueError("the third")
    for epoch in (1, 2, 3):
        tune.report({"rung": lr * epoch, EPOCH: epoch})
    tune.report({"rung": lr * 4, EPOCH: 4, SCORE: math.nan if number == 4 else lr})


def slow(settings: dict[str, Any]) -> None:
    with open(os.environ["STRAY_TEST_LOG"], "a") as log:
        log.write(f"{settings[LR]}\n")
    time.sleep(2)
    tune.report({"rung": 0.0, EPOCH: 1, SCORE: settings[LR]})


def test_states_of_a_search_with_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAY_TEST_LOG", f"{tmp_path}/log")
    with session(num_cpus=2, object_store_gib=0.3):
        scheduler = ASHAScheduler(
            time_attr=EPOCH, metric="rung", mode="max", max_t=4, grace_period=1, reduction_factor=2
        )
        tuner(str(tmp_path), quick, 8, scheduler=scheduler).fit()
        trials = SearchStudy.open(recipe_in(str(tmp_path)), "s").trials()
        states = [trial.state for trial in trials]
        assert len(states) == 8
        assert (states[2], states[3]) == ("failed", "failed")
        assert set(states) == {"complete", "pruned", "failed"}
        for trial in trials:
            lr = trial.settings[LR]
            if trial.state == "complete":
                assert trial.values == (lr,)
            if trial.state == "pruned":
                last = max(trial.curve)
                assert last < 4
                assert trial.curve[last] == pytest.approx(lr * last)
        # The same folder again: nothing is left to do.
        before = Path(tmp_path, "log").read_text()
        Tuner.restore(f"{tmp_path}/tune", quick).fit()
        tuner(str(tmp_path), quick, 8).fit()
        assert Path(tmp_path, "log").read_text() == before
        assert [t.state for t in SearchStudy.open(recipe_in(str(tmp_path)), "s").trials()] == states
        # More trials: only the new ones run.
        tuner(str(tmp_path), quick, 10).fit()
        assert len(Path(tmp_path, "log").read_text().splitlines()) == len(before.splitlines()) + 2
        assert len(SearchStudy.open(recipe_in(str(tmp_path)), "s").trials()) == 10


DRIVER = """
import sys
from ray.tune import Tuner
from stray.on_ray.session import session
from tests.ray.test_searcher import slow, tuner
with session(num_cpus=2, object_store_gib=0.3):
    tuner(sys.argv[1], slow, 5).fit()
"""


def test_a_search_whose_driver_is_killed_tries_the_same_trials_and_counts_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("STRAY_TEST_LOG", str(log))
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while len(log.read_text().splitlines() if log.exists() else []) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    finally:
        if driver.poll() is None:
            driver.kill()
    recipe = recipe_in(str(tmp_path))
    before = SearchStudy.open(recipe, "s").trials()
    assert [t.state for t in before] == ["complete", "complete", "running"]
    with session(num_cpus=2, object_store_gib=0.3):
        place = f"{tmp_path}/tune"
        again = Tuner.restore(place, slow) if Tuner.can_restore(place) else tuner(str(tmp_path), slow, 5)
        again.fit()
    trials = SearchStudy.open(recipe, "s").trials()
    assert [t.state for t in trials] == ["complete"] * 5
    expected = SearchStudy.in_memory(recipe)
    for trial in trials:
        asked = expected.ask()
        expected.tell(asked.number, trial.values)
        assert trial.settings == asked.settings, json.dumps([t.settings for t in trials])
