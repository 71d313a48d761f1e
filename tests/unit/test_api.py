"""The Python interface: light to import, and a model that annotates without Ray."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import stray
from stray.cli import main
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.errors import InputError
from tests.support.small_model import CLASSES, small_model
from tests.support.tiny import PATCH, config_of, make_h5ad, write_her2st


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections as .h5ad whose spots have the same names, their dataset, and a model."""
    folder = tmp_path_factory.mktemp("api")
    for section, patient in (("A1", "A"), ("B1", "B")):
        data = make_h5ad(section, patient, seed=len(patient))
        data.obs_names = [f"AAAC{k:02}-1" for k in range(data.n_obs)]
        data.write_h5ad(folder / f"{section}.h5ad")
    build_dataset(config_of(folder / "A1.h5ad", folder / "B1.h5ad"), str(folder / "dataset"))
    small_model(folder / "model", PATCH)
    return folder


def test_importing_stray_loads_no_framework() -> None:
    heavy = ("torch", "ray", "mlflow", "scanpy", "anndata", "pandas", "numpy", "pydantic")
    script = f"import sys, stray; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_public_is_there_and_nothing_else() -> None:
    for name in stray.__all__:
        assert getattr(stray, name) is not None
        assert name in dir(stray)
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = stray.trane


def test_a_model_annotates_an_anndata_in_place_and_starts_no_ray(place: Path) -> None:
    script = """
import sys, anndata, stray
model = stray.load_model(sys.argv[1])
data = model.annotate(anndata.read_h5ad(sys.argv[2]))
assert "ray" not in sys.modules, "it needs no Ray"
data.write_h5ad(sys.argv[3])
print(model)
"""
    source, out = place / "A1.h5ad", place / "annotated.h5ad"
    command = [sys.executable, "-c", script, str(place / "model"), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "clip_scvi of seed 0, patches of 160 um at 16 px" in done.stdout
    found, before = ad.read_h5ad(out), ad.read_h5ad(source)
    assert list(found.obs_names) == list(before.obs_names)
    assert np.array_equal(found.X.toarray(), before.X.toarray())  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    assert found.obsm["X_stray"].shape == (24, 512)
    assert tuple(found.obs["stray_class"].cat.categories) == CLASSES
    assert found.obs["stray_probability"].between(0.5, 1).all()


def test_an_annotation_is_what_the_dataset_of_the_section_gives(place: Path) -> None:
    model = stray.load_model(place / "model")
    data = ad.read_h5ad(place / "B1.h5ad")[::-1].copy()
    model.annotate(data)
    dataset = PairedDataset.open(str(place / "dataset"))
    coded = model.embed(dataset)
    mine = coded[coded.obs["section"] == "B1"]
    order = mine.obs["spot_name"].tolist()
    np.testing.assert_allclose(data[order].obsm["X_stray"], mine.obsm["X_stray"], rtol=1e-4, atol=1e-5)
    rows = np.flatnonzero(dataset.spots().section == "B1")
    np.testing.assert_allclose(model.encode(dataset.patches(rows)), mine.obsm["X_stray"], rtol=1e-4, atol=1e-5)
    probability = model.probabilities(dataset.patches(rows))
    assert probability.columns.tolist() == list(CLASSES)
    np.testing.assert_allclose(probability.max(axis=1), mine.obs["stray_probability"], rtol=1e-4)


def test_spots_without_a_patch_are_annotated_with_nan(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ad.read_h5ad(place / "A1.h5ad")
    data.obsm["spatial"][0] = -500.0
    with caplog.at_level(logging.WARNING, logger="stray"):
        stray.load_model(place / "model").annotate(data)
    missing = np.isnan(data.obsm["X_stray"]).all(axis=1)
    assert missing.tolist() == [True] + [False] * 23
    assert data.obs["stray_class"].isna().tolist() == missing.tolist()
    assert "1 of 24 spots have no patch" in caplog.text


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no positions", r'adata\.obsm\["spatial"\]: is missing'),
        ("names twice", r"adata\.obs_names: are not unique"),
        ("no picture", r'adata\.uns\["spatial"\]: holds no picture'),
        ("no scale", r'^adata: the size of a pixel is unknown\n.*"microns_per_pixel"\]$'),
    ],
)
def test_an_anndata_that_cannot_be_annotated_is_refused_and_left_as_it_was(
    place: Path, fault: str, message: str
) -> None:
    data = ad.read_h5ad(place / "A1.h5ad")
    if fault == "no positions":
        del data.obsm["spatial"]
    elif fault == "names twice":
        data.obs_names = ["a"] * data.n_obs
    elif fault == "no picture":
        del data.uns["spatial"]["A1"]["images"]
    else:
        del data.uns["spatial"]["A1"]["metadata"]
    with pytest.raises(InputError, match=message) as raised:
        stray.load_model(place / "model").annotate(data)
    assert "/adata.h5ad" not in str(raised.value), "no place of a temporary folder is named"
    assert "X_stray" not in data.obsm


