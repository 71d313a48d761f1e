from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stray.cohort.readers.her2st import Her2stReader
from stray.config.ingest import Her2stSourceConfig
from stray.errors import InputError
from tests.support.tiny import NAMES, PICTURE, PITCH_PX, picture_path, write_counts, write_her2st


def reader(folder: Path) -> Her2stReader:
    return Her2stReader(Her2stSourceConfig(path=str(folder)))


def spoil(path: Path, change: object) -> None:
    table = pd.read_csv(path, sep="\t")
    change(table).to_csv(path, sep="\t", index=False)  # type: ignore[operator]


def test_a_section_is_read_whole(tmp_path: Path) -> None:
    counts = write_her2st(tmp_path, labels=True, image=True)
    section = reader(tmp_path).read("A1")
    assert section.patient == "A"
    assert section.spots == tuple(NAMES)
    assert section.counts is not None
    np.testing.assert_array_equal(section.counts.toarray(), counts.to_numpy())
    assert section.microns_per_pixel == pytest.approx(200 / PITCH_PX)
    assert section.array_col is not None
    np.testing.assert_allclose(section.xy_px[:, 0], section.array_col * PITCH_PX)
    assert section.image is not None
    assert section.image.load().size == PICTURE
    assert section.dropped == {}


def test_labels_join_on_the_array_and_not_on_pixels(tmp_path: Path) -> None:
    write_her2st(tmp_path, labels=True)
    section = reader(tmp_path).read("A1")
    assert section.labels is not None
    assert section.array_col is not None
    np.testing.assert_array_equal(section.labels == "tumour", section.array_col <= 2)


def test_label_rows_without_coordinates_and_empty_labels_label_nothing(tmp_path: Path) -> None:
    write_her2st(tmp_path, labels=True)
    path = tmp_path / "data/ST-pat/lbl/A1_labeled_coordinates.tsv"
    spoil(path, lambda table: table.assign(x=[np.nan, *table["x"][1:]], label=[*table["label"][:-1], np.nan]))
    section = reader(tmp_path).read("A1")
    assert section.labels is not None
    assert [spot for spot, label in zip(section.spots, section.labels, strict=True) if label is None] == ["1x1", "5x5"]
    assert section.dropped == {"label row without array coordinates": ("row 1",)}


def test_spots_that_only_one_file_has_are_dropped_by_reason(tmp_path: Path) -> None:
    counts = write_her2st(tmp_path, spots=[*NAMES[:-2], "9x9"])
    section = reader(tmp_path).read("A1")
    assert section.dropped == {
        "has counts but no coordinates": ("9x9",),
        "has coordinates but no counts": ("4x5", "5x5"),
    }
    assert section.counts is not None
    np.testing.assert_array_equal(section.counts.toarray(), counts.to_numpy()[:-1])


def test_counts_are_in_the_order_of_their_own_file(tmp_path: Path) -> None:
    counts = write_her2st(tmp_path, spots=NAMES[::-1])
    section = reader(tmp_path).read("A1")
    assert section.spots == tuple(NAMES[::-1])
    assert section.counts is not None
    np.testing.assert_array_equal(section.counts.toarray(), counts.to_numpy())
    assert section.xy_px[0].tolist() == [5 * PITCH_PX, 5 * PITCH_PX]


def test_a_spot_without_any_counts_is_kept_and_told(tmp_path: Path) -> None:
    counts = write_her2st(tmp_path)
    counts.iloc[3] = 0
    write_counts(tmp_path, "A1", counts)
    section = reader(tmp_path).read("A1")
    assert len(section.spots) == 25
    assert section.warnings == ("1 spot without any counts, kept: 4x1",)


def test_labels_of_a_section_without_counts_are_remarked(tmp_path: Path) -> None:
    write_her2st(tmp_path, labels=True)
    labels = tmp_path / "data/ST-pat/lbl"
    (labels / "J1_labeled_coordinates.tsv").write_bytes((labels / "A1_labeled_coordinates.tsv").read_bytes())
    assert [handle.name for handle in reader(tmp_path).sections()] == ["A1"]
    assert "J1" in reader(tmp_path).remarks()[0]


def test_a_section_with_a_picture_and_no_counts_is_read(tmp_path: Path) -> None:
    write_her2st(tmp_path, image=True)
    (tmp_path / "data/ST-cnts/A1.tsv.gz").unlink()
    section = reader(tmp_path).read("A1")
    assert section.counts is None
    assert section.image is not None
    assert len(section.spots) == 25


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda counts: counts.iloc[[0, *range(len(counts))]], "names 1 spot more than once: 1x1"),
        (lambda counts: counts - 1, "negative count"),
        (lambda counts: counts * 0.5, "fractional count"),
        (lambda counts: counts.astype(object).replace(2, "two"), "are not numbers"),
    ],
    ids=["duplicated spot", "negative counts", "fractional counts", "words"],
)
def test_faulty_counts_are_refused(tmp_path: Path, change: object, complaint: str) -> None:
    counts = write_her2st(tmp_path)
    write_counts(tmp_path, "A1", change(counts))  # type: ignore[operator]
    with pytest.raises(InputError, match=complaint) as caught:
        reader(tmp_path).read("A1")
    assert caught.value.problems[0].place.endswith("A1.tsv.gz")


def test_faulty_files_are_refused(tmp_path: Path) -> None:
    write_her2st(tmp_path, labels=True, image=True)
    source = reader(tmp_path)
    picture_path(tmp_path, "A1").unlink()
    with pytest.raises(InputError, match="should hold exactly one picture of section A1, found none"):
        source.read("A1")
    picture_path(tmp_path, "A1").symlink_to(tmp_path / "annex/HE.jpg")
    with pytest.raises(InputError, match="the link leads nowhere"):
        source.read("A1")
    counts = tmp_path / "data/ST-cnts/A1.tsv.gz"
    packed = bytearray(counts.read_bytes())
    packed[40:60] = bytes(20)
    counts.write_bytes(packed)
    with pytest.raises(InputError, match=r"A1\.tsv\.gz: cannot be read"):
        source.read("A1")
    counts.write_bytes(b"no gzip")
    with pytest.raises(InputError, match=r"A1\.tsv\.gz: cannot be read"):
        source.genes("A1")
    (tmp_path / "data/ST-spotfiles/A1_selection.tsv").unlink()
    with pytest.raises(InputError, match=r"A1_selection\.tsv: is missing"):
        source.sections()


def test_labels_that_join_no_spot_are_refused(tmp_path: Path) -> None:
    write_her2st(tmp_path, labels=True)
    path = tmp_path / "data/ST-pat/lbl/A1_labeled_coordinates.tsv"
    spoil(path, lambda table: table.assign(x=table["x"] + 100))
    with pytest.raises(InputError, match="none of its 25 labels matches"):
        reader(tmp_path).read("A1")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither"):
        reader(tmp_path).sections()
