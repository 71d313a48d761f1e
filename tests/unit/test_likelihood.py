from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stray.likelihood import (
    SparseCounts,
    count_log_prob,
    kl_standard_normal,
    nb_log_prob,
    nb_sample,
    zinb_log_prob,
    zinb_mean,
)

MU, THETA, PI = 3.5, 1.7, -0.4
COUNTS = torch.arange(12, dtype=torch.float64)


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_nb_is_scipys_negative_binomial() -> None:
    expected = stats.nbinom.logpmf(COUNTS.numpy(), THETA, THETA / (THETA + MU))
    np.testing.assert_allclose(nb_log_prob(COUNTS, tensor(MU), tensor(THETA)), expected, atol=1e-7)


def test_zinb_mixes_zeros_into_the_negative_binomial() -> None:
    extra = 1 / (1 + np.exp(-PI))
    pmf = (1 - extra) * stats.nbinom.pmf(COUNTS.numpy(), THETA, THETA / (THETA + MU))
    pmf[0] += extra
    found = zinb_log_prob(COUNTS, tensor(MU), tensor(THETA), tensor(PI))
    np.testing.assert_allclose(found, np.log(pmf), atol=1e-7)


def test_a_mean_of_zero_explains_a_spot_without_counts() -> None:
    assert nb_log_prob(tensor(0.0), tensor(0.0), tensor(THETA)).item() == pytest.approx(0.0, abs=1e-6)


def test_samples_have_the_mean_and_the_variance_of_the_distribution() -> None:
    mu = torch.full((200_000,), MU)
    drawn = nb_sample(mu, torch.tensor(THETA), torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(MU, rel=0.02)
    assert drawn.var().item() == pytest.approx(MU + MU**2 / THETA, rel=0.05)


def test_the_mean_of_zinb_counts_the_extra_zeros() -> None:
    assert zinb_mean(tensor(MU), tensor(PI)).item() == pytest.approx(MU * (1 - 1 / (1 + np.exp(-PI))))


def test_kl_is_torchs() -> None:
    mean, variance = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(kl_standard_normal(mean, variance), expected.sum(dim=1))


@pytest.mark.parametrize("extra_zeros", [False, True], ids=["NB", "ZINB"])
@pytest.mark.parametrize("per_spot", [False, True], ids=["a dispersion a gene", "a dispersion a gene and spot"])
def test_the_sparse_log_probability_is_the_dense_one_in_value_and_gradient(extra_zeros: bool, per_spot: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((5, 7), 0.8, dtype=torch.float64), generator=rng)
    x[3] = 0  # a spot without counts
    leaves = [
        (torch.rand(5, 7, generator=rng, dtype=torch.float64) + 0.1).requires_grad_(),
        (torch.rand(*([5, 7] if per_spot else [7]), generator=rng, dtype=torch.float64) + 0.1).requires_grad_(),
        torch.randn(5, 7, generator=rng, dtype=torch.float64).requires_grad_(),
    ]
    mu, theta, pi = leaves
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    dense = (zinb_log_prob(x, mu, theta, pi) if extra_zeros else nb_log_prob(x, mu, theta)).sum(dim=1)
    found = count_log_prob(SparseCounts.of(x), mu, theta, pi if extra_zeros else None)
    torch.testing.assert_close(found, dense, rtol=1e-12, atol=1e-12)
    wanted = leaves[: 3 if extra_zeros else 2]
    gradients = [torch.autograd.grad((value * weight).sum(), wanted) for value in (found, dense)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
