"""Gene ranking by variance over spots or by spatial order, with scanpy. Legend: N spots, G genes."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import scipy.sparse as sp

from stray.cohort.dataset import SpotTable
from stray.errors import InputError, Problem

FEWEST_SPOTS = 10
"""Fewest spots of a patient whose genes are ranked by variance: with fewer the curve of variance over mean cannot be
fitted (a single spot has no variance at all, and the fit ends the whole process).
"""

FEWEST_GENES = 13
"""Genes that must vary within a patient: under four the loess ends the process (SIGSEGV), and under this many a span
of 0.3 holds too few points for its degree of 2.
"""

NEIGHBOURS = 6
"""Neighbours of a spot on a hexagonal array; on a square one the four nearest and two of the diagonal ones."""


def by_variance(
    counts_NG: sp.csr_matrix, patient_N: np.ndarray, count: int, notes: list[str] | None = None
) -> np.ndarray:
    """Return the `count` most variable genes, best first: scanpy's `seurat_v3` with the patient as batch.

    A patient of fewer than `FEWEST_SPOTS` spots, or whose variance over mean cannot be fitted, is left out of the
    ranking and named in `notes`; where all are left out, all spots are one batch. Raises InputError where that cannot
    be fitted either.
    """
    names_N = patient_N.astype(str)
    patients, spots = np.unique(names_N, return_counts=True)
    voters = [
        name
        for name, n in zip(patients, spots, strict=True)
        if n >= FEWEST_SPOTS and _ranked(counts_NG[names_N == name], None, count) is not None
    ]
    voting = np.isin(names_N, voters) if voters else np.ones(len(names_N), dtype=bool)
    silent = [str(name) for name in patients if name not in voters]
    if notes is not None and voters and silent:
        notes.append(f"{_few(silent)}: too few spots or genes that vary; no say in which genes are most variable")
    batches = names_N[voting] if len(voters) > 1 else None
    found = _ranked(counts_NG[voting], batches, count) if len(names_N) >= FEWEST_SPOTS else None
    if found is None:
        what = f"the counts of the training patients ({_few(silent)}) vary too little to rank genes"
        if len(names_N) < FEWEST_SPOTS:
            what = f"{len(names_N)} training spots with counts are too few to rank genes by variance"
        raise InputError(Problem("gene.panel.kind", what, "rank by another kind (mean), or hold out fewer patients"))
    return found


def _ranked(counts_NG: sp.csr_matrix, batch_N: np.ndarray | None, count: int) -> np.ndarray | None:
    """Return scanpy's choice, best first; None where variance over mean cannot be fitted."""
    import anndata
    import pandas as pd
    import scanpy as sc
    from sklearn.utils.sparsefuncs import mean_variance_axis

    counts_NG = sp.csr_matrix(counts_NG, dtype=np.float32)
    variance_G = np.asarray(mean_variance_axis(counts_NG, axis=0)[1])  # pyright: ignore[reportOptionalSubscript]
    if np.count_nonzero(variance_G) < FEWEST_GENES:
        return None
    obs = pd.DataFrame(index=pd.RangeIndex(counts_NG.shape[0]).astype(str))  # pyright: ignore[reportOptionalSubscript]
    if batch_N is not None:
        obs["patient"] = pd.Categorical(batch_N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # irrelevant warnings of loess and pandas
        try:
            found = sc.pp.highly_variable_genes(
                anndata.AnnData(counts_NG, obs=obs),
                n_top_genes=count,
                flavor="seurat_v3",
                batch_key=None if batch_N is None else "patient",
                inplace=False,
            )
        except ValueError:  # of the loess: too many genes of one mean
            return None
    assert found is not None
    chosen = np.flatnonzero(found["highly_variable"].to_numpy())
    return chosen[np.argsort(found["highly_variable_rank"].to_numpy()[chosen], kind="stable")]


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def by_place(sections: Iterable[tuple[sp.csr_matrix, SpotTable]], count: int) -> np.ndarray:
    """Return the `count` most spatially ordered genes, best first: Moran's I of log-normalised counts (n, G) within
    each section, the mean over sections by their spots. A section with too few spots for neighbours is left out.
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
            warnings.simplefilter("ignore")  # Moran's I is undefined for a gene without counts in the section
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
    """Return `count` genes that stand highest in either of two lists, taken from both in turn."""
    both = np.stack([first, second], axis=1).ravel()
    _, places = np.unique(both, return_index=True)
    return both[np.sort(places)][:count]
