"""Counts as a worker holds them: in blocks of the object store, read in place."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from scipy.special import gammaln

from stray.cohort.fragments import CompactRows, CountBlock, compact
from stray.columns import GENE_COUNT, GENE_INDEX, ROWS
from stray.data.blocks import Counts
from stray.on_ray.data import _count_block, in_place

N, GENES = 3000, 40


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    """Counts with empty spots, among them the first and the last ones."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.3, 3.0, (N, GENES)))
    counts[[0, 7, 1023, 1024, N - 2, N - 1]] = 0
    return counts


def blocks(dense: np.ndarray, ends: list[int]) -> list[CountBlock]:
    bounds = [0, *ends, len(dense)]
    return [CountBlock(np.arange(a, b), compact(sp.csr_matrix(dense[a:b]))) for a, b in pairwise(bounds)]


def test_a_batch_is_the_same_however_the_rows_are_spread_over_blocks(dense: np.ndarray) -> None:
    rows = np.random.default_rng(1).permutation(N)[:2000]
    positions = np.array([5, 1999, 0, 700, 5])
    found = [Counts(blocks(dense, ends), rows).entries(positions) for ends in ([], [1, 100, 1500])]
    for one in found:
        np.testing.assert_array_equal(one.dense(one.x_e).numpy(), dense[rows[positions]])
        np.testing.assert_array_equal(one.row_e.numpy(), found[0].row_e.numpy())
        np.testing.assert_array_equal(one.gene_e.numpy(), found[0].gene_e.numpy())
        assert (one.row_e.dtype, one.gene_e.dtype, one.x_e.dtype) == (found[0].row_e.dtype,) * 2 + (found[0].x_e.dtype,)


@pytest.mark.parametrize("large", [False, True], ids=["uint16", "uint32"])
def test_what_depends_on_counts_alone_is_summed_exactly(dense: np.ndarray, large: bool) -> None:
    dense = dense.copy()
    dense[2000, 3] = 70_000 if large else 65_535
    counts = Counts(blocks(dense, [1100]), np.arange(N))
    assert counts._counts[1].data.dtype == (np.uint32 if large else np.uint16)
    np.testing.assert_array_equal(counts.totals(), dense.sum(axis=1))
    np.testing.assert_allclose(counts._log_factorial, gammaln(dense + 1.0).sum(axis=1), rtol=1e-13, atol=1e-12)


def test_a_worker_reads_what_was_placed_without_a_copy(dense: np.ndarray) -> None:
    counts = compact(sp.csr_matrix(dense))
    genes = counts.indices.astype(np.uint16)
    lists = [pa.LargeListArray.from_arrays(counts.indptr.astype(np.int64), v) for v in (genes, counts.data)]
    table = pa.table({ROWS: np.arange(N), GENE_INDEX: lists[0], GENE_COUNT: lists[1]})
    (part,) = in_place([table])
    block = _count_block(part, GENES)
    assert np.shares_memory(block.counts.data, counts.data)
    assert np.shares_memory(block.counts.indices, genes)
    assert np.shares_memory(block.rows, table.column(ROWS).chunk(0).to_numpy())


def test_placed_counts_are_the_counts(dense: np.ndarray) -> None:
    held = [CountBlock(b.rows, b.counts) for b in blocks(dense, [700, 1100])]
    placed = []
    for block in held:
        m = block.counts
        compacted = CompactRows(m.indptr, m.indices.astype(np.uint16), m.data, (len(block.rows), GENES))
        placed.append(CountBlock(block.rows, compacted))
    rows = np.random.default_rng(1).permutation(N)[:900]
    a, b = Counts(held, rows), Counts(placed, rows)
    positions = np.random.default_rng(2).permutation(len(rows))[:200]
    assert a.gather(positions).equal(b.gather(positions))
    np.testing.assert_array_equal(b.matrix().toarray(), dense[rows])
