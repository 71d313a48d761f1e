"""The grid of an experiment: cells of methods x folds x seeds, in groups. Nothing is read or trained here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, folds, inner_fold, scorable_patients
from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.metrics.labels import training_labels
from stray.recipe import for_method
from stray.train.cells import Cell, Choice, Group, Train, cell


def recipe_folds(recipe: Recipe, dataset: PairedDataset) -> tuple[Fold, ...]:
    """The folds of a recipe: over patients with pictures to score, or with counts where every method scores gene
    codes. Raises InputError as `folds` does.
    """
    pictured = any(method.train != "gene" for method in recipe.methods.values() if not method.choose)
    return folds(dataset.spots(), recipe.folds, recipe.eval, pictured=pictured)


def grid(recipe: Recipe, dataset: PairedDataset, chosen: Sequence[Fold], root: str) -> tuple[Group, ...]:
    """All cells of the recipe, grouped. Raises InputError with every problem of every cell."""
    problems: dict[Problem, None] = {}
    groups = []
    own = {name: method for name, method in recipe.methods.items() if not method.choose}
    recipes = {name: for_method(recipe, name) for name in own}
    choosing = {name: method.choose for name, method in recipe.methods.items() if method.choose}
    judges = {name: _judges(recipe, dataset, own[candidates[0]].train) for name, candidates in choosing.items()}
    for fold in chosen:
        for seed in recipe.seeds:
            cells: dict[str, Cell] = {}
            choices = []
            for name, method in own.items():
                try:
                    cells[name] = cell(recipes[name], dataset, fold, seed, root, method=name, train=method.train)
                except InputError as error:
                    problems |= dict.fromkeys(error.problems)
            for name, candidates in choosing.items():
                try:
                    inner = inner_fold(fold, judges[name], recipe.folds.inner)
                    seen = (*inner.train, *inner.held_out)
                    trials = tuple(
                        cell(recipes[c], dataset, inner, seed, root, method=c, train=own[c].train, embed_patients=seen)
                        for c in candidates
                    )
                except InputError as error:
                    problems |= dict.fromkeys(error.problems)
                    continue
                found = tuple(cells[c] for c in candidates if c in cells)
                choices.append(Choice(method=name, candidates=found, trials=trials))
            groups.append(Group(tuple(cells.values()), tuple(choices)))
    if problems:
        raise InputError(problems)
    return tuple(groups)


def _judges(recipe: Recipe, dataset: PairedDataset, train: Train) -> tuple[str, ...]:
    """Patients that can be scored and have labels that may train: an inner score takes labels as training does."""
    spots, pictured = dataset.spots(), train != "gene"
    rows = np.flatnonzero(spots.has_image if pictured else spots.has_counts)
    scorable = scorable_patients(spots, recipe.eval, pictured=pictured)
    labelled = training_labels(rows, spots, scorable, recipe.eval)
    return tuple(sorted(set(spots.patient[rows[labelled]].tolist())))
