"""Folds by patient: who can be held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from stray.cohort.split import folds
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
