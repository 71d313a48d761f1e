"""An experiment: every method on every fold with every seed, tracked, scored, resumable.

What is done is found again by a key made of everything that went into it: a command that was ended goes on where it
stopped, and methods, trials and later experiments share gene stages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.errors import InputError, Problem, RunError, raise_if_any
from stray.experiment.cells import Cell, Group, fold_title
from stray.experiment.estimate import expected_seconds
from stray.experiment.grid import Grid, recipe_folds
from stray.lease import lease
from stray.on_ray.assignment import Assignment, Ended
from stray.on_ray.events import relayed
from stray.on_ray.existing import Existing, say_damage
from stray.on_ray.panels import fit_panels
from stray.on_ray.placer import Placer
from stray.on_ray.pool import POLL_S, Pool
from stray.on_ray.progress import NullProgress, Progress
from stray.on_ray.resources import plan_slots
from stray.on_ray.score import Scorer
from stray.on_ray.tracking import Tracking
from stray.on_ray.visibility import check_paths_visible
from stray.on_ray.waiting import patience
from stray.stages.results import digest
from stray.stages.spec import Stage, upstream
from stray.track import records
from stray.track.place import experiment_name


@dataclass(frozen=True)
class Outcome:
    """Results of an experiment."""

    uri: str
    """The tracking store."""
    experiment: str
    """Name of the MLflow experiment."""
    models: tuple[str, ...]
    """Folders of models trained on all patients (`folds.kind: none`)."""


def results_folder(recipe: Recipe) -> str:
    """Return the folder of the stages and cells of a recipe."""
    return storage.join(storage.absolute(recipe.output), recipe.name)


def run(recipe: Recipe, *, progress: Progress | None = None, train: bool = True) -> Outcome:
    """Run the cells of `recipe` that are not done on the cluster that this process is connected to.

    train=False scores what is trained already and raises InputError where a cell is not. Raises InputError for
    everything that is at fault in the input, before anything is trained where it can be known, and when another
    command works on the same results.
    """
    progress = progress or NullProgress()
    with patience(recipe.run.wait_minutes, progress.say), results_held(recipe, "train" if train else "evaluate"):
        return _run(recipe, progress, train)


def results_held(recipe: Recipe, verb: str) -> AbstractContextManager[None]:
    """Hold the results of `recipe` for `stray VERB`. Raises InputError when another command holds them."""
    check_paths_visible(recipe)
    remedy = "wait until that command has finished, or give this recipe another output or name"
    return lease(results_folder(recipe), f"stray {verb}", remedy)


def _run(recipe: Recipe, progress: Progress, train: bool) -> Outcome:
    dataset = PairedDataset.open(recipe.dataset)
    root = results_folder(recipe)
    state = Existing()
    groups = Grid(recipe, dataset, recipe_folds(recipe, dataset), root, state.see)
    say_damage(state.damage, progress)
    if not train:
        raise_if_any(state.missing)
    key = "experiment-" + digest(recipe.name, [list(groups.keys)], recipe.eval)
    tracking = Tracking(recipe, kind=records.EXPERIMENT, key=key, dataset=dataset.manifest.digest, progress=progress)
    with tracking, dataset.unchanged():
        experiment = _Experiment(recipe, dataset, tracking, progress, root, rescore=not train)
        models = experiment.run(groups, state.runs, state.width)
    return Outcome(tracking.uri, experiment_name(recipe), tuple(models))


AHEAD = 2
"""Stages in the queue for each slot: more groups are not built yet, since each holds arrays over its spots."""


@dataclass
class _Open:
    """A group with stages in the queue."""

    group: Group
    left: set[str]
    """Keys of its stages that have not ended."""


class _Experiment:
    def __init__(
        self,
        recipe: Recipe,
        dataset: PairedDataset,
        tracking: Tracking,
        progress: Progress,
        root: str,
        *,
        rescore: bool,
    ) -> None:
        self._recipe, self._dataset, self._tracking = recipe, dataset, tracking
        self._progress, self._root = progress, root
        self._scorer = Scorer(recipe, dataset, tracking, progress, root, again=rescore)
        self._placer = Placer(dataset, recipe.run, progress)
        self._open: list[_Open] = []
        self._errors: dict[str, Exception] = {}
        """Key of each stage that failed -> its error."""
        self._scored: list[Future[list[str]]] = []
        self._done = self._failed = 0

    def run(self, groups: Grid, runs: int, width: int) -> list[str]:
        """Run all groups and return the folders of models. `width` stages can train at the same time.

        Raises the errors of the runs that failed, once all others are done.
        """
        scoring = ThreadPoolExecutor(1, thread_name_prefix="score")
        try:
            self._progress.start("all", "runs", total=runs)
            if width:
                self._train(groups, width, scoring)
            else:
                for group in groups:
                    self._score(group, scoring)
            models = [model for future in self._scored for model in future.result()]
            self._progress.finish("all")
        finally:
            # A process told to end does not wait for a score; the same command, run again, computes it.
            ended = isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit)
            scoring.shutdown(wait=not ended, cancel_futures=ended)
        if self._errors:
            raise together(self._errors.values())
        return models

    def _train(self, groups: Grid, width: int, scoring: ThreadPoolExecutor) -> None:
        """Submit the stages of group after group, as slots need them, and score each group that is done."""
        plan = plan_slots(self._recipe.run, width)
        self._progress.say(f"{plan}: starting workers")
        with (
            relayed(self._tracking.deliver) as relay,
            Pool(self._recipe.run, plan, self._root, relay.queue) as pool,
        ):

            def hear(*, more: bool, timeout: float = POLL_S) -> None:
                self._take(pool.ended(more=more, timeout=timeout))
                if any(not one.left for one in self._open):
                    # Scoring closes the run: events of its stages must be delivered before.
                    relay.catch_up()
                self._score_done(scoring)

            for group in groups:
                while pool.unfinished >= AHEAD * plan.slots:
                    hear(more=True)
                self._submit(group, pool)
                hear(more=True, timeout=0.0)
            while self._open:
                hear(more=False)

    def _submit(self, group: Group, pool: Pool) -> None:
        """Place the data that the group's stages read, and submit them: gene stages train while patches are placed."""
        stages = group.stages()
        self._open.append(_Open(group, {stage.key for stage in stages}))
        if not stages:
            return
        see_counts = _see_counts(group)
        fit_panels(self._dataset, see_counts, self._progress.say)
        counts = self._placer.counts(see_counts)
        # Runs that are done stay closed.
        for cell in {user.key: user for stage in stages for user in group.users(stage)}.values():
            self._scorer.open(cell)
        for batch in ([s for s in stages if not s.needs_patches], [s for s in stages if s.needs_patches]):
            pool.submit([self._assignment(stage, group, counts) for stage in batch])

    def _assignment(self, stage: Stage, group: Group, counts: Mapping[str, tuple[Any, ...]]) -> Assignment:
        users = group.users(stage)
        return Assignment(
            stage=stage,
            placed=self._placer.placed(stage, counts),
            targets=tuple(self._scorer.run_key(cell) for cell in users),
            title=f"{fold_title(users[0].fold)}, seed {users[0].seed}: {_who(stage, users)}",
            seconds=expected_seconds(stage),
        )

    def _take(self, ended: Iterable[Ended]) -> None:
        """Take note of stages that ended."""
        for stage in ended:
            if stage.error is not None:
                self._errors[stage.key] = stage.error
            for one in self._open:
                one.left.discard(stage.key)

    def _score_done(self, scoring: ThreadPoolExecutor) -> None:
        """Score the groups whose stages have all ended."""
        for one in [one for one in self._open if not one.left]:
            self._open.remove(one)
            self._score(one.group, scoring)
        for future in self._scored:
            if future.done():
                future.result()  # raise errors now, not after the last fold

    def _score(self, group: Group, scoring: ThreadPoolExecutor) -> None:
        if len(self._scored) > 1:
            # Groups waiting to be scored are held in memory.
            self._scored[-2].result()
        self._scored.append(scoring.submit(self._finish, group))

    def _finish(self, group: Group) -> list[str]:
        failed = {
            cell.key: error
            for cell in group.trained
            for stage in (*upstream(cell.scored), cell.scored)
            if (error := self._errors.get(stage.key)) is not None
        }
        models = self._scorer.score(group, failed)
        self._done, self._failed = self._done + len(group.trained), self._failed + len(failed)
        self._progress.update("all", self._done, f"{self._failed} failed" if self._failed else None)
        return models


def together(errors: Iterable[Exception]) -> Exception:
    """Return one error with every problem of several, each once; the error itself where there is one alone."""
    found = list({str(error): error for error in errors}.values())
    if len(found) == 1:
        return found[0]
    problems = [
        problem
        for error in found
        for problem in (error.problems if isinstance(error, InputError) else [Problem("a run", str(error))])
    ]
    return RunError(dict.fromkeys(problems))


def _who(stage: Stage, users: Sequence[Cell]) -> str:
    """Return the title of a stage with the methods that use it."""
    methods = ", ".join(dict.fromkeys(cell.method for cell in users))
    return f"{stage.title} ({methods})" if stage.title else methods


def _see_counts(group: Group) -> tuple[Cell, ...]:
    """Return the cells with a pending stage that sees counts over their panel."""
    pending = {stage.key for stage in group.stages()}
    found = []
    for cell in group.trained:
        keys = {gene.key for gene in cell.pending_genes()}
        if cell.scored.needs_counts:
            keys.add(cell.scored.key)
        if keys & pending:
            found.append(cell)
    return tuple(found)