def test_a_visium_section_takes_its_scale_from_the_array(place: Path) -> None:
    """What `scanpy.read_visium` gives: array positions, a picture, and no size of a pixel."""
    row, col = np.divmod(np.arange(60), 10)
    data = ad.AnnData(
        np.ones((60, 3), np.float32),
        obs=pd.DataFrame(
            {"in_tissue": 1, "array_row": row, "array_col": 2 * col + row % 2},
            index=pd.Index([f"AAAC{k:02}-1" for k in range(60)]),
        ),
    )
    data.obsm["spatial"] = np.stack([20.0 * (2 * col + row % 2), 20.0 * 3**0.5 * row], axis=1).round() + 60
    noise = np.random.default_rng(0).integers(0, 255, (200, 260, 3), dtype=np.uint8)
    data.uns["spatial"] = {
        "slide": {"images": {"hires": noise}, "scalefactors": {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 22}}
    }
    stray.load_model(place / "model").annotate(data)
    assert np.isfinite(data.obsm["X_stray"]).all()


def test_a_picture_that_uns_names_is_found_from_the_working_directory(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ad.read_h5ad(place / "A1.h5ad")
    library = data.uns["spatial"]["A1"]
    stored = library.pop("images")["hires"]
    Image.fromarray(stored).resize((stored.shape[1] * 2, stored.shape[0] * 2)).save(tmp_path / "slide.png")
    library["metadata"]["source_image_path"] = "slide.png"
    monkeypatch.chdir(tmp_path)
    stray.load_model(place / "model").annotate(data)
    assert np.isfinite(data.obsm["X_stray"]).any()
    assert library["metadata"]["source_image_path"] == "slide.png", "the caller's AnnData keeps its own words"


def test_patches_of_another_shape_or_type_are_refused(place: Path) -> None:
    model = stray.load_model(place / "model")
    for patches in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 16, 16, 3), np.float32)):
        with pytest.raises(ValueError, match="is expected"):
            model.encode(patches)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "h5ad"])
@pytest.mark.parametrize("verb", ["embed", "predict"])
def test_the_suffix_chooses_the_format(place: Path, tmp_path: Path, verb: str, suffix: str) -> None:
    out = tmp_path / f"coded.{suffix}"
    assert main([verb, str(place / "model"), str(place / "dataset"), "--out", str(out)]) == 0
    if suffix == "h5ad":
        data = ad.read_h5ad(out)
        assert data.obsm["X_stray"].shape == (48, 512)
        assert data.obsm["spatial"].shape == (48, 2)
        assert data.obs_names.tolist() == data.obs["spot_id"].tolist(), "the sections' own names are not unique"
        assert data.obs["spot_name"].tolist() == [f"AAAC{k:02}-1" for k in range(24)] * 2
        assert {"stray_class", "stray_probability", "stray_probability_fat-adipose"} <= set(data.obs)
        return
    frame = pd.read_csv(out) if suffix == "csv" else pq.read_table(out).to_pandas()
    assert frame.columns[:6].tolist() == ["spot_id", "patient", "section", "spot_name", "x_um", "y_um"]
    assert set(frame["class"]) <= set(CLASSES)
    np.testing.assert_allclose(frame[[f"probability/{name}" for name in CLASSES]].sum(axis=1), 1, atol=1e-6)
    assert any(str(name).startswith("features") for name in frame) == (verb == "embed")


def test_names_of_one_section_join_back_to_its_source(place: Path, tmp_path: Path) -> None:
    build_dataset(config_of(place / "A1.h5ad"), str(tmp_path / "one"))
    assert main(["predict", str(place / "model"), str(tmp_path / "one"), "--out", str(tmp_path / "x.h5ad")]) == 0
    assert ad.read_h5ad(tmp_path / "x.h5ad").obs_names.tolist() == ad.read_h5ad(place / "A1.h5ad").obs_names.tolist()


@pytest.mark.parametrize("verb", ["embed", "predict"])
def test_another_suffix_is_refused_before_anything_is_read(
    tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, str(tmp_path / "model"), str(tmp_path / "dataset"), "--out", "coded.npy"]) == 2
    assert "use a name that ends with .parquet, .csv or .h5ad" in capsys.readouterr().err


def test_a_dataset_of_an_earlier_version_has_ids_for_names(tmp_path: Path) -> None:
    write_her2st(tmp_path, "A1", image=True)
    build_dataset(config_of(tmp_path), str(tmp_path / "dataset"))
    dataset = PairedDataset.open(str(tmp_path / "dataset"))
    assert dataset.spot_names()[0] == "1x1"
    for path in dataset.files():
        pq.write_table(pq.read_table(path).drop_columns(["spot_name"]), path)
    assert dataset.spot_names().tolist() == dataset.spots().spot_id.tolist()
