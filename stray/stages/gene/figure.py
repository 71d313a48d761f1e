"""The figure of a gene stage: training patients' spots before and after it, by batch and by class."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from stray.data.blocks import Counts
from stray.metrics.separation import group_codes, separation
from stray.models.pca import log_normalised
from stray.noise import numpy_generator
from stray.stages.spec import GeneStage

MOST_SPOTS = 1500
"""Spots that are drawn and compared."""
COMPONENTS = 50
"""Principal components of the counts in which spots are compared before the stage: scanpy's default, and scIB's."""
MODELS = {"scvi": "scVI codes", "scanvi": "scANVI codes", "pca": "principal components", "log_counts": "log counts"}
"""Names of the codes of a kind of model."""


def draw_codes(stage: GeneStage, counts: Counts, codes_NZ: Tensor) -> bytes | None:
    """Draw the figure as PNG, from a keyed sample of the spots with counts enough to train on; None of fewer than
    three.

    Before: log-normalised counts over the panel (every spot scaled to the median total), their principal components.
    After: the codes. Both are shown on two principal components, because UMAP takes longer to load and compile than
    a small stage to train, and the line over each panel says what two components cannot: the separation in all of
    them. Of a fold only the training patients are drawn.
    """
    totals_N = counts.totals()
    usable = np.flatnonzero(totals_N >= max(stage.config.min_count, 1))
    if len(usable) < 3:
        return None
    # Import plotting and PCA here: most workers never need them.
    from stray.report.codes import View, before_and_after
    from stray.report.style import save_png

    chosen = numpy_generator(stage.seed, "gene", "figure").permutation(usable)[:MOST_SPOTS]
    before_nG = log_normalised(counts.gather(chosen), float(np.median(totals_N[usable]))).numpy()
    groupings = {stage.config.batch_key: stage.batch[chosen].astype(str), "class": stage.label[chosen].astype(str)}
    views = []
    for title, space_nD in (
        (f"Before: log-normalised counts, {counts.n_genes:,} genes", before_nG),
        (f"After: {MODELS[stage.config.model.kind]}, {codes_NZ.shape[1]:,} dimensions", codes_NZ[chosen].numpy()),
    ):
        components_nC, share_C = _principal(space_nD)
        notes = _notes(components_nC, groupings, learned=stage.learns_labels and space_nD is not before_nG)
        views.append(View(title, components_nC[:, :2], (float(share_C[0]), float(share_C[1])), notes))
    footer = (
        f"Computed in all dimensions, up to {COMPONENTS}. By {stage.config.batch_key} low is good (mixed), by "
        "class high is good (separated).\nkNN purity: 0 is chance, 1 means all neighbours are of the same group."
    )
    figure = before_and_after(tuple(views), groupings, footer)
    with tempfile.TemporaryDirectory() as folder:
        return Path(save_png(figure, Path(folder) / "codes.png")).read_bytes()


def _principal(space_nD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return principal components (n, C) of spots, and the share of the variance on each; C of 2 to `COMPONENTS`."""
    from sklearn.decomposition import PCA

    if space_nD.shape[1] < 2:
        space_nD = np.pad(space_nD, ((0, 0), (0, 1)))
    model = PCA(min(COMPONENTS, *space_nD.shape), random_state=0)
    with np.errstate(invalid="ignore"):  # codes that have collapsed to a point have no variance
        components_nC = model.fit_transform(space_nD.astype(np.float64))
    return components_nC, np.nan_to_num(model.explained_variance_ratio_)


def _notes(space_nC: np.ndarray, groupings: dict[str, np.ndarray], *, learned: bool) -> dict[str, str]:
    """Return a line on the separation of each grouping that has two groups or more."""
    coded = {name: group_codes(of_n) for name, of_n in groupings.items()}
    coded = {name: group_n for name, group_n in coded.items() if group_n.max(initial=-1) >= 1}
    found = separation(space_nC, coded)
    # Adding 0.0 turns -0.00 into 0.00.
    shown = {name: f"{round(value, 2) + 0.0:.2f}" for name, value in found.items()}
    notes = {
        name: f"silhouette {shown[f'{name}_silhouette']}, kNN purity {shown[f'{name}_knn_purity']}" for name in coded
    }
    if learned and "class" in notes:
        notes["class"] += " (labels used in training)"
    return notes
