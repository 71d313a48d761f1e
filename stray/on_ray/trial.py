"""One trial of a search: its stages go through the queue that all trials share, and it is judged on inner validation
patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.evaluate import probe_balanced_accuracy
from stray.experiment.cells import Cell, Group, cell
from stray.experiment.estimate import expected_seconds
from stray.metrics.naming import INNER
from stray.on_ray.data import Placed, place_counts
from stray.on_ray.events import EventTracker, Source
from stray.on_ray.panels import fit_panels, panel_notes
from stray.on_ray.queue import Assignment
from stray.on_ray.score import log_codes, log_curves
from stray.on_ray.tracking import Tracking
from stray.on_ray.waiting import patience
from stray.recipe import for_method
from stray.stages.results import digest
from stray.track import records

METRIC = INNER
"""Metric that a search maximises."""


@dataclass(frozen=True)
class Shared:
    """Inputs that all trials share."""

    recipe: Recipe
    method: str
    dataset: PairedDataset
    fold: Fold
    root: str
    placed: Placed
    queue: Any
    """Queue of the stages."""
    events: Any
    experiment: str


def trial_cell(
    recipe: Recipe, method: str, settings: dict[str, Any], dataset: PairedDataset, fold: Fold, root: str
) -> Cell:
    """Return the cell of a trial; the pictures of patients whom the search must not see are not even embedded."""
    tuned = for_method(recipe, method, {**recipe.search.set, **settings})
    seen = (*fold.train, *fold.held_out)
    return cell(tuned, dataset, fold, recipe.seeds[0], root, method=method, embed_patients=seen)


def run_trial(settings: dict[str, Any], *, shared: Shared) -> None:
    """Run one trial, in a process of its own that holds no CPU: slots of the pool do the work."""
    recipe = shared.recipe
    trial = trial_cell(recipe, shared.method, settings, shared.dataset, shared.fold, shared.root)
    name = tune.get_context().get_trial_id()
    key, title, tags = trial_key(shared.experiment, name), _title(name, settings), _tags(shared, trial)
    tracker = EventTracker(shared.events, Source((key,), title, trial.recipe.contrastive.epochs))
    tracker.open(title, trial.recipe, tags)
    tracker.params({f"search.{path}": value for path, value in settings.items()})
    tracker.flush()
    try:
        with patience(recipe.run.wait_minutes, tracker.note):
            _train(trial, shared, tracker, title, key)
        score = _score(trial, shared)
        _log(tracker, trial, score)
        tracker.note(f"balanced accuracy on {', '.join(shared.fold.held_out)}: {score:.3f}")
    except Exception:
        tracker.end("FAILED")
        raise
    tracker.end()
    tune.report({METRIC: score})


def deliver_trial(name: str, settings: dict[str, Any], score: float, shared: Shared, tracking: Tracking) -> None:
    """Log a trial that an earlier command finished, if the store of this command lacks it."""
    key = trial_key(shared.experiment, name)
    if key in tracking.opened or tracking.has(key, [METRIC]):
        return
    trial = trial_cell(shared.recipe, shared.method, settings, shared.dataset, shared.fold, shared.root)
    if trial.scored.folder.is_done():
        run = tracking.open(key, _title(name, settings), trial.recipe, _tags(shared, trial))
        run.params({f"search.{path}": value for path, value in settings.items()})
        _log(run, trial, score)
        tracking.close(key)


def _log(run: Any, trial: Cell, score: float) -> None:
    # Read curves from the folders, so that every trial that shares a gene stage shows them.
    log_curves(run, trial)
    log_codes(run, trial)
    run.metrics({METRIC: score})


def trial_key(experiment: str, name: str) -> str:
    """Return the key of a trial's run, under which its stages are in the queue."""
    return "trial-" + digest(experiment, name)


def _title(name: str, settings: dict[str, Any]) -> str:
    return f"trial {name}: " + "  ".join(f"{path.split('.')[-1]} {_short(value)}" for path, value in settings.items())


def _tags(shared: Shared, trial: Cell) -> dict[str, str]:
    return {
        records.KIND: records.TRIAL,
        records.METHOD: shared.method,
        records.FOLD: shared.fold.name,
        records.SEED: str(trial.seed),
    }


def _score(trial: Cell, shared: Shared) -> float:
    image = trial.scored.folder
    return probe_balanced_accuracy(
        image.read_array("features.npy"),
        image.read_array("rows.npy"),
        shared.dataset.spots(),
        shared.fold.train,
        shared.fold.held_out,
        shared.recipe.eval,
        trial.seed,
    )


def _train(trial: Cell, shared: Shared, tracker: EventTracker, title: str, key: str) -> None:
    """Put the trial's pending stages into the queue and wait for their end; another trial may have put them there."""
    stages = Group((trial,)).stages()
    if not stages:
        return
    fit_panels(shared.dataset, [trial])
    panel, placed = trial.scored.gene.panel(), shared.placed
    if panel.key not in placed.counts:  # the search has already printed the notes of the panel that exists
        for note in panel_notes(shared.dataset, [trial]):
            tracker.note(note)
        placed = placed.with_counts(panel.key, place_counts(shared.dataset, panel, shared.fold.train))
    assignments = [
        Assignment(
            stage=stage,
            placed=placed,
            targets=(key,),
            title=f"{title}, {stage.title}" if stage.title else title,
            seconds=expected_seconds(stage),
        )
        for stage in stages
    ]
    ray.get(shared.queue.add.remote(assignments, key))
    for stage in stages:
        epochs, ended = 0, None
        while ended is None:
            metrics, ended = ray.get(shared.queue.result.remote(stage.key, epochs))
            epochs += len(metrics)
        if ended.error is not None:
            raise ended.error


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
