"""A cell of an experiment: one method on one fold with one seed, and its stages. Nothing is read or trained here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stray.cohort.batches import batch_names
from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.split import Fold
from stray.config import Recipe, ScanviConfig
from stray.data.sampling import check_batches
from stray.data.streaming import stream_of
from stray.errors import InputError, Problem
from stray.metrics.labels import training_labels
from stray.models.image_source import image_source
from stray.stages.results import digest
from stray.stages.spec import CodesStage, GeneStage, ImageStage, Stage, upstream

Train = Literal["contrastive", "gene", "nothing"]
"""Stages that a method trains."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one fold with one seed."""

    method: str
    fold: Fold
    seed: int
    recipe: Recipe
    """As the method sees it."""
    scored: ImageStage | CodesStage
    """The stage whose features are scored."""

    @property
    def key(self) -> str:
        """Everything that the cell's scores are a function of, and its names."""
        parts = [self.recipe.name, self.method, list(self.fold.held_out), self.seed, self.scored.key]
        inside = [] if self.fold.inside is None else [list(self.fold.train)]
        return "cell-" + digest(parts, self.recipe.eval, *inside)

    def pending_genes(self, *, anyway: bool = False) -> tuple[GeneStage, ...]:
        """Return the gene stages that are to be trained before the scored stage, in their order: those that it, or a
        gene stage that is not done, starts from, and those that are damaged.

        `anyway`: also where the scored stage is done.
        """
        found = []
        wanted = anyway or not self.scored.folder.is_done()
        for gene in reversed(upstream(self.scored)):
            wanted = (wanted or gene.folder.damage() is not None) and not gene.folder.is_done()
            if wanted:
                found.append(gene)
        return tuple(reversed(found))

    @property
    def title(self) -> str:
        """Title in progress and logs."""
        return f"{self.method}, {fold_title(self.fold)}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A method that is, on one fold with one seed, that candidate which scores best on inner validation patients."""

    method: str
    candidates: tuple[Cell, ...]
    """On the fold itself."""
    trials: tuple[Cell, ...]
    """The same methods in the same order on the inner fold, which judges them."""

    @property
    def key(self) -> str:
        """Everything that the choice is a function of."""
        return digest(self.method, [cell.key for cell in (*self.candidates, *self.trials)])

    def best(self, scores: Sequence[float]) -> Cell:
        """Return the candidate whose trial scored highest, the first of equals; `scores` are in the order of `trials`.

        Raises InputError when no score is a number.
        """
        if all(map(math.isnan, scores)):
            judges = ", ".join(self.trials[0].fold.held_out)
            what = f"{fold_title(self.trials[0].fold)}: the training labels have none of the classes of {judges}"
            raise InputError(Problem(f"methods.{self.method}.choose", what, "raise folds.inner, or name one method"))
        return self.candidates[int(np.nanargmax(scores))]


@dataclass(frozen=True)
class Group:
    """Cells that share a fold and a seed, and with them gene stages."""

    cells: tuple[Cell, ...]
    choices: tuple[Choice, ...] = ()
    """Methods that are one of the cells' methods."""

    @property
    def key(self) -> str:
        """Everything that the group's scores are a function of."""
        return digest([one.key for one in (*self.cells, *self.choices)])

    @property
    def inner(self) -> tuple[Cell, ...]:
        """The cells on the inner fold, each once."""
        return tuple({cell.key: cell for choice in self.choices for cell in choice.trials}.values())

    @property
    def trained(self) -> tuple[Cell, ...]:
        """Every cell with a stage to train: the candidate of a choice is trained as a cell of its own method."""
        return (*self.cells, *self.inner)

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages that are not done yet, each once, every one after the stages that it reads."""
        genes = {gene.key: gene for c in self.trained for gene in c.pending_genes()}
        scored = {c.scored.key: c.scored for c in self.trained}
        return tuple(stage for stage in (*genes.values(), *scored.values()) if not stage.folder.is_done())

    def damage(self) -> dict[str, str]:
        """Return the damage of the group's stages and panels by path; `stages` includes damaged stages."""
        found: dict[str, str | None] = {}
        for c in self.trained:
            found[c.scored.folder.path] = c.scored.folder.damage()
            found[c.scored.gene.panel_path] = c.scored.gene.panel_damage()
            found |= {gene.folder.path: gene.folder.damage() for gene in upstream(c.scored)}
        return {place: what for place, what in found.items() if what is not None}

    def users(self, stage: Stage) -> tuple[Cell, ...]:
        """Return the cells that a stage works for."""
        return tuple(c for c in self.trained if stage.key in [one.key for one in (*upstream(c.scored), c.scored)])


