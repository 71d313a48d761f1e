from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

from stray.cohort.readers.h5ad import H5adReader
from stray.config.ingest import H5adSourceConfig
from stray.errors import InputError
from tests.support.tiny import NAMES, PICTURE, make_h5ad, picture


def saved(data: ad.AnnData, path: Path, pitch_um: float | None = None) -> H5adReader:
    data.write_h5ad(path)
    return H5adReader(H5adSourceConfig(path=str(path), pitch_um=pitch_um))


def test_a_section_is_read_whole(tmp_path: Path) -> None:
    data = make_h5ad()
    section = saved(data, tmp_path / "a.h5ad").read("A1")
    assert section.spots == tuple(NAMES[1:])
    assert section.counts is not None
    np.testing.assert_array_equal(section.counts.toarray(), data.X.toarray())  # type: ignore[union-attr]
    # The picture is the full resolution at half its size.
    np.testing.assert_allclose(section.xy_px, np.asarray(data.obsm["spatial"]) / 2)
    assert section.microns_per_pixel == 10.0
    assert section.array_col is not None
    assert section.array_row is not None
    assert (section.array_col[0], section.array_row[0]) == (2, 1)
    assert section.labels is not None
    assert section.labels[:2].tolist() == [None, "tumour"]
    assert section.image is not None
    assert section.image.load().size == (PICTURE[0] // 2, PICTURE[1] // 2)


def test_float_pictures_become_bytes(tmp_path: Path) -> None:
    data = make_h5ad()
    images = data.uns["spatial"]["A1"]["images"]
    pixels = images["hires"]
    images["hires"] = (pixels / 255).astype(np.float32)
    image = saved(data, tmp_path / "a.h5ad").read("A1").image
    assert image is not None
    np.testing.assert_array_equal(np.asarray(image.load()), pixels)
    images["hires"] = pixels.astype(np.float32) - 200
    image = saved(data, tmp_path / "b.h5ad").read("A1").image
    assert image is not None
    with pytest.raises(InputError, match=r"b\.h5ad.*images/hires: is a picture of float32 with values from -"):
        image.load()


def test_a_stored_picture_that_declares_more_than_the_memory_is_refused_unread(tmp_path: Path) -> None:
    data = make_h5ad()
    data.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        images = file["uns/spatial/A1/images"]
        assert isinstance(images, h5py.Group)
        del images["hires"]
        images.create_dataset("hires", shape=(4_000_000, 4_000_000, 3), dtype="u1", chunks=(1000, 1000, 3))
    image = H5adReader(H5adSourceConfig(path=str(tmp_path / "a.h5ad"))).read("A1").image
    assert image is not None
    with pytest.raises(InputError, match="declares 4,000,000 x 4,000,000 pixels"):
        image.load()


def test_a_picture_beside_the_file_is_at_full_resolution(tmp_path: Path) -> None:
    data = make_h5ad()
    del data.uns["spatial"]["A1"]["images"]
    picture().save(tmp_path / "a.png")
    source = saved(data, tmp_path / "a.h5ad")
    section = source.read("A1")
    assert section.image is not None
    assert section.image.place == str(tmp_path / "a.png")
    assert section.image.load().size == PICTURE
    assert section.microns_per_pixel == 5.0
    assert str(tmp_path / "a.png") in source.sections()[0].inputs


def test_a_picture_that_is_named_and_missing_is_refused(tmp_path: Path) -> None:
    data = make_h5ad()
    del data.uns["spatial"]["A1"]["images"]
    data.uns["spatial"]["A1"]["metadata"]["source_image_path"] = "slides/A1.tif"
    source = saved(data, tmp_path / "a.h5ad")
    with pytest.raises(InputError, match=r"slides/A1\.tif: the picture that .* names is missing"):
        source.read("A1")
    (tmp_path / "slides").mkdir()
    Image.new("RGB", PICTURE).save(tmp_path / "slides/A1.tif")
    assert source.read("A1").image is not None


def test_without_a_picture_the_section_has_counts_alone(tmp_path: Path) -> None:
    data = make_h5ad()
    del data.uns["spatial"]["A1"]["images"]
    assert saved(data, tmp_path / "a.h5ad").read("A1").image is None


def test_a_known_pitch_measures_the_pixels_and_a_disagreement_is_told(tmp_path: Path) -> None:
    data = make_h5ad()
    section = saved(data, tmp_path / "a.h5ad", pitch_um=220.0).read("A1")
    assert section.microns_per_pixel == pytest.approx(11.0)
    assert "5 um per pixel" in section.warnings[0]
    assert "5.5" in section.warnings[0]


def test_the_size_of_a_pixel_must_be_known(tmp_path: Path) -> None:
    data = make_h5ad()
    del data.uns["spatial"]["A1"]["metadata"]
    with pytest.raises(InputError, match="size of a pixel is unknown"):
        saved(data, tmp_path / "a.h5ad").read("A1")


def test_several_sections_in_one_file(tmp_path: Path) -> None:
    both = ad.concat([make_h5ad("A1"), make_h5ad("B2", "B")], uns_merge="first")
    both.uns["spatial"] = {**make_h5ad("A1").uns["spatial"], **make_h5ad("B2").uns["spatial"]}
    source = saved(both, tmp_path / "both.h5ad")
    assert [(handle.name, handle.patient) for handle in source.sections()] == [("A1", "A"), ("B2", "B")]
    assert source.read("B2").spots == tuple(NAMES[1:])


def test_array_positions_from_obs_win_over_names(tmp_path: Path) -> None:
    data = make_h5ad()
    data.obs["array_row"] = np.arange(24)
    data.obs["array_col"] = np.arange(24) + 100
    section = saved(data, tmp_path / "a.h5ad").read("A1")
    assert section.array_col is not None
    assert section.array_col[0] == 100


def test_raw_counts_come_from_the_layer(tmp_path: Path) -> None:
    data = make_h5ad()
    raw = sparse.csr_matrix(data.X)
    data.layers["counts"] = raw
    data.X = raw * 0.5
    section = saved(data, tmp_path / "a.h5ad").read("A1")
    assert section.counts is not None
    np.testing.assert_array_equal(section.counts.toarray(), raw.toarray())
    del data.layers["counts"]
    with pytest.raises(InputError, match="fractional counts"):
        saved(data, tmp_path / "b.h5ad").read("A1")


def test_gene_accessions_are_kept(tmp_path: Path) -> None:
    data = make_h5ad()
    data.var["gene_ids"] = ["ENSG1", "ENSG2", "ENSG3", "ENSG4"]
    genes = saved(data, tmp_path / "a.h5ad").genes("A1")
    assert genes is not None
    assert genes.ids == ("ENSG1", "ENSG2", "ENSG3", "ENSG4")


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda data: data.obs.pop("patient"), "no obs column `patient`"),
        (
            lambda data: data.obs.__setitem__("section", [None, *["A1"] * 23]),
            "in the obs columns section",
        ),
        (lambda data: data.obsm.pop("spatial"), r'no obsm\["spatial"\]'),
        (lambda data: data.obs.__setitem__("patient", ["A", *["B"] * 23]), "belongs to the patients A, B"),
        (lambda data: setattr(data, "obs_names", pd.Index([NAMES[0], NAMES[0], *NAMES[2:24]])), "more than once: 1x1"),
        (lambda data: data.uns["spatial"]["A1"].pop("scalefactors"), "no usable scalefactors/tissue_hires_scalef"),
    ],
    ids=["no patient", "no section", "no coordinates", "two patients", "duplicated spot names", "no scale factor"],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_faulty_files_are_refused(tmp_path: Path, spoil: object, complaint: str) -> None:
    data = make_h5ad()
    spoil(data)  # type: ignore[operator]
    with pytest.raises(InputError, match=complaint):
        saved(data, tmp_path / "a.h5ad").read("A1")


