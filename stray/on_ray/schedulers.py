"""Ray Tune's schedulers by their settings."""

from __future__ import annotations

import math
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
from stray.noise import numpy_generator
from stray.on_ray.searcher import EPOCH

JUDGED = "judged"
"""Key of a result under which a running trial reports its score."""


def scheduler_of(search: SearchConfig, most: int) -> TrialScheduler:
    """Return the scheduler of a search whose trials have `most` epochs at most. It compares trials at equal epochs."""
    first = first_rung(search, most)
    if len(search.objectives) > 1:
        return FIFOScheduler()
    match search.scheduler:
        case AshaSchedulerConfig(reduction_factor=factor):
            return _halving(search, first, factor, 1, most)
        case HyperbandSchedulerConfig(reduction_factor=factor, brackets=brackets):
            return _halving(search, first, factor, brackets, most)
        case MedianSchedulerConfig(min_trials=others):
            return MedianStoppingRule(
                time_attr=EPOCH,
                metric=JUDGED,
                mode="max",
                grace_period=first,
                min_samples_required=others,
                # It would pause trials until others have come as far.
                min_time_slice=math.inf,  # pyright: ignore[reportArgumentType]
            )
        case NoSchedulerConfig():
            return FIFOScheduler()


class _Halving(AsyncHyperBandScheduler):
    """Tune's scheduler, but for the bracket of a trial: it is drawn from the seed, not from numpy's global state."""

    def __init__(self, seed: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._generator = numpy_generator(seed, "search", "brackets")

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        sizes = np.array([len(bracket._rungs) for bracket in self._brackets])
        shares = np.exp(sizes - sizes.max())
        drawn = self._generator.choice(len(self._brackets), p=shares / shares.sum())
        self._trial_info[trial.trial_id] = self._brackets[drawn]


def _halving(search: SearchConfig, first: int, factor: float, brackets: int, most: int) -> TrialScheduler:
    return _Halving(
        search.seed,
        time_attr=EPOCH,
        metric=JUDGED,
        mode="max",
        max_t=max(most, first),
        grace_period=first,
        reduction_factor=factor,
        brackets=brackets,
    )
