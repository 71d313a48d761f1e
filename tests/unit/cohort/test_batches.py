"""Columns of sections: from .h5ad files and from a table, and a batch effect that belongs to one of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stray.cli import main
from stray.cohort.batches import batch_names
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.readers.h5ad import H5adReader
from stray.config.ingest import H5adSourceConfig, IngestConfig
from stray.errors import InputError
from tests.support.tiny import config_of, make_h5ad, write_her2st


@pytest.fixture
def cohort(tmp_path: Path) -> IngestConfig:
    """Section A1 as .h5ad, whose file names its scanner; A2 and B1 in HER2ST's layout, which knows nothing more."""
    data = make_h5ad("A1")
    data.obs["scanner"] = "north"
    data.write_h5ad(tmp_path / "A1.h5ad")
    write_her2st(tmp_path / "her2st", "A2")
    write_her2st(tmp_path / "her2st", "B1")
    return config_of(tmp_path / "A1.h5ad", tmp_path / "her2st")


def with_table(cohort: IngestConfig, folder: Path, *lines: str) -> IngestConfig:
    (folder / "sections.csv").write_text("\n".join(lines) + "\n")
    return replace(cohort, sections=str(folder / "sections.csv"))


def built(config: IngestConfig, folder: Path) -> PairedDataset:
    build_dataset(config, str(folder / "dataset"))
    return PairedDataset.open(str(folder / "dataset"))


def test_texts_that_are_constant_over_a_section_are_its_columns(tmp_path: Path) -> None:
    both = ad.concat([make_h5ad("A1"), make_h5ad("B2", "B")], uns_merge="first")
    both.uns["spatial"] = {**make_h5ad("A1").uns["spatial"], **make_h5ad("B2").uns["spatial"]}
    half = np.arange(48) < 24
    both.obs["slide"] = np.where(half, "V10", "V11")
    both.obs["kit"] = pd.Categorical(["v1" if first else None for first in half], categories=["v1", "v2"])
    both.obs["cluster"] = np.where(np.arange(48) % 2 == 0, "x", "y")  # differs within a section
    both.obs["in_tissue"] = 1  # a number
    both.obs["note"] = ""
    both.obs["source"] = "Visium"  # means the reader
    both.write_h5ad(tmp_path / "both.h5ad")
    handles = H5adReader(H5adSourceConfig(path=str(tmp_path / "both.h5ad"))).sections()
    assert [handle.columns for handle in handles] == [{"slide": "V10", "kit": "v1"}, {"slide": "V11"}]


def test_a_table_fills_what_sources_leave_empty(cohort: IngestConfig, tmp_path: Path) -> None:
    table = ("section,scanner, kit", "A2,south,v1", "A1,north,", "B1, south ,v2", ",,")
    dataset = built(with_table(cohort, tmp_path, *table), tmp_path)
    assert {section.name: section.columns for section in dataset.manifest.sections} == {
        "A1": {"scanner": "north"},
        "A2": {"scanner": "south", "kit": "v1"},
        "B1": {"scanner": "south", "kit": "v2"},
    }
    section = dataset.spots().section
    found = batch_names(dataset, "scanner")
    assert found.tolist() == ["north" if name == "A1" else "south" for name in section]
    assert batch_names(dataset, "section").tolist() == section.tolist()
    assert set(batch_names(dataset, "source")) == {"h5ad", "her2st"}


@pytest.mark.parametrize(
    ("lines", "complaints"),
    [
        (("section,scanner", "A1,south", "Z9,south"), ("Z9", "scanner of section A1 is 'south', its source says 'nor")),
        (("slide,scanner", "A1,south"), ("lacks the columns section; its first line reads slide, scanner",)),
        (("section", "A1"), ("no column beside `section`",)),
        (
            ("section,kit,kit,patient", "A1,a,b,c"),
            ("names the column kit 2 times", "patient is known of every section"),
        ),
        (("section,kit", "A1,a", "A1,a", "A2", ",b"), ("A1 again", "1 cells for 2 columns", "names no section")),
        ((), ("its first line reads nothing",)),
    ],
    ids=["strangers", "no section", "no further column", "header", "rows", "empty"],
)
def test_a_table_that_cannot_be_right_is_refused_with_all_that_is_wrong(
    cohort: IngestConfig, tmp_path: Path, lines: tuple[str, ...], complaints: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        built(with_table(cohort, tmp_path, *lines), tmp_path)
    assert len(caught.value.problems) == len(complaints)
    for complaint in complaints:
        assert complaint in str(caught.value)


def test_another_table_changes_the_manifest_and_no_file(cohort: IngestConfig, tmp_path: Path) -> None:
    first = built(cohort, tmp_path)
    times = [Path(path).stat().st_mtime_ns for path in first.files()]
    second = built(with_table(cohort, tmp_path, "section,kit", "A2,v1"), tmp_path)
    assert second.manifest.columns == ("kit", "scanner")
    with_table(cohort, tmp_path, "section,kit", "A2,v2")
    third = built(with_table(cohort, tmp_path, "section,kit", "A2,v2"), tmp_path)
    assert third.manifest.sections[1].columns == {"kit": "v2"}
    assert [Path(path).stat().st_mtime_ns for path in third.files()] == times
    assert third.manifest.digest == first.manifest.digest


def test_an_unknown_column_is_refused_with_those_that_there_are(cohort: IngestConfig, tmp_path: Path) -> None:
    dataset = built(cohort, tmp_path)
    with pytest.raises(InputError, match=r"did you mean `scanner`\? the columns are patient, section, source, scanner"):
        batch_names(dataset, "scaner")
    with pytest.raises(InputError, match=r"has a column 'qqq'\n.*: the columns are .*, scanner; `stray ingest --sect"):
        batch_names(dataset, "qqq")


def test_sections_without_a_value_are_named(cohort: IngestConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'scanner' has no value for sections A2, B1\n"):
        batch_names(built(cohort, tmp_path), "scanner")


def test_a_dataset_of_before_there_were_columns_opens(
    cohort: IngestConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = built(cohort, tmp_path)
    manifest = tmp_path / "dataset/manifest.json"
    assert main(["inspect", dataset.path]) == 0
    assert "Columns of the sections" in (shown := capsys.readouterr().out)
    assert "north (1)" in shown
    tree = json.loads(manifest.read_text())
    assert tree["contract_version"] == 1
    for section in tree["sections"]:
        del section["columns"]
    manifest.write_text(json.dumps(tree))
    old = PairedDataset.open(dataset.path)
    assert old.manifest.columns == ()
    assert set(batch_names(old, "patient")) == {"A", "B"}
    with pytest.raises(InputError, match="the columns are patient, section, source; "):
        batch_names(old, "scanner")
    assert main(["inspect", dataset.path]) == 0
    assert "Columns of the sections" not in capsys.readouterr().out
