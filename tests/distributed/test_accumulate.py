"""Batches in chunks on two gloo processes, against the whole batch on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stray.collective import all_sum, rank_rows
from stray.models.norm import GlobalBatchNorm
from stray.stages.contrastive.accumulate import in_chunks
from tests.support.chunked_step import CASES, chunked_step
from tests.support.gloo import Job, run_on

CHUNKS = (1, 2, 4)
# Seven spots are shared as four and three; three spots leave a rank one chunk, and so the other too.
JOBS: dict[str, Job] = {
    f"{case}; {size} spots; {chunks} chunks": (chunked_step, (case, chunks, size))
    for case in ("frozen batch norm, mixture", "group norm, clip, mlp", "layer norm, siglip, mlp")
    for size, counts in ((7, CHUNKS), (3, (4,)))
    for chunks in counts
}


def per_chunk() -> dict[str, np.ndarray]:
    """Batch norm over each chunk on all ranks: its statistics, and the gradient of a sum through it."""
    norm = GlobalBatchNorm(3, momentum=0.5).double().train()
    x_N3 = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    mine = x_N3[rank_rows(8)].clone().requires_grad_()
    (out,) = in_chunks(lambda rows: (norm(mine[rows]),), norm, 8, 2)
    (out * torch.arange(24.0).reshape(8, 3)[rank_rows(8)]).sum().backward()
    gradient_N3 = torch.zeros_like(x_N3)
    assert mine.grad is not None
    gradient_N3[rank_rows(8)] = mine.grad
    assert norm.running_mean is not None
    return {"gradient": all_sum(gradient_N3).numpy(), "mean": norm.running_mean.numpy()}


@pytest.fixture(scope="module")
def on_two() -> dict[str, list[Any]]:
    return run_on(2, {**JOBS, "per chunk": (per_chunk, ())})


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, np.ndarray]]:
    pairs = {(name.split(";")[0], job[1][2]) for name, job in JOBS.items()}
    return {f"{case} {size}": chunked_step(case, 1, size) for case, size in pairs}


@pytest.mark.parametrize("name", JOBS)
def test_chunks_on_two_workers_equal_the_whole_batch_on_one(
    name: str, on_two: dict[str, list[Any]], whole: dict[str, dict[str, np.ndarray]]
) -> None:
    case, _, size = JOBS[name][1]
    assert case in CASES
    expected = whole[f"{case} {size}"]
    for rank in on_two[name]:
        assert rank.keys() == expected.keys()
        for number, value in expected.items():
            np.testing.assert_allclose(rank[number], value, rtol=1e-10, atol=1e-10, err_msg=number)


def test_per_chunk_statistics_are_those_of_the_chunk_on_all_workers(on_two: dict[str, list[Any]]) -> None:
    norm = nn.BatchNorm1d(3, momentum=0.5).double().train()
    x_N3 = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    weight_N3 = torch.arange(24.0).reshape(8, 3)
    # Each rank holds four spots: its first two are its part of the first chunk.
    total = sum((norm(x_N3[chunk]) * weight_N3[chunk]).sum() for chunk in ([0, 1, 4, 5], [2, 3, 6, 7]))
    assert isinstance(total, torch.Tensor)
    (gradient_N3,) = torch.autograd.grad(total, x_N3)
    assert norm.running_mean is not None
    for rank in on_two["per chunk"]:
        np.testing.assert_allclose(rank["gradient"], gradient_N3.numpy(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(rank["mean"], norm.running_mean.numpy(), rtol=1e-10, atol=1e-10)
