"""Genes of sections that are named in different ways are joined to one gene table."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.genes import accession, gene_warnings, named_genes, unite_genes
from stray.cohort.panel import Panel, check_coverage, fit_panel
from stray.cohort.section import Genes
from stray.config import PanelConfig
from stray.errors import InputError
from tests.support.tiny import GENES, config_of, make_h5ad

IDS = tuple(f"ENSG{n:011d}" for n in range(1, 5))


def rows(united, section: str) -> list[str]:
    symbols = united.table["symbol"].to_pylist()
    return [symbols[row] for row in united.index[section]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ENSG00000141510", "ENSG00000141510"),
        ("ENSG00000141510.18", "ENSG00000141510"),
        ("GRCh38_ENSG00000141510", "ENSG00000141510"),
        ("ENSMUSG00000059552.14", "ENSMUSG00000059552"),
        ("ENSG00000002586.20_PAR_Y", "ENSG00000002586_PAR_Y"),
        ("TP53", None),
        ("MT-ND1", None),
    ],
)
def test_accessions_are_told_from_symbols(text: str, found: str | None) -> None:
    assert accession(text) == found


@pytest.mark.parametrize("column", ["gene_ids", "Gene_ID", "ensembl_id"])
def test_accessions_are_read_beside_symbols(column: str) -> None:
    genes = named_genes(GENES, pd.DataFrame({column: [f"{gene}.3" for gene in IDS]}))
    assert genes == Genes(symbols=GENES, ids=IDS)


@pytest.mark.parametrize("column", ["feature_name", "gene_symbols", "Symbol", "gene_name"])
def test_symbols_are_read_beside_accessions(column: str) -> None:
    assert named_genes(IDS, pd.DataFrame({column: GENES})) == Genes(symbols=GENES, ids=IDS)


def test_genes_join_by_accession_and_else_by_symbol() -> None:
    united = unite_genes(
        {
            "both": Genes(symbols=GENES, ids=IDS),
            "ids": named_genes([f"{gene}.7" for gene in reversed(IDS)], pd.DataFrame(index=range(4))),
            "symbols": Genes(symbols=(*GENES, "NEW")),
            "renamed": Genes(symbols=("OLD", *GENES[1:]), ids=IDS),
        }
    )
    assert united.table["symbol"].to_pylist() == sorted((*GENES, "NEW"))
    assert dict(zip(united.table["symbol"].to_pylist(), united.table["id"].to_pylist(), strict=True))["NEW"] is None
    assert rows(united, "ids") == list(reversed(GENES))
    assert rows(united, "symbols") == [*GENES, "NEW"]
    assert rows(united, "renamed") == list(GENES)
    assert united.table["n_sections"].to_pylist() == [4, 4, 4, 4, 1]


def test_an_accession_that_changed_between_releases_is_one_gene() -> None:
    united = unite_genes(
        {"A": Genes(symbols=("X",), ids=("ENSG1000000",)), "B": Genes(symbols=("X",), ids=("ENSG2000000",))}
    )
    assert united.table["symbol"].to_pylist() == ["X"]
    assert "taken as one gene (X: ENSG1000000, ENSG2000000)" in united.warnings[0]


def test_copies_of_a_symbol_are_told_apart_by_accession_or_summed() -> None:
    copies = Genes(symbols=("X", "X"), ids=("ENSG1000000", "ENSG2000000"))
    united = unite_genes({"A": copies, "B": replace(copies, ids=copies.ids[::-1])})
    assert rows(united, "A") == ["X (ENSG1000000)", "X (ENSG2000000)"]
    assert rows(united, "B") == ["X (ENSG2000000)", "X (ENSG1000000)"]
    assert unite_genes({"A": copies}, "sum").table["symbol"].to_pylist() == ["X"]


def test_copies_without_accession_are_refused_and_the_remedy_works(tmp_path: Path) -> None:
    data = make_h5ad("A1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's, of names that come twice
        data.var_names = ["ACTB", "CD3E", "CD3E", "MKI67"]
        data.write_h5ad(tmp_path / "A1.h5ad")
    config = config_of(tmp_path / "A1.h5ad")
    with pytest.raises(InputError, match="CD3E") as caught:
        build_dataset(config, str(tmp_path / "out"))
    assert "--duplicate-genes sum" in str(caught.value)
    assert "make_unique" not in str(caught.value)
    build_dataset(replace(config, duplicate_genes="sum"), str(tmp_path / "out"))
    dataset = PairedDataset.open(str(tmp_path / "out"))
    assert dataset.genes["symbol"].to_pylist() == ["ACTB", "CD3E", "MKI67"]
    found = dataset.counts(np.arange(24)).toarray()
    raw = np.asarray(data.X.todense())  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    assert (found == np.stack([raw[:, 0], raw[:, 1] + raw[:, 2], raw[:, 3]], axis=1)).all()


def test_copies_that_anndata_renamed_are_warned_of_and_summed() -> None:
    sections = {"A": Genes(symbols=("X", "X-1", "Y")), "B": Genes(symbols=("X-1", "X", "Z"))}
    assert any("X-1" in warning for warning in unite_genes(sections).warnings)
    assert unite_genes(sections, "sum").table["symbol"].to_pylist() == ["X", "Y", "Z"]


def test_the_overlap_of_every_section_is_known() -> None:
    others = {f"S{n}": Genes(symbols=GENES) for n in range(3)}
    united = unite_genes({**others, "strange": Genes(symbols=("a", "b"))})
    assert united.overlap() == {"S0": 1, "S1": 1, "S2": 1, "strange": 0}
    (warning,) = gene_warnings(united.overlap())
    assert "section strange has 0%" in warning


def test_a_section_without_the_panel_is_an_error_that_names_it(tmp_path: Path) -> None:
    for section, patient, genes in (("A1", "A", GENES), ("B1", "B", GENES), ("C1", "C", ("a", "b", "c", "d"))):
        make_h5ad(section, patient, genes=genes).write_h5ad(tmp_path / f"{section}.h5ad")
    make_h5ad("D1", "D", genes=("ACTB", "b", "c", "d")).write_h5ad(tmp_path / "D1.h5ad")
    build_dataset(config_of(*sorted(tmp_path.glob("*.h5ad"))), str(tmp_path / "out"))
    dataset = PairedDataset.open(str(tmp_path / "out"))
    config = PanelConfig(kind="all", min_sections_share=0.5)
    panel = fit_panel(dataset, ("A", "B"), config)
    assert set(panel.symbols) == set(GENES)
    assert check_coverage(dataset, panel, ("A", "B")) == ()
    (warning,) = check_coverage(dataset, panel, ("D",))
    assert "section D1 of patient D measured 25%" in warning
    fitted = fit_panel(dataset, ("A", "B", "D"), config)
    assert fitted.notes == (warning,)
    assert Panel.from_json(fitted.to_json()) == fitted
    with pytest.raises(InputError, match="section C1 of patient C measured 0%"):
        fit_panel(dataset, ("A", "B", "C"), config)


def test_a_panel_finds_its_genes_by_accession(tmp_path: Path) -> None:
    panel = Panel.from_json(Panel(GENES, (0, 1, 2, 3), IDS).to_json())
    place, missing = panel.place_in(IDS[::-1], IDS[::-1])
    assert place.tolist() == [3, 2, 1, 0]
    assert missing == ()
