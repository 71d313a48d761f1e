"""Image encoders of someone's own, as small as they can be: what `contrastive.image.factory` names in tests."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.ops import StochasticDepth

from stray.config import ImageConfig
from stray.models.image_encoder import ImageEncoder
from stray.noise import Noise

FACTORY = "tests.support.encoders_at_hand:tiny"
CALLS: list[dict[str, Any]] = []
"""With what `tiny` was called."""


class Block(nn.Module):
    """A residual block with batch norm and, where asked for, stochastic depth."""

    def __init__(self, n_in: int, n_out: int, drop: float) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.BatchNorm2d(n_out)
        self.second, self.drop = nn.Conv2d(n_out, n_out, 3, padding=1), StochasticDepth(drop, "row")

    def forward(self, x_nCHW: Tensor) -> Tensor:
        x_nCHW = torch.relu(self.norm(self.first(x_nCHW)))
        return x_nCHW + self.drop(self.second(x_nCHW))


class Tiny(nn.Module):
    """Four convolutional blocks, pooled."""

    def __init__(self, width: int, drop: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(width, width, drop) for _ in range(4)])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(drop))

    def forward(self, x_nCHW: Tensor) -> Tensor:
        return self.pool(self.blocks(self.stem(x_nCHW)))


def tiny(width: int = 8, drop: float = 0.0) -> nn.Module:
    """The network by its options."""
    CALLS.append({"width": width, "drop": drop})
    return Tiny(width, drop)


def tiny_vit() -> nn.Module:
    """Attention, in torchvision's own way: weights that no module applies."""
    net = VisionTransformer(image_size=32, patch_size=16, num_layers=3, num_heads=2, hidden_dim=12, mlp_dim=24)
    net.heads = nn.Sequential()
    return net


class WithPreprocess(Tiny):
    """A network that knows what it wants of pictures."""

    def preprocess(self, patches_nCHW: Tensor) -> Tensor:
        x = patches_nCHW.float() / 255 if patches_nCHW.dtype == torch.uint8 else patches_nCHW
        return 2 * x - 1


def with_preprocess() -> nn.Module:
    """A network with its own preprocessing."""
    return WithPreprocess(4, 0.0)


class Maps(Tiny):
    """A network that forgot to pool."""

    def forward(self, x_nCHW: Tensor) -> Tensor:
        return self.blocks(self.stem(x_nCHW))


def maps() -> nn.Module:
    """Feature maps, not feature vectors."""
    return Maps(4, 0.0)


def a_number() -> int:
    """No network."""
    return 4


class OwnNorm(nn.BatchNorm2d):
    """A batch norm that does more than torch's."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


def own_norm() -> nn.Module:
    """A network whose batch norm is of a class of its own."""
    net = Tiny(4, 0.0)
    net.blocks[0].norm = OwnNorm(4)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    return net


class BatchNormAct2d(nn.BatchNorm2d):
    """timm's batch norm with an activation, as far as its forward pass goes."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def norm_with_activation() -> nn.Module:
    """A network in the manner of timm's EfficientNets."""
    net = Tiny(4, 0.0)
    net.blocks[1].norm = BatchNormAct2d(4)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    return net


NOTHING = None
"""Cannot be called."""


def drawn_elsewhere() -> nn.Module:
    """A network whose weights no seed of torch's decides."""
    net = Tiny(4, 0.0)
    nn.init.normal_(net.stem.weight, generator=torch.Generator().manual_seed(os.getpid()))
    return net


def seeded(config: ImageConfig, seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(config)


def patches(n: int = 4, px: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def noise(n: int = 4, step: int = 0) -> Noise:
    return Noise(0, 0, step, n, slice(0, n))
