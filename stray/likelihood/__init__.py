"""Likelihoods of gene counts, as scvi-tools writes them (`scvi/distributions/_negative_binomial.py`).

Symbols: x counts, mu mean, theta inverse dispersion (variance = mu + mu^2 / theta), pi logit of an extra zero.
Shapes: N spots, G genes; every function broadcasts its arguments and works element by element.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-8


def nb_log_prob(x_NG: Tensor, mu_NG: Tensor, theta_G: Tensor) -> Tensor:
    """Return the log-probability (N, G) of counts under NB(mean mu > 0, inverse dispersion theta > 0).

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
    """Return the log-probability (N, G) of counts under NB with extra zeros of logit pi.

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


def kl_standard_normal(mean_NZ: Tensor, variance_NZ: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, I)) of each spot, shape (N,)."""
    return 0.5 * (mean_NZ.square() + variance_NZ - 1.0 - variance_NZ.log()).sum(dim=-1)


def kl_normal(mean_NZ: Tensor, variance_NZ: Tensor, prior_mean: Tensor, prior_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(prior mean, prior variance)) of each spot, shape (N,)."""
    ratio_NZ = variance_NZ / prior_variance
    distance_NZ = (mean_NZ - prior_mean).square() / prior_variance
    return 0.5 * (ratio_NZ + distance_NZ - 1.0 - ratio_NZ.log()).sum(dim=-1)


def normal_log_prob(x_NZ: Tensor, mean_NZ: Tensor, variance_NZ: Tensor) -> Tensor:
    """Return the log-density of each spot under a normal distribution with independent dimensions, shape (N,)."""
    squares_NZ = (x_NZ - mean_NZ).square() / variance_NZ
    return -0.5 * (squares_NZ + variance_NZ.log() + math.log(2 * math.pi)).sum(dim=-1)
