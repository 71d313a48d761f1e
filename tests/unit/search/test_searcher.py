"""The searcher of Ray Tune, called as Tune calls it: no Ray runs."""

from __future__ import annotations

import math
import pickle
from functools import partial
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from stray.config import Recipe
from stray.experiment.study import SearchStudy
from stray.on_ray.searcher import EPOCH, ERROR, SCORES, StudySearcher
from stray.recipe import load_recipe

LR = "contrastive.optim.lr"
SCORE, RUNG = "inner/balanced_accuracy", "rung"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    space = f"search.space={{{LR}: {{kind: loguniform, low: 1e-4, high: 1e-2}}}}"
    return load_recipe(None, [space, f"output={tmp_path}/runs"])


def searcher(recipe: Recipe, trials: int = 4) -> StudySearcher:
    return StudySearcher(partial(SearchStudy.open, recipe, "s"), trials, [SCORE], RUNG)


def settings(found: object) -> dict[str, object]:
    assert isinstance(found, dict)
    return found


def test_every_trial_is_told_as_what_it_ended_as(recipe: Recipe) -> None:
    tune = searcher(recipe, 6)
    for name in "abcdef":
        settings(tune.suggest(name))
    assert tune.suggest("g") == Searcher.FINISHED
    for epoch in (2, 4):
        tune.on_trial_result("a", {RUNG: epoch / 10, EPOCH: epoch, "training_iteration": 1})
    tune.on_trial_complete("a", {RUNG: 0.4, EPOCH: 4, SCORE: 0.75, f"{SCORES}/inner/P1/seed_0": 0.75, "done": True})
    tune.on_trial_result("b", {RUNG: 0.1, EPOCH: 2})
    tune.on_trial_complete("b", {RUNG: 0.2, EPOCH: 4, "done": True})  # a scheduler stopped it
    tune.on_trial_complete("c", {SCORE: math.nan, "done": True})
    tune.on_trial_result("d", {ERROR: "no such file"})
    tune.on_trial_complete("d", error=True)
    tune.on_trial_complete("e")  # stopped while it was waiting
    trials = tune.study.trials()
    assert [t.state for t in trials] == ["complete", "pruned", "failed", "failed", "pruned", "running"]
    assert trials[0].values == (0.75,)
    assert trials[0].scores == {"inner/P1/seed_0": 0.75}
    assert trials[3].error == "no such file"
    assert [t.curve for t in trials[:2]] == [{2: 0.2, 4: 0.4}, {2: 0.1, 4: 0.2}]


def test_a_searcher_that_is_restored_knows_its_trials_and_hands_out_the_lost_ones_again(
    recipe: Recipe, tmp_path: Path
) -> None:
    first = searcher(recipe)
    first.suggest("a")
    first.on_trial_complete("a", {SCORE: 0.5})
    kept = settings(first.suggest("b"))
    first.save(f"{tmp_path}/state")
    lost = settings(first.suggest("c"))  # Tune was killed before it wrote that it had this one

    again = pickle.loads(pickle.dumps(first))
    again.restore(f"{tmp_path}/state")
    assert again.suggest("d") == lost
    assert [t.runner for t in again.study.trials()] == ["a", "b", "d"]
    fresh = settings(again.suggest("e"))
    assert fresh not in (kept, lost)
    assert again.suggest("f") == Searcher.FINISHED
    for name in "bde":
        again.on_trial_complete(name, {SCORE: 0.25})
    again.on_trial_complete("a", {SCORE: 0.1})  # ran again, because Tune had not written that it had ended
    trials = SearchStudy.open(recipe, "s").trials()
    assert [(t.runner, t.values) for t in trials] == [("a", (0.5,)), ("b", (0.25,)), ("d", (0.25,)), ("e", (0.25,))]


def test_a_search_without_its_tune_folder_continues_from_the_study(recipe: Recipe) -> None:
    first = searcher(recipe)
    first.suggest("a")
    first.on_trial_complete("a", {SCORE: 0.5})
    running = settings(first.suggest("b"))
    second = searcher(recipe, 3)
    assert second.suggest("x") == running
    second.suggest("y")
    assert second.suggest("z") == Searcher.FINISHED
    assert len(second.study.trials()) == 3
    more = searcher(recipe, 5)
    for name in "xy":
        second.on_trial_complete(name, {SCORE: 0.1})
    more.suggest("v")
    more.suggest("w")
    assert more.suggest("u") == Searcher.FINISHED
    assert len({str(t.settings) for t in more.study.trials()}) == 5
