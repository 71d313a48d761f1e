"""Inputs rebuilt from public bug reports come in right, or are refused for the right reason.

The scripts that make them lie in `../shared/cases` beside the checkout; without that folder these tests skip.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import fit_panel
from stray.config import IngestConfig, PanelConfig
from stray.config.ingest import H5adSourceConfig, LabelTableConfig, PatchConfig
from stray.errors import InputError

SCRIPTS = Path(__file__).parents[4] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="../shared/cases is absent")
TUMOUR, STROMA = (120, 60, 150), (230, 150, 190)
"""Mean colours of the two halves of every synthetic section."""


@dataclass(frozen=True)
class Ingested:
    """One section as it stands in the dataset."""

    patient: str
    spots: int
    labels: dict[str | None, int]
    colours: dict[str | None, tuple[float, ...]]
    """Class -> mean colour of its patches; empty without a picture."""
    totals: tuple[int, ...]
    dropped: dict[str, int]
    warnings: str


@dataclass(frozen=True)
class Outcome:
    """What became of an ingest: a dataset, or an error."""

    path: Path
    error: str = ""
    said: str = ""
    """Warnings of the whole cohort."""

    @property
    def sections(self) -> dict[str, Ingested]:
        """Section name -> what was ingested. Fails the test where the ingest was refused."""
        assert not self.error, self.error
        dataset = PairedDataset.open(str(self.path))
        return {entry.name: _ingested(self.path, entry) for entry in dataset.manifest.sections}


def _ingested(path: Path, entry) -> Ingested:
    table = pq.ParquetFile(path / entry.files[0].path).read()
    labels = table["label"].to_pylist()
    pictures = [
        None if b is None else np.asarray(Image.open(io.BytesIO(b))).mean((0, 1)) for b in table["image"].to_pylist()
    ]
    colours = {}
    for label in dict.fromkeys(labels):
        own = [rgb for rgb, name in zip(pictures, labels, strict=True) if name == label and rgb is not None]
        if own:
            colours[label] = tuple(np.mean(own, axis=0).tolist())
    totals = tuple(0 if total is None else total for total in table["total_count"].to_pylist())
    dropped = {reason: len(spots) for reason, spots in entry.dropped.items()}
    return Ingested(
        entry.patient, table.num_rows, dict(Counter(labels)), colours, totals, dropped, " ".join(entry.warnings)
    )


def ingest(source: Path, out: Path, **settings) -> Outcome:
    """Ingest one .h5ad file or a folder of them with small patches."""
    said: list[str] = []
    config = IngestConfig(
        sources=(H5adSourceConfig(path=str(source)),), **{"patch": PatchConfig(size_um=56.0, size_px=16), **settings}
    )
    try:
        build_dataset(config, str(out), on_event=lambda e: said.extend(e["warnings"] if e["event"] == "plan" else ()))
    except InputError as error:
        return Outcome(out, error=str(error))
    return Outcome(out, said=" ".join(said))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Path]:
    """Run a case's script once and return the folder of its files."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name.removesuffix(".py"))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [name, str(folder)])
                patch.syspath_prepend(str(SCRIPTS))
                sys.modules.pop("synthetic_section", None)  # it reads its folder from sys.argv when imported
                with contextlib.redirect_stdout(io.StringIO()) as said:
                    runpy.run_path(str(SCRIPTS / name))
                (folder / "said.txt").write_text(said.getvalue())
            folders[name] = folder
        return folders[name]

    return make


def near(colour: tuple[float, ...], wanted: tuple[int, ...], by: float = 12) -> bool:
    """Whether two mean colours agree."""
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) < by


def has_its_picture(section: Ingested) -> bool:
    """Whether tumour spots show the tumour's colour and stroma spots the stroma's."""
    return near(section.colours["tumour"], TUMOUR) and near(section.colours["stroma"], STROMA)


# What must become of each input. A row: script, file or folder below it, settings of the ingest, check.


def a_picture_is_not_lent_to_another_section(outcome: Outcome) -> None:
    if outcome.error:
        assert "B" in outcome.error
        assert "picture" in outcome.error
        return
    assert has_its_picture(outcome.sections["A"])
    assert not outcome.sections["B"].colours
    assert "picture" in outcome.sections["B"].warnings


