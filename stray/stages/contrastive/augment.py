"""Augmentation of a batch of patches: flips, right-angle turns, crops, stain, colour, blur, drawn for the global batch.

A patch's draws are a function of (seed, epoch, step) and of its place in the global batch alone, and what is done to it
is done by arithmetic on its own pixels: any number of workers augments it alike, to the last bit. Every part that came
later draws from a site of noise of its own, so that turning it on or off leaves the draws of all others.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from stray.config import AugmentConfig
from stray.noise import Noise

# Draws per patch: two flips, a turn, and four colour factors.
N_DRAWS = 7

STAINS_23 = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
"""Optical density of haematoxylin and of eosin in red, green, blue, before normalisation (Ruifrok & Johnston 2001)."""

BLUR_REACH = 3.0
"""Standard deviations at which the Gaussian of the blur is cut off."""


def augment(patches_nCHW: Tensor, config: AugmentConfig, noise: Noise) -> Tensor:
    """Augment patches in uint8 or as floats in [0, 1]; return floats in [0, 1] of the same shape."""
    x = patches_nCHW.float() / 255.0 if patches_nCHW.dtype == torch.uint8 else patches_nCHW
    like = x[:, 0, 0, :1]
    u_n7 = noise.uniform("augment", N_DRAWS, like)
    x = _orient(x, config, u_n7)
    if config.crop_area < 1:
        x = _crop(x, config.crop_area, noise.uniform("augment_crop", 3, like))
    if config.stain_factor or config.stain_shift:
        # Stain before colour: the stain acts on the light, the scanner (colour) on the transmitted light.
        x = _stain(x, config, noise.uniform("augment_stain", 4, like))
    x = _colour(x, config, u_n7[:, 3:])
    if config.blur_px:
        x = _blur(x, config.blur_px, noise.uniform("augment_blur", 1, like)[:, 0])
    return x


def _orient(x_nCHW: Tensor, config: AugmentConfig, u_n7: Tensor) -> Tensor:
    if config.flips:
        x_nCHW = torch.where(_each(u_n7[:, 0] < 0.5), x_nCHW.flip(3), x_nCHW)
        x_nCHW = torch.where(_each(u_n7[:, 1] < 0.5), x_nCHW.flip(2), x_nCHW)
    if config.rotations:
        turns_n = (u_n7[:, 2] * 4).long()
        for k in (1, 2, 3):
            x_nCHW = torch.where(_each(turns_n == k), torch.rot90(x_nCHW, k, (2, 3)), x_nCHW)
    return x_nCHW


def _crop(x_nCHW: Tensor, smallest: float, u_n3: Tensor) -> Tensor:
    """Crop a box of each patch, resized bilinearly to the whole: its area uniform on [smallest, 1] of the patch's, its
    place uniform, its shape the patch's (a nucleus must not be stretched).
    """
    side_n = (smallest + (1.0 - smallest) * u_n3[:, 0]).sqrt()
    height, width = x_nCHW.shape[2:]
    # Pixel centres on [-1, 1], where the box's own centre may lie within 1 - side. torch's affine_grid would multiply
    # matrices here, whose rounding may depend on how many patches a worker holds.
    column_nW = _inside(side_n, u_n3[:, 1], width)
    row_nH = _inside(side_n, u_n3[:, 2], height)
    shape = (-1, height, width)
    grid_nHW2 = torch.stack([column_nW[:, None, :].expand(shape), row_nH[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(x_nCHW, grid_nHW2, mode="bilinear", padding_mode="border", align_corners=False).clamp(0, 1)


def _inside(side_n: Tensor, u_n: Tensor, size: int) -> Tensor:
    """Return where the pixels of a crop lie along one axis of the patch, (n, size) on [-1, 1]."""
    centre_S = (2.0 * torch.arange(size, device=side_n.device, dtype=side_n.dtype) + 1.0) / size - 1.0
    return side_n[:, None] * centre_S + ((1.0 - side_n) * (2.0 * u_n - 1.0))[:, None]


def _stain(x_nCHW: Tensor, config: AugmentConfig, u_n4: Tensor) -> Tensor:
    """Multiply the amounts of haematoxylin and eosin by a factor and add a shift, each patch's own (Tellez et al.
    2018).

    By Beer-Lambert the optical density is -log10(x) = sum over stains of amount * vector + a rest at right angles to
    both; the rest stays. Vectors have length 1. An empty slide is stained by the shift like everything else.
    """
    draw_n4 = 2.0 * u_n4 - 1.0
    factor_n2, shift_n2 = config.stain_factor * draw_n4[:, :2], config.stain_shift * draw_n4[:, 2:]
    stains_23 = F.normalize(torch.tensor(STAINS_23, dtype=torch.float64), dim=1)
    to_amounts = torch.linalg.pinv(stains_23).T.tolist()
    # Black has no finite density; use the darkest non-zero uint8 value.
    density_nCHW = -x_nCHW.clamp_min(1.0 / 255.0).log10()
    change_nCHW = torch.zeros_like(x_nCHW)
    for stain, vector in enumerate(stains_23.tolist()):
        weights = zip(to_amounts[stain], density_nCHW.unbind(1), strict=True)
        amount_nHW = sum((weight * channel for weight, channel in weights), start=torch.zeros_like(x_nCHW[:, 0]))
        more_nHW = factor_n2[:, stain, None, None] * amount_nHW + shift_n2[:, stain, None, None]
        change_nCHW = change_nCHW + more_nHW[:, None] * x_nCHW.new_tensor(vector).view(1, 3, 1, 1)
    return (x_nCHW * torch.pow(10.0, -change_nCHW)).clamp(0, 1)


def _colour(x_nCHW: Tensor, config: AugmentConfig, u_n4: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue in torchvision's definitions, with a factor of its own for each
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


def _blur(x_nCHW: Tensor, largest_px: float, u_n: Tensor) -> Tensor:
    """Blur each patch with a Gaussian of its own standard deviation, uniform on [0, largest]; edges are mirrored.

    The kernel and edges of torchvision's `gaussian_blur`, which takes one standard deviation for the whole batch. Taps
    are added one by one: a convolution's order of summing may depend on how many patches a worker holds.
    """
    reach = min(math.ceil(BLUR_REACH * largest_px), *(size - 1 for size in x_nCHW.shape[2:]))
    tap_K = torch.arange(-reach, reach + 1, device=u_n.device, dtype=u_n.dtype)
    # A narrower kernel is exactly the middle tap; 0 would divide by zero.
    sigma_n = (largest_px * u_n).clamp_min(1e-3)
    kernel_nK = (-0.5 * (tap_K / sigma_n[:, None]).square()).exp()
    kernel_nK = kernel_nK / kernel_nK.sum(dim=1, keepdim=True)
    for axis in (2, 3):
        size = x_nCHW.shape[axis]
        margin = (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach)
        padded = F.pad(x_nCHW, margin, mode="reflect")
        x_nCHW = torch.zeros_like(x_nCHW)
        for k in range(2 * reach + 1):
            x_nCHW = torch.addcmul(x_nCHW, padded.narrow(axis, k, size), _each(kernel_nK[:, k]))
    return x_nCHW.clamp(0, 1)


def _each(value_n: Tensor) -> Tensor:
    return value_n.view(-1, 1, 1, 1)
