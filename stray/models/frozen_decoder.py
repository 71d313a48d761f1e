"""A trained scVI or scANVI as a fixed function from gene codes to counts. Gradient flows through it, never into it."""

from __future__ import annotations

import torch
from torch import Tensor

from stray.likelihood.counts import SparseCounts
from stray.models.gene_vae import GeneVae


class FrozenDecoder:
    """p(x | z, s) of a trained gene model. No module: what trains neither trains it nor keeps it among its weights."""

    def __init__(self, model: GeneVae) -> None:
        """Takes `model` over: in eval mode, without gradients of its own."""
        self._model = model.eval().requires_grad_(False)

    @property
    def dim(self) -> int:
        """Dimensions of the gene code."""
        return self._model.dim

    def to(self, device: torch.device) -> FrozenDecoder:
        """Return the same on a device."""
        self._model.to(device)
        return self

    def __call__(self, z_nZ: Tensor, x: SparseCounts, batch_n: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return logits (n, G) of the genes' shares, library (n, 1), inverse dispersion (G,) or (n, G), and logits of
        extra zeros (n, G) or None, of the codes `z_nZ` of spots of the batches `batch_n`. The library is that of their
        own counts `x`: observed, or inferred.
        """
        with torch.no_grad():
            library_n1 = self._model.posterior(x, batch_n, None).library_n1
        logit_nG, theta, pi_nG = self._model.decode(z_nZ, batch_n)
        return logit_nG, library_n1, theta, pi_nG
