"""A synthetic cohort small enough for any test: 3 patients, 40 spots each, patches of 32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import Panel, fit_panel
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.data.blocks import Counts
from stray.data.local import LocalData
from stray.experiment.cells import Cell, cell
from stray.likelihood.counts import SparseCounts
from stray.recipe import load_recipe


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


def prepared_cell(recipe: Recipe, dataset: PairedDataset, root: Path, *, train: bool = True) -> Cell:
    """`small_cell` once its panel is fitted."""
    made = small_cell(recipe, dataset, root=str(root), train=train)
    gene = made.scored.gene
    Path(gene.panel_path).parent.mkdir(parents=True, exist_ok=True)
    Path(gene.panel_path).write_text(fit_panel(dataset, made.fold.train, gene.config.panel).to_json())
    return made


class NanCounts(LocalData):
    """The counts of one spot are not a number, from the n-th time on that a batch is gathered."""

    def __init__(self, dataset: PairedDataset, place: int, from_gather: int = 0) -> None:
        """`place` is the spot's among the stage's rows."""
        super().__init__(dataset)
        self._place, self._from = place, from_gather

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        counts, place = super().counts(panel, rows), self._place
        left, original = [self._from], counts.entries

        def entries(positions: np.ndarray) -> SparseCounts:
            found = original(positions)
            left[0] -= 1
            if left[0] < 0:
                bad = np.flatnonzero(positions == place)
                found.total_n[bad] = np.nan
                found.x_e[np.flatnonzero(np.isin(found.row_e.numpy(), bad))] = np.nan
            return found

        counts.entries = entries
        return counts


def replace_patient(path: Path, patient: str, by: str) -> None:
    """Give the spots of `patient` the counts, labels and pictures of `by`, in a whole dataset."""
    import pyarrow.parquet as pq

    from stray.cohort.manifest import Manifest

    target, source = (next((path / "spots" / p).rglob("*.parquet")) for p in (patient, by))
    table, taken = pq.ParquetFile(target).read(), pq.ParquetFile(source).read()
    for name in ("gene_index", "gene_count", "total_count", "image", "label", "tissue_fraction"):
        table = table.set_column(
            table.column_names.index(name), table.schema.field(name), taken[name].cast(table[name].type)
        )
    pq.write_table(table, target)
    manifest = (path / "manifest.json").read_text()
    old = next(f for f in Manifest.load(str(path)).files if f"/{patient}/" in f.path)
    (path / "manifest.json").write_text(manifest.replace(f'"bytes": {old.bytes}', f'"bytes": {target.stat().st_size}'))
