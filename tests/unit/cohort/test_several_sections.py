"""Several sections in one file, several slides of one name: told apart, or refused with a remedy that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from stray.cohort.build import build_dataset
from stray.cohort.manifest import Manifest
from stray.cohort.plausible import WARNING
from stray.cohort.readers import h5ad_counts
from stray.cohort.readers.h5ad import H5adReader
from stray.config.ingest import H5adSourceConfig
from stray.errors import InputError
from tests.support.tiny import NAMES, config_of, make_h5ad, picture


def two_in_one(**columns: Any) -> ad.AnnData:
    """Sections A1 and B2 of one patient, without pictures."""
    sections = [make_h5ad("A1", "A", seed=1), make_h5ad("B2", "A", seed=2)]
    data = ad.concat(sections)
    metadata = {"metadata": {"microns_per_pixel": 5.0}}
    data.uns["spatial"] = {"A1": dict(metadata), "B2": dict(metadata)}
    return data


def build(tmp_path: Path, *sources: Path, **settings: Any) -> Manifest:
    return build_dataset(config_of(*sources, **settings), str(tmp_path / "out"))


def test_a_picture_beside_a_file_of_several_sections_is_refused(tmp_path: Path) -> None:
    data = two_in_one()
    data.write_h5ad(tmp_path / "both.h5ad")
    picture().save(tmp_path / "both.png")
    with pytest.raises(InputError, match=r"both\.png: is beside both\.h5ad, which holds several") as caught:
        build(tmp_path, tmp_path / "both.h5ad")
    assert "source_image_path" in caught.value.problems[0].remedy
    for section, seed in (("A1", 1), ("B2", 2)):
        picture(seed).save(tmp_path / f"{section}.png")
        data.uns["spatial"][section]["metadata"]["source_image_path"] = f"{section}.png"
    data.write_h5ad(tmp_path / "both.h5ad")
    assert [section.has_image for section in build(tmp_path, tmp_path / "both.h5ad").sections] == [True, True]
    (tmp_path / "both.png").unlink()
    two_in_one().write_h5ad(tmp_path / "both.h5ad")
    assert [section.has_image for section in build(tmp_path, tmp_path / "both.h5ad").sections] == [False, False]


@pytest.mark.parametrize("sign", ["libraries", "patients", "places"])
def test_several_sections_without_names_are_refused_and_the_remedy_names_them(tmp_path: Path, sign: str) -> None:
    data: Any = two_in_one()
    data.obs["batch"] = data.obs["section"].astype(str)
    data.obs = data.obs.drop(columns="section")
    if sign != "libraries":
        del data.uns["spatial"]["B2"]
    if sign == "patients":
        data.obs["patient"] = ["A"] * 24 + ["B"] * 24
    if sign == "places":
        places = np.array([[int(part) for part in name.split("x")] for name in NAMES[1:]] * 2)
        data.obs["array_col"], data.obs["array_row"] = places.T
    data.write_h5ad(tmp_path / "both.h5ad")
    with pytest.raises(InputError, match="does not name its sections") as caught:
        build(tmp_path, tmp_path / "both.h5ad")
    assert "adata.obs['section'] = adata.obs['batch']" in caught.value.problems[0].remedy
    data.obs["section"] = data.obs["batch"]
    data.uns["spatial"] = two_in_one().uns["spatial"]
    data.write_h5ad(tmp_path / "both.h5ad")
    assert {section.name for section in build(tmp_path, tmp_path / "both.h5ad").sections} == {"A1", "B2"}


def slide(path: Path, seed: int, *, named: bool) -> ad.AnnData:
    data: Any = make_h5ad("V1", "A", seed=seed)
    if not named:
        data.obs = data.obs.drop(columns="section")
    data.write_h5ad(path)
    return data


def test_two_slides_of_one_library_key_in_two_sources_are_two_sections(tmp_path: Path) -> None:
    slide(tmp_path / "first.h5ad", 1, named=False)
    slide(tmp_path / "second.h5ad", 2, named=False)
    manifest = build(tmp_path, tmp_path / "first.h5ad", tmp_path / "second.h5ad")
    assert [(section.name, section.n_spots) for section in manifest.sections] == [("first", 24), ("second", 24)]


def test_two_slides_that_obs_names_alike_need_a_choice_and_each_remedy_works(tmp_path: Path) -> None:
    first, second = tmp_path / "first.h5ad", tmp_path / "second.h5ad"
    slide(first, 1, named=True)
    data = slide(second, 2, named=True)
    with pytest.raises(InputError, match="2 sources hold the sections V1") as caught:
        build(tmp_path, first, second)
    remedy = caught.value.problems[0].remedy
    assert f"--prefer {second}:V1" in remedy
    assert "name them apart" in remedy
    (section,) = build(tmp_path, first, second, prefer=(f"{second}:V1",)).sections
    assert any(text.startswith(WARNING) and "if it is another slide" in text for text in section.warnings)
    data.obs["section"] = "V2"
    data.write_h5ad(second)
    assert {one.name for one in build(tmp_path, first, second).sections} == {"V1", "V2"}
    slide(second, 1, named=True)
    (section,) = build(tmp_path, first, second, prefer=(f"{second}:V1",)).sections
    assert not any("another slide" in text for text in section.warnings)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
def test_a_matrix_is_read_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
    counts = np.random.default_rng(0).poisson(0.7, (48, 30)).astype(np.float32)
    data = ad.concat([make_h5ad("A1", "A", genes=GENES), make_h5ad("B2", "A", genes=GENES)])
    data.X = form(counts)
    data.uns["spatial"] = two_in_one().uns["spatial"]
    order = np.random.default_rng(1).permutation(48)  # rows of both sections in turns
    data[order].copy().write_h5ad(tmp_path / "both.h5ad")
    sizes: list[int] = []
    taken = h5ad_counts._numbers
    monkeypatch.setattr(h5ad_counts, "_VALUES", 100)
    monkeypatch.setattr(h5ad_counts, "_numbers", lambda values: sizes.append(values.size) or taken(values))
    reader = H5adReader(H5adSourceConfig(path=str(tmp_path / "both.h5ad")))
    for name, first in (("A1", 0), ("B2", 24)):
        found = reader.read(name).counts
        assert found is not None
        own = [row for row in order if first <= row < first + 24]
        np.testing.assert_array_equal(found.toarray(), counts[own])
    assert len(sizes) > 4
    assert max(sizes) <= 100


GENES = tuple(f"G{number}" for number in range(30))
