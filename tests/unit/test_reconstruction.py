"""The log-probability of counts by hand-written gradients, against the plain formulas and autograd."""

from __future__ import annotations

import pytest
import torch

from stray.likelihood import nb_log_prob, zinb_log_prob
from stray.likelihood.counts import SparseCounts
from stray.likelihood.reconstruction import count_log_prob


@pytest.mark.parametrize("extra_zeros", [False, True], ids=["NB", "ZINB"])
@pytest.mark.parametrize("per_spot", [False, True], ids=["a dispersion a gene", "a dispersion a gene and spot"])
def test_it_is_the_plain_formula_in_value_and_gradient(extra_zeros: bool, per_spot: bool) -> None:
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    x = torch.poisson(torch.full((5, 7), 0.8, dtype=torch.float64), generator=rng)
    x[3] = 0  # a spot without counts
    logits, library = (3 * draw(5, 7)).requires_grad_(), (9 * draw(5, 1)).requires_grad_()
    theta = (draw(*([5, 7] if per_spot else [7])) + 0.1).requires_grad_()
    pi = (draw(5, 7) - 0.5).requires_grad_()
    mu = library * torch.softmax(logits, dim=1)
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)
    plain = (zinb_log_prob(x, mu, theta, pi) if extra_zeros else nb_log_prob(x, mu, theta)).sum(dim=1)
    given = (SparseCounts.of(x), logits, library, theta, pi if extra_zeros else None)
    found = count_log_prob(*given)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    wanted = [logits, library, theta, pi][: 4 if extra_zeros else 3]
    gradients = [torch.autograd.grad((value * weight).sum(), wanted) for value in (found, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_spot_without_counts_in_the_panel_has_probability_one_and_no_gradient_that_is_not_finite() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    logits, theta = torch.randn(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)
    found = count_log_prob(SparseCounts.of(x), logits, x.sum(dim=1, keepdim=True), theta, None)
    assert found[0].item() == pytest.approx(0.0, abs=1e-6)
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[0].abs() < 1e-6).all()
