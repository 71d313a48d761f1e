"""Fully connected layers in the order of scvi-tools: Linear, batch norm, ReLU, dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stray.models.norm import GlobalBatchNorm
from stray.noise import Noise


class Mlp(nn.Module):
    """Hidden layers of equal width; `n_injected` extra inputs (the batch's one-hot) enter every layer.

    Batch norm with momentum 0.01 and eps 0.001, as in scvi-tools; the defaults of torch elsewhere.
    """

    def __init__(self, n_in: int, n_hidden: int, n_layers: int, *, dropout: float, n_injected: int = 0) -> None:
        super().__init__()
        widths = [n_in] + [n_hidden] * n_layers
        self.linears = nn.ModuleList(nn.Linear(w + n_injected, n_hidden) for w in widths[:-1])
        self.norms = nn.ModuleList(GlobalBatchNorm(n_hidden, momentum=0.01, eps=0.001) for _ in widths[:-1])
        self.dropout = dropout

    def forward(
        self, x_nD: Tensor, injected_nB: Tensor | None = None, noise: Noise | None = None, site: str = ""
    ) -> Tensor:
        """Hidden features (n, n_hidden). Dropout acts in training only and needs `noise`; `site` keys its draw."""
        for i, (layer, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            if injected_nB is not None:
                x_nD = torch.cat([x_nD, injected_nB], dim=1)
            x_nD = torch.relu(norm(layer(x_nD)))
            if self.training and self.dropout > 0:
                if noise is None:
                    raise ValueError("dropout in training needs the step's noise")
                x_nD = x_nD * noise.keep(f"{site}/dropout{i}", self.dropout, x_nD)
        return x_nD
