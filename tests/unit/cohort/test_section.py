from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stray.cohort.section import Genes, Section, check_section, keep_spots, local_spot_name
from stray.errors import InputError


def make(counts: np.ndarray, spots: tuple[str, ...] = ("a", "b"), genes: tuple[str, ...] = ("G1", "G2")) -> Section:
    return Section(
        name="A1",
        patient="A",
        spots=spots,
        genes=Genes(symbols=genes),
        counts=sparse.csr_matrix(counts),
        xy_px=np.zeros((len(spots), 2)),
        microns_per_pixel=1.0,
    )


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (make(np.array([[1.0, -2.0], [0.0, 3.0]])), "1 negative count, the least -2.0"),
        (make(np.array([[0.5, 2.0], [1.5, 3.0]])), "2 fractional counts, such as 0.5"),
        (make(np.array([[np.nan, 2.0], [1.0, 3.0]])), "not finite"),
        (make(np.eye(2), spots=("a", "a")), "names 1 spot more than once: a"),
    ],
    ids=["negative counts", "fractional counts", "counts that are no numbers", "spots twice"],
)
def test_a_faulty_section_is_refused_with_its_place(section: Section, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        check_section(section, "counts.tsv")
    assert complaint in str(caught.value)
    assert caught.value.problems[0].place == "counts.tsv"


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        check_section(make(np.array([[-1.0, 0.5], [0.0, 0.0]]), spots=("a", "a")), "x")
    assert len(caught.value.problems) == 3


def test_dropped_spots_are_listed_by_reason() -> None:
    section = keep_spots(make(np.array([[1, 0], [0, 2]])), np.array([False, True]), "no coordinates")
    assert section.spots == ("b",)
    assert section.dropped == {"no coordinates": ("a",)}
    assert section.counts is not None
    assert section.counts.toarray().tolist() == [[0, 2]]


def test_spot_names_match_with_and_without_the_section_in_front() -> None:
    assert local_spot_name("A1", "A1_22x12") == local_spot_name("A1", "22x12") == "22x12"
    assert local_spot_name("A1", "A10_22x12") == "A10_22x12"