def spots_off_tissue_are_dropped(outcome: Outcome) -> None:
    for section in outcome.sections.values():
        assert section.spots == 32
        assert any("in_tissue" in reason for reason in section.dropped)
        assert sum(section.dropped.values()) == 32
        assert None not in section.labels


def spots_off_tissue_are_kept(outcome: Outcome) -> None:
    assert {section.spots for section in outcome.sections.values()} == {64}


def raw_counts_are_read(outcome: Outcome) -> None:
    assert set(outcome.sections) == {"P1", "P2", "P3"}
    for section in outcome.sections.values():
        assert has_its_picture(section)
        assert min(section.totals) > 20


def sections_are_named_by_their_files(outcome: Outcome) -> None:
    assert set(outcome.sections) == {"TENX1", "TENX2", "SPA3"}
    assert all(has_its_picture(section) for section in outcome.sections.values())


def genes_are_joined_by_accession(outcome: Outcome) -> None:
    genes = PairedDataset.open(str(outcome.path)).genes
    assert genes.num_rows == 80
    assert set(genes["n_sections"].to_pylist()) == {len(outcome.sections)}
    panel = fit_panel(PairedDataset.open(str(outcome.path)), ("P1", "P2", "P3"), PanelConfig(n_genes=60))
    assert all(symbol.startswith("GENE") for symbol in panel.symbols)


def swapped_axes_are_said(outcome: Outcome) -> None:
    for section in outcome.sections.values():
        assert "axes" in section.warnings or "mirror" in section.warnings


def a_patient_has_one_name(outcome: Outcome) -> None:
    if outcome.error:  # C1 and C2 name no patient
        assert "patient" in outcome.error
        return
    assert {name: section.patient for name, section in outcome.sections.items()} == {
        "A1": "1",
        "A2": "1",
        "B1": "P2",
        "B2": "P2",
    }


def placeholders_are_no_classes(outcome: Outcome) -> None:
    for section in outcome.sections.values():
        assert set(section.labels) <= {"tumour", "stroma", None, "Unknown"}


def a_table_fills_the_placeholders(outcome: Outcome) -> None:
    for section in outcome.sections.values():
        assert section.labels == {"tumour": 32, "stroma": 32} or set(section.labels) == {"tumour", "stroma", "Unknown"}


def a_table_from_r_leaves_na_empty(outcome: Outcome) -> None:
    for section in outcome.sections.values():
        assert set(section.labels) == {"tumour", "stroma", None}
        assert section.labels[None] == 22


def an_old_file_is_read_or_to_be_written_again(outcome: Outcome) -> None:
    if outcome.error:
        assert "anndata" in outcome.error
        assert outcome.error.count(".h5ad") >= 3
        return
    raw_counts_are_read(outcome)


def counts_are_the_same(outcome: Outcome) -> None:
    (section,) = outcome.sections.values()
    assert sum(section.totals) == TOTAL_OF_12
    assert near(section.colours["tumour"], TUMOUR) or len(set(section.colours["tumour"])) == 1


def the_picture_is_refused(outcome: Outcome) -> None:
    assert "picture" in outcome.error


def counts_are_the_same_or_the_picture_is_refused(outcome: Outcome) -> None:
    (the_picture_is_refused if outcome.error else counts_are_the_same)(outcome)


def sections_follow_the_library(outcome: Outcome) -> None:
    assert {"V1_A", "V1_B"} <= set(outcome.sections)
    assert all(outcome.sections[name].spots == 64 for name in ("V1_A", "V1_B"))


def spot_ids_are_unique(outcome: Outcome) -> None:
    if outcome.error:
        assert "spot" in outcome.error
        return
    ids = PairedDataset.open(str(outcome.path)).spots().spot_id
    assert len(ids) == len(set(ids)) == 192


def copies_are_told_apart_by_accession(outcome: Outcome) -> None:
    genes = PairedDataset.open(str(outcome.path)).genes
    assert genes.num_rows == 80
    assert set(genes["n_sections"].to_pylist()) == {3}


def copies_without_accession(outcome: Outcome) -> None:
    assert "var_names_make_unique" not in outcome.error


