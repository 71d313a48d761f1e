"""Epochs at which trials are judged and may be stopped, and what is reported of several trainings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stray.experiment.rungs import gates, judged_epochs, most_epochs
from stray.experiment.study import SearchStudy, StudyTrial
from stray.on_ray.schedulers import JUDGED, scheduler_of
from stray.on_ray.searcher import EPOCH
from stray.on_ray.trial import Rungs
from stray.recipe import load_recipe
from stray.stages.spec import ImageStage

PROBE = "contrastive/inner_balanced_accuracy"


@pytest.mark.parametrize(
    ("changes", "epochs", "judged", "stops"),
    [
        ([], 18, (2, 4, 6, 8, 10, 12, 14, 16), (2, 6)),
        ([], 1, (), ()),
        (["search.judge_every=4"], 18, (4, 8, 12, 16), (4, 12)),
        (["search.scheduler.grace_epochs=3"], 18, (2, 4, 6, 8, 10, 12, 14, 16), (4, 12)),
        (["search.scheduler={kind: asha, reduction_factor: 2}"], 9, (2, 4, 6, 8), (2, 4, 8)),
        (["search.scheduler.kind=hyperband"], 18, (2, 4, 6, 8, 10, 12, 14, 16), (2, 6)),
        (
            ["search.scheduler={kind: median, grace_epochs: 5}"],
            18,
            (2, 4, 6, 8, 10, 12, 14, 16),
            (6, 8, 10, 12, 14, 16),
        ),
        (["search.scheduler.kind=none"], 18, (), ()),
    ],
)
def test_a_trial_is_judged_before_its_end_and_may_be_stopped_at_rungs(
    changes: list[str], epochs: int, judged: tuple[int, ...], stops: tuple[int, ...]
) -> None:
    search = load_recipe("smoke", changes).search
    assert judged_epochs(search, 18, epochs) == judged
    assert gates(search, 18, epochs) == stops


def test_the_stops_are_those_at_which_rays_scheduler_decides() -> None:
    recipe = load_recipe("smoke")
    scheduler: Any = scheduler_of(recipe.search, 18, lambda: SearchStudy.in_memory(recipe))
    assert sorted(rung for rung, _ in scheduler._brackets[0]._rungs) == [2, 6, 18]


@dataclass(frozen=True)
class TuneTrial:
    """The part of Tune's trial that its schedulers need."""

    trial_id: str


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_a_search_that_is_continued_stops_the_trials_that_it_would_have_stopped(kind: str) -> None:
    recipe = load_recipe("smoke", [f"search.scheduler.kind={kind}", "search.sampler.kind=random"])
    study = SearchStudy.in_memory(recipe)

    def ask(scheduler: Any) -> tuple[StudyTrial, Any]:
        trial = study.ask(f"runner-{len(study.trials())}")
        tune = TuneTrial(trial.runner)
        scheduler.on_trial_add(None, tune)
        return trial, tune

    def run(schedulers: list[Any], score: float) -> list[str]:
        """Judge a trial at epochs 2, 4, ... until one of the schedulers stops it; the last answers."""
        trial, tune = ask(schedulers[0])
        for other in schedulers[1:]:
            other.on_trial_add(None, tune)
        answers = []
        for epoch in range(2, 18, 2):
            result = {EPOCH: epoch, JUDGED: score + 0.001 * epoch}
            study.report(trial.number, result[JUDGED], epoch)
            answers = [scheduler.on_trial_result(None, tune, result) for scheduler in schedulers]
            if "STOP" in answers:
                study.tell(trial.number, pruned=True)
                break
        else:
            study.tell(trial.number, [score])
        return answers

    whole = scheduler_of(recipe.search, 18, lambda: study)
    for score in (0.5, 0.6, 0.4, 0.55, 0.45, 0.7):
        run([whole], score)
    assert "complete" in {trial.state for trial in study.trials()}
    anew = scheduler_of(recipe.search, 18, lambda: study)
    answers = [run([whole, anew], score) for score in (0.52, 0.3, 0.65, 0.58, 0.2, 0.8)]
    assert all(first == second for first, second in answers)
    assert {first for first, _ in answers} == {"CONTINUE", "STOP"}


