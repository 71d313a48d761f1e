from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stray.likelihood import (
    kl_standard_normal,
    nb_log_prob,
    zinb_log_prob,
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


def test_kl_is_torchs() -> None:
    mean, variance = torch.randn(4, 3), torch.rand(4, 3) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(kl_standard_normal(mean, variance), expected.sum(dim=1))