def fold_title(fold: Fold) -> str:
    """Return the name of a fold in progress and tables."""
    if fold.inside is not None:
        return f"{fold_title(fold.inside)}, inner {'+'.join(fold.held_out)}"
    return f"held out {'+'.join(fold.held_out)}" if fold.held_out else "all patients"


def cell(
    recipe: Recipe,
    dataset: PairedDataset,
    fold: Fold,
    seed: int,
    root: str,
    *,
    method: str,
    train: Train = "contrastive",
    embed_patients: Sequence[str] | None = None,
) -> Cell:
    """Make one cell. `recipe` is as the method sees it; `embed_patients` narrows the patients whose pictures or counts
    are embedded.

    Raises InputError when no training patient has what the method needs, and where `gene.batch_key` names no column of
    the sections, or one that some section lacks.
    """
    spots = dataset.spots()
    trains = np.isin(spots.patient, fold.train)
    gene_rows = np.flatnonzero(trains & spots.has_counts)
    pair_rows = np.flatnonzero(trains & spots.has_counts & spots.has_image)
    present = spots.has_counts if train == "gene" else spots.has_image
    embedded = present if embed_patients is None else present & np.isin(spots.patient, embed_patients)
    if train == "contrastive" and len(pair_rows) < 2:
        what = f"{fold_title(fold)}: {len(pair_rows)} spots of the training patients have both a picture and counts"
        raise InputError(Problem("dataset", what, "ingest sections with both, or hold out other patients"))
    gene = GeneStage(
        config=recipe.gene,
        rows=gene_rows,
        batch=batch_names(dataset, recipe.gene.batch_key)[gene_rows],
        label=_labels(recipe, spots, gene_rows, fold),
        dataset=dataset.manifest.digest,
        seed=seed,
        root=root,
    )
    if train == "gene":
        # Counts of held-out patients are coded by what has not seen them, as their pictures are elsewhere.
        codes = CodesStage(gene=gene, embed_rows=np.flatnonzero(embedded), root=root)
        return Cell(method=method, fold=fold, seed=seed, recipe=recipe, scored=codes)
    label = _guides(recipe, spots, pair_rows, fold) if train == "contrastive" else None
    patient = None
    if train == "contrastive" and not recipe.contrastive.batches.plain:
        patient = spots.patient[pair_rows]
        check_batches(recipe.contrastive.batches, patient, label)
    image = ImageStage(
        config=recipe.contrastive,
        train=train == "contrastive",
        gene=gene,
        rows=pair_rows,
        label=label,
        patient=patient,
        section=spots.section[pair_rows] if recipe.contrastive.validation_share > 0 else None,
        stream=stream_of(recipe, dataset, pair_rows) if train == "contrastive" else None,
        embed_rows=np.flatnonzero(embedded),
        source=image_source(recipe.contrastive.image),
        root=root,
    )
    return Cell(method=method, fold=fold, seed=seed, recipe=recipe, scored=image)


def _labels(recipe: Recipe, spots: SpotTable, rows: np.ndarray, fold: Fold) -> np.ndarray:
    """Return the classes that the gene stage may know: those that may train a probe; empty elsewhere.

    Raises InputError when the model learns from classes and no training patient has such a label.
    """
    if isinstance(recipe.gene.model, ScanviConfig):
        return _known(recipe, spots, rows, fold, "scANVI learns from", "gene.model.kind", "take gene.model.kind=scvi")
    return np.where(training_labels(rows, spots, fold.train, recipe.eval), spots.label[rows], "")


def _guides(recipe: Recipe, spots: SpotTable, rows: np.ndarray, fold: Fold) -> np.ndarray | None:
    """Return the classes that may guide the contrastive stage or balance its batches, by the same rule. None where
    neither asks.

    Raises InputError when no training patient has such a label.
    """
    contrastive = recipe.contrastive
    if contrastive.losses.guided.weight > 0:
        place = "contrastive.losses.guided.weight"
        return _known(recipe, spots, rows, fold, "the guided loss learns from", place, "set the weight to 0")
    if contrastive.batches.sampling == "classes":
        place = "contrastive.batches.sampling"
        return _known(
            recipe, spots, rows, fold, "a balanced batch is drawn from", place, "take `patients` or `uniform`"
        )
    return None


def _known(
    recipe: Recipe, spots: SpotTable, rows: np.ndarray, fold: Fold, who: str, place: str, otherwise: str
) -> np.ndarray:
    """Return the class of each of `rows` that may train a probe, empty elsewhere."""
    known = training_labels(rows, spots, fold.train, recipe.eval)
    if not known.any():
        what = f"{who} classes, and {fold_title(fold)} no training patient has a label that may train"
        raise InputError(Problem(place, what, f"name their source in eval.label_sources.train, or {otherwise}"))
    return np.where(known, spots.label[rows], "")
