"""A synthetic cohort small enough for any test: 3 patients, 40 spots each, patches of 32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.recipe import load_recipe
from stray.train.grid import Cell, cell


def small_recipe(folder: Path, *changes: str) -> Recipe:
    """The smoke recipe on `folder/dataset`, results under `folder/runs`."""
    return load_recipe("smoke", [f"dataset={folder}/dataset", f"output={folder}/runs", *changes])


def small_dataset(folder: Path) -> PairedDataset:
    """The smoke recipe's cohort, at `folder/dataset`."""
    recipe = small_recipe(folder)
    build_dataset(recipe.ingest, recipe.dataset)
    return PairedDataset.open(recipe.dataset)


def small_cell(recipe: Recipe, dataset: PairedDataset, *, root: str, train: bool = True) -> Cell:
    """The cell that holds out patient P1."""
    patients = sorted(set(np.asarray(dataset.spots().patient).tolist()))
    fold = Fold("P1", ("P1",), tuple(p for p in patients if p != "P1"))
    return cell(recipe, dataset, fold, 0, root, method="clip_scvi", train="contrastive" if train else "nothing")
