from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from stray.metrics.naming import flat_metrics, safe_name
from stray.metrics.scores import auc, confusion_matrix, score, summarise


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 300)
    return truth, np.where(rng.random(300) < 0.6, truth, rng.integers(0, 4, 300))


def test_scores_equal_those_of_scikit_learn(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = answers
    result = score(truth, prediction, "abcd", np.ones(4, dtype=bool))
    assert np.array_equal(result.confusion_KK, reference.confusion_matrix(truth, prediction))
    assert result.summary["accuracy"] == pytest.approx(reference.accuracy_score(truth, prediction))
    assert result.summary["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, prediction))
    assert result.summary["macro_f1_fold"] == pytest.approx(reference.f1_score(truth, prediction, average="macro"))
    precision, recall, _, _ = reference.precision_recall_fscore_support(truth, prediction)
    for code, name in enumerate("abcd"):
        assert result.per_class[name].recall == pytest.approx(np.asarray(recall)[code])
        assert result.per_class[name].precision == pytest.approx(np.asarray(precision)[code])
        assert result.per_class[name].support == (truth == code).sum()


def test_a_class_absent_from_the_fold_lowers_precision_but_is_in_no_mean() -> None:
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    result = score(truth, prediction, "abc", np.ones(3, dtype=bool))
    assert result.summary["balanced_accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    assert result.summary["macro_f1_fold"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert np.isnan(result.per_class["c"].recall)
    assert result.per_class["c"].precision == 0.0


def test_a_class_that_training_lacked_counts_as_zero_except_in_the_known_scores() -> None:
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0])
    summary = score(truth, prediction, "ab", np.array([True, False])).summary
    assert summary["balanced_accuracy"] == 0.5
    assert summary["balanced_accuracy_known"] == 1.0
    assert summary["macro_f1_fold"] == pytest.approx(summary["macro_f1_known"] / 2)


def test_many_matrices_at_once_equal_one_by_one(answers: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = answers
    known = np.array([True, True, False, True])
    parts = [confusion_matrix(truth[start::3], prediction[start::3], 4) for start in range(3)]
    together = summarise(np.stack(parts), known)
    for index, part in enumerate(parts):
        for name, value in summarise(part, known).items():
            assert together[name][index] == pytest.approx(float(value))


@pytest.mark.parametrize("decimals", [1, 8], ids=["with ties", "without ties"])
def test_auc_equals_that_of_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(200) < 0.3
    scores = (rng.normal(size=200) + positive).round(decimals)
    assert auc(positive, scores) == pytest.approx(float(reference.roc_auc_score(positive, scores)))


def test_auc_of_one_kind_is_nan_and_of_scores_turned_round_its_complement() -> None:
    rng = np.random.default_rng(2)
    positive, scores = rng.random(50) < 0.5, rng.normal(size=50)
    assert np.isnan(auc(np.ones(50, dtype=bool), scores))
    assert auc(positive, scores) + auc(positive, -scores) == pytest.approx(1.0)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no spot"):
        score(np.array([], dtype=int), np.array([], dtype=int), "ab", np.ones(2, dtype=bool))


def test_flat_names_are_ones_that_mlflow_takes_and_values_are_finite() -> None:
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    result = score(truth, prediction, ("fat (white)/brown", "b"), np.ones(2, dtype=bool))
    flat = flat_metrics({("annotated", "probe"): result}, {}, {"annotated": ()}, ())
    name = safe_name("fat (white)/brown")
    assert name.startswith("fat _white__brown-")
    assert flat[f"eval/annotated/probe/recall/{name}"] == 0.5
    assert all(np.isfinite(value) for value in flat.values())
    assert len({safe_name(name) for name in ("a/b", "a_b", "a?b", "..", ".", "_")}) == 6
