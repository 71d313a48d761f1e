from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from stray.metrics.separation import NEIGHBOURS, group_codes, names, separation

RNG = np.random.default_rng(0)


def clusters(*centres: float, n: int = 60) -> np.ndarray:
    """`n` spots around each centre, in three dimensions, far from the origin."""
    return np.concatenate([RNG.normal(centre, 1.0, size=(n, 3)) for centre in centres]) + 1000.0


def test_groups_apart_and_groups_mixed_are_told_from_each_other_by_both_measures() -> None:
    codes = clusters(0.0, 50.0)
    apart, mixed = np.repeat(["A", "B"], 60), np.tile(["A", "B"], 60)
    found = separation(codes, {"class": group_codes(apart), "batch": group_codes(mixed)})
    assert sorted(found) == sorted(names(["class", "batch"]))
    assert found["class_silhouette"] > 0.9
    assert found["class_knn_purity"] == 1.0
    assert abs(found["batch_silhouette"]) < 0.05
    assert abs(found["batch_knn_purity"]) < 0.1


def test_the_silhouette_equals_that_of_scikit_learn() -> None:
    codes = clusters(0.0, 1.0, 2.0).astype(np.float32)
    group = RNG.permutation(np.repeat(["A", "B", "C"], (20, 60, 100)))
    found = separation(codes, {"class": group_codes(group)})["class_silhouette"]
    assert found == pytest.approx(reference.silhouette_score(codes.astype(np.float64), group), abs=1e-9)


def test_the_purity_of_four_spots_by_hand() -> None:
    """On a line, A at 0 and 1, B at 3 and 7: each group has one other spot, so one neighbour is looked at.

    The nearest are 1 (A), 0 (A), 1 (not B), 3 (B): a share of 3/4, of which chance gives 1/3.
    """
    found = separation(np.array([[0.0], [1.0], [3.0], [7.0]]), {"x": group_codes(np.array(["A", "A", "B", "B"]))})
    assert found["x_knn_purity"] == pytest.approx((3 / 4 - 1 / 3) / (1 - 1 / 3))


def test_a_class_of_two_clusters_is_pure_though_its_silhouette_is_low() -> None:
    found = separation(clusters(0.0, 50.0, 100.0), {"class": group_codes(np.repeat(["A", "B", "A"], 60))})
    assert found["class_knn_purity"] == 1.0
    assert found["class_silhouette"] < 0.4


def test_a_group_smaller_than_the_neighbours_looked_at_can_be_pure() -> None:
    few = 5
    assert few < NEIGHBOURS
    codes = np.concatenate([clusters(0.0), clusters(50.0, n=few)])
    found = separation(codes, {"class": group_codes(np.repeat(["A", "B"], (60, few)))})
    assert found["class_knn_purity"] == 1.0


def test_spots_of_no_group_change_nothing() -> None:
    codes, group = clusters(0.0, 2.0), np.repeat(["A", "B"], 60)
    unknown, alone = np.repeat([""], 30), np.array(["C"])
    more = np.concatenate([codes, clusters(1.0, n=31)])
    expected = separation(codes, {"class": group_codes(group)})
    assert separation(more, {"class": group_codes(np.concatenate([group, unknown, alone]))}) == pytest.approx(expected)


def test_groups_of_one_spot_and_spots_without_a_name_have_no_number() -> None:
    assert group_codes(np.array(["b", "", "a", "b", "", "c", "a"])).tolist() == [1, -1, 0, 1, -1, -1, 0]


def test_codes_that_have_collapsed_to_a_point_are_not_separate() -> None:
    group = RNG.permutation(np.repeat(["A", "B"], 100))
    found = separation(np.ones((200, 4)), {"batch": group_codes(group)})
    assert found["batch_silhouette"] == 0.0
    assert abs(found["batch_knn_purity"]) < 0.2
