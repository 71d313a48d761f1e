"""The hyperparameter search: Optuna proposes, Ray Tune runs, each trial is a Ray Train run and a child run in MLflow.

A trial is judged by the probe's balanced accuracy on inner validation patients, never by its loss: losses at two
temperatures do not compare. The patients of `search.held_out` are seen by no trial.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from ray import tune
from ray.tune import Tuner
from ray.tune.search.optuna import OptunaSearch

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, patients, scorable_patients
from stray.config import ChoiceConfig, IntUniformConfig, LogUniformConfig, Recipe, UniformConfig
from stray.config.search import DistributionConfig
from stray.errors import InputError, Problem
from stray.experiment.cells import Group
from stray.noise import key as noise_key
from stray.on_ray.data import place_counts, place_patches
from stray.on_ray.events import listen
from stray.on_ray.experiment import results_folder, results_held, say_damage, train_on_workers
from stray.on_ray.failures import input_error
from stray.on_ray.fit import Assignment
from stray.on_ray.interruptible import interruptible
from stray.on_ray.panels import fit_panels
from stray.on_ray.progress import NullProgress, Progress
from stray.on_ray.resources import WorkerPlan, plan_workers, resources
from stray.on_ray.tracking import Tracking, log_text
from stray.on_ray.trial import METRIC, Shared, deliver_trial, run_trial, trial_cell
from stray.on_ray.waiting import patience
from stray.recipe import apply, dump_yaml
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
    method, fold, root = _method(recipe), _inner_fold(recipe, dataset), results_folder(recipe)
    base = trial_cell(recipe, method, {}, dataset, fold, root)
    say_damage(Group((base,)).damage(), progress)
    key = "search-" + digest(recipe.name, method, base.key, recipe.search)
    tracking = Tracking(recipe, kind=records.SEARCH, key=key, dataset=dataset.manifest.digest, progress=progress)
    with tracking, dataset.unchanged():
        fit_panels(dataset, [base], progress.say)
        panel = base.scored.gene.panel()
        placed = place_patches(dataset, recipe.run)
        placed = placed.with_counts(panel.key, place_counts(dataset, panel, fold.train))
        if pending := base.pending_genes(anyway=True):
            # Train it once before the trials, which would otherwise all wait for the first of them.
            title = "search: gene stage that the trials share"
            todo = [Assignment(stage=stage, targets=(), title=title, epochs=stage.epochs) for stage in pending]
            train_on_workers(todo, placed, recipe, root, tracking)
        with listen(tracking.deliver) as events:
            layout = plan_workers(recipe.run)
            shared = Shared(recipe, method, dataset, fold, root, placed, layout, events, key)
            results = _tune(recipe, shared, storage.join(root, "search"), key)
        trials = _ranked(results)
        for trial in trials:
            if math.isfinite(trial.score):
                deliver_trial(trial.name, trial.settings, trial.score, shared, tracking)
        found = _with_best(recipe, method, trials[0], fold.held_out)
        path = storage.join(root, "best.yaml")
        storage.write_bytes(path, dump_yaml(found).encode())
        log_text(tracking.parent, "best.yaml", dump_yaml(found))
        tracking.parent.metrics({METRIC: trials[0].score})
    return Found(trials, found, path, tracking.uri)


def _method(recipe: Recipe) -> str:
    method = recipe.tuned
    if recipe.methods[method].train != "contrastive":
        what, remedy = f"{method!r} trains no image encoder to tune", "name a method that trains both stages"
        raise InputError(Problem("search.method", what, remedy))
    return method


def _inner_fold(recipe: Recipe, dataset: PairedDataset) -> Fold:
    """Return the fold of the search: validation patients, and the training patients that are neither these nor held
    out.
    """
    config, spots = recipe.search, dataset.spots()
    everyone, scorable = patients(spots), scorable_patients(spots, recipe.eval)
    problems = [
        Problem(f"search.{name}", f"no patient {patient!r} in the dataset", f"one of {', '.join(everyone)}")
        for name in ("held_out", "validation")
        for patient in getattr(config, name)
        if patient not in everyone
    ]
    left = [p for p in scorable if p not in config.held_out]
    validation = config.validation or tuple(left[-1:])
    train = tuple(p for p in everyone if p not in config.held_out and p not in validation)
    if not problems and (not validation or not train):
        what = f"none of {', '.join(everyone)} is left to {'train on' if validation else 'validate on'}"
        problems.append(Problem("search", what, "hold out fewer patients"))
    if problems:
        raise InputError(problems)
    return Fold("search", validation, train)


def _tune(recipe: Recipe, shared: Shared, folder: str, name: str) -> tune.ResultGrid:
    # Silence the tables that Tune and its callbacks print.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Silence Optuna's line per study and trial; its warnings stay.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = storage.join(folder, name)
    # A trial's driver must hold no CPU that its workers wait for, and a request may not be empty: a sliver of the
    # head node, which is also the node that is not taken away.
    trainable = tune.with_resources(tune.with_parameters(run_trial, shared=shared), {"node:__internal_head__": 0.001})
    if Tuner.can_restore(place):
        return interruptible(Tuner.restore(place, trainable=trainable, resume_errored=True).fit)
    config = recipe.search
    tuner = Tuner(
        trainable,
        param_space={path: _domain(d) for path, d in config.space.items()},
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=OptunaSearch(seed=noise_key(config.seed, "search") % 2**32),
            num_samples=config.trials,
            max_concurrent_trials=_concurrent(recipe, shared.layout),
        ),
        run_config=tune.RunConfig(name=name, storage_path=folder, verbose=0),
    )
    return interruptible(tuner.fit)


def _concurrent(recipe: Recipe, layout: WorkerPlan) -> int:
    """Return the number of concurrent trials: more than fit would wait for each other's workers."""
    have = resources()
    fits = have.gpus // layout.workers if layout.use_gpu else have.cpus // (layout.workers * layout.cpus_per_worker)
    wanted = recipe.search.max_concurrent
    return max(1, int(fits) if wanted == "auto" else min(int(fits), wanted))


