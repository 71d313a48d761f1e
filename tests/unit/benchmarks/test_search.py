"""The simulated searches of the benchmark, with fewer seeds: what its page of results claims."""

from __future__ import annotations

from itertools import islice

import pytest

from jobs.benchmarks.search.problem import BEST, EPOCHS, REGION, TOP, score
from jobs.benchmarks.search.simulate import best_of, trials, until_region
from stray.config import Recipe
from stray.recipe import load_recipe


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("search")


def test_the_best_settings_have_the_best_score() -> None:
    assert score(BEST) == TOP
    for path in BEST:
        assert score({**BEST, path: BEST[path] * 1.5 + 0.1}) < TOP


def test_tpe_reaches_the_best_region_in_fewer_trials_than_random(recipe: Recipe) -> None:
    random, tpe = (
        [until_region(trials(recipe, sampler, seed, asha=False), 200)[0] for seed in range(5)]
        for sampler in ("random", "tpe")
    )
    assert max(tpe) < 200
    assert sorted(tpe)[2] < sorted(random)[2] / 2


def test_asha_finds_the_same_best_trial_with_half_of_the_epochs(recipe: Recipe) -> None:
    for seed in range(3):
        whole, asha = (best_of(trials(recipe, "random", seed, asha=on), 60) for on in (False, True))
        assert whole[0] == 60 * EPOCHS
        assert asha[0] < whole[0] / 2
        assert asha[1] == whole[1]
    first = next(islice(trials(recipe, "random", 0, asha=True), 1))
    assert first.true < REGION, "the recipe itself is not in the best region"
