"""A stream of shards through a window: which spots form a batch, what is held, and how often a shard is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stray.cohort.dataset import PairedDataset
from stray.cohort.residence import Residence, shards
from stray.collective import rank_rows
from stray.data.decoding import PatchDecoder
from stray.data.local import LocalData
from stray.data.streaming import Stream, StreamedPatches, StreamPlan, shard_order, windowed
from stray.errors import InputError
from stray.noise import Noise, numpy_generator
from stray.recipe import apply
from stray.stages.contrastive.gene_inputs import GeneInput
from stray.stages.contrastive.task import ContrastiveTask, PatchInput
from stray.stages.spec import ImageStage
from tests.support.small_cohort import small_cell, small_dataset, small_recipe

GROUP, WINDOW, BATCH = 8, 24, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def dataset(folder: Path) -> PairedDataset:
    """Of 3 files of 40 spots, in row groups of 8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stray.cohort.write.ROW_GROUP_SPOTS", GROUP)
        patch.setattr("stray.cohort.rows.ROW_GROUP_SPOTS", GROUP)
        return small_dataset(folder)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stray.cohort.fragments.ROW_GROUP_SPOTS", GROUP)


def plan(dataset: PairedDataset, rows: np.ndarray, window: int = WINDOW, seed: int = 3) -> StreamPlan:
    stream = Stream(window=window, shard_N=shards(dataset, rows))
    return StreamPlan(len(rows), BATCH, seed, keep_remainder=False, stream=stream)


def slowly_windowed(stream: np.ndarray, window: int, generator: np.random.Generator) -> list[int]:
    """The definition, spot by spot."""
    held, coming, left = list(stream[:window]), list(stream[window:]), []
    for slot, value in zip(generator.integers(0, len(held), len(coming)), coming, strict=True):
        left.append(held[slot])
        held[slot] = value
    return left + [held[i] for i in generator.permutation(len(held))]


@pytest.mark.parametrize(("count", "window"), [(500, 60), (500, 1), (60, 60), (60, 100), (1, 5)])
def test_a_window_gives_what_its_definition_gives_and_never_holds_more(count: int, window: int) -> None:
    stream = np.random.default_rng(0).permutation(count)
    found = windowed(stream, window, numpy_generator(1))
    assert found.tolist() == slowly_windowed(stream, window, numpy_generator(1))
    came = np.empty(count, np.int64)
    came[stream] = np.arange(count)
    assert (came[found] < np.arange(count) + window).all(), "nothing leaves before it has come"
    assert sorted(found.tolist()) == list(range(count))


def test_a_wide_window_mixes_and_a_window_of_all_is_a_uniform_shuffle() -> None:
    stream = np.arange(4000)
    far = [np.abs(windowed(stream, w, numpy_generator(2)) - stream).mean() for w in (1, 100, 4000)]
    assert far[0] == 0
    assert 50 < far[1] < 200
    assert far[2] == pytest.approx(4000 / 3, rel=0.05)


def test_shards_come_whole_and_in_an_order_of_their_own() -> None:
    shard_N = np.array([0, 0, 2, 2, 2, 5, 5, 7])
    found = [shard_order(shard_N, numpy_generator(0, epoch)).tolist() for epoch in range(20)]
    assert {tuple(order) for order in found} > {tuple(found[0])}
    for order in found:
        assert [order[i] for i in range(8) if shard_N[order[i]] == 2] == [2, 3, 4]
        assert len(np.flatnonzero(np.diff(shard_N[order]))) == 3, "no shard is torn"


def test_the_batches_of_a_stream_are_a_function_of_seed_epoch_and_window(dataset: PairedDataset) -> None:
    rows = np.flatnonzero(dataset.spots().patient != "P1")
    batches = plan(dataset, rows).batches(2)
    assert [len(batch) for batch in batches] == [BATCH] * 5
    assert len(set(np.concatenate(batches).tolist())) == 80
    np.testing.assert_array_equal(batches, plan(dataset, rows).batches(2))
    for other in (plan(dataset, rows, seed=4).batches(2), plan(dataset, rows).batches(1)):
        assert (np.array(batches) != np.array(other)).any()
    assert (np.array(batches) != np.array(plan(dataset, rows, window=40).batches(2))).any()


