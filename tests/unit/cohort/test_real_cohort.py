"""HER2ST itself, where the shared data stands: what the reader finds agrees with what was measured by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stray.cohort.readers.h5ad import H5adReader
from stray.cohort.readers.her2st import Her2stReader
from stray.cohort.sources import make_plan
from stray.config.ingest import H5adSourceConfig, Her2stSourceConfig, IngestConfig

DATA = Path(__file__).parents[4] / "shared/data"
pytestmark = pytest.mark.skipif(
    not (DATA / "her2st").is_dir() or not (DATA / "her2st_A").is_dir(), reason="the shared HER2ST data is not here"
)


@pytest.fixture(scope="module")
def reader() -> Her2stReader:
    return Her2stReader(Her2stSourceConfig(path=str(DATA / "her2st")))


def test_36_sections_and_the_union_of_their_genes() -> None:
    config = IngestConfig(
        sources=(
            Her2stSourceConfig(path=str(DATA / "her2st")),
            H5adSourceConfig(path=str(DATA / "her2st_A"), pitch_um=200.0),
        ),
        prefer=("h5ad:A1", "h5ad:A2"),
    )
    plan = make_plan(config)
    assert len(plan.tasks) == 36
    assert plan.genes.num_rows == 18_758
    assert int(np.sum(np.asarray(plan.genes["n_sections"]) == 36)) == 11_871
    assert [task.handle.name for task in plan.tasks if task.others] == ["A1", "A2"]
    assert "J1" in plan.warnings[0]


@pytest.mark.parametrize(("name", "pitch_px"), [("A3", 217.5), ("B4", 290.9)], ids=["patient A", "patient B"])
def test_the_pitch_in_pixels(reader: Her2stReader, name: str, pitch_px: float) -> None:
    assert 200 / reader.read(name).microns_per_pixel == pytest.approx(pitch_px, abs=0.1)


def test_labels_of_g2(reader: Her2stReader) -> None:
    section = reader.read("G2")
    assert section.labels is not None
    assert len(section.spots) == 467
    assert all(label is not None for label in section.labels)
    assert len(section.dropped["label row without array coordinates"]) == 8


def test_a1_of_both_sources_agrees() -> None:
    first = Her2stReader(Her2stSourceConfig(path=str(DATA / "her2st"))).read("A1")
    second = H5adReader(H5adSourceConfig(path=str(DATA / "her2st_A/A1.h5ad"), pitch_um=200.0)).read("A1")
    assert set(first.spots) - set(second.spots) == {"11x17"}
    assert second.warnings == ()  # the regression agrees with the 3.19 um of the file
    assert first.counts is not None
    assert second.counts is not None
    rows = [first.spots.index(spot) for spot in second.spots]
    assert first.genes == second.genes
    assert (first.counts[rows] != second.counts).nnz == 0
    assert first.labels is not None
    assert second.labels is not None
    assert first.labels[rows].tolist() == second.labels.tolist()
    # Both frames put the spots in the same places on the tissue.
    place = first.xy_px[rows] * first.microns_per_pixel - second.xy_px * second.microns_per_pixel
    assert np.abs(place - place.mean(axis=0)).max() < 30
