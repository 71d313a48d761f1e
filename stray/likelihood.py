"""Likelihoods of gene counts, as scvi-tools writes them (`scvi/distributions/_negative_binomial.py`).

Symbols: x counts, mu mean, theta inverse dispersion (variance = mu + mu^2 / theta), pi logit of an extra zero.
Shapes: N spots, G genes; every function broadcasts its arguments and works element by element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8


def nb_log_prob(x_NG: Tensor, mu_NG: Tensor, theta_G: Tensor) -> Tensor:
    """Log-probability (N, G) of counts under NB(mean mu > 0, inverse dispersion theta > 0).

    theta [log(theta+e) - log(theta+mu+e)] + x [log(mu+e) - log(theta+mu+e)] + lgamma(x+theta) - lgamma(theta) -
    lgamma(x+1)
    """
    log_theta_mu = torch.log(theta_G + mu_NG + EPS)
    return (
        theta_G * (torch.log(theta_G + EPS) - log_theta_mu)
        + x_NG * (torch.log(mu_NG + EPS) - log_theta_mu)
        + torch.lgamma(x_NG + theta_G)
        - torch.lgamma(theta_G)
        - torch.lgamma(x_NG + 1)
    )


def zinb_log_prob(x_NG: Tensor, mu_NG: Tensor, theta_G: Tensor, pi_NG: Tensor) -> Tensor:
    """Log-probability (N, G) of counts under NB with extra zeros of logit pi.

    With A = -pi + theta (log(theta+e) - log(theta+mu+e)):
    x = 0: softplus(A) - softplus(-pi);  x > 0: -softplus(-pi) + A + x (log(mu+e) - log(theta+mu+e)) + the lgamma terms.
    """
    log_theta_mu = torch.log(theta_G + mu_NG + EPS)
    softplus_pi = F.softplus(-pi_NG)
    a = -pi_NG + theta_G * (torch.log(theta_G + EPS) - log_theta_mu)
    at_zero = F.softplus(a) - softplus_pi
    above = (
        -softplus_pi
        + a
        + x_NG * (torch.log(mu_NG + EPS) - log_theta_mu)
        + torch.lgamma(x_NG + theta_G)
        - torch.lgamma(theta_G)
        - torch.lgamma(x_NG + 1)
    )
    return torch.where(x_NG < EPS, at_zero, above)


@dataclass(frozen=True)
class SparseCounts:
    """Counts (n, G) as their non-zero entries: a zero needs no lgamma. What depends on counts alone comes with them.

    Legend: e entries in any order, each place at most once.
    """

    n_genes: int
    row_e: Tensor
    """Spot of each entry, int64."""
    gene_e: Tensor
    """Gene of each entry, int64."""
    x_e: Tensor
    """Its count, as floating point."""
    total_n: Tensor
    """Sum of each spot's counts; its length is the number of spots."""
    log_factorial_n: Tensor
    """Sum of lgamma(x + 1) of each spot: the part of its log-probability that no parameter changes."""

    @staticmethod
    def of(x_nG: Tensor) -> SparseCounts:
        """The non-zero entries of a dense matrix."""
        row_e, gene_e = x_nG.nonzero(as_tuple=True)
        log_factorial_n = torch.lgamma(x_nG + 1).sum(dim=1)
        return SparseCounts(x_nG.shape[1], row_e, gene_e, x_nG[row_e, gene_e], x_nG.sum(dim=1), log_factorial_n)

    def __len__(self) -> int:
        return len(self.total_n)

    @property
    def place_e(self) -> Tensor:
        """Place of each entry in the flattened (n, G) matrix."""
        return self.row_e * self.n_genes + self.gene_e

    def dense(self, values_e: Tensor) -> Tensor:
        """(n, G) with `values_e` at the entries and zeros elsewhere."""
        out_n_G = values_e.new_zeros(len(self) * self.n_genes)
        return out_n_G.index_put_((self.place_e,), values_e).view(len(self), self.n_genes)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> SparseCounts:
        """The same on a device."""
        tensors = (self.row_e, self.gene_e, self.x_e, self.total_n, self.log_factorial_n)
        return SparseCounts(self.n_genes, *(t.to(device, non_blocking=non_blocking) for t in tensors))


def count_log_prob(x: SparseCounts, mu_nG: Tensor, theta: Tensor, pi_nG: Tensor | None) -> Tensor:
    """Log-probability of each spot's counts, (n,): the sum over genes of `nb_log_prob`, or of `zinb_log_prob` where
    `pi_nG` is given. theta is (G,) or (n, G).

    Equal to them in value and gradient; the lgamma and digamma functions are taken at non-zero counts alone, and the
    gradient is written out, because on a CPU the passes over (n, G) are what a step costs.
    """
    found = _CountLogProb.apply(mu_nG, theta, pi_nG, x.place_e, x.row_e, x.gene_e, x.x_e)
    return torch.as_tensor(found) - x.log_factorial_n


