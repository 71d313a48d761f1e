from __future__ import annotations

import numpy as np
import pytest

from stray.collective import rank_rows
from stray.data.batches import BatchPlan
from stray.noise import Noise


def test_an_epoch_takes_each_spot_once_and_the_remainder_sits_out() -> None:
    batches = BatchPlan(23, 5, seed=1, keep_remainder=False).batches(0)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert len(set(np.concatenate(batches).tolist())) == 20


@pytest.mark.parametrize(("count", "sizes"), [(23, [5, 5, 5, 5, 3]), (21, [5, 5, 5, 6]), (4, [4])])
def test_a_kept_remainder_forms_a_batch_or_joins_the_last_when_it_is_too_small(count: int, sizes: list[int]) -> None:
    plan = BatchPlan(count, 5, seed=1, keep_remainder=True)
    assert [len(batch) for batch in plan.batches(3)] == sizes
    assert sorted(np.concatenate(plan.batches(3)).tolist()) == list(range(count))


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    plan = BatchPlan(100, 10, seed=1, keep_remainder=False)
    again = BatchPlan(100, 10, seed=1, keep_remainder=False)
    other = BatchPlan(100, 10, seed=2, keep_remainder=False)
    np.testing.assert_array_equal(plan.batches(4), again.batches(4))
    assert (np.array(plan.batches(4)) != np.array(plan.batches(5))).any()
    assert (np.array(plan.batches(4)) != np.array(other.batches(4))).any()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_the_ranks_shares_make_up_the_global_batch_and_differ_by_one_at_most(size: int) -> None:
    batch = np.arange(17)
    parts = [batch[rank_rows(17, rank, size)] for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(parts), batch)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [2, 3])
def test_a_ranks_noise_is_its_rows_of_the_global_noise(size: int) -> None:
    import torch

    like = torch.zeros(1, 4)
    whole = Noise(7, 2, 5, 11, slice(0, 11)).normal("z", 4, like)
    parts = [Noise(7, 2, 5, 11, rank_rows(11, rank, size)).normal("z", 4, like) for rank in range(size)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    assert (Noise(7, 2, 6, 11, slice(0, 11)).normal("z", 4, like) != whole).any()
