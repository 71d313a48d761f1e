from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.decode import counts_csr, decode_patches
from stray.cohort.manifest import Manifest
from stray.cohort.patches import crop
from stray.cohort.schema import SPOTS, folder_name
from stray.errors import InputError
from tests.support.tiny import PATCH, SIDE, config_of, picture_path, write_her2st


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "her2st"
    write_her2st(folder, "A1", labels=True, image=True, seed=1)
    write_her2st(folder, "B1", genes=("CD3E", "ACTB", "VIM"), seed=2)
    return folder


@pytest.fixture
def path(source: Path, tmp_path: Path) -> str:
    build_dataset(config_of(source), str(tmp_path / "dataset"))
    return str(tmp_path / "dataset")


def test_the_files_follow_the_contract(path: str) -> None:
    table = pq.ParquetFile(f"{path}/spots/A/A1/part-00000.parquet").read()
    assert table.schema.equals(SPOTS)
    assert table["spot_id"][0].as_py() == "A1_1x1"
    assert table["array_row"].to_pylist()[:2] == [1, 1]
    assert table["array_col"].to_pylist()[:2] == [1, 2]
    assert table["x_um"].to_pylist()[:2] == pytest.approx([200, 400])
    genes = pq.read_table(f"{path}/genes.parquet")
    assert genes["symbol"].to_pylist() == ["ACTB", "CD3E", "ERBB2", "MKI67", "VIM"]
    assert genes["n_sections"].to_pylist() == [2, 2, 1, 1, 1]
    without = pq.ParquetFile(f"{path}/spots/B/B1/part-00000.parquet").read()
    assert without["image"].null_count == without["tissue_fraction"].null_count == without["label"].null_count == 25


def test_counts_of_rows_equal_the_sources(path: str, source: Path, tmp_path: Path) -> None:
    first = write_her2st(tmp_path / "again", "A1", seed=1)
    second = write_her2st(tmp_path / "again", "B1", genes=("CD3E", "ACTB", "VIM"), seed=2)
    symbols = ["ACTB", "CD3E", "ERBB2", "MKI67", "VIM"]
    expected = np.vstack([part.reindex(columns=symbols, fill_value=0).to_numpy() for part in (first, second)])
    dataset = PairedDataset.open(path)
    rows = np.random.default_rng(0).integers(0, 50, 80)  # unordered, with repetitions, over both files
    np.testing.assert_array_equal(dataset.counts(rows).toarray(), expected[rows])
    np.testing.assert_array_equal(dataset.spots().total_count, expected.sum(axis=1))
    assert dataset.counts([]).shape == (0, 5)


def test_patches_are_the_crops_of_their_spots(path: str, source: Path) -> None:
    dataset = PairedDataset.open(path)
    image = Image.open(picture_path(source, "A1"))
    rows = np.array([24, 0, 7, 7])
    spots = dataset.spots().take(rows)
    side = PATCH.size_um / 5.0
    expected = [
        np.asarray(crop(image, x / 5.0, y / 5.0, side, PATCH.size_px))
        for x, y in zip(spots.x_um, spots.y_um, strict=True)
    ]
    np.testing.assert_allclose(dataset.patches(rows).astype(int), np.stack(expected), atol=1)


def test_the_spot_table(path: str) -> None:
    spots = PairedDataset.open(path).spots()
    assert len(spots) == 50
    assert spots.section.tolist() == ["A1"] * 25 + ["B1"] * 25
    assert spots.label[:SIDE].tolist() == ["tumour", "tumour", "fat", "fat", "fat"]
    assert spots.label_source[0] == "annotated"
    assert spots.label[25] is None
    assert spots.label_source[25] is None
    assert spots.has_image.tolist() == [True] * 25 + [False] * 25
    assert spots.has_counts.all()
    assert len(spots.take([])) == 0


