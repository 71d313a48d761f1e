"""The study of a search: real Optuna studies in real stores, with a fake objective."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from stray.config import Recipe
from stray.errors import InputError
from stray.experiment.study import SearchStudy, study_name
from stray.experiment.study_store import study_storage
from stray.experiment.trials import tuned_name
from stray.recipe import apply, dump_yaml, load_recipe

LR, SIZE = "contrastive.optim.lr", "contrastive.projection.size"
HUE, TURN = "contrastive.augment.hue", "contrastive.augment.contrast"
SPACE = (
    f"search.space={{{LR}: {{kind: loguniform, low: 1e-4, high: 1e-2}}, {SIZE}: {{kind: choice, values: [64, 128]}}, "
    f"{HUE}: {{kind: uniform, low: 0, high: 0.1}}, "
    f"{TURN}: {{kind: uniform, low: 0, high: 0.3, when: {{path: {SIZE}, equals: 64}}}}}}"
)
SAMPLERS = ("tpe", "random", "qmc", "gp", "cmaes", "nsga2")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(None, [SPACE, f"output={tmp_path}/runs"])


def score(settings: dict[str, object]) -> float:
    return -abs(math.log10(float(str(settings[LR]))) + 3) - float(str(settings[HUE]))


def run(study: SearchStudy, trials: int) -> list[dict[str, object]]:
    found = []
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial.number, [score(trial.settings)])
        found.append(trial.settings)
    return found


@pytest.mark.parametrize("kind", SAMPLERS)
def test_two_searches_with_one_seed_try_the_same_trials_in_the_same_order(recipe: Recipe, kind: str) -> None:
    recipe = apply(recipe, {"search.sampler.kind": kind})
    first, second = run(SearchStudy.in_memory(recipe), 16), run(SearchStudy.in_memory(recipe), 16)
    assert first == second
    other = run(SearchStudy.in_memory(apply(recipe, {"search.seed": 1})), 16)
    assert first[0] == other[0]  # the recipe's own
    assert not [point for point in first[1:] if point in other[1:]]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_search_that_is_continued_tries_what_it_would_have_tried(recipe: Recipe, kind: str) -> None:
    recipe = apply(recipe, {"search.sampler.kind": kind})
    whole = run(SearchStudy.in_memory(recipe), 15)
    parts = [point for n in (4, 8, 3) for point in run(SearchStudy.open(recipe, "s"), n)]
    assert parts == whole
    assert len({str(point) for point in parts}) == 15


def test_the_recipe_comes_first_and_then_the_best_of_earlier_searches(recipe: Recipe, tmp_path: Path) -> None:
    best = apply(recipe, {"methods.clip_scvi.set": {LR: 0.005}, HUE: 0.03})
    (tmp_path / "best.yaml").write_text(dump_yaml(best))
    earlier = SearchStudy.open(recipe, "earlier")
    run(earlier, 6)
    store = study_storage(recipe)
    again = apply(recipe, {"search.start_from": [f"{tmp_path}/best.yaml", f"{store}#earlier"]})
    points = run(SearchStudy.open(again, "later"), 4)
    own = {
        LR: recipe.contrastive.optim.lr,
        HUE: recipe.contrastive.augment.hue,
        SIZE: recipe.contrastive.projection.size,
    }
    assert own.items() <= points[0].items()
    assert (points[1][LR], points[1][HUE]) == (0.005, 0.03)
    assert points[2] == max((trial.settings for trial in earlier.trials()), key=score)
    assert points[3] not in points[:3]
    assert len(SearchStudy.open(again, "later").trials()) == 4  # nothing is queued a second time
    run(SearchStudy.open(again, "later"), 1)
    assert not [trial for trial in SearchStudy.open(again, "later").study.trials if trial.state == TrialState.WAITING]


@pytest.mark.parametrize(
    ("start", "what", "remedy"),
    [
        ("nowhere.yaml", "no such recipe", ""),
        ("sqlite:////nowhere/search.db#x", "no store of studies", "STORAGE#NAME"),
        ("{store}#earlyer", "no study 'earlyer'", "earlier?"),
        ("{store}#earlier", "no complete trial", "continue that search"),
    ],
)
def test_an_earlier_search_that_is_not_there_is_refused(recipe: Recipe, start: str, what: str, remedy: str) -> None:
    SearchStudy.open(recipe, "earlier")
    given = apply(recipe, {"search.start_from": [start.format(store=study_storage(recipe))]})
    with pytest.raises(InputError) as caught:
        SearchStudy.open(given, "later")
    (problem,) = caught.value.problems
    assert what in problem.what
    assert remedy in problem.remedy


def test_every_end_of_a_trial_is_told(recipe: Recipe) -> None:
    study = SearchStudy.open(recipe, "ends")
    numbers = [study.ask(f"t{n}").number for n in range(6)]
    study.report(numbers[1], 0.5, 3)
    study.report(numbers[1], 0.7, 3)  # the first of an epoch stays
    study.report(numbers[1], math.nan, 4)
    study.tell(numbers[0], [0.8])
    study.tell(numbers[1], pruned=True)
    study.tell(numbers[2], [math.nan])
    study.tell(numbers[3], error="boom")
    study.tell(numbers[4])
    study.tell(numbers[0], [0.1])  # told already
    trials = SearchStudy.open(recipe, "ends").trials()
    assert [trial.state for trial in trials] == ["complete", "pruned", "failed", "failed", "failed", "running"]
    assert [trial.runner for trial in trials] == [f"t{n}" for n in range(6)]
    assert trials[0].values == (0.8,)
    assert trials[1].curve == {3: 0.5}
    assert [trial.error for trial in trials[2:5]] == ["score nan", "boom", "no score"]
    states = [trial.state for trial in study.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, *[TrialState.FAIL] * 3, TrialState.RUNNING]


def test_a_failed_trial_that_is_run_again_counts_once(recipe: Recipe) -> None:
    study = SearchStudy.open(recipe, "again")
    trial = study.ask("a")
    study.tell(trial.number, error="boom")
    study.tell(trial.number, [0.4])
    study.tell(trial.number, [0.4])
    (one,) = study.trials()
    assert (one.state, one.values, one.settings, one.runner) == ("complete", (0.4,), trial.settings, "a")


def test_a_process_that_ends_between_two_writes_leaves_no_half_a_trial(recipe: Recipe) -> None:
    study = SearchStudy.open(recipe, "half")
    study.study.ask()  # the recipe's own trial, begun and never given its settings
    again = SearchStudy.open(recipe, "half")
    assert not again.trials()
    assert again.ask().settings[LR] == recipe.contrastive.optim.lr
    assert len(again.trials()) == 1


def test_several_objectives_have_a_front(recipe: Recipe) -> None:
    recipe = apply(recipe, {"search.sampler.kind": "nsga2", "search.objectives": ["score", "hours"]})
    study = SearchStudy.in_memory(recipe)
    for _ in range(30):
        trial = study.ask()
        study.tell(trial.number, [score(trial.settings), float(str(trial.settings[HUE]))])
    values = {trial.number: trial.values for trial in study.trials()}
    for number in study.front():
        score_of, hours = values[number]
        assert not any(a >= score_of and b <= hours and (a, b) != (score_of, hours) for a, b in values.values())


@pytest.mark.parametrize("given", [None, "journal", "sqlite"])
def test_the_store_is_one_that_other_programs_open(recipe: Recipe, tmp_path: Path, given: str | None) -> None:
    place = {None: None, "journal": f"{tmp_path}/a b/study.journal", "sqlite": f"sqlite:///{tmp_path}/50%25 x/s.db"}[
        given
    ]
    recipe = apply(recipe, {"search.storage": place})
    run(SearchStudy.open(recipe, "shown"), 3)
    if given == "journal":
        backend = JournalFileBackend(f"{tmp_path}/a b/study.journal")
        store = optuna.storages.JournalStorage(backend)
    else:
        assert Path(f"{tmp_path}/50% x/s.db" if given else f"{tmp_path}/runs/stray/search.db").is_file()
        store = study_storage(recipe)
    study = optuna.load_study(study_name="shown", storage=store)
    assert len(study.trials) == 3
    assert set(study.trials[1].user_attrs["settings"]) >= {LR, SIZE, HUE}


def test_results_in_a_bucket_need_a_store_for_the_study(recipe: Recipe, tmp_path: Path) -> None:
    bucket = {"output": "s3://bucket/runs"}
    server = apply(recipe, {**bucket, "track.uri": "http://localhost:5000"})
    with pytest.raises(InputError, match=r"no study can be kept in a bucket.*\n.*search\.storage=sqlite") as caught:
        study_storage(server)
    assert caught.value.problems[0].place == "search.storage"
    beside = apply(recipe, {**bucket, "track.uri": f"sqlite:///{tmp_path}/m/mlflow.db"})
    assert study_storage(beside) == f"sqlite:///{tmp_path}/m/stray-search.db"


@pytest.mark.parametrize("place", ["sqlite:////proc/x/search.db", "nodriver://host/db", "/proc/x/journal"])
def test_a_store_that_cannot_be_opened_is_named(recipe: Recipe, place: str) -> None:
    with pytest.raises(InputError) as caught:
        SearchStudy.open(apply(recipe, {"search.storage": place}), "x")
    assert caught.value.problems[0].place == "search.storage"


def test_a_study_is_kept_for_more_trials_and_another_for_another_space(recipe: Recipe) -> None:
    name = study_name(recipe, "key")
    assert study_name(apply(recipe, {"search.trials": 99, "search.max_concurrent": 2}), "key") == name
    others = [
        study_name(recipe, "other"),
        study_name(apply(recipe, {"search.seed": 4}), "key"),
        study_name(apply(recipe, {"search.sampler.kind": "random"}), "key"),
        study_name(apply(recipe, {f"search.space.{HUE}.high": 0.05}), "key"),
    ]
    assert len({name, *others}) == 5


KILLED = """
import os, signal, sys
from stray.experiment.trials import tuned_name
from stray.experiment.study import SearchStudy
from stray.recipe import load_recipe
study = SearchStudy.open(load_recipe(None, sys.argv[1:]), "killed")
for number in range(3):
    trial = study.ask(f"t{number}")
    if number < 2:
        study.tell(trial.number, [0.5])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_trial(recipe: Recipe) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, SPACE, f"output={recipe.output}"], check=False)
    assert done.returncode == -signal.SIGKILL
    trials = SearchStudy.open(recipe, "killed").trials()
    assert [(trial.state, trial.runner) for trial in trials] == [
        ("complete", "t0"),
        ("complete", "t1"),
        ("running", "t2"),
    ]
    assert trials[2].settings[LR]