def _domain(distribution: DistributionConfig) -> Any:
    match distribution:
        case LogUniformConfig(low=low, high=high):
            return tune.loguniform(low, high)
        case UniformConfig(low=low, high=high):
            return tune.uniform(low, high)
        case IntUniformConfig(low=low, high=high):
            return tune.randint(low, high + 1)
        case ChoiceConfig(values=values):
            return tune.choice(list(values))


def _ranked(results: tune.ResultGrid) -> tuple[Trial, ...]:
    trials, errors = [], []
    for result in results:
        score = (result.metrics or {}).get(METRIC, math.nan)
        if result.error is not None:
            errors.append(result.error)
        trials.append(Trial((result.metrics or {}).get("trial_id", ""), dict(result.config or {}), score))
    if all(math.isnan(t.score) for t in trials):
        if errors:
            raise input_error(errors[0]) or errors[0]
        raise RuntimeError("no trial was scored: the validation patients have no usable label")
    return tuple(sorted(trials, key=lambda t: -np.nan_to_num(t.score, nan=-1.0)))


def _with_best(recipe: Recipe, method: str, best: Trial, judges: tuple[str, ...]) -> Recipe:
    """Return the recipe whose method carries the best settings, scored on the patients that the search did not see.

    The other methods stay as they are. Where the search held nobody out the folds stay, too, and the patients that
    judged the trials (`judges`) are marked in the recipe: scores on them are no estimate.
    """
    settings = {**recipe.methods[method].set, **best.settings}
    changes: dict[str, object] = {f"methods.{method}.set": settings, "search.chosen_on": list(judges)}
    if recipe.search.held_out:
        changes["folds.held_out"] = list(recipe.search.held_out)
    return apply(recipe, changes)
