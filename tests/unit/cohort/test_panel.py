from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from stray.cohort import panel
from stray.cohort.dataset import PairedDataset
from stray.cohort.gene_ranking import by_place, by_variance, union
from stray.cohort.panel import Panel, fit_panel
from stray.config import PanelConfig
from stray.errors import InputError
from tests.support.small_cohort import small_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PairedDataset:
    return small_dataset(tmp_path_factory.mktemp("cohort"))


@pytest.mark.parametrize("kind", ["hvg", "svg", "union", "mean"])
def test_a_ranked_panel_has_its_size_and_sees_training_patients_only(dataset: PairedDataset, kind: str) -> None:
    config = PanelConfig(kind=kind, n_genes=40)  # type: ignore[arg-type]
    found = fit_panel(dataset, ("P2", "P3"), config)
    assert len(found) == 40
    shuffled = Permuted(dataset, "P1")
    assert fit_panel(shuffled, ("P2", "P3"), config) == found  # type: ignore[arg-type]
    assert fit_panel(shuffled, ("P1", "P2", "P3"), config) != fit_panel(dataset, ("P1", "P2", "P3"), config)  # type: ignore[arg-type]


class Permuted:
    """A dataset in which one patient's genes are exchanged among each other."""

    def __init__(self, dataset: PairedDataset, patient: str) -> None:
        self._dataset, self._patient = dataset, patient

    def __getattr__(self, name: str):
        return getattr(self._dataset, name)

    def counts(self, rows: np.ndarray) -> sp.csr_matrix:
        dense = self._dataset.counts(rows).toarray()
        mine = self._dataset.spots().patient[rows] == self._patient
        dense[mine] = dense[mine][:, np.random.default_rng(0).permutation(dense.shape[1])]
        return sp.csr_matrix(dense)


class Watched:
    """A dataset that remembers how many spots' counts were read at once."""

    def __init__(self, dataset: PairedDataset) -> None:
        self._dataset = dataset
        self.read: list[int] = []

    def __getattr__(self, name: str):
        return getattr(self._dataset, name)

    def counts(self, rows: np.ndarray) -> sp.csr_matrix:
        self.read.append(len(rows))
        return self._dataset.counts(rows)


@pytest.mark.parametrize("kind", ["svg", "mean", "all", "union", "hvg"])
def test_counts_are_read_a_section_at_a_time_and_of_a_sample_where_all_must_be_held(
    dataset: PairedDataset, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, everyone = PanelConfig(kind=kind, n_genes=40), ("P1", "P2", "P3")  # type: ignore[arg-type]
    whole = fit_panel(dataset, everyone, config)
    watched = Watched(dataset)
    monkeypatch.setattr(panel, "MOST_SPOTS", 60)
    found = fit_panel(watched, everyone, config)  # type: ignore[arg-type]
    sampled = kind in ("union", "hvg")
    assert max(watched.read) == (60 if sampled else 40)
    assert len(found) == len(whole)
    if sampled:
        # A sample of half the spots ranks most genes as all spots do.
        assert len(set(found.symbols) & set(whole.symbols)) > 0.6 * len(whole)
        assert found == fit_panel(dataset, everyone, config)
    else:
        assert found == whole


def test_a_gene_that_follows_the_tissue_stands_before_one_that_does_not(dataset: PairedDataset) -> None:
    spots = dataset.spots()
    rng = np.random.default_rng(0)
    noise = rng.poisson(5.0, (len(spots), 50))
    side = np.where(spots.x_um > np.median(spots.x_um), 40, 1)
    counts = sp.csr_matrix(np.column_stack([noise, rng.poisson(side)]))
    sections = [(counts[rows], spots.take(rows)) for rows in np.split(np.arange(len(spots)), 3)]
    assert by_place(sections, 3)[0] == 50


@pytest.mark.parametrize("few", [1, 4])
def test_a_patient_of_few_spots_has_no_say_in_the_order_by_variance(few: int) -> None:
    """One spot alone ends the process within scanpy's fit, four make it singular."""
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(1, 3, 60), (61, 60)))
    patient = np.array(["A"] * (61 - few) + ["B"] * few, dtype=object)
    whole = by_variance(counts[: 61 - few], patient[: 61 - few], 20)
    np.testing.assert_array_equal(by_variance(counts, patient, 20), whole)


def test_patients_who_all_have_few_spots_are_ranked_together() -> None:
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(rng.gamma(1, 3, 60), (40, 60)))
    together = by_variance(counts, np.array(["A"] * 40, dtype=object), 20)
    np.testing.assert_array_equal(by_variance(counts, np.repeat(np.arange(20), 2).astype(object), 20), together)


def test_too_few_spots_for_a_ranking_by_variance_are_refused() -> None:
    with pytest.raises(InputError, match="3 training spots with counts are too few"):
        by_variance(sp.csr_matrix(np.eye(3, 60)), np.array(["A"] * 3, dtype=object), 20)