@pytest.mark.parametrize("size", [1, 2, 4])
def test_workers_hold_no_more_than_the_window_and_read_few_shards_twice(dataset: PairedDataset, size: int) -> None:
    rows = np.flatnonzero(dataset.spots().patient != "P1")
    made, resident = plan(dataset, rows), LocalData(dataset).patches(rows)
    reads, held = [], []
    for rank in range(size):
        patches = StreamedPatches(dataset, rows, PatchDecoder(32, 1))
        for epoch in range(2):
            mine = [batch[rank_rows(len(batch), rank, size)] for batch in made.batches(epoch)]
            patches.expect(mine)
            patches.reads = 0
            for positions in mine:
                assert torch.equal(patches.gather(positions), resident.gather(positions))
            assert not patches._held, "what was delivered is let go"
        held.append(patches.most_held)
        reads.append(patches.reads)
    # What leaves the window fills a batch first, and of a shard that is read some spots have yet to come.
    assert sum(held) <= WINDOW + BATCH + 2 * GROUP * size
    assert reads == [10] if size == 1 else sum(reads) < 10 * size, "a worker reads shards with spots of its own alone"


def test_what_was_not_expected_is_right_all_the_same(dataset: PairedDataset) -> None:
    rows = np.flatnonzero(dataset.spots().patient != "P1")
    patches, resident = StreamedPatches(dataset, rows, PatchDecoder(32, 1)), LocalData(dataset).patches(rows)
    asked = np.array([70, 3, 3, 41])
    patches.expect([np.array([3, 50, 3]), np.array([3])])
    for positions in (asked, np.array([50, 3]), np.array([9])):
        assert torch.equal(patches.gather(positions), resident.gather(positions))
    assert not patches._held


def test_a_stage_is_streamed_past_the_budget_and_its_key_says_so(folder: Path, dataset: PairedDataset) -> None:
    recipe = small_recipe(folder)
    streamed = apply(recipe, {"run.residence": "streamed", "run.window_spots": WINDOW})
    stages = [
        small_cell(one, dataset, root=str(folder)).scored
        for one in (recipe, apply(recipe, {"run.residence": "encoded"}), streamed)
    ]
    stages.append(small_cell(apply(streamed, {"run.window_spots": 30}), dataset, root=str(folder)).scored)
    stages = [stage for stage in stages if isinstance(stage, ImageStage)]
    assert stages[0].key == stages[1].key, "how patches are kept changes no result"
    assert len({stage.key for stage in stages}) == 3
    assert stages[2].stream is not None
    assert stages[2].stream.window == WINDOW
    codes_NZ = torch.arange(2.0 * len(stages[0].rows)).reshape(-1, 2)
    residences: tuple[Residence, ...] = ("decoded", "streamed")
    tasks = [
        ContrastiveTask(
            stages[2].config,
            PatchInput(LocalData(dataset, kept).patches(stages[2].rows), stream=stages[2].stream),
            GeneInput(codes_NZ),
            seed=0,
            device=torch.device("cpu"),
        )
        for kept in residences
    ]
    assert isinstance(tasks[0].plan, StreamPlan)
    for epoch in range(2):
        for step, batch in enumerate(tasks[0].plan.batches(epoch)):
            noise = Noise.of_rank(0, epoch, step, len(batch))
            first, second = (task.gather(batch[noise.rows], noise) for task in tasks)
            assert torch.equal(first.patches_nCHW, second.patches_nCHW)
            assert torch.equal(first.genes_nX, second.genes_nX)


def test_batches_that_a_stream_cannot_give_are_refused(folder: Path, dataset: PairedDataset) -> None:
    changes: dict[str, Any] = {
        "run.residence": "streamed",
        "contrastive.batches.patients_per_batch": 1,
        "contrastive.accumulate": 2,
        "contrastive.accumulate_batch_norm": "per_chunk",
    }
    with pytest.raises(InputError) as refused:
        small_cell(apply(small_recipe(folder), changes), dataset, root=str(folder))
    assert [problem.place for problem in refused.value.problems] == [
        "contrastive.batches",
        "contrastive.accumulate_batch_norm",
    ]
    frozen = changes | {"contrastive.trainable": {"kind": "none", "cached_views": 2}}
    stage = small_cell(apply(small_recipe(folder), frozen), dataset, root=str(folder)).scored
    assert isinstance(stage, ImageStage)
    assert stage.stream is None, "features are computed once: batches of them are drawn from all spots"


def test_a_shard_that_cannot_be_read_is_named_with_its_row_group(folder: Path, dataset: PairedDataset) -> None:
    rows = np.flatnonzero(dataset.spots().patient != "P1")
    patches = StreamedPatches(dataset, rows, PatchDecoder(32, 1))
    file = Path(dataset.fragments(images=True)[2].path)
    content = file.read_bytes()
    try:
        footer = int.from_bytes(content[-8:-4], "little") + 8
        file.write_bytes(content[:4] + bytes(len(content) - 4 - footer) + content[-footer:])
        with pytest.raises(InputError, match=rf"{file.name}, row group 4"):
            patches.gather(np.array([0, len(rows) - 1]))
    finally:
        file.write_bytes(content)
