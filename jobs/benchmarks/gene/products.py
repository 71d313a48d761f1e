"""Matrix products of a step of the benchmark's model alone, forward and backward: no implementation that multiplies
the same matrices is faster.
"""

from __future__ import annotations

import time
from typing import Literal

import scipy.sparse as sp
import torch
from torch import Tensor

from stray.training.process import matrix_products

HIDDEN, LATENT, BATCH = 128, 10, 128


def product_rates(
    counts_NG: sp.csr_matrix, epochs: int, *, sparse: bool, precision: Literal["fp32", "mixed"]
) -> list[float]:
    """Return the spots per second of each epoch in which nothing else is computed.

    `sparse`: the first layer multiplies the non-zero counts alone, with its weights as (G, H).
    """
    n_spots, n_genes = counts_NG.shape  # pyright: ignore[reportGeneralTypeIssues]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batches = []
    for start in range(0, n_spots - BATCH + 1, BATCH):
        rows = counts_NG[start : start + BATCH].astype("float32")
        x_nG = torch.from_numpy(rows.toarray()).to(device)
        batches.append((x_nG.to_sparse_csr(), x_nG.T.to_sparse_csr()) if sparse else (x_nG, x_nG.T))
    weights = [torch.randn(a, b, device=device) for a, b in _layers(n_genes)]
    rates = []
    with matrix_products(precision):
        for _ in range(epochs):
            started = time.perf_counter()
            for x_nG, x_Gn in batches:
                _step(x_nG, x_Gn, weights)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rates.append(len(batches) * BATCH / (time.perf_counter() - started))
    return rates


def _layers(n_genes: int) -> list[tuple[int, int]]:
    """Return the layers: encoder, mean, log-variance, decoder, shares, extra zeros."""
    heads = [(HIDDEN, n_genes), (HIDDEN, n_genes)]
    return [(n_genes, HIDDEN), (HIDDEN, LATENT), (HIDDEN, LATENT), (LATENT, HIDDEN), *heads]


def _step(x_nG: Tensor, x_Gn: Tensor, weights: list[Tensor]) -> None:
    first, mean, log_variance, decoder, shares, zeros = weights
    h_nH = x_nG @ first
    z_nZ = h_nH @ mean
    v_nZ = h_nH @ log_variance
    d_nH = z_nZ @ decoder
    rho_nG, pi_nG = d_nH @ shares, d_nH @ zeros
    # Backward, each product once for the weights and once for what came in, where that has a gradient.
    _ = d_nH.T @ rho_nG, d_nH.T @ pi_nG
    g_nH = rho_nG @ shares.T + pi_nG @ zeros.T
    _ = z_nZ.T @ g_nH
    g_nZ = g_nH @ decoder.T
    _ = h_nH.T @ g_nZ, h_nH.T @ v_nZ
    g_nH = g_nZ @ mean.T + v_nZ @ log_variance.T
    _ = x_Gn @ g_nH
