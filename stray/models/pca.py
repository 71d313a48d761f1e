"""Log-normalised counts and their principal components, as modules like the other gene encoders."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from stray.config import LogCountsConfig, PcaConfig


class LogCounts(nn.Module):
    """The panel itself: log1p(x / total * target)."""

    def __init__(self, config: LogCountsConfig, *, n_genes: int) -> None:
        super().__init__()
        self.config, self.dim = config, n_genes

    def encode(self, x_nG: Tensor) -> Tensor:
        """Return codes (n, G)."""
        return log_normalised(x_nG, self.config.target_sum)


class Pca(nn.Module):
    """Codes are projections of log1p(x / total * target) on the components that `fit` found."""

    mean_G: Tensor
    components_ZG: Tensor

    def __init__(self, config: PcaConfig, *, n_genes: int) -> None:
        super().__init__()
        self.config, self.n_genes = config, n_genes
        self.register_buffer("mean_G", torch.zeros(n_genes))
        self.register_buffer("components_ZG", torch.zeros(config.n_latent, n_genes))

    @property
    def dim(self) -> int:
        """Dimensions of the code."""
        return self.config.n_latent

    def fit(self, chunks: Iterable[Tensor]) -> None:
        """Fit on chunks of counts (n, G), each of at least as many spots as components (scikit-learn's
        IncrementalPCA).
        """
        from sklearn.decomposition import IncrementalPCA

        model = IncrementalPCA(self.config.n_latent)
        for chunk_nG in chunks:
            model.partial_fit(log_normalised(chunk_nG, self.config.target_sum).cpu().numpy().astype(np.float64))
        self.mean_G.copy_(torch.from_numpy(model.mean_))
        self.components_ZG.copy_(torch.from_numpy(model.components_))

    @torch.no_grad()
    def encode(self, x_nG: Tensor) -> Tensor:
        """Return gene codes (n, Z)."""
        return (log_normalised(x_nG, self.config.target_sum) - self.mean_G) @ self.components_ZG.T


def log_normalised(x_nG: Tensor, target_sum: float) -> Tensor:
    """Return log1p of counts scaled to the target total; zeros for a spot without counts."""
    return torch.log1p(x_nG / x_nG.sum(dim=1, keepdim=True).clamp_min(1.0) * target_sum)
