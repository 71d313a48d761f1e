"""One trial of a search: its stages go through the queue that all trials share, and it is judged on inner validation
patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray import tune

from stray import storage
from stray.errors import NotFiniteError
from stray.evaluate import probe_balanced_accuracy
from stray.experiment.cells import Cell, Group, fold_title
from stray.experiment.estimate import expected_seconds
from stray.experiment.trials import TrialPlan
from stray.metrics.naming import HOURS, INNER, INNER_SD, inner_of
from stray.on_ray.assignment import Assignment
from stray.on_ray.data import Placed, place_counts
from stray.on_ray.events import EventTracker, Source
from stray.on_ray.panels import fit_panels, panel_notes
from stray.on_ray.schedulers import JUDGED
from stray.on_ray.score import curve_points, log_codes
from stray.on_ray.searcher import EPOCH, ERROR, SCORES
from stray.on_ray.slot import CHECKPOINTS
from stray.on_ray.tracking import Tracking
from stray.on_ray.waiting import patience
from stray.recipe.space import short_names
from stray.stages.judge import JUDGED as PROBE
from stray.stages.results import digest
from stray.stages.spec import ImageStage
from stray.track import records

METRIC = INNER
"""Metric that a search maximises."""


@dataclass(frozen=True)
class Shared:
    """Inputs that all trials share."""

    plan: TrialPlan
    placed: Placed
    queue: Any
    """Queue of the stages."""
    events: Any
    experiment: str


def run_trial(settings: dict[str, Any], *, shared: Shared) -> None:
    """Run one trial, in a process of its own that holds no CPU: slots of the pool do the work.

    A training whose loss is not a number ends the trial with no score; other errors are raised, and Tune runs the trial
    once more.
    """
    plan, cells = shared.plan, shared.plan.cells(settings)
    name = tune.get_context().get_trial_id()
    key, title = trial_key(shared.experiment, name), trial_title(name, settings)
    tracker = EventTracker(shared.events, Source((key,), title, cells[0].recipe.contrastive.epochs))
    tracker.open(title, cells[0].recipe, trial_tags(shared, cells[0]))
    tracker.params({f"search.{path}": value for path, value in settings.items()})
    tracker.flush()
    try:
        with patience(plan.recipe.run.wait_minutes, tracker.note):
            _train(cells, shared, tracker, title, key)
    except NotFiniteError as error:
        tracker.note(str(error))
        tracker.end("FAILED", {records.STATE: "failed", records.ERROR: str(error)})
        tune.report({METRIC: math.nan, HOURS: math.nan, ERROR: str(error)})
        return
    except Exception as error:
        tracker.end("FAILED", {records.STATE: "failed", records.ERROR: str(error)})
        tune.report({ERROR: str(error)})
        raise
    scores = {inner_of(cell.fold.held_out, cell.seed): _score(cell, plan) for cell in cells}
    values = {**summary(scores), HOURS: device_hours(cells, plan.recipe.run.workers)}
    _log(tracker, cells, values)
    spread = f" (sd {values[INNER_SD]:.3f} over {len(scores)} trainings)" if INNER_SD in values else ""
    tracker.note(f"balanced accuracy on {', '.join(plan.judges)}: {values[METRIC]:.3f}{spread}")
    tracker.end("FINISHED", {records.STATE: "complete" if math.isfinite(values[METRIC]) else "failed"})
    tune.report({METRIC: values[METRIC], HOURS: values[HOURS], SCORES: scores})


def summary(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a trial: the score of each training, their mean, and their standard deviation where there
    are two or more. Scores that are not numbers are left out.
    """
    found = {name: score for name, score in scores.items() if math.isfinite(score)}
    values = list(found.values())
    spread = {INNER_SD: float(np.std(values, ddof=1))} if len(values) > 1 else {}
    parts = found if len(scores) > 1 else {}
    return {METRIC: float(np.mean(values)) if values else math.nan, **spread, **parts}


