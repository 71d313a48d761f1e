"""A comparison of quality small enough for any test: 3 patients of 40 spots, two epochs, two methods."""

from __future__ import annotations

from pathlib import Path

from jobs.benchmarks.quality.quality import Job, jobs
from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import fit_panel
from stray.config import Recipe
from stray.recipe import load_recipe
from tests.support.small_cohort import small_dataset

RECIPE = """
name: benchmark
seeds: [0, 1]
folds: {held_out: [P1, P2]}
methods:
  log_counts: {train: gene, set: {gene.model.kind: log_counts}}
  scvi: {train: gene}
  scanvi: {train: gene, set: {gene.model: {kind: scanvi, n_latent: 5, n_hidden: 32, scvi_epochs: 2}, gene.epochs: 3}}
gene:
  panel: {n_genes: 60}
  model: {n_latent: 5, n_hidden: 32}
  epochs: 2
  batch_size: 32
"""


def small_comparison(folder: Path, *changes: str) -> tuple[Recipe, PairedDataset]:
    """The recipe above, and its dataset at `folder/dataset`."""
    dataset = small_dataset(folder)
    (folder / "benchmark.yaml").write_text(RECIPE)
    places = [f"dataset={folder}/dataset", f"output={folder}/runs"]
    return load_recipe(str(folder / "benchmark.yaml"), [*places, *changes]), dataset


def prepared_jobs(comparison: tuple[Recipe, PairedDataset], root: Path, *methods: str) -> list[Job]:
    """The jobs of the comparison, their panels fitted."""
    recipe, dataset = comparison
    listed = jobs(recipe, dataset, methods, str(root))
    for one in [one for job in listed for one in job.cells]:
        gene = one.scored.gene
        if not storage.exists(gene.panel_path):
            panel = fit_panel(dataset, one.fold.train, gene.config.panel)
            storage.write_bytes(gene.panel_path, panel.to_json().encode())
    return listed
