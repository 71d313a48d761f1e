"""Scoring of trained cells on held-out and inner validation patients, and of the method chosen on the latter.

What is scored and logged already is found again by its key, as trained stages are.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.errors import without_secrets
from stray.evaluate import Evaluation, evaluate, probe_balanced_accuracy
from stray.experiment.cells import Cell, Choice, Group
from stray.metrics.naming import INNER
from stray.on_ray.models import export
from stray.on_ray.progress import Progress
from stray.on_ray.tracking import Tracking, log_bytes
from stray.report.figures import confusion_figure
from stray.stages.results import ResultFolder, digest
from stray.stages.spec import CODES_FIGURE, STEPS, upstream
from stray.track import records
from stray.track.mlflow import MlflowTracker

SCORES = "metrics.json"
"""A cell's scores, kept before they are sent."""


@dataclass(frozen=True)
class Chosen:
    """Choice of a method with `choose` on one fold with one seed."""

    method: str
    patients: tuple[str, ...]
    """The inner validation patients."""
    scores: dict[str, float]
    """Scores of every candidate on them; nan if there was nothing to score."""


class Scorer:
    """Scores the cells of an experiment, each once, into its folder and its run."""

    def __init__(
        self, recipe: Recipe, dataset: PairedDataset, tracking: Tracking, progress: Progress, root: str, *, again: bool
    ) -> None:
        """again: also score cells that have scores."""
        self._recipe, self._dataset, self._tracking, self._progress, self._root = (
            recipe,
            dataset,
            tracking,
            progress,
            root,
        )
        self._again = again

    def score(self, group: Group, failed: Mapping[str, Exception] | None = None) -> list[str]:
        """Score a trained group and return the folders of models where all patients trained.

        Cells that failed (by their key, with the error) are recorded as such. A method that would choose among them is
        left out, with a note.
        """
        evaluations: dict[str, Evaluation] = {}
        failed = failed or {}
        models = [self._finish(cell, evaluations) for cell in group.cells if cell.key not in failed]
        for cell in group.inner:
            if cell.key not in failed:
                self._judge(cell)
        for cell in group.trained:
            if cell.key in failed:
                self._fail(cell, failed[cell.key])
        for choice in group.choices:
            if any(cell.key in failed for cell in (*choice.candidates, *choice.trials)):
                self._progress.say(f"{choice.method}: not chosen, since a method that it chooses among failed")
                continue
            chosen, cell = self._choose(choice)
            models.append(self._finish(cell, evaluations, chosen))
        return [model for model in models if model is not None]

    def run_key(self, cell: Cell) -> str:
        """Return the key of the cell's run: the same cell in another experiment has a run of its own."""
        return "cell-" + digest(self._tracking.key, cell.key)

    def open(self, cell: Cell) -> MlflowTracker:
        """Open the cell's run."""
        tags = {
            records.KIND: records.CELL if cell.fold.inside is None else records.INNER_CELL,
            records.METHOD: cell.method,
            records.FOLD: cell.fold.name,
            records.SEED: str(cell.seed),
        }
        return self._tracking.open(self.run_key(cell), cell.title, cell.recipe, tags)

    def _folder(self, cell: Cell) -> ResultFolder:
        return ResultFolder(storage.join(self._root, self.run_key(cell)))

    def _is_finished(self, cell: Cell) -> bool:
        """Return whether the cell's scores are on disk and in the tracking store of this command."""
        folder = self._folder(cell)
        self._say_damage(folder)
        if self._again or not folder.is_done():
            return False
        scores = folder.read_json(SCORES) if cell.fold.held_out else {}
        finite = [name for name, value in scores.items() if math.isfinite(value)]
        if not self._tracking.has(self.run_key(cell), finite):
            return False
        model = folder.facts()["model"]
        if model is None:
            return True
        self._say_damage(ResultFolder(model))
        return ResultFolder(model).is_done()

    def _say_damage(self, folder: ResultFolder) -> None:
        if (damage := folder.damage()) is not None:
            self._progress.say(f"{folder.path} is damaged: {damage}; it will be recomputed")

    def _end(self, cell: Cell, model: str | None = None) -> None:
        """Close the cell's run; the cell counts as done once the store has received everything."""
        facts = {"tracked": without_secrets(self._tracking.uri), "model": model}
        facts |= {"method": cell.method, "fold": cell.fold.name}
        self._tracking.close(self.run_key(cell), stored=lambda: self._folder(cell).finish(facts))

    def _finish(self, cell: Cell, evaluations: dict[str, Evaluation], chosen: Chosen | None = None) -> str | None:
        """Score a cell and log it; the folder of the model where all patients trained."""
        if self._is_finished(cell):
            return self._folder(cell).facts()["model"]
        run = self.open(cell)
        if chosen is not None:
            self._log_choice(run, cell, chosen)
        run.curves(curve_points(cell))
        log_codes(run, cell)
        model = None
        if cell.fold.held_out:
            # The scores of a chosen method are those of the candidate's cell: do not compute them twice.
            if cell.scored.key not in evaluations:
                evaluations[cell.scored.key] = self._evaluate(cell)
            evaluation = evaluations[cell.scored.key]
            self._folder(cell).write_json(SCORES, evaluation.metrics)
            log_evaluation(run, evaluation, cell.method)
            self._progress.say(f"{cell.title}: {evaluation.headline}")
        elif cell.scored.needs_patches:
            model = export(cell, self._dataset, *_features(cell), self._root, run)
        else:
            model = cell.scored.gene.folder.path
        self._end(cell, model)
        return model

    def _fail(self, cell: Cell, error: Exception) -> None:
        """Record a cell that failed for good, with its error."""
        self.open(cell).tags({records.ERROR: str(error)})
        self._progress.say(f"{cell.title}: failed: {error}")
        self._tracking.close(self.run_key(cell), "FAILED")

    def _evaluate(self, cell: Cell) -> Evaluation:
        return evaluate(
            *_features(cell),
            self._dataset.spots(),
            train_patients=cell.fold.train,
            test_patients=cell.fold.held_out,
            config=self._recipe.eval,
            seed=cell.seed,
        )

    def _judge(self, cell: Cell) -> None:
        """Score a cell on its inner validation patients, as a search does, and log it."""
        if self._is_finished(cell):
            return
        run, fold = self.open(cell), cell.fold
        run.curves(curve_points(cell))
        log_codes(run, cell)
        score = probe_balanced_accuracy(
            *_features(cell), self._dataset.spots(), fold.train, fold.held_out, self._recipe.eval, cell.seed
        )
        self._folder(cell).write_json(SCORES, {INNER: score})
        if math.isfinite(score):
            run.metrics({INNER: score})
        self._progress.say(f"{cell.title}: balanced accuracy {score:.3f}")
        self._end(cell)

    def _choose(self, choice: Choice) -> tuple[Chosen, Cell]:
        """Return the choice of the method here, and its cell: the candidate's under the method's own name."""
        scores = {trial.method: self._folder(trial).read_json(SCORES)[INNER] for trial in choice.trials}
        best = choice.best(list(scores.values()))
        chosen = Chosen(best.method, choice.trials[0].fold.held_out, scores)
        return chosen, replace(best, method=choice.method)

    def _log_choice(self, run: MlflowTracker, cell: Cell, chosen: Chosen) -> None:
        judges = "+".join(chosen.patients)
        run.tags({records.CHOSEN: chosen.method, records.JUDGES: judges})
        run.metrics({records.CHOICE + name: score for name, score in chosen.scores.items() if math.isfinite(score)})
        self._folder(cell).write_json("choice.json", asdict(chosen))
        scores = ", ".join(f"{name} {score:.3f}" for name, score in chosen.scores.items())
        self._progress.say(f"{cell.title}: {chosen.method}, chosen on {judges} ({scores})")


