"""Ray Tune's schedulers by their settings.

Tune does not restore a scheduler's state with a search. The scores of the trials that have ended are read again from
the study, so that a search which is continued stops the trials that it would have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from stray.config import (
    AshaSchedulerConfig,
    HyperbandSchedulerConfig,
    MedianSchedulerConfig,
    NoSchedulerConfig,
    SearchConfig,
)
from stray.experiment.rungs import first_rung
from stray.experiment.study import SearchStudy, StudyTrial
from stray.noise import numpy_generator
from stray.on_ray.searcher import EPOCH

JUDGED = "judged"
"""Key of a result under which a running trial reports its score."""

Study = Callable[[], SearchStudy]


def scheduler_of(search: SearchConfig, most: int, study: Study) -> TrialScheduler:
    """Return the scheduler of a search whose trials have `most` epochs at most. It compares trials at equal epochs.

    `study` opens the study: Tune keeps copies of a scheduler in files.
    """
    if len(search.objectives) > 1:
        return FIFOScheduler()
    first = first_rung(search, most)
    common = {"time_attr": EPOCH, "metric": JUDGED, "mode": "max", "grace_period": first}
    match search.scheduler:
        case AshaSchedulerConfig(reduction_factor=factor):
            return _Halving(search.seed, study, reduction_factor=factor, max_t=max(most, first), **common)
        case HyperbandSchedulerConfig(reduction_factor=factor, brackets=brackets):
            settings = {"reduction_factor": factor, "brackets": brackets, "max_t": max(most, first)}
            return _Halving(search.seed, study, **settings, **common)
        case MedianSchedulerConfig(min_trials=others):
            # Without the slice it would pause trials until others have come as far.
            return _Median(study, min_samples_required=others, min_time_slice=math.inf, **common)
        case NoSchedulerConfig():
            return FIFOScheduler()


class _Halving(AsyncHyperBandScheduler):
    """Tune's asynchronous halving, but for the bracket of a trial: a function of the seed and the trial's number."""

    def __init__(self, seed: int, study: Study, **settings: Any) -> None:
        super().__init__(**settings)
        self._seed, self._open, self._recalled = seed, study, False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        number = next((one.number for one in self._open().trials() if one.runner == trial.trial_id), 0)
        self._trial_info[trial.trial_id] = self._bracket(number)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._recalled:
            self._recalled = True
            for ended in _ended(self._open()):
                for rung, recorded in self._bracket(ended.number)._rungs:
                    if at := [epoch for epoch in ended.curve if epoch >= rung]:
                        recorded.setdefault(ended.runner, ended.curve[min(at)])
        return super().on_trial_result(tune_controller, trial, result)

    def _bracket(self, number: int) -> Any:
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        shares = np.exp(sizes - sizes.max())
        drawn = numpy_generator(self._seed, "search", "bracket", number).choice(len(sizes), p=shares / shares.sum())
        return self._brackets[drawn]


class _Median(MedianStoppingRule):
    """Tune's median stopping rule."""

    def __init__(self, study: Study, **settings: Any) -> None:
        super().__init__(**settings)
        self._open, self._recalled = study, False

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not self._recalled:
            self._recalled = True
            known = {getattr(one, "trial_id", one) for one in self._results}
            for ended in _ended(self._open()):
                if ended.runner not in known:
                    curve = sorted(ended.curve.items())
                    self._results[ended.runner] = [{EPOCH: epoch, JUDGED: score} for epoch, score in curve]
        return super().on_trial_result(tune_controller, trial, result)


def _ended(study: SearchStudy) -> Iterable[StudyTrial]:
    """Return the trials that have ended and were judged. Those that run report their scores again."""
    return [trial for trial in study.trials() if trial.state in ("complete", "pruned") and trial.curve]
