"""The derivative of lgamma that the gradient of counts takes on a CPU."""

from __future__ import annotations

import pytest
import torch

from stray.likelihood.digamma import digamma


def test_in_float32_it_is_as_near_the_truth_as_torchs_own() -> None:
    # From far below the counts' inverse dispersions to far above, and about the root at 1.46, where psi is small.
    y = torch.cat([torch.logspace(-6, 6, 20_001), torch.linspace(1.4, 1.5, 2_001)])
    truth = torch.digamma(y.double())
    error = (digamma(y).double() - truth).abs() / truth.abs().clamp_min(1.0)
    assert error.max() < 1e-6


@pytest.mark.parametrize("n", [0, 1, 7])
def test_counts_may_be_few(n: int) -> None:
    y = torch.full((n,), 0.5)
    assert torch.allclose(digamma(y), torch.digamma(y))


def test_in_float64_it_is_torchs() -> None:
    y = torch.logspace(-6, 6, 101, dtype=torch.float64)
    assert torch.equal(digamma(y), torch.digamma(y))
