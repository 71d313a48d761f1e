"""An experiment: every method on every fold with every seed, tracked, scored, resumable.

What is done is found again by a key made of everything that went into it: a command that was ended goes on where it
stopped, and methods, trials and later experiments share gene stages.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.errors import Problem, raise_if_any
from stray.experiment.cells import Cell, Group, fold_title
from stray.experiment.grid import Grid, recipe_folds
from stray.lease import lease
from stray.on_ray.data import Placed, place_counts, place_patches
from stray.on_ray.events import listen
from stray.on_ray.fit import Assignment, fit
from stray.on_ray.panels import fit_panels
from stray.on_ray.progress import NullProgress, Progress
from stray.on_ray.resources import plan_workers
from stray.on_ray.score import Scorer
from stray.on_ray.tracking import Tracking
from stray.on_ray.visibility import check_paths_visible
from stray.on_ray.waiting import patience
from stray.stages.results import digest
from stray.stages.spec import Stage
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
    """Run what is left of `recipe` on the cluster that this process is connected to.

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
    state = _State()
    groups = Grid(recipe, dataset, recipe_folds(recipe, dataset), root, state.see)
    say_damage(state.damage, progress)
    if not train:
        raise_if_any(state.missing)
    key = "experiment-" + digest(recipe.name, [list(groups.keys)], recipe.eval)
    tracking = Tracking(recipe, kind=records.EXPERIMENT, key=key, dataset=dataset.manifest.digest, progress=progress)
    with tracking, dataset.unchanged():
        models = _Experiment(recipe, dataset, tracking, progress, root, rescore=not train).run(groups)
    return Outcome(tracking.uri, experiment_name(recipe), tuple(models))


class _State:
    """Existing results of an experiment before it starts."""

    def __init__(self) -> None:
        self.damage: dict[str, str] = {}
        """Path of each damaged result -> the damage."""
        self.missing: list[Problem] = []
        """Cells that are not trained."""

    def see(self, group: Group) -> None:
        self.damage |= group.damage()
        for cell in group.trained:
            if not cell.scored.folder.is_done():
                remedy = "run `stray train` with the same recipe first"
                self.missing.append(Problem(f"cell {cell.title}", "is not trained", remedy))


def say_damage(damage: Mapping[str, str], progress: Progress) -> None:
    """Report damaged results (by their path); they count as not done."""
    for place, what in damage.items():
        progress.say(f"{place} is damaged: {what}; it will be recomputed")


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
        self._recipe, self._dataset, self._tracking, self._progress, self._root = (
            recipe,
            dataset,
            tracking,
            progress,
            root,
        )
        self._scorer = Scorer(recipe, dataset, tracking, progress, root, again=rescore)
        self._patches: Placed | None = None

    def run(self, groups: Grid) -> list[str]:
        """Run all groups; a group is scored while the next one's workers start."""
        scored: list[Future[list[str]]] = []
        pool = ThreadPoolExecutor(1, thread_name_prefix="score")
        try:
            self._progress.start("all", "folds and seeds", total=len(groups))
            for number, group in enumerate(groups):
                self._train(group)
                self._progress.update("all", number + 1)
                if len(scored) > 1:
                    # Groups waiting to be scored are held in memory.
                    scored[-2].result()
                scored.append(pool.submit(self._scorer.score, group))
                for future in scored:
                    if future.done():
                        future.result()  # raise errors now, not after the last fold
            models = [model for future in scored for model in future.result()]
            self._progress.finish("all")
            return models
        finally:
            # A process told to end does not wait for a score; the same command, run again, computes it.
            ended = isinstance(sys.exc_info()[1], KeyboardInterrupt | SystemExit)
            pool.shutdown(wait=not ended, cancel_futures=ended)

    def _train(self, group: Group) -> None:
        """Run the group's stages."""
        stages = group.stages()
        if not stages:
            return
        see_counts = _see_counts(group)
        fit_panels(self._dataset, see_counts, self._progress.say)
        placed = self._place(group, see_counts)
        for cell in group.trained:
            self._scorer.open(cell)
        assignments = []
        for stage in stages:
            users = group.users(stage)
            title = f"{fold_title(users[0].fold)}, seed {users[0].seed}: {_who(stage, users)}"
            targets = tuple(self._scorer.run_key(c) for c in users)
            assignments.append(Assignment(stage=stage, targets=targets, title=title, epochs=stage.epochs))
        self._progress.say(f"{fold_title(group.cells[0].fold)}: starting workers")
        train_on_workers(assignments, placed, self._recipe, self._root, self._tracking)

    def _place(self, group: Group, see_counts: Sequence[Cell]) -> Placed:
        pictures = any(cell.scored.needs_patches for cell in group.trained)
        if self._patches is None and pictures:
            self._progress.start("place", "patches to the object store")
            self._patches = place_patches(self._dataset, self._recipe.run)
            self._progress.finish("place")
        placed = self._patches or Placed(self._dataset)
        panels, patients = {}, defaultdict(set)
        for cell in see_counts:
            panel = cell.scored.gene.panel()
            panels[panel.key] = panel
            # Codes are scored on the held-out patients too; what trains takes its own rows of what lies there. A fold
            # and the one inside it may come to the same genes.
            patients[panel.key].update(
                (*cell.fold.train, *cell.fold.held_out) if cell.scored.codes_held_out else cell.fold.train
            )
        for key, panel in panels.items():
            placed = placed.with_counts(key, place_counts(self._dataset, panel, tuple(sorted(patients[key]))))
        return placed


def _who(stage: Stage, users: Sequence[Cell]) -> str:
    """Return the title of a stage with the methods that use it."""
    methods = ", ".join(dict.fromkeys(cell.method for cell in users))
    return f"{stage.title} ({methods})" if stage.title else methods


def train_on_workers(
    assignments: Sequence[Assignment],
    placed: Placed,
    recipe: Recipe,
    root: str,
    tracking: Tracking,
) -> None:
    """Run stages on one worker group, with what they report going to `tracking` as they go."""
    with listen(tracking.deliver) as events:
        fit(
            assignments,
            placed,
            run=recipe.run,
            layout=plan_workers(recipe.run),
            root=root,
            events=events,
        )


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
