"""Retrieval and collapse, by hand, against brute force, and where all codes are one."""

from __future__ import annotations

import numpy as np
import pytest

from stray.metrics import retrieval as module
from stray.metrics.collapse import effective_rank, spread
from stray.metrics.retrieval import ahead, median_rank, recall, retrieval

RNG = np.random.default_rng(0)


def unit(n: int, size: int = 8) -> np.ndarray:
    codes = RNG.normal(size=(n, size))
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def both(image: np.ndarray, gene: np.ndarray, group: np.ndarray) -> dict[str, float]:
    own = np.arange(len(image))
    return retrieval(ahead(image, gene, own, group), ahead(gene, image, own, group), group)


def test_ranks_of_three_spots_by_hand() -> None:
    """Picture 0 has one gene code that is nearer than its own, picture 1 none, picture 2 both."""
    genes = np.eye(3)
    pictures = np.array([[0.5, 0.7, 0.1], [0.1, 0.9, 0.2], [0.6, 0.5, 0.4]])
    found = ahead(pictures, genes, np.arange(3))
    assert found.tolist() == [[1, 1], [0, 1], [2, 1]]
    assert recall(found, 1) == pytest.approx(1 / 3)
    assert recall(found, 2) == pytest.approx(2 / 3)
    assert recall(found, 10) == 1.0
    assert median_rank(found) == 2.0


def test_places_are_those_of_a_sort_of_all_candidates_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, candidates = unit(40), unit(60)
    own, group = RNG.permutation(60)[:40], RNG.integers(0, 3, 60)
    for groups in (None, group):
        expected = []
        for query, place in zip(queries, own, strict=True):
            pool = np.arange(60) if groups is None else np.flatnonzero(groups == groups[place])
            order = pool[np.argsort(-(candidates[pool] @ query))]
            expected.append(int(np.flatnonzero(order == place)[0]))
        for most in (2**24, 130):
            monkeypatch.setattr(module, "_AT_ONCE", most)
            assert ahead(queries, candidates, own, groups).tolist() == [[place, 1] for place in expected]


def test_partners_that_are_told_apart_are_found_and_codes_in_one_point_find_what_chance_finds() -> None:
    group = np.repeat([0, 1], (30, 50))
    codes = unit(80)
    apart = both(codes, codes, group)
    assert apart["recall_1_image_to_gene"] == apart["recall_1_gene_to_image"] == 1.0
    assert apart["median_rank_image_to_gene"] == 1.0
    # Nearly one point: what is left are the last bits of float32, which must not count.
    point = np.repeat(unit(1).astype(np.float32), 80, axis=0) + RNG.normal(size=(80, 8)).astype(np.float32) * 1e-8
    collapsed = both(point, point, group)
    for k in (1, 10):
        chance = collapsed[f"recall_{k}_chance"]
        assert chance == pytest.approx((30 * k / 30 + 50 * k / 50) / 80)
        assert collapsed[f"recall_{k}_image_to_gene"] == pytest.approx(chance)
    # 1 to 30 of one section and 1 to 50 of the other; ties stand in the middle: 15.5 thirty times, 25.5 fifty times.
    assert collapsed["median_rank_chance"] == 20.5
    assert collapsed["median_rank_image_to_gene"] == 25.5


def test_chance_is_what_codes_that_know_nothing_of_each_other_reach() -> None:
    group = np.repeat(np.arange(20), 20)
    runs = [both(unit(400), unit(400), group) for _ in range(10)]
    for measure, tolerance in (("recall_1", 0.01), ("recall_10", 0.03), ("median_rank", 0.5)):
        for direction in ("image_to_gene", "gene_to_image"):
            mean = np.mean([run[f"{measure}_{direction}"] for run in runs])
            assert mean == pytest.approx(runs[0][f"{measure}_chance"], abs=tolerance), measure


def test_a_section_with_fewer_spots_than_are_looked_at_has_a_chance_of_one() -> None:
    assert both(unit(4), unit(4), np.zeros(4))["recall_10_chance"] == 1.0


def test_spread_is_one_on_the_whole_sphere_and_none_in_a_point_whatever_the_dimensions() -> None:
    for size in (4, 64):
        assert spread(unit(20_000, size)) == pytest.approx(1.0, abs=0.02)
        assert spread(np.repeat(unit(1, size), 50, axis=0)) == pytest.approx(0.0, abs=1e-7)


def test_the_effective_rank_counts_directions() -> None:
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    assert effective_rank(np.repeat(unit(1), 50, axis=0)) == pytest.approx(1.0, abs=1e-3)
    plane = np.zeros((200, 8))
    plane[:, :2] = unit(200, 2)
    assert effective_rank(plane) == pytest.approx(2.0, abs=0.01)
    # Singular values 3 and 1: p = 3/4 and 1/4.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(expected)
    assert effective_rank(np.zeros((5, 3))) == 1.0
