"""The hyperparameter search: Optuna proposes, Ray Tune runs the trials, slots of the pool train their stages.

A trial is judged by the probe's balanced accuracy on inner validation patients, each by a training without that
patient, never by its loss: losses at two temperatures do not compare. The patients of `search.held_out` are seen by no
trial.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from ray import tune
from ray.tune import Tuner

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.experiment.cells import Cell, Group, fold_title
from stray.experiment.study import SearchStudy, State, study_name
from stray.experiment.trials import TrialPlan, best_recipe
from stray.metrics.naming import HOURS, INNER_SD
from stray.on_ray.assignment import Assignment, Ended
from stray.on_ray.data import Placed, place_counts, place_patches
from stray.on_ray.events import listen
from stray.on_ray.existing import say_damage
from stray.on_ray.experiment import results_folder, results_held
from stray.on_ray.failures import input_error
from stray.on_ray.interruptible import interruptible
from stray.on_ray.panels import fit_panels
from stray.on_ray.pool import Pool
from stray.on_ray.progress import NullProgress, Progress
from stray.on_ray.resources import plan_slots
from stray.on_ray.schedulers import JUDGED, scheduler_of
from stray.on_ray.search_report import log_search
from stray.on_ray.searcher import ERROR, SCORES, StudySearcher
from stray.on_ray.tracking import Tracking, log_text
from stray.on_ray.trial import (
    METRIC,
    Shared,
    deliver_trial,
    forget_trial,
    run_trial,
    summary,
    trial_key,
    trial_title,
)
from stray.on_ray.waiting import patience
from stray.recipe import dump_yaml
from stray.stages.results import digest
from stray.stages.spec import GeneStage, upstream
from stray.track import records


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the search."""

    number: int
    """Number in the study, from 0."""
    name: str
    """Name in MLflow and in the progress display."""
    settings: dict[str, Any]
    """Dotted path to value."""
    score: float
    """Mean balanced accuracy on the inner validation patients; nan unless the trial is complete."""
    scores: Mapping[str, float]
    """Score of each training by the name of its metric."""
    state: State
    judged: int
    """Last epoch at which it was judged while it ran; 0: it was not."""
    error: str
    """Why it failed."""
    hours: float
    """Device hours of its trainings, where they are an objective; else nan."""
    front: bool
    """Whether no other trial is better in one objective and as good in the others; false with one objective."""

    @property
    def sd(self) -> float:
        """Standard deviation of the score over its trainings; nan for one training."""
        return summary(self.scores).get(INNER_SD, math.nan)


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
    key: str
    """Key of the search's run there."""


def search(recipe: Recipe, *, progress: Progress | None = None) -> Found:
    """Run the search of `recipe` on the cluster that this process is connected to.

    Raises InputError for everything that is at fault in the input, and RuntimeError when no trial ended well.
    """
    progress = progress or NullProgress()
    with patience(recipe.run.wait_minutes, progress.say), results_held(recipe, "search"):
        return _search(recipe, progress)


def _search(recipe: Recipe, progress: Progress) -> Found:
    dataset, root = PairedDataset.open(recipe.dataset), results_folder(recipe)
    plan = TrialPlan.of(recipe, dataset, root)
    base = plan.cells({})
    say_damage(Group(base).damage(), progress)
    keys = [cell.key for cell in base]
    key = "search-" + digest(recipe.name, plan.method, keys, recipe.search)
    study = partial(SearchStudy.open, recipe, study_name(recipe, *keys))
    study()  # say what is wrong with its store before anything starts
    tracking = Tracking(recipe, kind=records.SEARCH, key=key, dataset=dataset.manifest.digest, progress=progress)
    slots = plan_slots(recipe.run, plan.size * min(recipe.search.trials, _concurrent(recipe, recipe.search.trials)))
    progress.say(plan.how_judged)
    progress.say(f"{slots}: starting workers")
    with tracking, dataset.unchanged():
        fit_panels(dataset, base, progress.say)
        with listen(tracking.deliver) as events, Pool(recipe.run, slots, root, events) as pool:
            placed = place_patches(dataset, recipe.run)
            for cell in base:
                panel = cell.scored.gene.panel()
                placed = placed.with_counts(panel.key, place_counts(dataset, panel, cell.fold.train))
            if pending := {stage.key: stage for cell in base for stage in cell.pending_genes(anyway=True)}:
                # Train them once before the trials, which would otherwise all wait for the first of them.
                pool.submit([_shared_stage(stage, base, placed) for stage in pending.values()])
                pool.finish(_raise, more=True)
            shared = Shared(plan, placed, pool.queue, events, key)
            results = _tune(shared, storage.join(root, "search"), study, pool, tracking)
        trials = _ranked(recipe, study(), results)
        for trial in trials:
            if trial.state == "complete":
                deliver_trial(trial.name, trial.settings, trial.scores, shared, tracking)
            elif trial.state == "pruned":
                forget_trial(trial.settings, plan)
        found = best_recipe(recipe, plan.method, trials[0].settings, plan.judges)
        path = storage.join(root, "best.yaml")
        storage.write_bytes(path, dump_yaml(found).encode())
        log_text(tracking.parent, "best.yaml", dump_yaml(found))
        ends = [trial.state for trial in trials]
        counts = {f"search/{state}": float(ends.count(state)) for state in ("complete", "pruned", "failed")}
        tracking.parent.metrics({METRIC: trials[0].score, **counts})
        try:
            log_search(tracking.parent, recipe, study())
        except Exception as error:  # the result does not depend on a figure
            progress.say(f"the figures of the search could not be drawn: {type(error).__name__}: {error}")
    return Found(trials, found, path, tracking.uri, key)


