"""Balanced batches and batches of few patients: who comes how often, and who never twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stray.cohort.dataset import PairedDataset
from stray.collective import rank_rows
from stray.config import BatchesConfig
from stray.data.batches import BatchPlan
from stray.data.local import LocalData
from stray.data.sampling import SampledPlan, chosen, equal_parts
from stray.errors import InputError
from stray.recipe import apply
from stray.stages.run import run_stage
from stray.stages.spec import ImageStage
from stray.track.tracker import MemoryTracker
from stray.training.worker import LocalWorker
from tests.support.small_cohort import prepared_cell, small_cell, small_recipe

PATIENT_N = np.repeat(np.array(["A", "B", "C", "D"]), [150, 60, 20, 10])
RNG = np.random.default_rng(0)
# "rare" has 8 spots, a third of all has no class at all.
CLASS_N = RNG.permutation(np.repeat(np.array(["fat", "tumour", "rare", ""], dtype=object), [92, 60, 8, 80]))
EPOCHS = 40
SIZE = 24


def plan(seed: int = 3, size: int = SIZE, **settings: Any) -> SampledPlan:
    config = BatchesConfig(**settings)
    return SampledPlan(
        len(PATIENT_N), size, seed, keep_remainder=False, config=config, patient_N=PATIENT_N, class_N=CLASS_N
    )


ALL: dict[str, dict[str, Any]] = {
    "balanced over patients": {"sampling": "patients"},
    "balanced over classes": {"sampling": "classes"},
    "of one patient": {"patients_per_batch": 1},
    "of two patients": {"patients_per_batch": 2},
    "of one patient, each equally often": {"sampling": "patients", "patients_per_batch": 1},
    "of two patients, balanced over classes": {"sampling": "classes", "patients_per_batch": 2},
}


@pytest.mark.parametrize("name", ALL)
def test_an_epoch_has_the_steps_and_sizes_of_uniform_batches_and_is_a_function_of_seed_and_epoch(name: str) -> None:
    made, again, other = plan(**ALL[name]), plan(**ALL[name]), plan(seed=4, **ALL[name])
    plain = BatchPlan(len(PATIENT_N), SIZE, 3, keep_remainder=False)
    assert [len(batch) for batch in made.batches(5)] == plain.sizes() == [SIZE] * 10
    for epoch in (0, 6, 7):  # no draw depends on the ones before
        made.batches(epoch)
    np.testing.assert_array_equal(made.batches(5), again.batches(5))
    assert not np.array_equal(made.batches(5), made.batches(6))
    assert not np.array_equal(made.batches(5), other.batches(5))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_a_batch_is_the_same_on_any_number_of_workers(name: str, workers: int) -> None:
    whole = plan(**ALL[name]).batches(2)
    # Every worker draws the plan itself, and takes its share.
    drawn = [plan(**ALL[name]).batches(2) for _ in range(workers)]
    for step, batch in enumerate(whole):
        parts = [drawn[rank][step][rank_rows(len(batch), rank, workers)] for rank in range(workers)]
        np.testing.assert_array_equal(np.concatenate(parts), batch)


def test_every_patient_comes_equally_often_in_an_epoch_and_in_every_batch() -> None:
    made = plan(sampling="patients")
    for epoch in range(3):
        batches = made.batches(epoch)
        assert Counter(PATIENT_N[np.concatenate(batches)].tolist()) == dict.fromkeys("ABCD", 60)
        assert all(set(Counter(PATIENT_N[batch].tolist()).values()) == {6} for batch in batches)
        # 20 spots of C in 60 places, 10 of D: all of them before one comes again.
        times = Counter(np.concatenate(batches).tolist())
        assert [{times[i] for i in np.flatnonzero(p == PATIENT_N).tolist()} for p in "BCD"] == [{1}, {3}, {6}]
        assert {times[i] for i in np.flatnonzero(PATIENT_N == "A").tolist()} == {0, 1}


def test_every_class_comes_equally_often_and_spots_without_one_in_their_share() -> None:
    made = plan(sampling="classes")
    for epoch in range(3):
        batches = made.batches(epoch)
        found = Counter(CLASS_N[np.concatenate(batches)].tolist())
        assert abs(found[""] - 80) <= 1
        assert max(found[c] for c in ("fat", "tumour", "rare")) - min(found[c] for c in ("fat", "tumour", "rare")) <= 1
        for batch in batches:
            here = Counter(CLASS_N[batch].tolist())
            assert abs(here[""] - 8) <= 1
            assert all(abs(here[name] - 16 / 3) <= 2 for name in ("fat", "tumour", "rare"))
        times = Counter(np.concatenate(batches).tolist())
        rare = [times[i] for i in np.flatnonzero(CLASS_N == "rare").tolist()]
        assert max(rare) - min(rare) <= 1


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("sampling", ["uniform", "patients", "classes"])
def test_a_batch_has_just_so_many_patients(sampling: str, k: int) -> None:
    made = plan(sampling=sampling, patients_per_batch=k)
    for epoch in range(10):
        for batch in made.batches(epoch):
            found = Counter(PATIENT_N[batch].tolist())
            assert len(found) == k
            # Equal parts, but for who has fewer spots than its part.
            whole = [n for p, n in found.items() if n < (p == PATIENT_N).sum()]
            assert not whole or max(whole) - min(whole) <= 1


def test_a_patient_comes_in_proportion_to_its_spots_or_equally_often() -> None:
    def batches_of(**settings: Any) -> dict[str, float]:
        made = plan(**settings)
        found = Counter(p for e in range(EPOCHS) for batch in made.batches(e) for p in set(PATIENT_N[batch].tolist()))
        return {p: n / (EPOCHS * made.steps) for p, n in found.items()}

    in_share = batches_of(patients_per_batch=1)
    assert in_share == pytest.approx({"A": 150 / 240, "B": 60 / 240, "C": 20 / 240, "D": 10 / 240}, abs=0.02)
    assert batches_of(sampling="patients", patients_per_batch=1) == pytest.approx(dict.fromkeys("ABCD", 0.25), abs=0.02)
    assert batches_of(sampling="patients", patients_per_batch=3) == pytest.approx(dict.fromkeys("ABCD", 0.75), abs=0.02)
    # A is owed more than every batch of two: it comes in all, and the others share the other place.
    two = batches_of(patients_per_batch=2)
    assert two == pytest.approx({"A": 1.0, "B": 60 / 90, "C": 20 / 90, "D": 10 / 90}, abs=0.02)
    for epoch in range(3):
        found = Counter(str(PATIENT_N[batch[0]]) for batch in plan(patients_per_batch=1).batches(epoch))
        assert abs(found["A"] - 6.25) < 1, "within one batch in every epoch, not on average alone"


def test_a_spot_comes_twice_into_a_batch_only_where_there_are_too_few() -> None:
    for name, settings in ALL.items():
        made = plan(size=20, **settings)
        for epoch in range(EPOCHS):
            for step, batch in enumerate(made.batches(epoch)):
                drawn = set(PATIENT_N[batch].tolist())
                enough = settings.get("patients_per_batch") is None or np.isin(PATIENT_N, list(drawn)).sum() >= 20
                if enough and settings.get("sampling") != "classes":
                    assert made.repeated(epoch, step) == 0, name
                elif not enough:  # D alone: 10 spots, 20 places
                    assert made.repeated(epoch, step) == 0.5


def test_a_batch_of_more_places_than_a_class_has_spots_holds_all_of_them_before_one_again() -> None:
    made = plan(size=60, sampling="classes")  # 13 or so of "rare", which has 8
    repeated = [made.repeated(0, step) for step in range(made.steps)]
    assert all(0.05 < share_of < 0.15 for share_of in repeated)
    for batch in made.batches(0):
        times = [n for i, n in Counter(batch.tolist()).items() if CLASS_N[i] == "rare"]
        assert len(times) == 8
        assert set(times) <= {1, 2}


def test_with_all_patients_in_a_batch_nothing_is_left_out() -> None:
    made = plan(sampling="patients", patients_per_batch=4)
    assert all(set(PATIENT_N[batch].tolist()) == set("ABCD") for batch in made.batches(0))
    seen = {i for epoch in range(20) for i in np.concatenate(made.batches(epoch)).tolist()}
    assert seen == set(range(len(PATIENT_N)))


def test_who_is_chosen_is_spread_over_the_steps_to_within_one() -> None:
    weight = np.array([5.0, 3.0, 1.0, 1.0, 0.5])
    for seed in range(30):
        who = chosen(weight, 2, 50, np.random.default_rng(seed))
        assert all(len(set(some.tolist())) == 2 for some in who)
        times = np.bincount(np.concatenate(who), minlength=5)
        expected = 50 * np.array([2 * w / weight.sum() for w in weight])
        assert (np.abs(times - expected) < 1 + 1e-9).all()


@pytest.mark.parametrize(
    ("count", "sizes", "parts"),
    [(10, [50, 50], [5, 5]), (11, [50, 50, 50], [4, 4, 3]), (10, [3, 50], [3, 7]), (10, [2, 3], [5, 5]), (3, [9], [3])],
)
def test_parts_are_equal_but_for_who_has_too_few(count: int, sizes: list[int], parts: list[int]) -> None:
    assert equal_parts(count, np.array(sizes)).tolist() == parts


def test_plain_batches_are_what_they_were(dataset: PairedDataset, folder: Path, tmp_path: Path) -> None:
    assert BatchesConfig().plain
    cell = small_cell(small_recipe(folder), dataset, root=str(tmp_path))
    assert isinstance(cell.scored, ImageStage)
    assert cell.scored.patient is None
    assert cell.scored.label is None


def test_more_patients_in_a_batch_than_there_are_is_refused_at_the_door(dataset: PairedDataset, folder: Path) -> None:
    asked = apply(small_recipe(folder), {"contrastive.batches.patients_per_batch": 3})
    with pytest.raises(InputError, match="a batch of 3 patients cannot be drawn from 2") as caught:
        small_cell(asked, dataset, root="r")
    assert [problem.place for problem in caught.value.problems] == ["contrastive.batches.patients_per_batch"]


def test_classes_that_nobody_labelled_are_refused_at_the_door(dataset: PairedDataset, folder: Path) -> None:
    asked = {"contrastive.batches.sampling": "classes", "eval.label_sources.train": ["nobody"]}
    with pytest.raises(InputError, match="a balanced batch is drawn from classes"):
        small_cell(apply(small_recipe(folder), asked), dataset, root="r")


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "classes", "patients_per_batch": 1},
        pytest.param({"sampling": "patients"}, marks=pytest.mark.slow),
    ],
)
def test_a_stage_trains_on_such_batches_and_has_a_key_of_its_own(
    settings: dict[str, Any], dataset: PairedDataset, folder: Path, tmp_path: Path
) -> None:
    plain = small_cell(small_recipe(folder), dataset, root=str(tmp_path)).scored
    asked = {f"contrastive.batches.{name}": value for name, value in settings.items()}
    asked = apply(small_recipe(folder), {"contrastive.gene_tower.kind": "mlp", **asked})
    stage = prepared_cell(asked, dataset, tmp_path).scored
    assert isinstance(stage, ImageStage)
    assert stage.key != plain.key
    assert stage.patient is not None
    spots, seen = dataset.spots(), MemoryTracker()
    assert stage.patient.tolist() == spots.patient[stage.rows].tolist()
    run_stage(stage, LocalData(dataset), LocalWorker(), seen)
    losses = [value for _, value in seen.series("contrastive/step_loss")]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    labels = None if stage.label is None else stage.label.astype(str)
    made = SampledPlan(
        len(stage.rows),
        32,
        0,
        keep_remainder=False,
        config=stage.config.batches,
        patient_N=stage.patient,
        class_N=labels,
    )
    ((_, repeated),) = seen.series("contrastive/repeated_spots")
    assert repeated == pytest.approx(np.mean([made.repeated(0, step) for step in range(2)]))
