"""Each loss against its formula, written once more by hand, and in chunks against the whole similarity matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stray.losses.clip import clip_loss
from stray.losses.gather import Gathered, gather
from stray.models.scales import LossScales
from tests.losses_at_hand import Batch, found, losses

N = 9
ALL: dict[str, dict[str, Any]] = {"clip": {"clip": 1.0}}


def codes(n: int = N) -> Gathered:
    """Codes of a whole batch, of length one."""
    with torch.no_grad():
        return gather(*Batch(losses(clip=1), n).codes(slice(0, n)), n)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def log_softmax(row: Tensor) -> Tensor:
    return row - torch.log(torch.exp(row).sum())


def test_clip_is_the_published_formula() -> None:
    batch, s = codes(), 3.0
    expected = 0.0
    for i in range(N):
        expected -= log_softmax(s * batch.gene_ND @ batch.image_ND[i])[i]
        expected -= log_softmax(s * batch.image_ND @ batch.gene_ND[i])[i]
    torch.testing.assert_close(clip_loss(batch, scalar(s)), expected / (2 * N), rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 4, 8, 9, 100])
@pytest.mark.parametrize("name", ALL)
def test_chunks_change_neither_value_nor_gradient(name: str, chunk: int) -> None:
    whole, chunked = found(Batch(losses(**ALL[name]), N)), found(Batch(losses(chunk, **ALL[name]), N))
    assert whole.keys() == chunked.keys()
    for number, value in whole.items():
        np.testing.assert_allclose(chunked[number], value, rtol=1e-12, atol=1e-12, err_msg=number)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", ALL)
def test_chunks_bound_the_similarity_matrix_forward_and_backward(name: str) -> None:
    count, chunk, most = 60, 6, {}
    for rows in (None, chunk):
        batch = Batch(losses(rows, **ALL[name]), count)
        with Largest() as largest:
            batch().loss.backward()
        most[rows] = largest.numel
    assert most[None] >= count * count
    assert most[chunk] == chunk * count


@pytest.mark.parametrize("name", ALL)
def test_equal_similarities_give_what_is_called_chance(name: str) -> None:
    batch = Batch(losses(**ALL[name]), N)
    with torch.no_grad():
        for tower in (batch.image_tower, batch.gene_tower):
            tower.weight.zero_()
        mixed = batch()
    for term, value in mixed.terms.items():
        torch.testing.assert_close(value, mixed.chances[term], rtol=0, atol=1e-12)


def test_a_logit_scale_is_clamped_to_its_own_bound_and_trained_only_where_it_is_learned() -> None:
    from stray.config import ClipLossConfig

    scales = LossScales(losses(clip=ClipLossConfig(temperature=0.5, max_logit_scale=4.0)))
    assert scales()["clip"].item() == pytest.approx(2.0)
    with torch.no_grad():
        scales.log_scale["clip"].fill_(9.0)
    scales.clamp()
    assert scales()["clip"].item() == pytest.approx(4.0)
    fixed = LossScales(losses(clip=ClipLossConfig(learned=False)))
    assert not any(parameter.requires_grad for parameter in fixed.parameters())