def test_the_best_trial_of_an_experiment_in_mlflow_comes_after_the_recipe(recipe: Recipe, tmp_path: Path) -> None:
    from stray.track.mlflow import MlflowStore

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    store = MlflowStore(uri, "earlier", unsent_folder=str(tmp_path / "unsent"))
    for number, (rate, score) in enumerate([(2e-3, 0.5), (4e-3, 0.7), (6e-3, None)]):
        run = store.run(f"trial {number}", tags={"stray.kind": "trial", "stray.key": str(number)})
        run.params({LR: rate, f"search.{LR}": rate, "search.trials": 3})
        run.metrics({} if score is None else {"eval/inner_balanced_accuracy": score})
        run.close()
    store.close()
    again = apply(recipe, {"track.uri": uri, "search.start_from": ["mlflow:earlier"]})
    study = SearchStudy.in_memory(again)
    study.ask()
    assert study.ask().settings[LR] == pytest.approx(4e-3)
    for name, what in (("mlflow:earlyer", "earlier"), ("mlflow:empty", "no complete trial")):
        if name == "mlflow:empty":
            MlflowStore(uri, "empty", unsent_folder=str(tmp_path / "unsent")).close()
        with pytest.raises(InputError, match=what):
            SearchStudy.in_memory(apply(again, {"search.start_from": [name]}))


@pytest.mark.parametrize(
    ("method", "tuned"),
    [
        ("clip", "clip_tuned"),
        ("clip_tuned", "clip_tuned2"),
        ("clip_tuned2", "clip_tuned3"),
        ("a_tuned_b", "a_tuned_b_tuned"),
    ],
)
def test_what_a_search_finds_has_a_name_of_its_own(method: str, tuned: str) -> None:
    assert tuned_name(method) == tuned


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("search.objectives=[hours]", "search.objectives"),
        ("search.objectives=[score, score]", "search.objectives"),
        ("search={objectives: [score, hours], sampler: {kind: cmaes}}", "search.objectives"),
        ("search.seeds=[1, 1]", "search.seeds"),
    ],
)
def test_objectives_that_cannot_be_are_refused(change: str, place: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("smoke", [change])
    assert place in [problem.place for problem in caught.value.problems]
