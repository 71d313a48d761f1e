"""The hyperparameter search: Optuna proposes, Ray Tune runs the trials, slots of the pool train their stages.

A trial is judged by the probe's balanced accuracy on inner validation patients, never by its loss: losses at two
temperatures do not compare. The patients of `search.held_out` are seen by no trial.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from ray import tune
from ray.tune import Tuner

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.experiment.cells import Group
from stray.experiment.study import SearchStudy, study_name
from stray.experiment.trials import best_recipe, search_fold, tuned_method
from stray.on_ray.data import place_counts, place_patches
from stray.on_ray.events import listen
from stray.on_ray.existing import say_damage
from stray.on_ray.experiment import results_folder, results_held
from stray.on_ray.failures import input_error
from stray.on_ray.interruptible import interruptible
from stray.on_ray.panels import fit_panels
from stray.on_ray.pool import Pool
from stray.on_ray.progress import NullProgress, Progress
from stray.on_ray.queue import Assignment, Ended
from stray.on_ray.resources import plan_slots
from stray.on_ray.searcher import StudySearcher
from stray.on_ray.tracking import Tracking, log_text
from stray.on_ray.trial import METRIC, Shared, deliver_trial, run_trial, trial_cell, trial_key
from stray.on_ray.waiting import patience
from stray.recipe import dump_yaml
from stray.stages.results import digest
from stray.track import records


@dataclass(frozen=True)
class Trial:
    """One point of the search."""

    name: str
    settings: dict[str, Any]
    """Dotted path to value."""
    score: float
    """Balanced accuracy on the inner validation patients; nan where the trial failed."""


@dataclass(frozen=True)
class Found:
    """Results of a search."""

    trials: tuple[Trial, ...]
    """Best first."""
    recipe: Recipe
    """The recipe with the best settings under the tuned method."""
    path: str
    """File of that recipe."""
    uri: str
    """The tracking store."""


def search(recipe: Recipe, *, progress: Progress | None = None) -> Found:
    """Run the search of `recipe` on the cluster that this process is connected to.

    Raises InputError for everything that is at fault in the input, and RuntimeError when no trial ended well.
    """
    progress = progress or NullProgress()
    with patience(recipe.run.wait_minutes, progress.say), results_held(recipe, "search"):
        return _search(recipe, progress)


def _search(recipe: Recipe, progress: Progress) -> Found:
    dataset = PairedDataset.open(recipe.dataset)
    method, fold, root = tuned_method(recipe), search_fold(recipe, dataset), results_folder(recipe)
    base = trial_cell(recipe, method, {}, dataset, fold, root)
    say_damage(Group((base,)).damage(), progress)
    key = "search-" + digest(recipe.name, method, base.key, recipe.search)
    study = partial(SearchStudy.open, recipe, study_name(recipe, base.key))
    study()  # say what is wrong with its store before anything starts
    tracking = Tracking(recipe, kind=records.SEARCH, key=key, dataset=dataset.manifest.digest, progress=progress)
    width = recipe.search.trials
    most = width if recipe.search.max_concurrent == "auto" else min(width, recipe.search.max_concurrent)
    plan = plan_slots(recipe.run, most)
    progress.say(f"{plan}: starting workers")
    with tracking, dataset.unchanged():
        fit_panels(dataset, [base], progress.say)
        panel = base.scored.gene.panel()
        with listen(tracking.deliver) as events, Pool(recipe.run, plan, root, events) as pool:
            placed = place_patches(dataset, recipe.run)
            placed = placed.with_counts(panel.key, place_counts(dataset, panel, fold.train))
            if pending := base.pending_genes(anyway=True):
                # Train it once before the trials, which would otherwise all wait for the first of them.
                title = "search: gene stage that the trials share"
                pool.submit([Assignment(stage=stage, placed=placed, title=title) for stage in pending])
                pool.finish(_raise, more=True)
            shared = Shared(recipe, method, dataset, fold, root, placed, pool.queue, events, key)
            results = _tune(recipe, shared, storage.join(root, "search"), key, study, pool)
        trials = _ranked(study(), results)
        for trial in trials:
            if math.isfinite(trial.score):
                deliver_trial(trial.name, trial.settings, trial.score, shared, tracking)
        found = best_recipe(recipe, method, trials[0].settings, fold.held_out)
        path = storage.join(root, "best.yaml")
        storage.write_bytes(path, dump_yaml(found).encode())
        log_text(tracking.parent, "best.yaml", dump_yaml(found))
        tracking.parent.metrics({METRIC: trials[0].score})
    return Found(trials, found, path, tracking.uri)


def _raise(ended: Ended) -> None:
    if ended.error is not None:
        raise ended.error


_QUEUES: dict[str, Any] = {}
"""Queue of the stages of each search that this process runs."""


class _Withdraw(tune.Callback):
    """Withdraws what a trial still has in the queue when it ends, by itself or stopped."""

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune keeps callbacks for the command that goes on, whose queue is another one.
        if (queue := _QUEUES.get(self._experiment)) is not None:
            queue.withdraw.remote(trial_key(self._experiment, trial.trial_id))

    on_trial_error = on_trial_complete


def _tune(
    recipe: Recipe, shared: Shared, folder: str, name: str, study: Callable[[], SearchStudy], pool: Pool
) -> tune.ResultGrid:
    _QUEUES[shared.experiment] = shared.queue
    # Silence the tables that Tune and its callbacks print.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    place = storage.join(folder, name)
    # A trial's driver must hold no CPU that its workers wait for, and a request may not be empty: a sliver of the
    # head node, which is also the node that is not taken away.
    trainable = tune.with_resources(tune.with_parameters(run_trial, shared=shared), {"node:__internal_head__": 0.001})
    if study().trials() and Tuner.can_restore(place):
        return _fit(Tuner.restore(place, trainable=trainable, resume_errored=True), pool)
    config = recipe.search
    tuner = Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=StudySearcher(study, config.trials, [METRIC]),
            num_samples=config.trials,
            max_concurrent_trials=pool.plan.slots,
            # The next trial finds everything imported.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=name, storage_path=folder, verbose=0, callbacks=[_Withdraw(shared.experiment)]),
    )
    return _fit(tuner, pool)


def _fit(tuner: Tuner, pool: Pool) -> tune.ResultGrid:
    """Run the trials while this thread keeps the pool, whose slots run their stages."""
    return interruptible(tuner.fit, lambda: pool.keep(more=True))


def _ranked(study: SearchStudy, results: tune.ResultGrid) -> tuple[Trial, ...]:
    """Return the trials of the study. Ends of trials that Tune ran again reach no searcher, and are told here."""
    found = {str(result.metrics.get("trial_id")): result for result in results if result.metrics}
    for trial in study.trials():
        result = found.get(trial.runner)
        if result is not None and result.error is None and METRIC in (result.metrics or {}):
            study.tell(trial.number, [float((result.metrics or {})[METRIC])])
    trials = [Trial(t.runner, t.settings, *(t.values or (math.nan,))) for t in study.trials()]
    if all(math.isnan(t.score) for t in trials):
        for error in (result.error for result in results if result.error is not None):
            raise input_error(error) or error
        raise RuntimeError("no trial was scored: the validation patients have no usable label")
    return tuple(sorted(trials, key=lambda t: -np.nan_to_num(t.score, nan=-1.0)))
