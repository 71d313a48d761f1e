"""Fully connected layers in the order of scvi-tools: Linear, norm, ReLU, dropout; and a Gaussian of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stray.models.norm import GlobalBatchNorm
from stray.noise import Noise

NormKind = Literal["batch", "layer"]


class Mlp(nn.Module):
    """Hidden layers of equal width; `n_injected` extra inputs (the one-hot of a batch or class) enter every layer, or
    the first alone.

    Batch norm with momentum 0.01 and eps 0.001, layer norm without weights, as in scvi-tools; the defaults of torch
    elsewhere.
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        *,
        dropout: float,
        n_injected: int = 0,
        inject: Literal["all", "first"] = "all",
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        widths = [n_in] + [n_hidden] * (n_layers - 1)
        self._injected = [n_injected > 0 and (inject == "all" or i == 0) for i in range(n_layers)]
        extra = [n_injected if takes else 0 for takes in self._injected]
        self.linears = nn.ModuleList(nn.Linear(w + e, n_hidden) for w, e in zip(widths, extra, strict=True))
        self.norms = nn.ModuleList(_norm(norm, n_hidden) for _ in widths)
        self.dropout = dropout

    def forward(
        self, x_nD: Tensor, injected_nB: Tensor | None = None, noise: Noise | None = None, site: str = ""
    ) -> Tensor:
        """Return hidden features (n, n_hidden). Dropout acts in training only and needs `noise`; `site` keys its
        draw.
        """
        for i, (layer, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            if injected_nB is not None and self._injected[i]:
                x_nD = torch.cat([x_nD, injected_nB], dim=1)
            x_nD = torch.relu(norm(layer(x_nD)))
            if self.training and self.dropout > 0:
                if noise is None:
                    raise ValueError("dropout in training needs the step's noise")
                x_nD = x_nD * noise.keep(f"{site}/dropout{i}", self.dropout, x_nD)
        return x_nD


def _norm(kind: NormKind, width: int) -> nn.Module:
    if kind == "layer":
        return nn.LayerNorm(width, elementwise_affine=False)
    return GlobalBatchNorm(width, momentum=0.01, eps=0.001)


class Gaussian(nn.Module):
    """Layers, then the mean and the variance exp(.) + floor of a normal distribution with independent dimensions."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_hidden: int,
        n_layers: int,
        *,
        dropout: float,
        floor: float = 1e-4,
        n_injected: int = 0,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        self.body = Mlp(n_in, n_hidden, n_layers, dropout=dropout, n_injected=n_injected, norm=norm)
        self.mean = nn.Linear(n_hidden, n_out)
        self.log_variance = nn.Linear(n_hidden, n_out)
        self.floor = floor

    def forward(
        self, x_nD: Tensor, injected_nB: Tensor | None = None, noise: Noise | None = None, site: str = ""
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance, both (n, n_out)."""
        hidden = self.body(x_nD, injected_nB, noise, site)
        return self.mean(hidden), torch.exp(self.log_variance(hidden)) + self.floor
