"""Existing results of an experiment before it starts: stages that are done, pending, damaged or missing."""

from __future__ import annotations

from collections.abc import Mapping

from stray.errors import Problem
from stray.experiment.cells import Group
from stray.on_ray.progress import Progress


class Existing:
    """Existing results of an experiment before it starts."""

    def __init__(self) -> None:
        self.runs = 0
        """Number of runs."""
        self.waiting: set[str] = set()
        """Keys of the scored stages that are not done."""
        self.pending: set[str] = set()
        """Keys of all stages that are not done or damaged."""
        self.damage: dict[str, str] = {}
        """Path of each damaged result -> the damage."""
        self.missing: list[Problem] = []
        """Cells that are not trained."""

    @property
    def width(self) -> int:
        """Number of stages that can train at the same time; 0 where nothing is left to train."""
        return max(len(self.waiting), min(1, len(self.pending)))

    def see(self, group: Group) -> None:
        """Take note of a group."""
        self.damage |= group.damage()
        self.runs += len(group.trained)
        self.pending |= {stage.key for stage in group.stages()}
        for cell in group.trained:
            if not cell.scored.folder.is_done():
                self.waiting.add(cell.scored.key)
                remedy = "run `stray train` with the same recipe first"
                self.missing.append(Problem(f"cell {cell.title}", "is not trained", remedy))


def say_damage(damage: Mapping[str, str], progress: Progress) -> None:
    """Report damaged results (by their path); they count as not done."""
    for place, what in damage.items():
        progress.say(f"{place} is damaged: {what}; it will be recomputed")
