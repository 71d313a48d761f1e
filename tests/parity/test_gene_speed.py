"""The benchmark of the gene stage with scvi-tools in it, on a matrix that is trained in no time."""

from __future__ import annotations

import pytest

from jobs.benchmarks.gene.compare import compare, drawn

pytestmark = pytest.mark.parity


def test_scvi_tools_trains_on_the_matrix_that_stray_trains_on() -> None:
    counts, batch = drawn(300, 60, 2)
    names = ["stray", "scvi-tools"]
    measured = compare(names, counts, batch, rounds=1, epochs=2, threads=1, on_run=lambda name, number: None)
    assert [one.name for one in measured] == names
    for one in measured:
        assert one.spots_per_second > 0
        assert 0 < one.training_bytes < one.peak_bytes