class _CountLogProb(torch.autograd.Function):
    """All but the constant of the counts. Symbols as in `zinb_log_prob`.

    s = theta + mu + e, B = theta (log(theta + e) - log s), A = B - pi.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mu_nG: Tensor,
        theta: Tensor,
        pi_nG: Tensor | None,
        place_e: Tensor,
        row_e: Tensor,
        gene_e: Tensor,
        x_e: Tensor,
    ) -> Tensor:
        sum_nG = mu_nG + (theta + EPS)
        log_sum_nG = sum_nG.log()
        log_theta = torch.log(theta + EPS)
        a_nG = (log_theta - log_sum_nG).mul_(theta)
        theta_e = theta[gene_e] if theta.dim() == 1 else theta.reshape(-1)[place_e]
        mu_e, log_sum_e = mu_nG.reshape(-1)[place_e], log_sum_nG.view(-1)[place_e]
        entry_e = x_e * (torch.log(mu_e + EPS) - log_sum_e)
        entry_e += torch.lgamma(x_e + theta_e) - torch.lgamma(theta_e)
        if pi_nG is None:
            found_n = a_nG.sum(dim=1)
        else:
            a_nG -= pi_nG
            softplus_nG = F.softplus(a_nG)
            entry_e += (a_nG.view(-1) - softplus_nG.view(-1))[place_e]
            found_n = (softplus_nG - F.softplus(-pi_nG)).sum(dim=1)
        ctx.save_for_backward(mu_nG, theta, pi_nG, sum_nG, log_sum_nG, a_nG, place_e, row_e, gene_e, x_e)
        return found_n.index_add_(0, row_e, entry_e)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_n,) = gradients
        mu_nG, theta, pi_nG, sum_nG, log_sum_nG, a_nG, place_e, row_e, gene_e, x_e = ctx.saved_tensors
        grad_e, sum_e, mu_e = grad_n[row_e], sum_nG.view(-1)[place_e], mu_nG.reshape(-1)[place_e]
        theta_e = theta[gene_e] if theta.dim() == 1 else theta.reshape(-1)[place_e]
        ratio_nG = theta / sum_nG
        pi_grad_nG = None
        if pi_nG is None:
            a_grad_nG = grad_n[:, None].expand_as(mu_nG)
        else:
            a_grad_nG = torch.sigmoid(a_nG)
            a_grad_nG.view(-1)[place_e] = 1.0
            pi_grad_nG = torch.sigmoid(-pi_nG).sub_(a_grad_nG).mul_(grad_n[:, None])
            a_grad_nG.mul_(grad_n[:, None])
        mu_grad_nG = -(a_grad_nG * ratio_nG)
        mu_grad_nG.view(-1).index_add_(0, place_e, grad_e * x_e * (1.0 / (mu_e + EPS) - 1.0 / sum_e))
        entry_grad_e = grad_e * (torch.digamma(x_e + theta_e) - torch.digamma(theta_e) - x_e / sum_e)
        by_theta_nG = (torch.log(theta + EPS) + theta / (theta + EPS)) - log_sum_nG
        theta_grad = by_theta_nG.sub_(ratio_nG).mul_(a_grad_nG)
        if theta.dim() == 1:
            theta_grad = theta_grad.sum(dim=0).index_add_(0, gene_e, entry_grad_e)
        else:
            theta_grad.view(-1).index_add_(0, place_e, entry_grad_e)
        return mu_grad_nG, theta_grad, pi_grad_nG, None, None, None, None


def nb_sample(mu_NG: Tensor, theta_G: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw counts (N, G): a gamma rate of shape theta and mean mu, then Poisson."""
    theta_NG = theta_G.expand_as(mu_NG)
    # torch.distributions.Gamma takes no generator; the standard gamma below does.
    standard_NG = torch._standard_gamma(theta_NG, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    rate_NG = standard_NG * mu_NG / theta_NG
    return torch.poisson(rate_NG, generator=generator)


def zinb_mean(mu_NG: Tensor, pi_NG: Tensor) -> Tensor:
    """Mean (N, G) of the zero-inflated negative binomial: mu times the probability of no extra zero."""
    return mu_NG * torch.sigmoid(-pi_NG)


def kl_standard_normal(mean_NZ: Tensor, variance_NZ: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) of each spot, shape (N,)."""
    return 0.5 * (mean_NZ.square() + variance_NZ - 1.0 - variance_NZ.log()).sum(dim=-1)


def kl_normal(mean_NZ: Tensor, variance_NZ: Tensor, prior_mean: Tensor, prior_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(prior mean, prior variance)) of each spot, shape (N,)."""
    ratio_NZ = variance_NZ / prior_variance
    distance_NZ = (mean_NZ - prior_mean).square() / prior_variance
    return 0.5 * (ratio_NZ + distance_NZ - 1.0 - ratio_NZ.log()).sum(dim=-1)


def normal_log_prob(x_NZ: Tensor, mean_NZ: Tensor, variance_NZ: Tensor) -> Tensor:
    """Log-density of each spot under a normal distribution with independent dimensions, shape (N,)."""
    squares_NZ = (x_NZ - mean_NZ).square() / variance_NZ
    return -0.5 * (squares_NZ + variance_NZ.log() + math.log(2 * math.pi)).sum(dim=-1)
