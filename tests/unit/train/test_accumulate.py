"""A batch in chunks: loss, gradients and what is logged are those of the whole batch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stray.collective import rank_rows, world_size
from stray.config import Recipe
from stray.errors import InputError
from stray.recipe import apply
from stray.stages.contrastive.accumulate import in_chunks
from tests.support.chunked_step import CASES, NORMS, chunked_step, double_batch
from tests.support.small_training import image_task


@cache
def in_one(case: str) -> dict[str, np.ndarray]:
    return chunked_step(case, 1)


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_loss_gradients_and_sums_equal_those_of_the_whole_batch(case: str, chunks: int) -> None:
    whole, found = in_one(case), chunked_step(case, chunks)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10, err_msg=name)
    moved = {name for name, value in whole.items() if name.startswith("gradient") and np.abs(value).max() > 1e-6}
    assert any("image_encoder" in name for name in moved)
    assert any("log_scale" in name or "expression_head" in name for name in moved)
    if "siglip" in case or "mixture" in case:
        assert "gradient scales.siglip_bias" in moved
    if "mlp" in case:
        assert any("gene_tower" in name for name in moved)


def test_dropout_and_augmentation_are_on_in_what_is_compared() -> None:
    task = image_task(nn.GroupNorm(2, 4), **CASES["group norm, clip, mlp"])
    task.module.double().train()
    batch, noise = double_batch(task, 0)
    found = [task._coded(batch.patches_nCHW, batch.genes_nX, replace(noise, step=step)) for step in (0, 1)]
    # The same spots under the noise of another step have other codes, of pictures and of genes.
    assert (found[0].image_nD - found[1].image_nD).abs().max() > 1e-4
    assert (found[0].gene_nD - found[1].gene_nD).abs().max() > 1e-4


@pytest.mark.parametrize(("chunks", "sizes"), [(1, [10]), (2, [5, 5]), (4, [3, 3, 2, 2]), (20, [1] * 10)])
def test_no_more_than_a_chunk_is_held_at_a_time(chunks: int, sizes: list[int]) -> None:
    task = image_task(nn.GroupNorm(2, 4), accumulate=chunks, accumulate_batch_norm="per_chunk")
    task.module.double()
    passes: list[tuple[int, bool]] = []

    class Told(torch.autograd.Function):
        """Notes when a chunk's activations are made for the backward pass, and when they are used up."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            passes.append((len(x), False))
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            passes.append((len(grad), True))
            return grad

    first = next(m for m in task.module.encoder.backbone.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda module, args, out: Told.apply(out))
    batch, noise = double_batch(task, 0)
    task.step(batch, noise).loss.backward()
    forward = [(n, False) for n in sizes]
    if chunks == 1:
        assert passes == [*forward, (10, True)]
    else:
        # All forward, then the last chunk again, and at once its backward pass, before the one before it.
        assert passes == [*forward, *(one for n in reversed(sizes) for one in ((n, False), (n, True)))]


def test_batch_norm_by_the_batchs_own_statistics_is_refused_where_chunks_lack_them() -> None:
    with pytest.raises(InputError, match="normalise by the statistics of the whole batch") as caught:
        image_task(accumulate=2)
    assert [problem.place for problem in caught.value.problems] == ["contrastive.accumulate"]
    assert "accumulate_batch_norm=per_chunk" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"contrastive.image.name": "resnet34"},
        {"contrastive.gene_tower.kind": "mlp"},
        {"contrastive.projection.kind": "mlp"},
        {"contrastive.gene_tower.kind": "tuned", "contrastive.trainable.kind": "adapters"},
    ],
)
def test_a_recipe_with_batch_norm_and_chunks_is_refused_unless_it_says_per_chunk(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"contrastive\.accumulate: batch norm of"):
        apply(Recipe(), {"contrastive.accumulate": 2, **changes})
    per_chunk = {"contrastive.accumulate": 2, "contrastive.accumulate_batch_norm": "per_chunk", **changes}
    assert apply(Recipe(), per_chunk).contrastive.accumulate == 2
    with pytest.raises(InputError, match="65 chunks"):
        apply(Recipe(), {**per_chunk, "contrastive.batch_size": 64, "contrastive.accumulate": 65})


def test_per_chunk_statistics_are_each_chunks_own_and_counted_once() -> None:
    norm = nn.BatchNorm1d(3, momentum=0.25).double().train()
    twin = nn.BatchNorm1d(3, momentum=0.25).double().train()
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    (found,) = in_chunks(lambda rows: (norm(x[rows]),), norm, 6, 2)
    expected = torch.cat([twin(x[rows]) for rows in (slice(0, 3), slice(3, 6))])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    after_forward = {name: value.clone() for name, value in norm.state_dict().items()}
    buffers = dict(norm.named_buffers())
    weight = torch.arange(18.0).reshape(6, 3).double()
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)
    (other,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-12)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, after_forward[name]), f"{name}: the second pass counts nothing"
        assert torch.equal(value, twin.state_dict()[name])
    assert all(value is buffers[name] for name, value in norm.named_buffers())
    assert norm.num_batches_tracked == 2


def test_chunks_are_as_many_on_every_rank() -> None:
    assert world_size() == 1
    sizes: list[int] = []

    def code(rows: slice) -> tuple[torch.Tensor]:
        sizes.append(rows.stop - rows.start)
        return (torch.zeros(rows.stop - rows.start, 1),)

    for chunks in (1, 3, 5, 9):
        sizes.clear()
        (found,) = in_chunks(code, nn.Identity(), 5, chunks)
        assert len(found) == 5
        assert sizes == [s.stop - s.start for s in (rank_rows(5, i, min(chunks, 5)) for i in range(min(chunks, 5)))]


def test_every_norm_is_in_some_case() -> None:
    assert all(any(case.startswith(norm) for case in CASES) for norm in NORMS)
