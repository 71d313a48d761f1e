"""The gene panel: which genes a model sees, fitted on training patients only."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from stray.cohort.dataset import PairedDataset
from stray.config import PanelConfig
from stray.errors import InputError, Problem


@dataclass(frozen=True)
class Panel:
    """Genes in the order of the model's inputs."""

    symbols: tuple[str, ...]
    """Gene symbols; what a panel is stored and matched by."""
    index: tuple[int, ...]
    """Each gene's row in the gene table of the dataset that the panel was fitted on."""

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def key(self) -> str:
        """A digest of the genes and their order."""
        return hashlib.blake2b("\n".join(self.symbols).encode(), digest_size=8).hexdigest()

    def to_json(self) -> str:
        """As text, for the folder of a trained model."""
        return json.dumps({"symbols": self.symbols, "index": self.index})

    @staticmethod
    def from_json(text: str) -> Panel:
        """Inverse of `to_json`."""
        tree = json.loads(text)
        return Panel(tuple(tree["symbols"]), tuple(tree["index"]))


def fit_panel(dataset: PairedDataset, train_patients: tuple[str, ...], config: PanelConfig) -> Panel:
    """Choose the panel from the counts of the training patients.

    Highly variable genes come from scanpy's `highly_variable_genes(flavor="seurat_v3")` with the patient as batch.
    Raises InputError when no gene is left or no training patient has counts.
    """
    spots = dataset.spots()
    rows = np.flatnonzero(spots.has_counts & np.isin(spots.patient, train_patients))
    if len(rows) == 0:
        raise InputError(Problem("gene.panel", "no training patient has counts", "ingest sections with counts"))
    counts_NG = dataset.counts(rows)
    allowed = _allowed(dataset, rows, counts_NG, config)
    if len(allowed) < 2:
        what = (
            f"{len(allowed)} genes were measured in at least {config.min_sections_share:.0%} of the training sections"
        )
        raise InputError(Problem("gene.panel", what, "lower gene.panel.min_sections_share, or exclude fewer patterns"))
    chosen = allowed
    if config.kind == "mean" and config.n_genes < len(allowed):
        mean = np.asarray(counts_NG[:, allowed].mean(axis=0)).ravel()
        chosen = allowed[np.argsort(-mean, kind="stable")[: config.n_genes]]
    elif config.kind == "hvg" and config.n_genes < len(allowed):
        chosen = allowed[_highly_variable(counts_NG[:, allowed], spots.patient[rows], config.n_genes)]
    chosen = np.sort(chosen)
    symbols = dataset.genes.column("symbol").to_pylist()
    return Panel(tuple(symbols[i] for i in chosen), tuple(int(i) for i in chosen))


def _allowed(dataset: PairedDataset, rows: np.ndarray, counts_NG: sp.csr_matrix, config: PanelConfig) -> np.ndarray:
    """Genes seen in enough training sections whose symbol no pattern excludes, as rows of the gene table."""
    section = dataset.spots().section[rows]
    names, section_n = np.unique(section, return_inverse=True)
    member_SN = sp.csr_matrix((np.ones(len(rows)), (section_n, np.arange(len(rows)))), shape=(len(names), len(rows)))
    measured = np.asarray(((member_SN @ counts_NG) > 0).sum(axis=0)).ravel()
    keep = measured >= max(1, config.min_sections_share * len(names))
    symbols = dataset.genes.column("symbol").to_pylist()
    for pattern in config.exclude:
        keep &= ~np.array([re.match(pattern, symbol) is not None for symbol in symbols])
    return np.flatnonzero(keep)


def _highly_variable(counts_NG: sp.csr_matrix, patient_N: np.ndarray, n_genes: int) -> np.ndarray:
    import anndata
    import pandas as pd
    import scanpy as sc

    table = anndata.AnnData(
        counts_NG.astype(np.float32),
        obs=pd.DataFrame({"patient": pd.Categorical(patient_N)}, index=[str(i) for i in range(len(patient_N))]),
    )
    batch_key = "patient" if len(set(patient_N.tolist())) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # loess and pandas chatter that says nothing of the result
        sc.pp.highly_variable_genes(table, n_top_genes=n_genes, flavor="seurat_v3", batch_key=batch_key)
    return np.flatnonzero(table.var["highly_variable"].to_numpy())