@pytest.mark.parametrize(
    ("space", "most"),
    [
        ("{}", 7),
        ("{contrastive.epochs: {kind: choice, values: [3, 9]}}", 9),
        ("{contrastive.epochs: {kind: int, low: 2, high: 12}}", 12),
    ],
)
def test_the_rungs_count_to_the_longest_trial_of_the_space(space: str, most: int) -> None:
    other = "contrastive.optim.lr: {kind: loguniform, low: 1e-4, high: 1e-2}"
    space = space.replace("{}", f"{{{other}}}")
    assert most_epochs(load_recipe("smoke", [f"search.space={space}", "search.set={contrastive.epochs: 7}"])) == most


def metrics(**epochs: float | None) -> dict[int, dict[str, float]]:
    return {int(e[1:]): {} if score is None else {PROBE: score} for e, score in epochs.items()}


def test_a_rung_is_reported_once_every_training_has_come_to_it() -> None:
    rungs = Rungs((2,), [], ["a", "b"])
    assert rungs.take("a", metrics(e1=None, e2=0.4), ended=False) == []
    assert rungs.take("b", metrics(e1=None), ended=False) == []
    assert rungs.take("b", metrics(e2=0.6), ended=False) == [(2, 0.5)]
    assert rungs.take("b", metrics(e3=None), ended=False) == []


def test_a_rung_that_one_training_passed_before_a_restart_lets_all_go_on_without_a_score() -> None:
    rungs = Rungs((2,), [], ["a", "b"])
    assert rungs.take("a", metrics(e2=0.4), ended=False) == []
    assert rungs.take("b", metrics(e3=None), ended=False) == [(2, None)]


def test_a_training_that_ended_keeps_no_other_waiting() -> None:
    rungs = Rungs((2,), [], ["a", "b"])
    assert rungs.take("a", metrics(e2=0.4, e3=None), ended=True) == []
    assert rungs.take("b", metrics(e2=0.8), ended=False) == [(2, pytest.approx(0.6))]


def test_the_folds_of_a_search_leave_out_one_patient_each(tmp_path: Path) -> None:
    from stray.errors import InputError
    from stray.experiment.trials import TrialPlan
    from tests.support.small_cohort import small_dataset, small_recipe

    dataset = small_dataset(tmp_path)

    def plan(*changes: str) -> TrialPlan:
        recipe = small_recipe(tmp_path, "search.validation=[]", "contrastive.epochs=4", *changes)
        return TrialPlan.of(recipe, dataset, str(tmp_path / "runs"))

    sparing = plan("search.held_out=[P1]")  # three are asked for, two can be spared
    assert [(fold.held_out, fold.train) for fold in sparing.folds] == [(("P2",), ("P3",)), (("P3",), ("P2",))]
    assert "each by a training without it" in sparing.how_judged
    one = plan("search.held_out=[P1]", "search.inner_folds=1", "search.seeds=[0, 1]")
    assert (len(one.folds), one.size) == (1, 2)
    assert "noisy" in one.how_judged
    spots = dataset.spots()
    for cell in sparing.cells({}):
        assert isinstance(cell.scored, ImageStage)
        judge = cell.scored.judge
        assert judge is not None
        assert set(judge.patient) == {"P2", "P3"}, "the outer patient is not seen"
        assert set(spots.patient[cell.scored.rows]) == set(cell.fold.train)
        assert judge.epochs == {1, 2, 3}
    for change, what in (
        ("search.held_out=[P1, P2]", "P3 is left"),
        ("search.validation=[P9]", "no patient 'P9'"),
    ):
        with pytest.raises(InputError, match=what):
            plan(change)
