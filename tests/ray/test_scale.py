"""What large cohorts ask for, on small ones: blocks that are joined, memory that is counted, a cost per spot."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from jobs.benchmarks.command import main
from jobs.benchmarks.scale.measure import cohort, measure
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import Panel
from stray.config import GeneConfig, LogCountsConfig, RunConfig
from stray.config.ingest import H5adSourceConfig, IngestConfig
from stray.data.local import LocalData
from stray.on_ray import data
from stray.on_ray.data import Placed, PlacedData, place_counts, place_patches
from stray.on_ray.embed import embed, embed_genes
from stray.on_ray.progress import NullProgress
from stray.on_ray.session import _object_store_bytes
from stray.recipe import load_recipe
from stray.stages import coding
from stray.stages.contrastive.exported import load
from stray.stages.gene.encoder import load_gene_encoder
from stray.stages.results import ResultFolder
from tests.support.small_cohort import small_cell, small_dataset, small_recipe
from tests.support.small_model import small_model
from tests.support.tiny import GENES, counts_of, make_h5ad

pytestmark = [pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(600)]


def test_joined_blocks_hold_the_same_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stray.cohort.panel import fit_panel

    dataset = small_dataset(tmp_path)
    fold = small_cell(small_recipe(tmp_path), dataset, root=str(tmp_path)).fold
    panel = fit_panel(dataset, fold.train, small_recipe(tmp_path).gene.panel)
    rows = np.flatnonzero(np.isin(dataset.spots().patient, fold.train))
    expected = LocalData(dataset).counts(panel, rows).gather(np.arange(len(rows)))
    for room, n_blocks in ((0, 2), (2**30, 1)):
        monkeypatch.setattr(data, "JOINED_BYTES", room)
        refs = place_counts(dataset, panel, fold.train)
        assert len(refs) == n_blocks
        placed = Placed(dataset).with_counts(panel.key, refs)
        assert PlacedData(placed).counts(panel, rows).gather(np.arange(len(rows))).equal(expected)


def test_one_count_that_16_bits_do_not_hold_is_placed_and_coded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for name, most in (("A1", 70_000), ("B1", 3), ("C1", 4)):
        data_of_section = make_h5ad(name, name[0])
        del data_of_section.uns["spatial"][name]["images"]
        counts[name] = counts_of(len(counts), data_of_section.n_obs, len(GENES))
        counts[name][3, 1] = most
        data_of_section.X = csr_matrix(counts[name])
        data_of_section.write_h5ad(tmp_path / f"{name}.h5ad")
    build_dataset(IngestConfig(sources=(H5adSourceConfig(path=str(tmp_path)),)), str(tmp_path / "dataset"))
    dataset, panel = PairedDataset.open(str(tmp_path / "dataset")), Panel(GENES, tuple(range(len(GENES))))
    whole = np.concatenate(list(counts.values()))
    for room in (0, 2**30):
        monkeypatch.setattr(data, "JOINED_BYTES", room)
        placed = Placed(dataset).with_counts(panel.key, place_counts(dataset, panel, ("A", "B", "C")))
        rows = np.arange(len(dataset))
        np.testing.assert_array_equal(PlacedData(placed).counts(panel, rows).gather(rows).numpy(), whole)
    folder = ResultFolder(str(tmp_path / "gene"))
    model = LogCountsConfig()
    folder.write_json("config.json", {"gene": asdict(GeneConfig(model=model)), "batches": [], "classes": [], "seed": 0})
    folder.write_json("panel.json", json.loads(panel.to_json()))
    folder.write_weights("weights.pt", {})
    folder.finish({"kind": "gene"})
    coded, missing = embed_genes(folder.path, dataset)
    assert missing == ()
    expected = np.log1p(whole / whole.sum(axis=1, keepdims=True).clip(1) * model.target_sum)
    np.testing.assert_allclose(coded.embedding_ND, expected, rtol=1e-5)
    alone = coding.embed_genes(load_gene_encoder(folder.path), dataset)
    np.testing.assert_array_equal(alone.rows, coded.rows)
    np.testing.assert_array_equal(alone.embedding_ND, coded.embedding_ND)


def test_patches_are_placed_decoded_or_encoded_and_are_the_same(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    rows = np.flatnonzero(dataset.spots().patient != "P1")
    positions = np.random.default_rng(0).permutation(len(rows))
    expected = LocalData(dataset).patches(rows).gather(positions)
    for kept in ("decoded", "encoded", "streamed"):
        placed = place_patches(dataset, RunConfig(residence=kept, decode_threads=2))
        assert placed.residence == kept
        assert PlacedData(placed).patches(rows).gather(positions).equal(expected)


def test_the_store_has_room_for_a_third_of_the_memory_where_less_is_not_asked_for() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    assert _object_store_bytes(None) == pytest.approx(min(memory / 3, 0.8 * free), rel=0.05)
    assert _object_store_bytes(0.25) == 2**28


@pytest.mark.slow
def test_a_cohort_is_measured(tmp_path: Path) -> None:
    assert cohort(1_000_000, 2000).patients == 100
    assert cohort(50_000, 2000).spots_per_section == 5000
    found = measure(
        load_recipe(None), spots=200, genes=60, epochs=2, folder=str(tmp_path), cpus=2, progress=NullProgress()
    )
    assert (found.spots, found.patients, found.genes) == (200, 2, 60)
    assert len(found.spots_per_second) == 2
    assert found.seconds_per_spot == 1 / found.spots_per_second[1]
    assert found.disk_bytes > 200 * 60
    assert 2**27 < found.train_peak_bytes < 2**34


def test_sizes_of_which_there_is_no_cohort_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scale", "--spots", "10", "--genes", "3"]) == 2
    error = capsys.readouterr().err
    assert "--spots" in error
    assert "--genes" in error


def test_pictures_are_coded_the_same_on_a_cluster_and_in_this_process(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    path = small_model(tmp_path / "model", dataset.manifest.patch)
    coded, alone = embed(path, dataset), coding.embed(load(path), dataset)
    np.testing.assert_array_equal(alone.rows, coded.rows)
    np.testing.assert_allclose(alone.embedding_ND, coded.embedding_ND, rtol=1e-4, atol=1e-5)
    assert alone.classes == coded.classes
