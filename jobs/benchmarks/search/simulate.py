"""Simulated searches: trials until the best region is reached, and epochs with and without a scheduler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from jobs.benchmarks.search.problem import EPOCHS, REGION, measured, score
from stray.config import Recipe
from stray.experiment.study import SearchStudy
from stray.recipe import apply

EPOCH, SCORE = "epoch", "score"


@dataclass(frozen=True)
class Trial:
    """One simulated trial."""

    epochs: int
    measured: float
    """Score after the last epoch; nan where the trial was stopped before."""
    true: float
    """The score without noise."""


def trials(recipe: Recipe, sampler: str, seed: int, *, asha: bool) -> Iterator[Trial]:
    """Run trials one after the other without end, each until its last epoch or until Ray Tune's ASHA stops it."""
    study = SearchStudy.in_memory(apply(recipe, {"search.sampler.kind": sampler, "search.seed": seed}))
    scheduler = ASHAScheduler(
        time_attr=EPOCH, metric=SCORE, mode="max", max_t=EPOCHS, grace_period=3, reduction_factor=3
    )
    while True:
        trial = study.ask()
        epochs = _stopped_after(scheduler, study, trial.number, trial.settings, seed) if asha else EPOCHS
        value = math.nan
        if epochs == EPOCHS:
            value = measured(trial.settings, EPOCHS, seed, trial.number)
            study.tell(trial.number, [value])
        else:
            study.tell(trial.number, pruned=True)
        yield Trial(epochs, value, score(trial.settings))


def until_region(run: Iterator[Trial], most: int) -> tuple[int, int]:
    """Return trials and epochs until a whole trial lies in the best region, `most` trials at most."""
    epochs = 0
    for number, trial in enumerate(islice(run, most), start=1):
        epochs += trial.epochs
        if trial.epochs == EPOCHS and trial.true >= REGION:
            return number, epochs
    return most, epochs


def best_of(run: Iterator[Trial], number: int) -> tuple[int, float]:
    """Return the epochs of so many trials, and the true score of the one that was measured as the best."""
    done = list(islice(run, number))
    whole = [trial for trial in done if trial.epochs == EPOCHS]
    return sum(trial.epochs for trial in done), max(whole, key=lambda trial: trial.measured).true


def _stopped_after(
    scheduler: ASHAScheduler, study: SearchStudy, number: int, settings: dict[str, Any], seed: int
) -> int:
    """Return the number of epochs after which the scheduler stops the trial."""
    tune_trial: Any = SimpleNamespace(trial_id=str(number))
    controller: Any = None
    scheduler.on_trial_add(controller, tune_trial)
    for epoch in range(1, EPOCHS):
        value = measured(settings, epoch, seed, number)
        study.report(number, value, epoch)
        result = {EPOCH: epoch, SCORE: value}
        if scheduler.on_trial_result(controller, tune_trial, result) == TrialScheduler.STOP:
            scheduler.on_trial_complete(controller, tune_trial, result)
            return epoch
    scheduler.on_trial_complete(
        controller, tune_trial, {EPOCH: EPOCHS, SCORE: measured(settings, EPOCHS, seed, number)}
    )
    return EPOCHS
