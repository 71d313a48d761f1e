"""Genes by how much they vary over spots or over the tissue, by scanpy. Legend: N spots, G genes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from stray.cohort.dataset import SpotTable
from stray.errors import InputError, Problem

FEWEST_SPOTS = 10
"""Of a patient whose genes are ranked by variance: with fewer the curve of variance over mean cannot be fitted (a
single spot has no variance at all, and the fit ends the whole process).
"""

FEWEST_MEANS = 30
"""Different mean counts of a patient's genes: with fewer the fit fails or ends the process."""

NEIGHBOURS = 6
"""Of a spot on a hexagonal array; on a square one the four nearest and two of the diagonal ones."""


def by_variance(counts_NG: sp.csr_matrix, patient_N: np.ndarray, count: int) -> np.ndarray:
    """The `count` most variable genes, best first: scanpy's `seurat_v3` with the patient as batch.

    A patient of fewer than `FEWEST_SPOTS` spots has no say; where nobody has more, all spots are one batch. Raises
    InputError where the fit of variance over mean fails.
    """
    import anndata
    import pandas as pd
    import scanpy as sc

    names_N = patient_N.astype(str)
    patients, spots = np.unique(names_N, return_counts=True)
    voters = [
        name
        for name, n in zip(patients, spots, strict=True)
        if n >= FEWEST_SPOTS and _can_be_fitted(counts_NG[names_N == name])
    ]
    voting = np.isin(names_N, voters)
    if voting.any():
        counts_NG, patient_N = counts_NG[voting], patient_N[voting]
    remedy = "rank by another kind (mean), or hold out fewer patients"
    if len(patient_N) >= FEWEST_SPOTS and not voting.any() and not _can_be_fitted(counts_NG):
        what = f"the counts of the training patients ({', '.join(patients[:5])}) vary too little to rank genes"
        raise InputError(Problem("gene.panel.kind", what, remedy))
    if len(patient_N) < FEWEST_SPOTS:
        what = f"{len(patient_N)} training spots with counts are too few to rank genes by variance"
        raise InputError(Problem("gene.panel.kind", what, remedy))
    table = anndata.AnnData(
        counts_NG.astype(np.float32),
        obs=pd.DataFrame({"patient": pd.Categorical(patient_N)}, index=[str(i) for i in range(len(patient_N))]),
    )
    batch_key = "patient" if voting.any() and len(set(patient_N.tolist())) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loess and pandas chatter that says nothing of the result
        try:
            found = sc.pp.highly_variable_genes(
                table, n_top_genes=count, flavor="seurat_v3", batch_key=batch_key, inplace=False
            )
        except ValueError as error:  # of the loess, whose words are bytes of Fortran
            what = f"variance over mean cannot be fitted in some patient, whose counts are too few ({error})"
            raise InputError(Problem("gene.panel.kind", what, remedy)) from error
    assert found is not None
    chosen = np.flatnonzero(found["highly_variable"].to_numpy())
    return chosen[np.argsort(found["highly_variable_rank"].to_numpy()[chosen], kind="stable")]


def _can_be_fitted(counts_NG: sp.csr_matrix) -> bool:
    """Whether variance over mean can be fitted: loess on too few different points ends the process."""
    total_G = np.asarray(counts_NG.sum(axis=0, dtype=np.int64)).ravel()
    squares_G = np.asarray(counts_NG.astype(np.int64).power(2).sum(axis=0)).ravel()
    n_spots: int = counts_NG.shape[0]  # pyright: ignore[reportOptionalSubscript]
    varies_G = squares_G * n_spots > total_G**2
    return len(np.unique(total_G[varies_G])) >= min(FEWEST_MEANS, max(2, len(total_G) // 4))


def by_place(sections: Iterable[tuple[sp.csr_matrix, SpotTable]], count: int) -> np.ndarray:
    """The `count` most spatially ordered genes, best first: Moran's I of log-normalised counts (n, G) within
    each section, the mean over sections by their spots. A section that has too few spots for neighbours has no say.
    """
    from scanpy.metrics import morans_i
    from sklearn.neighbors import kneighbors_graph

    total_G, weight = np.zeros(0), 0
    for counts_nG, spots in sections:
        total_G = total_G if len(total_G) else np.zeros(counts_nG.shape[1])  # pyright: ignore[reportOptionalSubscript]
        if len(spots) <= NEIGHBOURS:
            continue
        places_n2 = np.stack([spots.x_um, spots.y_um], axis=1)
        graph = sp.csr_matrix(kneighbors_graph(places_n2, NEIGHBOURS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a gene that a section never saw has no Moran's I
            score_G = np.asarray(morans_i(graph, _log_normalised(counts_nG).T.tocsr()))
        total_G += np.nan_to_num(score_G) * len(spots)
        weight += len(spots)
    return np.argsort(-total_G / max(weight, 1), kind="stable")[:count]


def _log_normalised(counts_nG: sp.csr_matrix) -> sp.csr_matrix:
    totals_n = np.asarray(counts_nG.sum(axis=1)).ravel()
    scaled = sp.csr_matrix(sp.diags(1e4 / np.maximum(totals_n, 1)) @ counts_nG.astype(np.float64))
    scaled.data = np.log1p(scaled.data)
    return scaled


def union(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """`count` genes that stand highest in either of two lists, taken from both in turn."""
    both = np.stack([first, second], axis=1).ravel()
    _, places = np.unique(both, return_index=True)
    return both[np.sort(places)][:count]
