"""A real grid on slots of one CPU: wall time against the work in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.experiment.cells import Group
from stray.experiment.estimate import expected_seconds
from stray.experiment.grid import Grid, recipe_folds
from stray.on_ray.assignment import Assignment, Ended
from stray.on_ray.data import Placed
from stray.on_ray.events import listen
from stray.on_ray.panels import fit_panels
from stray.on_ray.placer import Placer
from stray.on_ray.pool import Pool
from stray.on_ray.progress import Progress
from stray.on_ray.resources import SlotPlan
from stray.stages.spec import Stage


@dataclass(frozen=True)
class Filled:
    """One grid on some slots."""

    slots: int
    runs: int
    ended: Sequence[Ended]
    """End of each stage."""
    start_s: float
    """Time until the first stage began: workers started, panels fitted, the dataset placed."""
    wall_s: float
    """Time from then until the last stage ended."""

    @property
    def work_s(self) -> float:
        """Sum of the stages' own time."""
        return sum(one.seconds for one in self.ended)

    @property
    def ratio(self) -> float:
        """Wall time over the work of one slot."""
        return self.wall_s / (self.work_s / self.slots)

    @property
    def ratio_with_start(self) -> float:
        """The same with the start of the workers."""
        return (self.start_s + self.wall_s) / (self.work_s / self.slots)

    @property
    def between_s(self) -> float:
        """Median time from one stage to the next on a warm slot."""
        return statistics.median(self._waits)

    @property
    def most_between_s(self) -> float:
        """Longest time from one stage to the next on a warm slot that found another one ready."""
        return statistics.quantiles(self._waits, n=10)[-1]

    @property
    def _waits(self) -> list[float]:
        # The first stage of each slot waits for the dataset.
        return sorted(one.waited_s for one in self.ended)[: -self.slots]

    def seconds(self, prefix: str) -> float:
        """Return the median time of the stages whose key begins so."""
        return statistics.median(one.seconds for one in self.ended if one.key.startswith(prefix))


def measure(recipe: Recipe, *, slots: int, root: str, progress: Progress) -> Filled:
    """Train the grid of `recipe` on `slots` slots of one CPU, with results below `root`, which should be fresh.

    Raises the error of a stage that fails.
    """
    dataset = PairedDataset.open(recipe.dataset)
    groups = list(Grid(recipe, dataset, recipe_folds(recipe, dataset), root))
    placer = Placer(dataset, recipe.run, progress)
    title, ended, started = f"{slots} slots", [], time.perf_counter()
    progress.start(title, f"{title}: stages", total=sum(len(group.stages()) for group in groups))
    first = 0.0
    with listen(lambda event: None) as events, Pool(recipe.run, SlotPlan(slots, 1, 1.0), root, events) as pool:
        for group in groups:
            _submit(group, dataset, placer, pool)

        def each(end: Ended) -> None:
            nonlocal first
            if end.error is not None:
                raise end.error
            first = first or time.perf_counter() - end.seconds
            ended.append(end)
            progress.update(title, len(ended))

        pool.finish(each)
        last = time.perf_counter()
    progress.finish(title)
    return Filled(slots, sum(len(group.cells) for group in groups), ended, first - started, last - first)


def _submit(group: Group, dataset: PairedDataset, placer: Placer, pool: Pool) -> None:
    fit_panels(dataset, group.trained)
    counts = placer.counts(group.trained)
    pool.submit([_assignment(stage, placer.placed(stage, counts)) for stage in group.stages()])


def _assignment(stage: Stage, placed: Placed) -> Assignment:
    return Assignment(stage=stage, placed=placed, title=stage.key, seconds=expected_seconds(stage))
