"""The gene panel: which genes a model sees, fitted on training patients only."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stray import storage
from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.gene_ranking import by_place, by_variance, union
from stray.cohort.genes import bare_symbol
from stray.config import PanelConfig
from stray.errors import InputError, Problem, raise_if_any

MOST_SPOTS = 100_000
"""Spots by which genes are ranked by variance: their counts are held at once, several times over."""


@dataclass(frozen=True)
class Panel:
    """Genes in the order of the model's inputs."""

    symbols: tuple[str, ...]
    """Gene symbols, by which a panel is stored and matched."""
    index: tuple[int, ...]
    """Each gene's row in the gene table of the dataset that the panel was fitted on."""
    ids: tuple[str | None, ...] = ()
    """Accessions, parallel to `symbols`; empty in a panel of an earlier stray."""
    notes: tuple[str, ...] = ()
    """Notes on the fit for the user: sections that measured little of the panel, patients left out of the ranking."""

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def key(self) -> str:
        """A digest of the genes and their order."""
        return hashlib.blake2b("\n".join(self.symbols).encode(), digest_size=8).hexdigest()

    def place_in(
        self, symbols: Sequence[str], ids: Sequence[str | None] = (), *, least_share: float = 0.5
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the position of each gene among `symbols` with accessions `ids`, and the missing genes.

        A gene is found by its accession, else by its symbol; -1 where it is not, which counts as zeros. Raises
        ValueError when less than `least_share` of the panel is there: codes of zeros would mean nothing.
        """
        by_symbol = {symbol: i for i, symbol in enumerate(symbols)}
        by_id = {gene: i for i, gene in enumerate(ids) if gene is not None}
        own_ids = self.ids or (None,) * len(self)
        found = np.array(
            [by_id.get(own or "", by_symbol.get(s, -1)) for s, own in zip(self.symbols, own_ids, strict=True)]
        )
        missing = tuple(symbol for symbol, i in zip(self.symbols, found, strict=True) if i < 0)
        if len(missing) > (1 - least_share) * len(self):
            shown = ", ".join(missing[:5])
            raise ValueError(f"{len(missing)} of the panel's {len(self)} genes are not measured ({shown}, ...)")
        return found, missing

    def to_json(self) -> str:
        """Return the panel as text, for the folder of a trained model."""
        tree = {"symbols": self.symbols, "index": self.index, "ids": self.ids, "notes": self.notes}
        return json.dumps({**tree, "sha256": _sha256(tree)})

    @staticmethod
    def from_json(text: str) -> Panel:
        """Return the panel that `to_json` wrote. Raises ValueError when the text is damaged."""
        tree = json.loads(text)
        if not isinstance(tree, dict) or not {"symbols", "index"} <= tree.keys():
            raise ValueError("it is not a gene panel of stray")
        # Panels of earlier versions hold no digest.
        if tree.pop("sha256", None) not in (None, _sha256(tree)):
            raise ValueError("its content has changed (SHA-256 differs)")
        return Panel(*(tuple(tree.get(name, ())) for name in ("symbols", "index", "ids", "notes")))


def _sha256(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def fit_panel(dataset: PairedDataset, train_patients: tuple[str, ...], config: PanelConfig) -> Panel:
    """Choose the panel from the counts of the training patients.

    Highly variable genes come from scanpy's `highly_variable_genes(flavor="seurat_v3")` with the patient as batch,
    spatially variable ones from Moran's I within sections. Counts are read a section at a time, and of more than
    `MOST_SPOTS` spots the variance is that of a sample of as many. Raises InputError when no gene is left, no training
    patient has counts, or a list names genes that the dataset lacks.
    """
    notes: list[str] = []
    spots = dataset.spots()
    rows = np.flatnonzero(spots.has_counts & np.isin(spots.patient, train_patients))
    if len(rows) == 0:
        raise InputError(Problem("gene.panel", "no training patient has counts", "ingest sections with counts"))
    if config.kind == "file":
        chosen = _listed(dataset, config.path)
    else:
        sections = _sections(spots, rows)
        measured_G, total_G = _survey(dataset, sections)
        chosen = _allowed(dataset, measured_G, len(sections), config)
        if len(chosen) < 2:
            what = f"{len(chosen)} genes were measured in at least {config.min_sections_share:.0%} of the training"
            remedy = "lower gene.panel.min_sections_share, or exclude fewer patterns"
            raise InputError(Problem("gene.panel", f"{what} sections", remedy))
        if config.kind == "mean":
            chosen = chosen[np.argsort(-total_G[chosen], kind="stable")[: config.n_genes]]
        elif config.kind != "all" and config.n_genes < len(chosen):
            chosen = chosen[_best(dataset, spots, rows, sections, chosen, config, notes)]
    chosen = np.sort(chosen)
    symbols, ids = (dataset.genes.column(name).to_pylist() for name in ("symbol", "id"))
    panel = Panel(tuple(symbols[i] for i in chosen), tuple(int(i) for i in chosen), tuple(ids[i] for i in chosen))
    return replace(panel, notes=(*notes, *check_coverage(dataset, panel, train_patients)))


def check_coverage(dataset: PairedDataset, panel: Panel, patients: Sequence[str]) -> tuple[str, ...]:
    """Return a warning for each section of `patients` that measured under half of the panel.

    Raises:
        InputError: A section measured under a tenth of it: its counts over the panel are zeros that mean nothing.
    """
    genes, wanted = dataset.manifest.genes_measured(), np.asarray(panel.index)
    warnings, problems = [], []
    for section in dataset.manifest.sections:
        if section.patient not in patients or section.name not in genes:
            continue
        share = float(genes[section.name][wanted].mean())
        whose = f"section {section.name} of patient {section.patient}"
        what = f"{whose} measured {share:.0%} of the panel's {len(panel)} genes"
        if share < 0.1:
            remedy = "name its genes as in the other sections (symbols or accessions) and ingest again, or leave it out"
            problems.append(Problem("gene.panel", what, remedy))
        elif share < 0.5:
            warnings.append(f"{what}; the others count as zeros")
    raise_if_any(problems)
    return tuple(warnings)


def _sections(spots: SpotTable, rows: np.ndarray) -> list[np.ndarray]:
    """Return `rows` by their section, in the order of the sections' names."""
    _, section_n = np.unique(spots.section[rows], return_inverse=True)
    order = np.argsort(section_n, kind="stable")
    return np.split(rows[order], np.flatnonzero(np.diff(section_n[order])) + 1)


def _survey(dataset: PairedDataset, sections: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each gene of the dataset, the number of sections with a count of it and the sum of its counts."""
    measured_G, total_G = (np.zeros(dataset.manifest.n_genes, dtype=np.int64) for _ in range(2))
    for rows in sections:
        sums_G = np.asarray(dataset.counts(rows).sum(axis=0, dtype=np.int64)).ravel()
        measured_G += sums_G > 0
        total_G += sums_G
    return measured_G, total_G


def _best(
    dataset: PairedDataset,
    spots: SpotTable,
    rows: np.ndarray,
    sections: list[np.ndarray],
    allowed: np.ndarray,
    config: PanelConfig,
    notes: list[str],
) -> np.ndarray:
    """Return the `n_genes` best of the allowed genes, as positions among them."""
    rankings = []
    if config.kind in ("hvg", "union"):
        if len(rows) > MOST_SPOTS:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_SPOTS, replace=False))
        rankings.append(by_variance(dataset.counts(rows)[:, allowed], spots.patient[rows], config.n_genes, notes))
    if config.kind in ("svg", "union"):
        pieces = ((dataset.counts(of_one)[:, allowed], spots.take(of_one)) for of_one in sections)
        rankings.append(by_place(pieces, config.n_genes))
    return rankings[0] if len(rankings) == 1 else union(rankings[0], rankings[1], config.n_genes)


def _listed(dataset: PairedDataset, path: str) -> np.ndarray:
    """Return rows of the gene table of the symbols or accessions in a file, one a line.

    Raises InputError if the file cannot be read or names unknown genes.
    """
    try:
        lines = [line.strip() for line in storage.read_bytes(path).decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        remedy = "give a text file with one gene symbol per line"
        raise InputError(Problem("gene.panel.path", f"{path} cannot be read: {error}", remedy)) from None
    wanted = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    place = {gene: i for i, gene in enumerate(dataset.genes.column("id").to_pylist()) if gene is not None}
    place |= {symbol: i for i, symbol in enumerate(dataset.genes.column("symbol").to_pylist())}
    unknown = [symbol for symbol in wanted if symbol not in place]
    if unknown or len(wanted) < 2:
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        what = f"{len(unknown)} of {len(wanted)} symbols are not in the dataset ({shown})"
        what = what if unknown else f"names {len(wanted)} genes, a panel needs two"
        raise InputError(Problem(path, what, f"take symbols of {dataset.path}/genes.parquet"))
    return np.array([place[symbol] for symbol in wanted])


def _allowed(dataset: PairedDataset, measured_G: np.ndarray, n_sections: int, config: PanelConfig) -> np.ndarray:
    """Return genes seen in enough training sections whose symbol no pattern excludes, as rows of the gene table."""
    keep = measured_G >= max(1, config.min_sections_share * n_sections)
    symbols = [bare_symbol(symbol) for symbol in dataset.genes.column("symbol").to_pylist()]
    for pattern in config.exclude:
        keep &= ~np.array([re.match(pattern, symbol) is not None for symbol in symbols])
    return np.flatnonzero(keep)