def device_hours(cells: Sequence[Cell], workers: int) -> float:
    """Return the device hours of the epochs of trainings, each on `workers` devices, by the speed that they had."""
    seconds = 0.0
    for one in cells:
        if isinstance(stage := one.scored, ImageStage):
            history = stage.folder.read_json("history.json")
            seconds += sum(len(stage.rows) / epoch["spots_per_second"] for epoch in history)
    return workers * seconds / 3600


def deliver_trial(
    name: str, settings: dict[str, Any], scores: Mapping[str, float], shared: Shared, tracking: Tracking
) -> None:
    """Log a trial that an earlier command finished, if the store of this command lacks it."""
    key = trial_key(shared.experiment, name)
    if key in tracking.opened or tracking.has(key, [METRIC]):
        return
    cells = shared.plan.cells(settings)
    if all(cell.scored.folder.is_done() for cell in cells):
        run = tracking.open(key, trial_title(name, settings), cells[0].recipe, trial_tags(shared, cells[0]))
        run.params({f"search.{path}": value for path, value in settings.items()})
        _log(run, cells, {**summary(scores), HOURS: device_hours(cells, shared.plan.recipe.run.workers)})
        run.tags({records.STATE: "complete"})
        tracking.close(key)


def forget_trial(settings: dict[str, Any], plan: TrialPlan) -> None:
    """Delete the checkpoints of a trial that was stopped: nothing goes on from them."""
    for cell in plan.cells(settings):
        storage.delete_folder(storage.join(plan.root, CHECKPOINTS, cell.scored.key))


def _log(run: Any, cells: Sequence[Cell], values: Mapping[str, float]) -> None:
    # Read curves from the folders, so that every trial that shares a gene stage shows them.
    run.curves(_mean_curves([curve_points(cell) for cell in cells]))
    log_codes(run, cells[0])
    run.metrics({name: value for name, value in values.items() if name == METRIC or math.isfinite(value)})


def _mean_curves(curves: Sequence[Sequence[tuple[str, int, float]]]) -> list[tuple[str, int, float]]:
    """Return the mean of each point over the trainings that have it."""
    found: dict[tuple[str, int], list[float]] = {}
    for points in curves:
        for name, step, value in points:
            found.setdefault((name, step), []).append(value)
    return [(name, step, float(np.mean(values))) for (name, step), values in found.items()]


def trial_key(experiment: str, name: str) -> str:
    """Return the key of a trial's run, under which its stages are in the queue."""
    return "trial-" + digest(experiment, name)


def trial_title(name: str, settings: dict[str, Any]) -> str:
    """Return the name of a trial's run and of its line in the progress display."""
    short = short_names(list(settings))
    return f"trial {name}: " + "  ".join(f"{short[path]} {_short(value)}" for path, value in settings.items())


def trial_tags(shared: Shared, trial: Cell) -> dict[str, str]:
    """Return the tags of a trial's run."""
    folds = "+".join(shared.plan.judges)
    return {
        records.KIND: records.TRIAL,
        records.METHOD: shared.plan.method,
        records.FOLD: f"search-{folds}",
        records.SEED: "+".join(map(str, shared.plan.seeds)),
    }


def _score(cell: Cell, plan: TrialPlan) -> float:
    image = cell.scored.folder
    return probe_balanced_accuracy(
        image.read_array("features.npy"),
        image.read_array("rows.npy"),
        plan.dataset.spots(),
        cell.fold.train,
        cell.fold.held_out,
        plan.recipe.eval,
        cell.seed,
    )