def _features(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings (N, D) that a trained cell is scored by, and their global rows (N,)."""
    return cell.scored.folder.read_array("features.npy"), cell.scored.folder.read_array("rows.npy")


def curve_points(cell: Cell) -> list[tuple[str, int, float]]:
    """Return the training curves of the cell's stages from their folders, as (name, step, value): a stage may have been
    trained by another cell or an earlier command, and a killed driver may have lost some of what was sent.
    """
    points = []
    for stage in (cell.scored, *cell.scored.inputs):
        if not stage.prefix or not stage.folder.is_done():  # do not recreate a deleted run for its curves
            continue
        points += [
            (f"{stage.prefix}/{name}", epoch, value)
            for epoch, metrics in enumerate(stage.folder.read_json("history.json"), start=1)
            for name, value in metrics.items()
        ]
        if storage.exists(storage.join(stage.folder.path, STEPS)):  # earlier versions stored none
            points += [(f"{stage.prefix}/step_loss", step, value) for step, value in stage.folder.read_json(STEPS)]
    return points


def log_codes(run: Any, cell: Cell) -> None:
    """Log the figures that the cell's gene stages left in their folders: training patients' spots before and after.

    From there, because a cell may come to a stage that was done before, by another cell or before this command; one
    that an earlier version did has none.
    """
    for gene in upstream(cell.scored):
        path = storage.join(gene.folder.path, CODES_FIGURE)
        if storage.exists(path):
            log_bytes(run, f"codes_{gene.config.model.kind}.png", storage.read_bytes(path), "figures")


def log_evaluation(run: Any, evaluation: Evaluation, method: str) -> None:
    """Log scores, predictions and a confusion matrix per label source of a cell."""
    run.metrics(evaluation.metrics)
    table = evaluation.table
    source = np.array(table["label_source"].to_pylist(), dtype=object)
    scored = table["scored"].to_numpy()
    with tempfile.TemporaryDirectory() as temporary:
        run.artifact(evaluation.write(Path(temporary) / records.PREDICTIONS))
        for name in evaluation.facts["sources"]:
            rows = table.take(np.flatnonzero(scored & (source == name)))
            path = Path(temporary) / f"confusion_{name}.png"
            weak = ", weak labels" if name in evaluation.weak else ""
            title = f"{method} ({name}{weak})"
            run.artifact(confusion_figure(rows["label"].to_pylist(), rows["probe"].to_pylist(), path, title), "figures")
