"""Batches on their way to the device: in order, one ahead, whole."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stray.data.feed import DeviceFeed, each_tensor, pinned
from stray.likelihood.counts import SparseCounts

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    x: SparseCounts
    class_n: Tensor | None
    name: str


def batch(value: float) -> Batch:
    return Batch(SparseCounts.of(torch.tensor([[0.0, value], [1.0, 0.0]])), None, "b")


def test_every_tensor_of_a_batch_is_changed_and_nothing_else() -> None:
    found = each_tensor(batch(3.0), lambda tensor: tensor.double() * 2)
    assert found.x.x_e.tolist() == [6.0, 2.0]
    assert found.x.total_n.dtype == torch.float64
    assert (found.x.n_genes, found.class_n, found.name) == (2, None, "b")
    assert each_tensor(torch.ones(2), torch.neg).tolist() == [-1.0, -1.0]


def test_on_the_cpu_batches_pass_as_they_are_one_ahead_of_the_one_in_use() -> None:
    made, came = [], []

    def batches():
        for key in range(4):
            made.append(key)
            yield key, batch(key)

    for key, found in DeviceFeed(CPU).over(batches()):
        came.append(key)
        assert len(made) == min(key + 2, 4)
        assert found.x.dense(found.x.x_e).tolist() == [[0.0, float(key)], [1.0, 0.0]]
    assert came == made == [0, 1, 2, 3]
    assert list(DeviceFeed(CPU).over([])) == []
    one = batch(1.0)
    assert pinned(one, CPU) is one


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_batches_arrive_whole_while_steps_run() -> None:
    device = torch.device("cuda", 0)
    host = [pinned(torch.full((256, 1024), float(i)), device) for i in range(8)]
    assert host[0].is_pinned()
    weights = torch.randn(1024, 1024, device=device)
    came = []
    for key, found in DeviceFeed(device).over(enumerate(host)):
        came.append(key)
        for _ in range(20):
            weights = torch.nn.functional.normalize(weights @ weights)
        assert found.device == device
        assert bool((found == key).all())
    assert came == list(range(8))
