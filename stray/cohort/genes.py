"""Identity of genes: names as files give them, and one gene table for a cohort.

Genes are joined by accession where there is one, with its version cut, else by symbol. A section that gives only one of
the two finds the other in the sections that give both.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from stray.cohort.schema import GENE_TABLE
from stray.cohort.section import Genes, plural
from stray.errors import Problem, raise_if_any

Duplicates = Literal["refuse", "sum"]
ID_COLUMNS = (
    "gene_ids",
    "gene_id",
    "ensembl_id",
    "ensembl_ids",
    "ensembl",
    "ensembl_gene_id",
    "accession",
    "feature_id",
)
"""Columns of `var` that may hold accessions, in lower case."""
SYMBOL_COLUMNS = (
    "feature_name", "gene_symbols", "gene_symbol", "gene_name", "gene_names", "symbol", "symbols", "hgnc_symbol",
)  # fmt: skip
"""Columns of `var` that may hold symbols, in lower case."""
_ACCESSION = re.compile(r"(?:[A-Za-z0-9]+_+)?((?:ENS[A-Z]{0,6}G|FBgn|WBGene)\d{6,})(?:\.\d+)?(_PAR_Y)?")
_COPY = re.compile(r"(.+)-\d+")


def accession(text: str) -> str | None:
    """Return the accession in `text` without genome prefix and version; None where it is none (a symbol)."""
    match = _ACCESSION.fullmatch(text)
    return None if match is None else match.group(1) + (match.group(2) or "")


def bare_symbol(symbol: str) -> str:
    """Return a symbol of the gene table without the accession that tells it from another gene of that symbol."""
    return symbol.split(" (", 1)[0]


def named_genes(index: Sequence[object], columns: pd.DataFrame) -> Genes:
    """Return the genes of a `var` table: symbols and accessions from its index and from columns known by name."""
    names = tuple(str(name).strip() for name in index)
    own_ids = [accession(name) for name in names]
    by_id = sum(found is not None for found in own_ids) * 2 > len(names)
    lower = {str(column).lower(): column for column in columns.columns}

    def column(candidates: tuple[str, ...]) -> list[str] | None:
        found = next((lower[name] for name in candidates if name in lower), None)
        return None if found is None else ["" if pd.isna(v) else str(v).strip() for v in columns[found]]

    if by_id:
        ids: list[str | None] = [found or name for found, name in zip(own_ids, names, strict=True)]
        symbols = column(SYMBOL_COLUMNS) or list(names)
        return Genes(
            symbols=tuple(symbol or str(gene) for symbol, gene in zip(symbols, ids, strict=True)), ids=tuple(ids)
        )
    given = column(ID_COLUMNS)
    ids = [] if given is None else [accession(text) or text or None for text in given]
    return Genes(symbols=names, ids=tuple(ids))


@dataclass(frozen=True, kw_only=True)
class CohortGenes:
    """The genes of a cohort, and where each section's genes stand among them."""

    table: pa.Table
    """Rows of `GENE_TABLE`, sorted by symbol."""
    index: Mapping[str, np.ndarray]
    """Section -> row of the table of each of its genes, int32; a row comes twice where copies are summed."""
    warnings: tuple[str, ...]

    def overlap(self) -> dict[str, float]:
        """Return for each section the share of the genes measured in at least half of the other sections that it has,
        too.
        """
        return gene_overlap(np.asarray(self.table["n_sections"]), self.index)


