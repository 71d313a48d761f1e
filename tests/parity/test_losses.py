"""clip and siglip against open_clip's losses: same codes, same scalars, same value and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stray.losses.clip import clip_loss
from stray.losses.gather import gather
from stray.losses.siglip import siglip_loss

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
CHUNKS = pytest.mark.parametrize("chunk", [None, 5], ids=["whole", "in chunks"])


def drawn(dtype: torch.dtype, n: int = 33) -> list[Tensor]:
    """Codes of images and of genes, and a logit scale and a bias; all gather gradients."""
    generator = torch.Generator().manual_seed(0)
    codes = [F.normalize(torch.randn(n, 16, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)]
    scalars = [torch.tensor(value, dtype=torch.float64) for value in (14.3, -6.0)]
    return [tensor.to(dtype).requires_grad_() for tensor in (*codes, *scalars)]


def same(ours: Tensor, theirs: Tensor, leaves: list[Tensor], dtype: torch.dtype) -> None:
    pairs = [(ours, theirs), *zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True)]
    for found, expected in pairs:
        scale = max(1.0, float(expected.detach().abs().max()))
        assert (found - expected).abs().max() <= TOLERANCE[dtype] * scale


@DTYPES
@CHUNKS
def test_clip_has_the_value_and_gradients_of_open_clip(dtype: torch.dtype, chunk: int | None) -> None:
    from open_clip.loss import ClipLoss  # pyright: ignore[reportMissingImports]

    image, gene, scale, _ = drawn(dtype)
    ours = clip_loss(gather(image, gene, len(image)), scale, chunk)
    same(ours, ClipLoss()(image, gene, scale), [image, gene, scale], dtype)


@DTYPES
@CHUNKS
def test_siglip_has_the_value_and_gradients_of_open_clip(dtype: torch.dtype, chunk: int | None) -> None:
    from open_clip.loss import SigLipLoss  # pyright: ignore[reportMissingImports]

    image, gene, scale, bias = drawn(dtype)
    ours = siglip_loss(gather(image, gene, len(image)), scale, bias, chunk)
    same(ours, SigLipLoss()(image, gene, scale, bias), [image, gene, scale, bias], dtype)
