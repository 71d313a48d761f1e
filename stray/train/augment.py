"""Augmentation of a batch of uint8 patches: flips, right-angle turns, colour jitter, drawn for the global batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from stray.config import AugmentConfig
from stray.noise import Noise

# Draws a patch: two flips, a turn, and four factors of colour.
N_DRAWS = 7


def augment(patches_nCHW: Tensor, config: AugmentConfig, noise: Noise) -> Tensor:
    """Augmented patches as floats in [0, 1], the same shape. Each spot's draws depend on (seed, epoch, step) and its
    place in the global batch alone, so any number of workers augments it alike."""
    u_n7 = noise.uniform("augment", N_DRAWS, patches_nCHW.float()[:, 0, 0, :1])
    x = patches_nCHW.float() / 255.0
    x = _orient(x, config, u_n7)
    return _colour(x, config, u_n7[:, 3:])


def _orient(x_nCHW: Tensor, config: AugmentConfig, u_n7: Tensor) -> Tensor:
    if config.flips:
        x_nCHW = torch.where(_each(u_n7[:, 0] < 0.5), x_nCHW.flip(3), x_nCHW)
        x_nCHW = torch.where(_each(u_n7[:, 1] < 0.5), x_nCHW.flip(2), x_nCHW)
    if config.rotations:
        turns_n = (u_n7[:, 2] * 4).long()
        for k in (1, 2, 3):
            x_nCHW = torch.where(_each(turns_n == k), torch.rot90(x_nCHW, k, (2, 3)), x_nCHW)
    return x_nCHW


def _colour(x_nCHW: Tensor, config: AugmentConfig, u_n4: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue in torchvision's definitions, with a factor of its own for each
    patch.
    """
    factor_n4 = 2.0 * u_n4 - 1.0
    if config.brightness:
        x_nCHW = (x_nCHW * _each(1.0 + config.brightness * factor_n4[:, 0])).clamp(0, 1)
    if config.contrast:
        mean = tv.rgb_to_grayscale(x_nCHW).mean(dim=(1, 2, 3), keepdim=True)
        x_nCHW = torch.lerp(mean.expand_as(x_nCHW), x_nCHW, _each(1.0 + config.contrast * factor_n4[:, 1])).clamp(0, 1)
    if config.saturation:
        grey = tv.rgb_to_grayscale(x_nCHW).expand_as(x_nCHW)
        x_nCHW = torch.lerp(grey, x_nCHW, _each(1.0 + config.saturation * factor_n4[:, 2])).clamp(0, 1)
    if config.hue:
        x_nCHW = _turn_hue(x_nCHW, 2.0 * math.pi * config.hue * factor_n4[:, 3])
    return x_nCHW


def _turn_hue(x_nCHW: Tensor, angle_n: Tensor) -> Tensor:
    """Turn the colours about the grey axis of RGB: the hue shift that is linear, and so cheap on a whole batch."""
    cos, sin = angle_n.cos(), angle_n.sin() / math.sqrt(3.0)
    a, b, c = (1 + 2 * cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    turn_n33 = torch.stack([a, b, c, c, a, b, b, c, a], dim=1).view(-1, 3, 3)
    return torch.einsum("nij,njhw->nihw", turn_n33, x_nCHW).clamp(0, 1)


def _each(value_n: Tensor) -> Tensor:
    return value_n.view(-1, 1, 1, 1)