def test_rows_span_row_groups(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([24, 3, 6, 7, 20])
    build_dataset(config_of(source), str(tmp_path / "whole"))
    whole = PairedDataset.open(str(tmp_path / "whole"))
    counts, patches = whole.counts(rows), whole.patches(rows)
    for module in ("rows", "write", "fragments"):
        monkeypatch.setattr(f"stray.cohort.{module}.ROW_GROUP_SPOTS", 7)
    build_dataset(config_of(source), str(tmp_path / "pieces"))
    pieces = PairedDataset.open(str(tmp_path / "pieces"))
    assert pq.ParquetFile(pieces.files()[0]).num_row_groups == 4
    np.testing.assert_array_equal(counts.toarray(), pieces.counts(rows).toarray())
    np.testing.assert_array_equal(patches, pieces.patches(rows))
    assert whole.spots().label.tolist() == pieces.spots().label.tolist()


def test_a_dataset_pickles_small(path: str) -> None:
    dataset = PairedDataset.open(path)
    dataset.spots()
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.manifest == dataset.manifest
    assert len(pickle.dumps(dataset)) < 20_000


def test_the_manifest_survives_the_disk(path: str, tmp_path: Path) -> None:
    manifest = Manifest.load(path)
    manifest.save(str(tmp_path / "copy"))
    assert Manifest.load(str(tmp_path / "copy")) == manifest
    assert manifest.n_spots == 50
    assert manifest.patients == ("A", "B")
    assert manifest.sections[0].labels == {"annotated": {"fat": 15, "tumour": 10}}


def test_a_patch_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(InputError, match=r"B1/part-00000\.parquet, row group 0, row 3: the spot has no patch"):
        PairedDataset.open(path).patches([28])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda text: text.replace('"contract_version": 1', '"contract_version": 2'),
            "version 2 of the dataset contract",
        ),
        (lambda text: text[:100], "is not JSON"),
        (lambda text: text.replace('"n_spots"', '"spots"'), "n_spots"),
        (lambda text: "[]", "version None"),
    ],
    ids=["another contract version", "cut short", "a field missing", "another JSON"],
)
def test_a_manifest_that_is_none_of_ours_is_refused(path: str, change: object, complaint: str) -> None:
    manifest = Path(path, "manifest.json")
    manifest.write_text(change(manifest.read_text()))  # type: ignore[operator]
    with pytest.raises(InputError, match=complaint):
        PairedDataset.open(path)


def test_no_manifest_means_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no manifest"):
        PairedDataset.open(str(tmp_path))
    with pytest.raises(InputError, match="there is no manifest"):
        PairedDataset.open(str(tmp_path / "nowhere"))


def test_a_file_that_changed_in_size_or_went_missing_is_refused_when_opened(path: str) -> None:
    with Path(path, "genes.parquet").open("ab") as file:
        file.write(b"x")
    Path(path, "spots/A/A1/part-00000.parquet").unlink()
    with pytest.raises(InputError) as caught:
        PairedDataset.open(path)
    assert [Path(problem.place).name for problem in caught.value.problems] == ["genes.parquet", "part-00000.parquet"]
    assert "changed after the ingest" in str(caught.value)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def test_verify_finds_a_single_changed_byte(path: str) -> None:
    shard = Path(path, "spots/B/B1/part-00000.parquet")
    PairedDataset.open(path).verify()
    flip(shard, 50)
    with pytest.raises(InputError, match=r"B1/part-00000\.parquet: its content differs from what was ingested"):
        PairedDataset.open(path).verify()


def test_an_unreadable_shard_is_named_with_its_row_group(path: str) -> None:
    shard = Path(path, "spots/A/A1/part-00000.parquet")
    column = SPOTS.get_field_index("image")
    offset = pq.ParquetFile(shard).metadata.row_group(0).column(column).data_page_offset
    for place in range(offset, offset + 60):
        flip(shard, place)
    dataset = PairedDataset.open(path)
    with pytest.raises(InputError, match=r"A1/part-00000\.parquet, row group 0: cannot be read"):
        dataset.patches([0])
    assert dataset.counts([0]).nnz > 0  # the other columns are whole
    for place in range(-8, 0):
        flip(shard, place)
    with pytest.raises(InputError, match=r"A1/part-00000\.parquet: cannot be read as Parquet"):
        dataset.counts([0])


def test_a_broken_patch_is_named_with_its_row() -> None:
    with pytest.raises(InputError, match="shard, row group 2, row 9: the patch cannot be decoded"):
        decode_patches(pa.array([b"no picture"]), 16, "shard, row group 2", np.array([9]))


def test_lists_become_sparse_rows_without_what_lies_under_nulls() -> None:
    index = pa.array([[0, 2], None, [], [1]], pa.list_(pa.int32()))
    count = pa.array([[5, 1], None, [], [7]], pa.list_(pa.uint32()))
    expected = [[5, 0, 1], [0, 0, 0], [0, 0, 0], [0, 7, 0]]
    assert counts_csr(index, count, 3).toarray().tolist() == expected
    assert counts_csr(index[2:], count[2:], 3).toarray().tolist() == expected[2:]  # a slice keeps the whole buffer
    chunked = pa.chunked_array([index[:1], index[1:]]), pa.chunked_array([count[:1], count[1:]])
    assert counts_csr(*chunked, 3).toarray().tolist() == expected
    with pytest.raises(ValueError, match="there are 2 genes"):
        counts_csr(index, count, 2)


def test_folders_have_safe_names_that_stay_apart() -> None:
    assert folder_name("A1") == "A1"
    assert folder_name("patient 1/2") != folder_name("patient 1 2")
    assert "/" not in folder_name("patient 1/2")
    assert folder_name("..") not in ("..", ".")


def test_the_manifest_counts_what_the_files_hold(path: str) -> None:
    manifest = json.loads(Path(path, "manifest.json").read_text())
    for section in manifest["sections"]:
        file = section["files"][0]
        assert Path(path, file["path"]).stat().st_size == file["bytes"]
        assert pq.read_metadata(Path(path, file["path"])).num_rows == file["rows"] == section["n_spots"]
