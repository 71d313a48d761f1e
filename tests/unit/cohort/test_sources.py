from __future__ import annotations

from pathlib import Path

import pytest

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.sources import make_plan
from stray.config.ingest import LabelTableConfig
from stray.errors import InputError
from tests.support.tiny import NAMES, config_of, make_h5ad, write_her2st


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """Section A1 in HER2ST's layout (25 spots) and as .h5ad (24 of them); A2 in the layout alone."""
    folder = tmp_path / "her2st"
    write_her2st(folder, "A1", labels=True)
    write_her2st(folder, "A2")
    make_h5ad("A1").write_h5ad(tmp_path / "A1.h5ad")
    return folder, tmp_path / "A1.h5ad"


def table(folder: Path, *rows: str) -> LabelTableConfig:
    path = folder / "labels.csv"
    path.write_text("\n".join(["section,spot,label", *rows]) + "\n")
    return LabelTableConfig(name="transferred", path=str(path))


def test_a_section_in_two_sources_needs_a_choice(both: tuple[Path, Path]) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(config_of(*both))
    assert "2 sources hold the sections A1" in str(caught.value)
    assert "--prefer her2st:A1 or --prefer h5ad:A1" in str(caught.value)


@pytest.mark.parametrize(
    ("prefer", "source", "n_spots"),
    [("h5ad:A1", "h5ad", 24), ("A1.h5ad:A1", "h5ad", 24), ("her2st:A1", "her2st", 25)],
    ids=["by kind", "by file name", "the other kind"],
)
def test_the_preferred_source_gives_the_section(
    both: tuple[Path, Path], tmp_path: Path, prefer: str, source: str, n_spots: int
) -> None:
    manifest = build_dataset(config_of(*both, prefer=(prefer,)), str(tmp_path / "out"))
    first, second = manifest.sections
    assert (first.source, first.n_spots) == (source, n_spots)
    assert second.source == "her2st"
    if source == "h5ad":
        # Names match with and without A1_ in front, so one spot only is lost, with its reason.
        assert list(first.dropped.values()) == [(NAMES[0],)]
        assert "only in her2st" in next(iter(first.dropped))


@pytest.mark.parametrize(
    "entry", ["h5ad:A2", "hest:A1", "h5ad:Z9", "A1"], ids=["not in it", "no such kind", "no such section", "no kind"]
)
def test_a_preference_that_means_nothing_is_refused(both: tuple[Path, Path], entry: str) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(config_of(*both, prefer=("h5ad:A1", entry)))
    assert [problem.place for problem in caught.value.problems] == ["ingest.prefer"]
    assert entry in str(caught.value)


def test_label_tables_fill_what_is_empty_and_nothing_else(both: tuple[Path, Path], tmp_path: Path) -> None:
    labels = table(tmp_path, "A1,A1_2x1,weak", "A1,3x1,weak", "A2,A2_1x1,weak", "A2,2x1,weak", "A2,99x99,weak")
    manifest = build_dataset(config_of(*both, prefer=("h5ad:A1",), labels=(labels,)), str(tmp_path / "out"))
    spots = PairedDataset.open(str(tmp_path / "out")).spots()
    found = {spot: (spots.label[i], spots.label_source[i]) for i, spot in enumerate(spots.spot_id)}
    assert found["A1_2x1"] == ("weak", "transferred")  # the .h5ad leaves it empty
    assert found["A1_3x1"] == ("tumour", "annotated")  # the .h5ad labels it
    assert found["A2_1x1"] == found["A2_2x1"] == ("weak", "transferred")
    assert found["A2_3x1"] == (None, None)
    assert manifest.sections[1].labels == {"transferred": {"weak": 2}}
    assert manifest.sections[1].warnings == ("1 row of the label table transferred without a spot of it: 99x99",)


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["Z1,1x1,weak"], "labels sections that no source holds: Z1"),
        (["A2,1x1,weak", "A2,A2_1x1,other"], "both 'weak' and 'other'"),
        ([], "holds no label"),
    ],
    ids=["unknown section", "two classes for a spot", "empty"],
)
def test_a_faulty_label_table_is_refused_before_anything_is_read(
    both: tuple[Path, Path], tmp_path: Path, rows: list[str], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        make_plan(config_of(*both, prefer=("h5ad:A1",), labels=(table(tmp_path, *rows),)))
    assert "labels.csv" in caught.value.problems[0].place


def test_a_label_table_with_other_columns_or_no_file_is_refused(both: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("spot,class\n1x1,a\n")
    for name, complaint in (("other.csv", "lacks the columns section, label"), ("none.csv", "cannot be read")):
        labels = (LabelTableConfig(name="t", path=str(tmp_path / name)),)
        with pytest.raises(InputError, match=complaint):
            make_plan(config_of(*both, prefer=("h5ad:A1",), labels=labels))


def test_all_faulty_sources_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make_plan(config_of(tmp_path / "nowhere", tmp_path / "none.h5ad"))
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="there is no source"):
        make_plan(config_of())
