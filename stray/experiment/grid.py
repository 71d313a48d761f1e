"""The grid of an experiment: cells of methods x folds x seeds, in groups. Nothing is read or trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, folds, inner_fold, scorable_patients
from stray.config import Recipe
from stray.errors import InputError, Problem, raise_if_any
from stray.experiment.cells import Cell, Choice, Group, Train, cell
from stray.metrics.labels import training_labels
from stray.recipe import for_method


def recipe_folds(recipe: Recipe, dataset: PairedDataset) -> tuple[Fold, ...]:
    """Return the folds of a recipe: over patients with pictures to score, or with counts where every method scores gene
    codes. Raises InputError as `folds` does.
    """
    pictured = any(method.train != "gene" for method in recipe.methods.values() if not method.choose)
    return folds(dataset.spots(), recipe.folds, recipe.eval, pictured=pictured)


class Grid:
    """The groups of an experiment, one for each fold and seed.

    Every iteration builds each group when its turn comes and keeps none: a cell holds arrays with an entry for each of
    its spots, which for all folds together may not fit in memory.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: PairedDataset,
        chosen: Sequence[Fold],
        root: str,
        see: Callable[[Group], None] | None = None,
    ) -> None:
        """Build every group once, to find its problems and its key. `see` is called with each while it is there.

        Raises InputError with every problem of every cell.
        """
        self._recipe, self._dataset, self._root = recipe, dataset, root
        self._own = {name: method for name, method in recipe.methods.items() if not method.choose}
        self._recipes = {name: for_method(recipe, name) for name in self._own}
        self._choosing = {name: method.choose for name, method in recipe.methods.items() if method.choose}
        self._judges = {
            name: _judges(recipe, dataset, self._own[candidates[0]].train)
            for name, candidates in self._choosing.items()
        }
        self._places = [(fold, seed) for fold in chosen for seed in recipe.seeds]
        problems: dict[Problem, None] = {}
        keys = []
        for fold, seed in self._places:
            group = self._group(fold, seed, problems)
            if not problems:
                keys.append(group.key)
                if see is not None:
                    see(group)
        raise_if_any(list(problems))
        self.keys = tuple(keys)
        """The key of each group."""

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Group]:
        """Build one group after the other.

        Raises InputError where a group is no longer what it was when the grid was made.
        """
        return map(self._again, self._places, self.keys)

    def _again(self, place: tuple[Fold, int], key: str) -> Group:
        problems: dict[Problem, None] = {}
        group = self._group(*place, problems)
        raise_if_any(list(problems))
        if group.key != key:
            what = "weights, code or a list of genes that it names have changed since this command began"
            remedy = "run the command again: what the change does not touch is kept"
            raise InputError(Problem(f"recipe {self._recipe.name}", what, remedy))
        return group

    def _group(self, fold: Fold, seed: int, problems: dict[Problem, None]) -> Group:
        """Return the cells of a fold and a seed; what cannot be built is left out and its problems are added."""
        cells: dict[str, Cell] = {}
        choices = []
        for name, method in self._own.items():
            try:
                cells[name] = self._cell(name, fold, seed, method.train)
            except InputError as error:
                problems |= dict.fromkeys(error.problems)
        for name, candidates in self._choosing.items():
            try:
                inner = inner_fold(fold, self._judges[name], self._recipe.folds.inner)
                seen = (*inner.train, *inner.held_out)
                trials = tuple(self._cell(c, inner, seed, self._own[c].train, seen) for c in candidates)
            except InputError as error:
                problems |= dict.fromkeys(error.problems)
                continue
            found = tuple(cells[c] for c in candidates if c in cells)
            choices.append(Choice(method=name, candidates=found, trials=trials))
        return Group(tuple(cells.values()), tuple(choices))

    def _cell(self, method: str, fold: Fold, seed: int, train: Train, seen: Sequence[str] | None = None) -> Cell:
        recipe = self._recipes[method]
        return cell(recipe, self._dataset, fold, seed, self._root, method=method, train=train, embed_patients=seen)


def _judges(recipe: Recipe, dataset: PairedDataset, train: Train) -> tuple[str, ...]:
    """Return patients that can be scored and have labels that may train: an inner score takes labels as training
    does.
    """
    spots, pictured = dataset.spots(), train != "gene"
    rows = np.flatnonzero(spots.has_image if pictured else spots.has_counts)
    scorable = scorable_patients(spots, recipe.eval, pictured=pictured)
    labelled = training_labels(rows, spots, scorable, recipe.eval)
    return tuple(sorted(set(spots.patient[rows[labelled]].tolist())))
