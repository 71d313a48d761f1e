"""Every loss on several gloo processes, against one process that holds the whole batch: value, gradients, health."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.gloo import Job, run_on
from tests.support.losses_at_hand import ALL, Batch, found, losses


def shares(count: int, chunk: int | None, given: dict[str, Any], labelled: int | None = None) -> dict[str, np.ndarray]:
    """What a rank finds; every rank builds the same weights."""
    return found(Batch(losses(chunk, **given), count, labelled))


# Odd: two workers hold four and three rows. Three spots leave the fourth worker without any.
SIZES = {"uneven shares": (7, None), "even shares": (8, None), "fewer spots than workers": (3, None), "chunks": (9, 2)}
JOBS: dict[str, Job] = {
    f"{case}, {size}": (shares, (*SIZES[size], given)) for case, given in ALL.items() for size in SIZES
}
# In `ALL` the last workers have no labelled spot; here nobody has, or only the first worker has one.
FEW = {f"{case}, {n} labelled": (shares, (7, None, ALL[case], n)) for case in ALL if "guided" in case for n in (0, 1)}


@pytest.fixture(scope="module")
def on_one() -> dict[str, Any]:
    return {name: found[0] for name, found in run_on(1, JOBS | FEW).items()}


@pytest.fixture(scope="module", params=[2, 4], ids=["two workers", "four workers"])
def on_many(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    return run_on(request.param, JOBS | FEW)


@pytest.mark.parametrize("name", [*JOBS, *FEW])
def test_value_gradients_and_health_equal_those_of_one_process_on_the_whole_batch(
    name: str, on_one: dict[str, Any], on_many: dict[str, list[Any]]
) -> None:
    whole = on_one[name]
    for rank in on_many[name]:
        assert rank.keys() == whole.keys()
        for number, value in whole.items():
            np.testing.assert_allclose(rank[number], value, rtol=1e-10, atol=1e-10, err_msg=number)


@pytest.mark.parametrize("name", JOBS)
def test_every_trained_scalar_and_tower_has_a_gradient(name: str, on_one: dict[str, Any]) -> None:
    # The picture alone explains the counts: no loss of the gene tower is asked for.
    none = ("gradient gene_tower.weight", "gradient gene_tower.bias") if name.startswith("expression") else ()
    flat = [n for n, value in on_one[name].items() if n.startswith("gradient") and np.abs(value).max() < 1e-4]
    assert sorted(flat) == sorted(none)


@pytest.mark.parametrize("name", [name for name in FEW if "0 labelled" in name])
def test_a_batch_without_any_label_has_a_loss_and_gradients_of_zero(name: str, on_one: dict[str, Any]) -> None:
    assert all((value == 0).all() for value in on_one[name].values())