def gene_overlap(n_sections_G: np.ndarray, measured: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return for each section the share of the genes measured in at least half of the other sections that it has, too.

    Args:
        n_sections_G: Number of sections that measured each gene of the gene table.
        measured: Section -> what it measured, as rows of the gene table or a mask over them.
    """
    shares = {}
    for name, own_rows in measured.items():
        own = np.zeros(len(n_sections_G), dtype=bool)
        own[own_rows] = True
        others = (n_sections_G - own) >= max(1.0, (len(measured) - 1) / 2)
        shares[name] = float(own[others].mean()) if others.any() else float(len(measured) == 1)
    return shares


def unite_genes(
    genes_of: Mapping[str, Genes], duplicates: Duplicates = "refuse", places: Mapping[str, str] | None = None
) -> CohortGenes:
    """Return the cohort's genes from those of its sections; `places` names the file of each, for messages.

    Symbols that differ in accession between sections are one gene (another release of the annotation), unless a
    section holds both. With `duplicates="sum"` all genes of a symbol are one, and copies that anndata's
    `var_names_make_unique` renamed (`X-1` beside `X`) count as `X`.

    Raises:
        InputError: A section names a gene twice and `duplicates` is "refuse".
    """
    distinct: dict[Genes, list[str]] = defaultdict(list)
    for name, genes in genes_of.items():
        distinct[genes].append(name)
    groups = _group_accessions(distinct, joined=duplicates == "sum")
    keys_of = {genes: _keys(genes, groups, duplicates) for genes in distinct}
    if duplicates == "refuse":
        places = places or {}
        raise_if_any(
            [
                problem
                for genes, names in distinct.items()
                for name in names
                for problem in _twice(genes, keys_of[genes], name, places.get(name, "ingest.sources"))
            ]
        )

    n_sections: Counter[str] = Counter()
    symbols: dict[str, Counter[str]] = defaultdict(Counter)
    for genes, names in distinct.items():
        n_sections.update(dict.fromkeys(keys_of[genes], len(names)))
        for key, symbol in zip(keys_of[genes], genes.symbols, strict=True):
            symbols[key][symbol] += len(names)
    shown = _shown(symbols)
    order = sorted(shown, key=lambda key: shown[key])
    place = {key: row for row, key in enumerate(order)}
    table = pa.table(
        {
            "index": pa.array(range(len(order)), pa.int32()),
            "symbol": pa.array([shown[key] for key in order], pa.string()),
            "id": pa.array([groups.id_of(key) for key in order], pa.string()),
            "n_sections": pa.array([n_sections[key] for key in order], pa.int32()),
        },
        schema=GENE_TABLE,
    )
    index = {}
    for genes, names in distinct.items():
        rows = np.array([place[key] for key in keys_of[genes]], dtype=np.int32)
        index |= dict.fromkeys(names, rows)
    return CohortGenes(table=table, index=index, warnings=(*groups.warnings, *_renamed(distinct, duplicates)))


@dataclass(frozen=True)
class _Groups:
    """Accessions that are one gene. A gene's key is its accession, or `symbol:` and its symbol where it has none."""

    of_accession: Mapping[str, str]
    """Accession -> key of its gene."""
    of_symbol: Mapping[str, frozenset[str]]
    """Symbol -> keys of the genes with accession that are called so somewhere."""
    warnings: tuple[str, ...]

    def id_of(self, key: str) -> str | None:
        return None if key.startswith("symbol:") else key


def _group_accessions(distinct: Mapping[Genes, list[str]], *, joined: bool) -> _Groups:
    ids_of: dict[str, dict[str, None]] = defaultdict(dict)
    holders: dict[str, set[int]] = defaultdict(set)
    for number, genes in enumerate(distinct):
        for symbol, gene in zip(genes.symbols, genes.ids, strict=False):
            if gene is not None:
                holders[gene].add(number)
                if symbol != gene:
                    ids_of[symbol][gene] = None
    key_of = {gene: gene for gene in holders}
    members = {gene: [gene] for gene in holders}
    drifted, apart = [], []
    for symbol, ids in ids_of.items():
        kept: list[str] = []
        for key in dict.fromkeys(key_of[gene] for gene in ids):
            partner = next((other for other in kept if joined or not holders[other] & holders[key]), None)
            if partner is None:
                kept.append(key)
                continue
            holders[partner] |= holders[key]
            members[partner] += members[key]
            key_of |= dict.fromkeys(members[key], partner)
        if len(ids) > 1:
            (apart if len(kept) > 1 else drifted).append(symbol)
    warnings = []
    for found, what in (
        (drifted, "with different accessions in different sections, taken as one gene"),
        (apart, "of several genes in one section, told apart by accession"),
    ):
        if found:
            example = f"{found[0]}: {', '.join(ids_of[found[0]])}"
            warnings.append(f"{plural(len(found), 'gene symbol')} {what} ({example})")
    of_symbol = {symbol: frozenset(key_of[gene] for gene in ids) for symbol, ids in ids_of.items()}
    return _Groups(key_of, of_symbol, tuple(warnings))


def _keys(genes: Genes, groups: _Groups, duplicates: Duplicates) -> tuple[str, ...]:
    """Return the key of each gene of a section."""
    ids = genes.ids or (None,) * len(genes.symbols)
    own = set(genes.symbols)
    keys, taken = [], set()
    for symbol, gene in zip(genes.symbols, ids, strict=True):
        if gene is not None:
            key = groups.of_accession[gene]
        else:
            if duplicates == "sum" and (copy := _COPY.fullmatch(symbol)) and copy.group(1) in own:
                symbol = copy.group(1)
            known = groups.of_symbol.get(symbol, frozenset())
            (key,) = known if len(known) == 1 else (f"symbol:{symbol}",)
            if key in taken and duplicates == "refuse":
                key = f"symbol:{symbol}"
        taken.add(key)
        keys.append(key)
    return tuple(keys)


def _twice(genes: Genes, keys: tuple[str, ...], section: str, place: str) -> Iterator[Problem]:
    times = Counter(keys)
    twice = list(dict.fromkeys(s for s, key in zip(genes.symbols, keys, strict=True) if times[key] > 1))
    if twice:
        yield Problem(
            place,
            f"section {section} names {plural(len(twice), 'gene')} more than once: {', '.join(twice[:5])}",
            'give accessions in var["gene_ids"], or add the copies up: --duplicate-genes sum',
        )


def _shown(symbols: Mapping[str, Counter[str]]) -> dict[str, str]:
    """Return the symbol that the table shows for each key: the most common one, with the accession behind it where two
    genes share it.
    """
    best = {}
    for key, counter in symbols.items():
        named = {symbol: count for symbol, count in counter.items() if symbol != key} or dict(counter)
        best[key] = min(named, key=lambda symbol: (-named[symbol], symbol))
    times = Counter(best.values())
    return {
        key: f"{symbol} ({key})" if times[symbol] > 1 and not key.startswith("symbol:") else symbol
        for key, symbol in best.items()
    }


def _renamed(distinct: Mapping[Genes, list[str]], duplicates: Duplicates) -> tuple[str, ...]:
    """Warn of copies that were renamed by their order in the file, which may differ from file to file."""
    found: dict[str, None] = {}
    for genes in distinct:
        own = set(genes.symbols)
        if not genes.ids:
            found |= {s: None for s in genes.symbols if (copy := _COPY.fullmatch(s)) and copy.group(1) in own}
    if not found or duplicates == "sum" or len(distinct) < 2:
        return ()
    return (
        f"{plural(len(found), 'gene')} look like copies that were renamed by their order in the file "
        f'({", ".join(list(found)[:3])}), which may differ between files: give accessions in var["gene_ids"], or add '
        "the copies up (--duplicate-genes sum)",
    )


def gene_warnings(overlap: Mapping[str, float]) -> tuple[str, ...]:
    """Return a warning for each section that has under half of the genes of the other sections."""
    return tuple(
        f"section {name} has {share:.0%} of the genes that the other sections measured"
        + (": its genes seem to be named in another way; give symbols and accessions" if share < 0.1 else "")
        for name, share in sorted(overlap.items())
        if share < 0.5
    )
