"""Folds by patient: who can be held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from stray.cohort.split import Fold, folds, inner_fold
from stray.config import EvalConfig, FoldsConfig
from stray.errors import InputError


@dataclass(frozen=True)
class Table:
    """What folds read of a spot table: A has pictures alone, B counts alone, C both, D neither's label."""

    patient = np.array(["A", "B", "C", "D"], dtype=object)
    has_image = np.array([True, False, True, True])
    has_counts = np.array([False, True, True, True])
    label = np.array(["x", "x", "y", None], dtype=object)
    label_source = np.array(["annotated", "annotated", "annotated", None], dtype=object)


def held_out(config: FoldsConfig, *, pictured: bool) -> list[tuple[str, ...]]:
    return [fold.held_out for fold in folds(Table(), config, EvalConfig(), pictured=pictured)]  # type: ignore[arg-type]


def test_patients_are_held_out_who_have_what_is_scored() -> None:
    assert held_out(FoldsConfig(), pictured=True) == [("A",), ("C",)]
    assert held_out(FoldsConfig(), pictured=False) == [("B",), ("C",)]


def test_everyone_else_trains() -> None:
    fold, _ = folds(Table(), FoldsConfig(), EvalConfig(), pictured=False)  # type: ignore[arg-type]
    assert fold.train == ("A", "C", "D")


@pytest.mark.parametrize(("pictured", "what"), [(True, "no pictured spot"), (False, "no spot with counts")])
def test_a_patient_who_lacks_it_is_refused_by_what_is_missing(pictured: bool, what: str) -> None:
    patient = "B" if pictured else "A"
    with pytest.raises(InputError, match=rf"(?s)patient .{patient}. has {what}.*hold out one of"):
        held_out(FoldsConfig(held_out=(patient,)), pictured=pictured)


LABELLED = ("A", "B", "D", "F")


def outer(patient: str) -> Fold:
    return Fold(patient, (patient,), tuple(p for p in "ABCDEF" if p != patient))


@pytest.mark.parametrize(
    ("held_out", "size", "validation"),
    [("A", 1, "B"), ("B", 1, "D"), ("D", 2, "FA"), ("F", 2, "AB"), ("C", 3, "DFA")],
)
def test_the_next_labelled_patients_judge_and_neither_they_nor_the_held_out_one_train(
    held_out: str, size: int, validation: str
) -> None:
    fold = outer(held_out)
    inner = inner_fold(fold, LABELLED[::-1], size)
    assert inner == inner_fold(fold, LABELLED, size)
    assert inner.held_out == tuple(validation)
    assert set(inner.train) == set("ABCDEF") - set(validation) - {held_out}
    assert (inner.name, inner.inside) == (held_out, fold)


def test_where_everyone_trains_the_first_labelled_patients_judge() -> None:
    inner = inner_fold(Fold("none", (), tuple("ABCDEF")), LABELLED, 2)
    assert (inner.held_out, inner.train) == (("A", "B"), ("C", "D", "E", "F"))


def test_without_a_labelled_patient_left_to_train_the_probe_there_is_no_inner_fold() -> None:
    with pytest.raises(InputError, match=r"with A held out, 3 training patients have labels \(B, D, F\)") as caught:
        inner_fold(outer("A"), LABELLED, 3)
    assert [problem.place for problem in caught.value.problems] == ["folds.inner"]
