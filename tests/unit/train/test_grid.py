"""An experiment holds the row arrays of a few groups at a time, however many folds and seeds it has."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.errors import InputError
from stray.experiment.cells import Group
from stray.experiment.grid import Grid, recipe_folds
from stray.on_ray.experiment import _Experiment
from stray.on_ray.progress import NullProgress
from stray.recipe import apply
from tests.support.small_cohort import small_recipe


class Alive:
    """Counts the groups whose row arrays are still held."""

    def __init__(self) -> None:
        self._seen: list[weakref.ref[Any]] = []
        self.most = 0

    def see(self, group: Group) -> None:
        self._seen += [weakref.ref(group.cells[0].scored.gene.rows)]
        self.most = max(self.most, self.now)

    @property
    def now(self) -> int:
        return sum(one() is not None for one in self._seen)


def made(recipe: Recipe, dataset: PairedDataset, alive: Alive | None = None) -> Grid:
    return Grid(recipe, dataset, recipe_folds(recipe, dataset), "root", alive.see if alive else None)


@pytest.fixture
def recipe(folder: Path) -> Recipe:
    """Three folds and four seeds."""
    return apply(small_recipe(folder), {"folds.held_out": [], "seeds": [0, 1, 2, 3]})


def test_the_grid_keeps_no_rows_and_builds_one_group_at_a_time(recipe: Recipe, dataset: PairedDataset) -> None:
    first, second = Alive(), Alive()
    groups = made(recipe, dataset, first)
    assert (first.most, first.now) == (1, 0)
    for group in groups:
        second.see(group)
    del group
    assert (second.most, second.now) == (1, 0)
    assert len(groups) == len(set(groups.keys)) == 12
    assert [group.key for group in groups] == list(groups.keys)


def test_groups_that_wait_for_their_scores_do_not_pile_up(recipe: Recipe, dataset: PairedDataset) -> None:
    alive = Alive()

    class Slow:
        def __init__(self) -> None:
            self.keys: list[str] = []

        def score(self, group: Group, failed: Mapping[str, Exception]) -> list[str]:
            assert not failed
            time.sleep(0.02)
            self.keys.append(group.key)
            return [group.key]

    class Trained(_Experiment):
        """Its groups are trained already."""

        def _score(self, group: Group, scoring: ThreadPoolExecutor) -> None:
            alive.see(group)
            super()._score(group, scoring)

    groups = made(recipe, dataset)
    experiment = Trained(recipe, dataset, None, NullProgress(), "root", rescore=False)  # pyright: ignore[reportArgumentType]
    experiment._scorer = slow = Slow()  # pyright: ignore[reportAttributeAccessIssue]
    assert experiment.run(groups, runs=len(groups), width=0) == slow.keys == list(groups.keys)
    assert alive.most <= 4


def test_a_group_that_is_not_what_it_was_is_refused(folder: Path, dataset: PairedDataset, tmp_path: Path) -> None:
    listed = tmp_path / "genes.txt"
    symbols = dataset.genes.column("symbol").to_pylist()
    listed.write_text("\n".join(symbols[:10]))
    recipe = apply(small_recipe(folder), {"gene.panel.kind": "file", "gene.panel.path": str(listed)})
    groups = made(recipe, dataset)
    assert len(list(groups)) == len(groups)
    listed.write_text("\n".join(symbols[:11]))
    with pytest.raises(InputError, match="have changed since this command began"):
        list(groups)
    assert len(list(made(recipe, dataset))) == len(groups)
