"""The benchmark of the contrastive stage, on the smallest cohort: that it is run and told, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.benchmarks.command import main
from jobs.benchmarks.common import all_cpus
from jobs.benchmarks.contrastive import compare
from jobs.benchmarks.contrastive.compare import COLD, COLD_LOADERS, DECODERS, LOADERS, MEMORY, RESIDENT, STRAY
from jobs.benchmarks.contrastive.loader import InMemoryPatches, LoaderPatches
from jobs.benchmarks.contrastive.results import Loaded, faster, ratio
from stray.data.local import LocalData
from tests.support.small_cohort import small_dataset


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_race_tells_every_contender_on_two_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "LOAD_S", 0.1)
    file = tmp_path / "speed.json"
    words = ["--workers", "2", "--rounds", "1", "--epochs", "1", "--json", str(file)]
    assert main(["contrastive", "smoke", *words]) == 0
    found = json.loads(file.read_text())
    assert (found["spots"], found["workers"], found["residence"]) == (120, 2, "decoded")
    assert found["threads"] == max(2, all_cpus() - 1) // 2, "a core is left to Ray where there is one to leave"
    assert found["loading_threads"] == all_cpus()
    assert [one["name"] for one in found["trained"]] == [MEMORY, STRAY, *LOADERS]
    assert [one["name"] for one in found["loaded"]] == [COLD, *COLD_LOADERS, *RESIDENT, *LOADERS, *DECODERS]
    assert all(rate > 0 for one in found["trained"] + found["loaded"] for rate in one["rates"])
    told = capsys.readouterr().out
    for words_of in ("ratio of stray to it", "waiting for data", "Loading alone, ", "cold Parquet"):
        assert words_of in told


@pytest.mark.parametrize("processes", [0, 1])
def test_the_loader_gives_the_batches_of_stray(tmp_path: Path, processes: int) -> None:
    dataset = small_dataset(tmp_path)
    rows = np.flatnonzero(dataset.spots().patient != "P2")
    expected = LocalData(dataset).patches(rows)
    loader = LoaderPatches(dataset, rows, processes)
    epochs = [np.random.default_rng(epoch).permutation(len(rows)).reshape(4, -1) for epoch in range(2)]
    for upcoming in epochs:
        loader.expect(list(upcoming))
        for positions in upcoming:
            assert torch.equal(loader.gather(positions), expected.gather(positions))


def test_tensors_in_memory_have_the_sizes_asked_for_and_are_gathered_once(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    patches = InMemoryPatches(LocalData(dataset).patches(np.arange(120)))
    batches = [np.arange(50), np.arange(50, 90)]
    patches.expect(batches)
    first = [patches.gather(positions) for positions in batches]
    patches.expect([positions[::-1] for positions in batches])
    again = [patches.gather(positions) for positions in batches]
    assert [len(tensor) for tensor in first] == [50, 40]
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(first, again, strict=True))


def test_ratios_are_of_the_same_round() -> None:
    one, other = Loaded(name="a", rates=(10.0, 30.0, 20.0)), Loaded(name="b", rates=(5.0, 10.0, 20.0))
    assert ratio(one, other) == (2.0, 1.0, 3.0)
    assert faster(("a", "b"), [other, one]) is one
    assert faster(("b",), [other, one]) is other
