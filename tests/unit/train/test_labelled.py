from __future__ import annotations

import numpy as np
import pytest

from stray.data.batches import LabelledPlan

CLASSES = np.array([-1, 0, 0, -1, 0, 1, 0, 2, -1, 0])  # five of class 0, one of 1, one of 2


def plan(*, balanced: bool, batch_size: int = 3, steps: int = 7) -> LabelledPlan:
    return LabelledPlan(CLASSES, batch_size, steps, 0, balanced=balanced)


def test_in_turn_every_labelled_spot_comes_before_one_comes_again() -> None:
    whole = np.concatenate([plan(balanced=False).batch(0, step) for step in range(7)])
    assert sorted(whole[:7].tolist()) == np.flatnonzero(CLASSES >= 0).tolist()
    assert np.bincount(whole, minlength=10)[CLASSES >= 0].tolist() == [3] * 7


def test_balanced_batches_hold_every_class_alike_even_one_of_a_single_spot() -> None:
    whole = np.concatenate([plan(balanced=True).batch(2, step) for step in range(7)])
    assert np.bincount(CLASSES[whole]).tolist() == [7, 7, 7]
    assert set(whole[CLASSES[whole] == 1].tolist()) == {5}
    assert np.bincount(whole[CLASSES[whole] == 0]).max() == 2


def test_fewer_labelled_spots_than_a_batch_form_smaller_ones() -> None:
    assert len(plan(balanced=False, batch_size=128).batch(0, 0)) == 7


@pytest.mark.parametrize("balanced", [False, True], ids=["in turn", "balanced"])
def test_a_batch_is_a_function_of_seed_epoch_and_step(balanced: bool) -> None:
    one, other = plan(balanced=balanced), plan(balanced=balanced)
    other.batch(5, 1)
    np.testing.assert_array_equal(one.batch(1, 3), other.batch(1, 3))
    assert not np.array_equal(one.batch(1, 3), one.batch(2, 3))
