"""One trial of a search: the chosen settings trained on workers of its own, and judged on inner validation patients."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.evaluate import probe_balanced_accuracy
from stray.experiment.cells import Cell, Group, cell
from stray.metrics.naming import INNER
from stray.on_ray.data import Placed, place_counts
from stray.on_ray.events import EventTracker, Source
from stray.on_ray.fit import Assignment, fit
from stray.on_ray.panels import fit_panels, panel_notes
from stray.on_ray.resources import WorkerPlan
from stray.on_ray.score import log_codes, log_curves
from stray.on_ray.tracking import Tracking
from stray.on_ray.waiting import patience
from stray.recipe import for_method
from stray.stages.results import digest
from stray.stages.spec import Stage
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
    layout: WorkerPlan
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
    """Run one trial, in a process of its own that holds no CPU: its workers do the work."""
    recipe = shared.recipe
    trial = trial_cell(recipe, shared.method, settings, shared.dataset, shared.fold, shared.root)
    name = tune.get_context().get_trial_id()
    key, title, tags = _key(shared, name), _title(name, settings), _tags(shared, trial)
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
    key = _key(shared, name)
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


def _key(shared: Shared, name: str) -> str:
    return "trial-" + digest(shared.experiment, name)


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
    """Train the trial's pending stages; wait for those that another trial is training."""
    group = Group((trial,))
    with _alone([stage.key for stage in group.stages()], tracker):
        if stages := group.stages():
            _fit(trial, stages, shared, tracker, title, key)


@contextmanager
def _alone(keys: Sequence[str], tracker: EventTracker) -> Iterator[None]:
    """Hold the stages `keys` among all trials: they have one process each, all on one machine.

    A lock ends with its process. All take them in one order, so that no two wait for each other.
    """
    folder = Path(tempfile.gettempdir()) / f"stray-trials-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as held:
        for key in sorted(keys):
            stream = held.enter_context((folder / f"{key}.lock").open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tracker.note("waiting for another trial to train a stage that both need")
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fit(trial: Cell, stages: Sequence[Stage], shared: Shared, tracker: EventTracker, title: str, key: str) -> None:
    fit_panels(shared.dataset, [trial])
    panel, placed = trial.scored.gene.panel(), shared.placed
    if panel.key not in placed.counts:  # the search has already printed the notes of the panel that exists
        for note in panel_notes(shared.dataset, [trial]):
            tracker.note(note)
        placed = placed.with_counts(panel.key, place_counts(shared.dataset, panel, shared.fold.train))
    assignments = [
        Assignment(
            stage=stage,
            targets=(key,),
            title=f"{title}, {stage.title}" if stage.title else title,
            epochs=stage.epochs,
        )
        for stage in stages
    ]
    fit(
        assignments,
        placed,
        run=shared.recipe.run,
        layout=shared.layout,
        root=shared.root,
        events=shared.events,
    )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
