"""The cells of an experiment: methods x folds x seeds, each with its stages. Nothing is read or trained here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.recipe import for_method
from stray.train.results import digest
from stray.train.stages import GeneStage, ImageStage, Stage


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one fold with one seed."""

    method: str
    fold: Fold
    seed: int
    recipe: Recipe
    """As the method sees it."""
    image: ImageStage

    @property
    def key(self) -> str:
        """Everything that the cell's scores are a function of, and its names."""
        parts = [self.recipe.name, self.method, list(self.fold.held_out), self.seed, self.image.key]
        return "cell-" + digest(parts, self.recipe.eval)

    @property
    def title(self) -> str:
        """For the person who watches."""
        return f"{self.method}, {fold_title(self.fold)}, seed {self.seed}"


@dataclass(frozen=True)
class Group:
    """Cells that share a fold and a seed, and with them a worker group and gene stages."""

    cells: tuple[Cell, ...]

    @property
    def key(self) -> str:
        """Everything that the group's scores are a function of."""
        return digest([cell.key for cell in self.cells])

    def stages(self) -> tuple[Stage, ...]:
        """The stages that are not done yet, each once, in an order in which every one finds what it needs."""
        genes = {
            c.image.gene.key: c.image.gene for c in self.cells if c.image.needs_codes and not c.image.folder.is_done()
        }
        images = {c.image.key: c.image for c in self.cells}
        return tuple(stage for stage in (*genes.values(), *images.values()) if not stage.folder.is_done())

    def users(self, stage: Stage) -> tuple[Cell, ...]:
        """The cells that a stage works for."""
        if isinstance(stage, ImageStage):
            return tuple(c for c in self.cells if c.image.key == stage.key)
        return tuple(c for c in self.cells if c.image.needs_codes and c.image.gene.key == stage.key)


def fold_title(fold: Fold) -> str:
    """How a fold is called in progress and tables."""
    return f"held out {'+'.join(fold.held_out)}" if fold.held_out else "all patients"


def cell(
    recipe: Recipe,
    dataset: PairedDataset,
    fold: Fold,
    seed: int,
    root: str,
    *,
    method: str,
    train: bool = True,
    embed_patients: Sequence[str] | None = None,
) -> Cell:
    """One cell. `recipe` is as the method sees it; `embed_patients` narrows the patients whose pictures are embedded.

    Raises InputError when no training patient has what the method needs.
    """
    spots = dataset.spots()
    trains = np.isin(spots.patient, fold.train)
    gene_rows = np.flatnonzero(trains & spots.has_counts)
    pair_rows = np.flatnonzero(trains & spots.has_counts & spots.has_image)
    embedded = spots.has_image if embed_patients is None else spots.has_image & np.isin(spots.patient, embed_patients)
    if train and len(pair_rows) < 2:
        what = f"{fold_title(fold)}: {len(pair_rows)} spots of the training patients have both a picture and counts"
        raise InputError(Problem("dataset", what, "ingest sections with both, or hold out other patients"))
    batch = spots.patient if recipe.gene.batch_key == "patient" else spots.section
    gene = GeneStage(
        config=recipe.gene,
        rows=gene_rows,
        batch=batch[gene_rows],
        dataset=dataset.manifest.digest,
        seed=seed,
        root=root,
    )
    image = ImageStage(
        config=recipe.contrastive,
        train=train,
        gene=gene,
        rows=pair_rows,
        embed_rows=np.flatnonzero(embedded),
        root=root,
    )
    return Cell(method=method, fold=fold, seed=seed, recipe=recipe, image=image)


def grid(recipe: Recipe, dataset: PairedDataset, folds: Sequence[Fold], root: str) -> tuple[Group, ...]:
    """All cells of the recipe, grouped. Raises InputError with every problem of every cell."""
    problems: dict[Problem, None] = {}
    groups = []
    recipes = {method: for_method(recipe, method) for method in recipe.methods}
    for fold in folds:
        for seed in recipe.seeds:
            cells = []
            for method, config in recipe.methods.items():
                try:
                    train = config.train == "contrastive"
                    cells.append(cell(recipes[method], dataset, fold, seed, root, method=method, train=train))
                except InputError as error:
                    problems |= dict.fromkeys(error.problems)
            groups.append(Group(tuple(cells)))
    if problems:
        raise InputError(problems)
    return tuple(groups)
