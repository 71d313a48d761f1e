"""Counts on the device are the counts on the host."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from stray.cohort.fragments import CountBlock, compact
from stray.data.blocks import Counts, ResidentCounts


def counts_up_to(largest: int, n_genes: int) -> Counts:
    """Counts of 30 spots in two blocks, with spots that have none, in another order than the blocks'."""
    draw = np.random.default_rng(0)
    x = draw.integers(1, largest, (40, n_genes)) * (draw.random((40, n_genes)) < 0.2)
    x[3], x[0, 0] = 0, largest
    blocks = [
        CountBlock(rows, compact(sp.csr_matrix(x[rows].astype(np.int64))))
        for rows in (np.arange(25), np.arange(25, 40))
    ]
    return Counts(blocks, draw.permutation(40)[:30])


@pytest.mark.parametrize("largest", [9, 40_000, 70_000], ids=["small", "past int16", "past uint16"])
def test_the_device_gathers_the_same_entries(largest: int) -> None:
    counts = counts_up_to(largest, 50)
    resident = ResidentCounts(counts, torch.device("cpu"))
    everything, draw = np.arange(30), np.random.default_rng(1)
    for positions in (everything, draw.permutation(30)[:7], np.array([4]), everything[:0]):
        on_host, on_device = counts.entries(positions), resident.entries(positions)
        for name in ("total_n", "log_factorial_n"):
            assert torch.equal(getattr(on_device, name), getattr(on_host, name))
        assert torch.equal(on_device.dense(on_device.x_e), on_host.dense(on_host.x_e))
        assert len(on_device) == len(positions)
        assert on_device.x_e.dtype == torch.float32


def test_a_panel_past_16_bits_keeps_its_genes_apart() -> None:
    counts = counts_up_to(9, 70_000)
    positions = np.arange(5)
    on_device = ResidentCounts(counts, torch.device("cpu")).entries(positions)
    assert int(on_device.gene_e.max()) > 2**16
    assert torch.equal(on_device.dense(on_device.x_e), counts.gather(positions))
