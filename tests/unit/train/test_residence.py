"""Patches kept decoded or encoded: the same batches to the last bit, chosen by the memory budget."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.cohort.fragments import EncodedBlock, place_of, read_encoded
from stray.cohort.residence import Residence, decoded_bytes, encoded_bytes, residence, shards
from stray.config import RunConfig
from stray.data.decoding import EncodedPatches, PatchDecoder
from stray.data.feed import Prefetcher
from stray.data.local import LocalData
from stray.errors import InputError
from stray.noise import Noise
from stray.stages.contrastive.gene_inputs import GeneInput
from stray.stages.contrastive.task import ContrastiveTask, PatchInput
from stray.stages.spec import ImageStage
from tests.support.small_cohort import small_cell, small_recipe

GIB = 2**30
CPU = torch.device("cpu")


@pytest.mark.parametrize("threads", [1, 3])
def test_encoded_patches_are_the_decoded_ones_to_the_last_bit(dataset: PairedDataset, threads: int) -> None:
    rows = np.flatnonzero(dataset.spots().patient != "P2")
    positions = np.random.default_rng(0).permutation(len(rows))[:37]
    expected = LocalData(dataset).patches(rows).gather(positions)
    encoded = LocalData(dataset, "encoded", threads).patches(rows).gather(positions)
    assert torch.equal(expected, encoded)
    assert expected.stride() == encoded.stride(), "channels last, as convolutions like them"
    np.testing.assert_array_equal(expected.permute(0, 2, 3, 1).numpy(), dataset.patches(rows[positions]))
    assert LocalData(dataset, "encoded").patches(rows).gather(positions[:0]).shape == (0, 3, 32, 32)


def test_encoded_patches_are_read_where_they_lie(dataset: PairedDataset) -> None:
    # Slices, as Ray Data cuts blocks: offsets that do not begin at zero.
    whole = next(read_encoded(dataset.fragments(images=True)[1]))
    half = EncodedBlock(whole.rows[11:], whole.images[11:])
    held = EncodedPatches([half], half.rows, PatchDecoder(32, 1), str)
    assert np.shares_memory(
        np.frombuffer(held._views[0][0], np.uint8), np.frombuffer(whole.images.buffers()[2], np.uint8)
    )
    assert torch.equal(held.gather(np.array([2])), LocalData(dataset).patches(half.rows).gather(np.array([2])))


def test_a_patch_that_cannot_be_decoded_is_named_with_its_file_row_group_and_row(dataset: PairedDataset) -> None:
    files = dataset.fragments(images=True)
    block = next(read_encoded(files[1]))
    images = block.images.to_pylist()
    images[7] = images[7][:50]
    broken = EncodedBlock(block.rows, pa.array(images, pa.large_binary()))
    held = EncodedPatches([broken], block.rows, PatchDecoder(32, 2), partial(place_of, files))
    held.gather(np.arange(7))
    with pytest.raises(InputError, match=r"part-00000.parquet, row group 0, row 7.*cannot be decoded"):
        held.gather(np.arange(40))
    assert files[1].path in place_of(files, files[1].start)


def test_the_first_residence_that_fits_the_budget_is_taken(dataset: PairedDataset) -> None:
    all_decoded, encoded = decoded_bytes(dataset), encoded_bytes(dataset)
    assert all_decoded == 120 * 32 * 32 * 3
    blocks = [block for file in dataset.fragments(images=True) for block in read_encoded(file)]
    assert sum(len(image.as_py()) for block in blocks for image in block.images) <= encoded < all_decoded
    window = 4  # a thirtieth of the spots

    def under(n_bytes: float, **forced: Any) -> str:
        return residence(dataset, RunConfig(memory_budget_gib=n_bytes / GIB, window_spots=window, **forced))

    assert under(all_decoded) == "decoded"
    assert under(all_decoded - 1) == under(encoded) == "encoded"
    assert under(encoded - 1) == under(encoded / 30) == "streamed"
    assert under(all_decoded, residence="encoded") == "encoded"
    assert under(all_decoded, residence="streamed") == "streamed"
    for refused, forced in ((all_decoded - 1, "decoded"), (encoded - 1, "encoded"), (encoded / 31, "auto")):
        with pytest.raises(InputError, match=r"(?s)the budget is .*raise run\.memory_budget_gib"):
            under(refused, residence=forced)


def test_shards_are_the_row_groups_of_the_files(dataset: PairedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.array([0, 39, 40, 119, 80])
    assert shards(dataset, rows).tolist() == [0, 0, 1, 2, 2]
    monkeypatch.setattr("stray.cohort.fragments.ROW_GROUP_SPOTS", 16)
    assert shards(dataset, rows).tolist() == [0, 2, 3, 8, 6]


def test_a_stage_sees_the_same_batches_whichever_the_residence(folder: Path, dataset: PairedDataset) -> None:
    stage = small_cell(small_recipe(folder), dataset, root=str(folder)).scored
    assert isinstance(stage, ImageStage)
    codes_NZ = torch.arange(2.0 * len(stage.rows)).reshape(-1, 2)
    kept: tuple[Residence, ...] = ("decoded", "encoded", "streamed")
    tasks = [
        ContrastiveTask(
            stage.config,
            PatchInput(LocalData(dataset, one).patches(stage.rows)),
            GeneInput(codes_NZ),
            seed=0,
            device=CPU,
        )
        for one in kept
    ]
    for step, batch in enumerate(tasks[0].plan.batches(0)):
        noise = Noise.of_rank(0, 0, step, len(batch))
        first, *others = [task.gather(batch[noise.rows], noise) for task in tasks]
        assert all(torch.equal(first.patches_nCHW, other.patches_nCHW) for other in others)


@pytest.mark.parametrize("ahead", [0, 1, 3, 100])
def test_batches_come_in_order_and_no_more_than_asked_for_are_gathered_ahead(ahead: int) -> None:
    gathered, most = [], 0

    def gather(key: int) -> int:
        gathered.append(key)
        return key * 10

    data = Prefetcher(gather, ahead)
    for key, batch in data.over(range(12)):
        assert batch == key * 10
        most = max(most, len(gathered) - key - 1)
    assert gathered == list(range(12))
    assert most <= ahead


def test_a_prefetcher_gathers_ahead_and_raises_what_failed_at_its_batch() -> None:
    begun = threading.Event()

    def gather(key: int) -> int:
        if key == 2:
            begun.set()
            raise KeyError(key)
        return key

    batches = Prefetcher(gather, 2).over([0, 1, 2, 3])
    assert next(batches) == (0, 0)
    assert begun.wait(timeout=20), "two batches ahead of the one in use"
    assert next(batches) == (1, 1)
    with pytest.raises(KeyError):
        next(batches)
