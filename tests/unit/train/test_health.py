"""What a training that goes nowhere says of itself, and what one that goes somewhere does not say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stray.cohort.dataset import PairedDataset
from stray.config import OptimConfig
from stray.data.local import LocalData
from stray.on_ray.tracking import describe
from stray.recipe import apply
from stray.stages.run import run_stage
from stray.stages.spec import ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.health import PATIENCE, epochs_at_chance, warnings
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_recipe

WARM = OptimConfig(warmup_share=0.2)
"""Two of ten epochs."""


def told(losses: list[float], optim: OptimConfig = WARM) -> tuple[list[int], list[float]]:
    """Epochs (from 1) at which a training whose loss goes so, with a chance level of 4, warns; and its metric."""
    history: list[dict[str, float]] = []
    warned, counted = [], []
    for epoch, loss in enumerate(losses, start=1):
        history.append({"loss_clip": loss, "chance_clip": 4.0})
        warned += [epoch for _ in warnings("contrastive", history, optim, 10)]
        counted.append(epochs_at_chance(history, optim, 10)["epochs_at_chance"])
    return warned, counted


def test_a_loss_at_chance_is_warned_of_once_some_epochs_after_the_warm_up() -> None:
    warned, counted = told([4.0] * 8)
    assert warned == [2 + PATIENCE]
    assert counted == [0, 0, 1, 2, 3, 4, 5, 6]


def test_a_loss_above_its_chance_level_is_no_better_unless_it_falls() -> None:
    assert told([9.0] * 8)[0] == [2 + PATIENCE]
    assert told([9.0, 8.0, 7.0, 6.0, 5.5, 5.0, 4.5, 4.4])[0] == []
    assert told([9.0, 7.0, 6.0, 5.0, 5.2, 4.99, 5.0])[0] == [7]


@pytest.mark.parametrize(
    "losses", [[4.0, 4.0, 4.0, 4.0, 3.9, 3.8], [4.0, 4.0, 4.0, 3.9, 4.0, 4.0], [3.95] * 8], ids=str
)
def test_a_loss_that_has_left_chance_is_not_warned_of(losses: list[float]) -> None:
    assert told(losses)[0] == []


def test_a_loss_that_falls_back_is_warned_of_again() -> None:
    assert told([4.0] * 5 + [3.0] + [4.0] * 3)[0] == [5, 9]


def test_every_loss_of_a_mixture_has_its_own_level_and_the_metric_is_of_the_longest() -> None:
    epoch = {"loss_clip": 1.0, "chance_clip": 4.0, "loss_expression": 0.7, "chance_expression": 0.7, "chance_loss": 5.0}
    history = [epoch] * PATIENCE
    subjects = [subject for subject, _ in warnings("contrastive", history, OptimConfig(), 10)]
    assert subjects == ["loss_expression"]
    assert epochs_at_chance(history, OptimConfig(), 10) == {"epochs_at_chance": PATIENCE}


def test_codes_in_one_point_are_warned_of() -> None:
    history = [{"image_spread": 0.01, "gene_spread": 0.8}] * PATIENCE
    ((subject, text),) = warnings("contrastive", history, OptimConfig(), 10)
    assert subject == "image_codes"
    assert "0.010" in text


def test_a_stage_without_chance_levels_has_nothing_to_say() -> None:
    history = [{"loss": 812.0, "elbo": -812.0}] * 9
    assert not list(warnings("gene", history, OptimConfig(), 10))
    assert epochs_at_chance(history, OptimConfig(), 10) == {}


def trained(folder: Path, dataset: PairedDataset, root: Path, **settings: object) -> tuple[ImageStage, MemoryTracker]:
    """The contrastive stage on counts of the small cohort, without a gene stage, and what it logged."""
    changes = {f"contrastive.{name.replace('__', '.')}": value for name, value in settings.items()}
    recipe = apply(small_recipe(folder), {"contrastive.gene_tower.kind": "mlp", **changes})
    stage, tracker = prepared_cell(recipe, dataset, root).scored, MemoryTracker()
    assert isinstance(stage, ImageStage)
    run_stage(stage, LocalData(dataset), LocalWorker(), tracker)
    return stage, tracker


def assert_whole(epoch: dict[str, float], *, spots: int) -> None:
    """An epoch tells of collapse, from `spots` codes, and of memory."""
    for name in ("image", "gene"):
        assert 0 < epoch[f"contrastive/{name}_spread"] <= 1.01
        assert 1 <= epoch[f"contrastive/{name}_effective_rank"] <= spots
    assert 0.05 < epoch["contrastive/peak_memory_gib"] < 20


def test_a_training_that_learns_nothing_says_so(folder: Path, dataset: PairedDataset, tmp_path: Path) -> None:
    _, idle = trained(folder, dataset, tmp_path / "idle", epochs=PATIENCE, optim__lr=1e-12, optim__warmup_share=0)
    assert "loss_clip" in idle.warnings
    assert "contrastive.optim.lr=1e-13" in idle.warnings["loss_clip"]
    assert [count for _, count in idle.series("contrastive/epochs_at_chance")] == [1, 2, 3]
    assert_whole(idle.history[-1][1], spots=32)
    assert "recall" not in describe(idle.history[-1][1])


def test_held_out_spots_do_not_train_and_are_sought_among_all_of_them_every_epoch(
    folder: Path, dataset: PairedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []
    original = LocalData.patches
    monkeypatch.setattr(LocalData, "patches", lambda self, rows: (asked.append(rows), original(self, rows))[1])
    stage, tracker = trained(folder, dataset, tmp_path, epochs=1, validation_share=0.25)
    trains, watched, embedded = asked
    assert np.array_equal(np.sort(np.concatenate([trains, watched])), stage.rows)
    # A quarter of each section's 40 spots.
    sections, counts = np.unique(dataset.spots().section[watched], return_counts=True)
    assert len(sections) == 2
    assert set(counts) == {10}
    assert np.array_equal(embedded, stage.embed_rows)
    values = {name: value for name, value in tracker.history[-1][1].items() if "validation" in name}
    assert len(values) == 18
    assert values["contrastive/validation_recall_1_chance"] == pytest.approx(1 / 20)
    assert values["contrastive/validation_recall_10_chance"] == pytest.approx(1 / 2)
    assert values["contrastive/validation_section_recall_10_chance"] == 1.0
    assert values["contrastive/validation_median_rank_chance"] == 10.5
    assert values["contrastive/validation_section_median_rank_chance"] == 5.5
    assert_whole(tracker.history[-1][1], spots=20)
    line = describe(tracker.history[-1][1])
    assert "recall@10 " in line
    assert "(chance 50%)" in line
    assert "GiB" in line
    assert len(line) < 120