def _train(cells: Sequence[Cell], shared: Shared, tracker: EventTracker, title: str, key: str) -> None:
    """Put the pending stages of a trial into the queue and wait for their end; another trial may have put them there.

    Reports the mean score of its trainings at every epoch at which all of them were judged.
    """
    assignments = [one for cell in cells for one in _assignments(cell, shared, tracker, title, key)]
    waits = {one.key: cell for one in assignments for cell in cells if one.key == cell.scored.key}
    if not assignments:
        return
    ray.get(shared.queue.add.remote(assignments, key))
    rungs = Rungs(shared.plan.gates(cells[0]), [cell for cell in cells if cell not in waits.values()], waits)
    asked = {shared.queue.result.remote(one.key, 0): one.key for one in assignments}
    while asked:
        (ready,), _ = ray.wait(list(asked))
        stage = asked.pop(ready)
        metrics, ended = ray.get(ready)
        if ended is not None and ended.error is not None:
            raise ended.error
        if ended is None:
            asked[shared.queue.result.remote(stage, max(metrics))] = stage
        if stage not in waits:
            continue
        for epoch, score in rungs.take(stage, metrics, ended=ended is not None):
            if score is not None:
                if shared.plan.size > 1:
                    tracker.metrics({f"{ImageStage.prefix}/{PROBE}": score}, step=epoch)
                    tracker.flush()
                tune.report({JUDGED: score, EPOCH: epoch})
            ray.get(shared.queue.permit.remote(list(waits), epoch))


class Rungs:
    """Scores of a trial's trainings, epoch by epoch."""

    def __init__(self, gates: Sequence[int], done: Sequence[Cell], running: Iterable[str]) -> None:
        """`gates` are the epochs at which trainings may have to wait, `done` the cells whose results are there already,
        `running` the keys of the stages of the others.
        """
        self._gates = gates
        self._scores: dict[str, dict[int, float]] = {key: {} for key in running}
        self._epochs = dict.fromkeys(self._scores, 0)
        for one in done:
            history = one.scored.folder.read_json("history.json")
            self._scores[one.scored.key] = {
                epoch: values[PROBE] for epoch, values in enumerate(history, start=1) if PROBE in values
            }
        self._passed: set[int] = set()

    def take(
        self, key: str, metrics: Mapping[int, Mapping[str, float]], *, ended: bool
    ) -> list[tuple[int, float | None]]:
        """Take note of a training's epochs, and return the epochs that all have come to, with the mean score.

        The score is None where one of them was not judged, as after a restart from a later checkpoint.
        """
        self._epochs[key] = max([self._epochs[key], *metrics])
        for epoch, values in metrics.items():
            if math.isfinite(score := values.get(f"{ImageStage.prefix}/{PROBE}", math.nan)):
                self._scores[key][epoch] = score
        if ended:
            del self._epochs[key]
        judged = set().union(*self._scores.values())
        least = min(self._epochs.values(), default=0)
        reached = [epoch for epoch in sorted(judged.union(self._gates)) if epoch <= least]
        new = [epoch for epoch in reached if epoch not in self._passed]
        self._passed.update(new)
        return [(epoch, self._mean(epoch)) for epoch in new]

    def _mean(self, epoch: int) -> float | None:
        scores = [scores[epoch] for scores in self._scores.values() if epoch in scores]
        return float(np.mean(scores)) if len(scores) == len(self._scores) else None


def _assignments(cell: Cell, shared: Shared, tracker: EventTracker, title: str, key: str) -> list[Assignment]:
    """Return the pending stages of a cell with their data."""
    stages, plan = Group((cell,)).stages(), shared.plan
    if not stages:
        return []
    fit_panels(plan.dataset, [cell])
    panel, placed = cell.scored.gene.panel(), shared.placed
    if panel.key not in placed.counts:  # the search has already printed the notes of the panel that exists
        for note in panel_notes(plan.dataset, [cell]):
            tracker.note(note)
        placed = placed.with_counts(panel.key, place_counts(plan.dataset, panel, cell.fold.train))
    part = "" if plan.size == 1 else f", {fold_title(cell.fold)}, seed {cell.seed}"
    return [
        Assignment(
            stage=stage,
            placed=placed,
            # Of several trainings, the run shows the mean curves, once they are done.
            targets=(key,) if plan.size == 1 else (),
            title=f"{title}{part}, {stage.title}" if stage.title else f"{title}{part}",
            seconds=expected_seconds(stage),
            gates=plan.gates(cell) if stage is cell.scored else (),
        )
        for stage in stages
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