TOTAL_OF_12 = 16227
"""Sum of the counts of the section that every file of case 12 holds."""
TABLE: list[tuple[str, str, dict, Callable[[Outcome], None]]] = [
    ("01-concat-first-library.py", "both.h5ad", {}, a_picture_is_not_lent_to_another_section),
    ("02-not-in-tissue.py", "", {}, spots_off_tissue_are_dropped),
    ("03-cellxgene.py", "", {}, raw_counts_are_read),
    ("03-cellxgene.py", "rawx", {}, raw_counts_are_read),
    ("03-cellxgene.py", "plain", {}, raw_counts_are_read),
    ("04-hest.py", "", {}, sections_are_named_by_their_files),
    ("04-hest.py", "withsection", {}, sections_are_named_by_their_files),
    ("05-ensembl-and-symbols.py", "", {}, genes_are_joined_by_accession),
    ("05-ensembl-and-symbols.py", "eleven", {}, genes_are_joined_by_accession),
    ("06-swapped-axes.py", "", {}, swapped_axes_are_said),
    ("07-patient-spelled-two-ways.py", "", {}, a_patient_has_one_name),
    ("08-placeholder-labels.py", "", {}, placeholders_are_no_classes),
    ("08-placeholder-labels.py", "", {"labels": "pathologist.csv"}, a_table_fills_the_placeholders),
    ("08-placeholder-labels.py", "", {"labels": "semicolon.csv"}, a_table_fills_the_placeholders),
    ("08-placeholder-labels.py", "", {"labels": "utf16.csv"}, a_table_fills_the_placeholders),
    ("08-placeholder-labels.py", "nolabel", {"labels": "r.csv"}, a_table_from_r_leaves_na_empty),
    ("11-legacy-anndata.py", "v06", {}, an_old_file_is_read_or_to_be_written_again),
    ("11-legacy-anndata.py", "v07", {}, an_old_file_is_read_or_to_be_written_again),
    *(
        ("12-matrix-kinds.py", kind, {}, counts_are_the_same)
        for kind in ("csc", "dense64", "uint8", "int32", "gzip", "float16", "rgba", "grey", "u16", "f01", "overshoot")
    ),
    ("12-matrix-kinds.py", "ones", {}, the_picture_is_refused),
    ("12-matrix-kinds.py", "chw", {}, counts_are_the_same_or_the_picture_is_refused),
    ("12-matrix-kinds.py", "nanpic", {}, counts_are_the_same_or_the_picture_is_refused),
    ("16-library-without-section.py", "both.h5ad", {}, sections_follow_the_library),
    ("16-library-without-section.py", "nopicture", {}, sections_follow_the_library),
    ("17-spot-ids.py", "", {}, spot_ids_are_unique),
    ("18-duplicate-genes.py", "asread", {}, copies_are_told_apart_by_accession),
    ("18-duplicate-genes.py", "unique", {}, copies_are_told_apart_by_accession),
    ("18-duplicate-genes.py", "unique_noids", {}, copies_without_accession),
]


@pytest.mark.parametrize(
    ("script", "place", "settings", "check"), TABLE, ids=[f"{row[0][:2]}-{row[1]}-{row[3].__name__}" for row in TABLE]
)
def test_case(made, tmp_path, script, place, settings, check) -> None:
    folder = made(script)
    settings = dict(settings)
    if "labels" in settings:
        settings["labels"] = (LabelTableConfig(name="pathologist", path=str(folder / settings["labels"])),)
    check(ingest(folder / place, tmp_path / "out", **settings))


def test_odd_files_are_read_or_refused(made) -> None:
    lines = (made("25-odds.py") / "said.txt").read_text().splitlines()
    assert len(lines) >= 17
    assert not [line for line in lines if "TRACEBACK" in line]
    assert any(line.startswith("beside_CMYK: section") for line in lines)


def test_a_patient_whose_genes_barely_vary_is_left_out_or_named() -> None:
    script = SCRIPTS / "26-loess-segfault.py"
    ran = subprocess.run(
        [sys.executable, str(script), "10", "3"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().isdigit() or ran.stdout.startswith("INPUT ERROR")


def test_mitochondrial_genes_are_excluded_by_symbol(made) -> None:
    lines = (made("27-mito-by-id.py") / "said.txt").read_text().splitlines()
    assert lines == [f"{form} panel of 20 mitochondrial in it: 0" for form in ("symbols", "ids")]
