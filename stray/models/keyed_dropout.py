"""Dropout and stochastic depth inside image encoders, drawn from the step's noise: alike on any number of workers."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from stray.noise import Noise

Per = Literal["value", "channel", "spot"]


class KeyedDropout(nn.Module):
    """Zeroes values, whole channels or a spot's whole branch with probability `p`, and scales what it keeps by
    1 / (1 - p). `noise` is set before the forward pass.
    """

    def __init__(self, p: float, per: Per, site: str) -> None:
        """`site` keys the draw."""
        super().__init__()
        self.p, self.per, self.site = p, per, site
        self.noise: Noise | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout; `x` has the batch along its first axis, or several rows a spot, one spot's after the other's.

        Raises ValueError in training without noise, or where the rows are no multiple of the spots.
        """
        if not self.training or self.p == 0 or len(x) == 0:
            return x
        if self.noise is None:
            raise ValueError("dropout in training needs the step's noise")
        if self.p >= 1:
            return x * 0
        spots = (self.noise.rows.stop - self.noise.rows.start) * self.noise.copies
        if len(x) % spots:
            raise ValueError(f"{self.site}: {len(x)} rows of {spots} spots")
        shape = {"value": x.shape[1:], "channel": x.shape[1:2], "spot": x.shape[1:1]}[self.per]
        per_spot = len(x) // spots * math.prod(shape)
        keep = self.noise.keep(self.site, self.p, x.new_empty(spots, per_spot))
        return x * keep.view(len(x), *shape, *[1] * (x.dim() - 1 - len(shape)))


def key_dropout(module: nn.Module, site: str) -> nn.Module:
    """Replace every dropout and stochastic depth in `module` that acts by one drawn from the step's noise; returns
    `module`.
    """
    for name, child in module.named_children():
        here = f"{site}.{name}"
        found = _kind(child)
        if found is None:
            key_dropout(child, here)
        elif found[0] > 0:
            setattr(module, name, KeyedDropout(*found, here).train(child.training))
    return module


def _kind(module: nn.Module) -> tuple[float, Per] | None:
    match module:
        case nn.Dropout():
            return module.p, "value"
        case nn.Dropout1d() | nn.Dropout2d() | nn.Dropout3d():
            return module.p, "channel"
        case StochasticDepth(mode="row"):
            return module.p, "spot"
        case _ if type(module).__name__ == "DropPath" and getattr(module, "scale_by_keep", True):  # timm's
            return float(getattr(module, "drop_prob", 0.0) or 0.0), "spot"
        case _:
            return None