def test_the_order_by_variance_is_scanpys_choice(dataset: PairedDataset) -> None:
    import anndata
    import pandas as pd
    import scanpy as sc

    rows = np.arange(len(dataset))
    counts, patient = dataset.counts(rows), dataset.spots().patient
    table = anndata.AnnData(
        counts.astype(np.float32), obs=pd.DataFrame({"patient": pd.Categorical(patient)}, index=rows.astype(str))
    )
    sc.pp.highly_variable_genes(table, n_top_genes=30, flavor="seurat_v3", batch_key="patient")
    assert set(by_variance(counts, patient, 30)) == set(np.flatnonzero(table.var["highly_variable"]))


def test_a_union_takes_the_best_of_both_in_turn() -> None:
    assert union(np.array([4, 3, 2]), np.array([0, 4, 1]), 3).tolist() == [4, 0, 3]


def test_genes_named_by_a_pattern_are_left_out(dataset: PairedDataset) -> None:
    symbols = dataset.genes.column("symbol").to_pylist()
    config = PanelConfig(kind="all", exclude=(symbols[0] + "$",), min_sections_share=0)
    assert symbols[0] not in fit_panel(dataset, ("P2", "P3"), config).symbols


def test_mitochondrial_and_ribosomal_genes_are_left_out_unless_asked_for() -> None:
    import re

    symbols = ["MT-CO1", "mt-Nd1", "RPS6", "Rpl3", "RPLP0", "RPSA", "RPS4Y1", "RPS27A", "MTOR", "RPS6KA1", "MT1G"]
    left_out = [name for name in symbols if any(re.match(pattern, name) for pattern in PanelConfig().exclude)]
    assert left_out == symbols[:8]


def test_a_list_from_a_file_is_the_panel(dataset: PairedDataset, tmp_path: Path) -> None:
    symbols = dataset.genes.column("symbol").to_pylist()
    listed = tmp_path / "genes.txt"
    listed.write_text(f"# mine\n{symbols[7]}\n\n{symbols[2]}\n")
    assert fit_panel(dataset, ("P2",), PanelConfig(kind="file", path=str(listed))).symbols == (symbols[2], symbols[7])


@pytest.mark.parametrize(
    ("text", "message"),
    [("NOPE\nG1\n", "are not in the dataset"), ("", "a panel needs two"), (None, "cannot be read")],
    ids=["unknown genes", "an empty file", "no file"],
)
def test_a_list_that_is_no_panel_is_refused_by_name(
    dataset: PairedDataset, tmp_path: Path, text: str | None, message: str
) -> None:
    listed = tmp_path / "genes.txt"
    if text is not None:
        listed.write_text(text)
    with pytest.raises(InputError, match=message):
        fit_panel(dataset, ("P2",), PanelConfig(kind="file", path=str(listed)))


def test_missing_genes_are_named_and_most_of_a_panel_must_be_there() -> None:
    listed = Panel(("A", "B", "C", "D"), (0, 1, 2, 3))
    place, missing = listed.place_in(["D", "X", "A", "B"])
    assert place.tolist() == [2, 3, -1, 0]
    assert missing == ("C",)
    with pytest.raises(ValueError, match="3 of the panel's 4 genes are not measured"):
        listed.place_in(["A", "X"])


def healthy(genes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(1, 2, genes), (60, genes))


def flat(genes: int, varying: int, tied: int = 0) -> np.ndarray:
    """Counts of ten spots in which `varying` genes have different means and `tied` further ones the same."""
    counts = np.zeros((10, genes), dtype=int)
    for g in range(varying + tied):
        counts[g % 10, g] = 2 + g if g < varying else 1
    return counts


@pytest.mark.parametrize(
    ("varying", "tied"),
    [(1, 0), (3, 0), (4, 0), (12, 0), (60, 900)],
    ids=["one gene", "three end the process", "four", "twelve", "most of one mean"],
)
def test_a_patient_whose_genes_barely_vary_has_no_say(varying: int, tied: int) -> None:
    """scanpy's loess ends the process on three points, and fails on more that are alike."""
    both = sp.csr_matrix(np.vstack([healthy(1000), flat(1000, varying, tied)]))
    patient = np.array(["A"] * 60 + ["B"] * 10, dtype=object)
    notes: list[str] = []
    assert by_variance(both, patient, 100, notes).tolist() == by_variance(both[:60], patient[:60], 100).tolist()
    (note,) = notes
    assert note.startswith("B: too few spots or genes that vary")


@pytest.mark.parametrize(("genes", "varying"), [(1000, 3), (3, 3), (2, 2)])
def test_patients_of_whom_nobody_varies_are_named(genes: int, varying: int) -> None:
    patient = np.array(["B"] * 10, dtype=object)
    with pytest.raises(InputError, match=r"training patients \(B\) vary too little"):
        by_variance(sp.csr_matrix(flat(genes, varying)), patient, 1)


def test_a_patient_of_few_different_means_keeps_the_say_that_the_fit_allows() -> None:
    """Twenty means fit; a rule by their number alone would leave the patient out."""
    both = sp.csr_matrix(np.vstack([healthy(1000), flat(1000, 20)]))
    patient = np.array(["A"] * 60 + ["B"] * 10, dtype=object)
    notes: list[str] = []
    found = by_variance(both, patient, 100, notes)
    assert found.tolist() != by_variance(both[:60], patient[:60], 100).tolist()
    assert notes == []
