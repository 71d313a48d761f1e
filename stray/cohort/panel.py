"""The gene panel: which genes a model sees, fitted on training patients only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from stray import storage
from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.gene_ranking import by_place, by_variance, union
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

    def place_in(self, symbols: Sequence[str], *, least_share: float = 0.5) -> tuple[np.ndarray, tuple[str, ...]]:
        """Where each gene stands among `symbols` (-1 where it is not), and the missing ones, which count as zeros.

        Raises ValueError when less than `least_share` of the panel is there: codes of zeros would mean nothing.
        """
        place = {symbol: i for i, symbol in enumerate(symbols)}
        found = np.array([place.get(symbol, -1) for symbol in self.symbols])
        missing = tuple(symbol for symbol, i in zip(self.symbols, found, strict=True) if i < 0)
        if len(missing) > (1 - least_share) * len(self):
            shown = ", ".join(missing[:5])
            raise ValueError(f"{len(missing)} of the panel's {len(self)} genes are not measured ({shown}, ...)")
        return found, missing

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

    Highly variable genes come from scanpy's `highly_variable_genes(flavor="seurat_v3")` with the patient as batch,
    spatially variable ones from Moran's I within sections. Raises InputError when no gene is left, no training patient
    has counts, or a list names genes that the dataset lacks.
    """
    spots = dataset.spots()
    rows = np.flatnonzero(spots.has_counts & np.isin(spots.patient, train_patients))
    if len(rows) == 0:
        raise InputError(Problem("gene.panel", "no training patient has counts", "ingest sections with counts"))
    counts_NG = dataset.counts(rows)
    allowed = _allowed(dataset, rows, counts_NG, config)
    if config.kind == "file":
        chosen = _listed(dataset, config.path)
    else:
        if len(allowed) < 2:
            what = f"{len(allowed)} genes were measured in at least {config.min_sections_share:.0%} of the training"
            remedy = "lower gene.panel.min_sections_share, or exclude fewer patterns"
            raise InputError(Problem("gene.panel", f"{what} sections", remedy))
        chosen = allowed
        if config.kind != "all" and config.n_genes < len(allowed):
            chosen = allowed[_best(counts_NG[:, allowed], spots.take(rows), config)]
    chosen = np.sort(chosen)
    symbols = dataset.genes.column("symbol").to_pylist()
    return Panel(tuple(symbols[i] for i in chosen), tuple(int(i) for i in chosen))


def _best(counts_NG: sp.csr_matrix, spots: SpotTable, config: PanelConfig) -> np.ndarray:
    """The `n_genes` best of the allowed genes."""
    if config.kind == "mean":
        return np.argsort(-np.asarray(counts_NG.mean(axis=0)).ravel(), kind="stable")[: config.n_genes]
    if config.kind == "hvg":
        return by_variance(counts_NG, spots.patient, config.n_genes)
    if config.kind == "svg":
        return by_place(counts_NG, spots, config.n_genes)
    rankings = by_variance(counts_NG, spots.patient, config.n_genes), by_place(counts_NG, spots, config.n_genes)
    return union(*rankings, config.n_genes)


def _listed(dataset: PairedDataset, path: str) -> np.ndarray:
    """Rows of the gene table of the symbols in a file, one a line. Raises InputError that names what is amiss."""
    try:
        lines = [line.strip() for line in storage.read_bytes(path).decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give a text file with a gene symbol a line"
        raise InputError(Problem("gene.panel.path", f"{path} cannot be read: {error}", remedy)) from None
    wanted = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    place = {symbol: i for i, symbol in enumerate(dataset.genes.column("symbol").to_pylist())}
    unknown = [symbol for symbol in wanted if symbol not in place]
    if unknown or len(wanted) < 2:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        what = f"{len(unknown)} of {len(wanted)} symbols are not in the dataset ({shown})"
        what = what if unknown else f"names {len(wanted)} genes, a panel needs two"
        raise InputError(Problem(path, what, f"take symbols of {dataset.path}/genes.parquet"))
    return np.array([place[symbol] for symbol in wanted])


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