def test_what_is_no_h5ad_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_text("text")
    for path, complaint in ((tmp_path / "a.h5ad", "cannot be read as HDF5"), (tmp_path / "b.h5ad", "is missing")):
        with pytest.raises(InputError, match=complaint):
            H5adReader(H5adSourceConfig(path=str(path))).sections()
    with pytest.raises(InputError, match=r"holds no \.h5ad file"):
        H5adReader(H5adSourceConfig(path=str(tmp_path.parent))).sections()


def test_spots_without_coordinates_are_dropped_by_reason(tmp_path: Path) -> None:
    data = make_h5ad()
    data.obsm["spatial"][2] = np.nan
    section = saved(data, tmp_path / "a.h5ad").read("A1")
    assert section.dropped == {"no pixel coordinates": (NAMES[3],)}


def test_a_checkered_array_keeps_its_stated_pixel(tmp_path: Path) -> None:
    data = make_h5ad()
    array = np.array([[int(part) for part in name.split("x")] for name in NAMES[1:]])
    even = array.sum(axis=1) % 2 == 0
    section = saved(data[even].copy(), tmp_path / "a.h5ad").read("A1")
    assert section.microns_per_pixel == 10.0
    assert section.warnings == ()
    pitch = 2**0.5 * 200  # of neighbours along the diagonals: 200 um a column
    assert saved(data[even].copy(), tmp_path / "b.h5ad", pitch).read("A1").microns_per_pixel == pytest.approx(10.0)
    del data.uns["spatial"]["A1"]["metadata"]
    with pytest.raises(InputError, match="size of a pixel is unknown"):
        saved(data[even].copy(), tmp_path / "c.h5ad").read("A1")


@pytest.mark.parametrize(
    "column",
    [
        np.arange(24) % 2,
        (np.arange(24) % 2).astype(float),
        np.arange(24) % 2 == 1,
        (np.arange(24) % 2).astype(str),
        pd.Categorical(np.where(np.arange(24) % 2, "True", "False")),
        pd.array((np.arange(24) % 2 == 1).tolist(), dtype="boolean"),
        np.where(np.arange(24) % 2, np.nan, 0.0),
        np.where(np.arange(24) % 2, " yes", "no"),
    ],
    ids=["int", "float", "bool", "text", "categories", "nullable", "missing", "words"],
)
def test_spots_beside_the_tissue_are_known_however_they_are_written(tmp_path: Path, column: object) -> None:
    data = make_h5ad()
    data.obs["in_tissue"] = column  # pyright: ignore[reportArgumentType, reportCallIssue]
    source = saved(data, tmp_path / "a.h5ad")
    section = source.read("A1")
    assert section.in_tissue is not None
    assert section.in_tissue.tolist() == (np.arange(24) % 2 == 1).tolist()
    assert "in_tissue" not in source.sections()[0].columns


def test_words_in_in_tissue_that_say_nothing_are_refused(tmp_path: Path) -> None:
    data = make_h5ad()
    data.obs["in_tissue"] = ["tumour", "glass"] * 12
    with pytest.raises(InputError, match=r"obs/in_tissue: holds glass, tumour, where 1"):
        saved(data, tmp_path / "a.h5ad").read("A1")