def objectives(recipe: Recipe) -> list[str]:
    """Return the names of the metrics that a search optimises, the score first."""
    return [HOURS if objective == "hours" else METRIC for objective in recipe.search.objectives]


def _concurrent(recipe: Recipe, most: int) -> int:
    limit = recipe.search.max_concurrent
    return most if limit == "auto" else limit


def _shared_stage(stage: GeneStage, base: Sequence[Cell], placed: Placed) -> Assignment:
    """Return the assignment of a gene stage that trials share."""
    user = next(cell for cell in base if stage.key in [one.key for one in upstream(cell.scored)])
    part = "" if len(base) == 1 else f", {fold_title(user.fold)}, seed {user.seed}"
    return Assignment(stage=stage, placed=placed, title=f"search: {stage.title} that the trials share{part}")


def _raise(ended: Ended) -> None:
    if ended.error is not None:
        raise ended.error


_LIVE: dict[str, tuple[Any, Tracking]] = {}
"""Queue and tracking of each search that this process runs. Tune keeps callbacks in files for the command that goes on,
which has others.
"""


class _Ends(tune.Callback):
    """Withdraws the stages that a trial still has in the queue when it ends, closes the run of a stopped trial, and
    keeps the best score so far on the parent run.
    """

    def __init__(self, experiment: str) -> None:
        self._experiment = experiment
        self._ended, self._best = 0, -math.inf

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial_error(iteration, trials, trial)
        if self._experiment not in _LIVE:
            return
        tracking, key = _LIVE[self._experiment][1], trial_key(self._experiment, trial.trial_id)
        score = trial.last_result.get(METRIC)
        if score is None:
            tracking.tag(key, {records.STATE: "pruned"})
            tracking.close(key)
        elif score > self._best:
            self._best = score
            tracking.parent.tags({records.BEST: f"{score:.3f}, {trial_title(trial.trial_id, trial.config)}"})
            tracking.parent.metrics({METRIC: score}, step=self._ended)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended += 1
        if self._experiment in _LIVE:
            _LIVE[self._experiment][0].withdraw.remote(trial_key(self._experiment, trial.trial_id))


def _tune(
    shared: Shared, folder: str, study: Callable[[], SearchStudy], pool: Pool, tracking: Tracking
) -> tune.ResultGrid:
    plan, name = shared.plan, shared.experiment
    _LIVE[name] = shared.queue, tracking
    # Silence the tables that Tune and its callbacks print.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A trial reports scores at rungs and at its end, not both at once as Tune demands.
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    place = storage.join(folder, name)
    # A trial's driver must hold no CPU that its workers wait for, and a request may not be empty: a sliver of the
    # head node, which is also the node that is not taken away.
    trainable = tune.with_resources(tune.with_parameters(run_trial, shared=shared), {"node:__internal_head__": 0.001})
    if study().trials() and Tuner.can_restore(place):
        return _fit(Tuner.restore(place, trainable=trainable, resume_errored=True), pool)
    config = plan.recipe.search
    tuner = Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(study, config.trials, objectives(plan.recipe), JUDGED),
            scheduler=scheduler_of(config, plan.most_epochs, study),
            num_samples=config.trials,
            # As many as fill the slots.
            max_concurrent_trials=_concurrent(plan.recipe, max(1, -(-pool.plan.slots // plan.size))),
            # The next trial finds everything imported.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=folder,
            verbose=0,
            callbacks=[_Ends(name)],
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    return _fit(tuner, pool)


def _fit(tuner: Tuner, pool: Pool) -> tune.ResultGrid:
    """Run the trials while this thread keeps the pool, whose slots run their stages."""
    return interruptible(tuner.fit, lambda: pool.keep(more=True))


def _ranked(recipe: Recipe, study: SearchStudy, results: tune.ResultGrid) -> tuple[Trial, ...]:
    """Return the trials of the study. Ends of trials that Tune ran again reach no searcher, and are told here."""
    names = objectives(recipe)
    found = {str(result.metrics.get("trial_id")): result for result in results if result.metrics}
    for trial in study.trials():
        result = found.get(trial.runner)
        if result is not None and result.error is None and METRIC in (result.metrics or {}):
            told = result.metrics or {}
            study.tell(
                trial.number, [float(told[name]) for name in names], error=told.get(ERROR, ""), scores=told.get(SCORES)
            )
    front = study.front() if len(names) > 1 else ()
    trials = [
        Trial(
            number=t.number,
            name=t.runner,
            settings=t.settings,
            score=t.values[0] if t.values else math.nan,
            scores=t.scores,
            state=t.state,
            judged=max(t.curve, default=0),
            error=t.error,
            hours=t.values[1] if len(t.values) > 1 else math.nan,
            front=t.number in front,
        )
        for t in study.trials()
    ]
    if all(math.isnan(t.score) for t in trials):
        for error in (result.error for result in results if result.error is not None):
            raise input_error(error) or error
        raise RuntimeError("no trial was scored: the validation patients have no usable label")
    return tuple(sorted(trials, key=lambda t: (-np.nan_to_num(t.score, nan=-1.0), -t.judged)))
