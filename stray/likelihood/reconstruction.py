"""Log-probability of counts under a decoder's output: the negative binomials of `stray.likelihood`, from the decoder's
logits to the spots' log-probabilities in two passes over (n, G) and with the gradient written out.

On a CPU the passes over (n, G) are what a step costs beside its matrix products. The functions of the zeros are
`_dense_*`, which hold nothing but arithmetic of elements and rows, so that `torch.compile` makes one loop of each; the
few non-zero counts, which alone need lgamma and digamma, are put right entry by entry by `_entries_*`.

Symbols as in `stray.likelihood.zinb_log_prob`: p = softmax(logits), mu = l p, s = mu + theta + e,
B = theta (log(theta + e) - log s), A = B - pi.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stray.likelihood import EPS
from stray.likelihood.counts import SparseCounts
from stray.likelihood.digamma import digamma


def count_log_prob(
    x: SparseCounts,
    logit_nG: Tensor,
    library_n1: Tensor,
    theta: Tensor,
    pi_nG: Tensor | None,
) -> Tensor:
    """Return the log-probability of each spot's counts, (n,): the sum over genes of `nb_log_prob`, or of
    `zinb_log_prob` where `pi_nG` is given, at the mean `library_n1 * softmax(logit_nG)`. theta is (G,) or (n, G).

    Equal to them in value and gradient.
    """
    found = _CountLogProb.apply(logit_nG, library_n1, theta, pi_nG, x.place_e, x.row_e, x.gene_e, x.x_e)
    return torch.as_tensor(found) - x.log_factorial_n


class _CountLogProb(torch.autograd.Function):
    """All but the constant of the counts."""

    @staticmethod
    def forward(
        ctx: Any,
        logit_nG: Tensor,
        library_n1: Tensor,
        theta: Tensor,
        pi_nG: Tensor | None,
        place_e: Tensor,
        row_e: Tensor,
        gene_e: Tensor,
        x_e: Tensor,
    ) -> Tensor:
        p_nG, log_s_nG, a_nG, found_n = _dense_forward(logit_nG, library_n1, theta, pi_nG)
        # `take` reads single places in a third of the time of an index.
        where_e = gene_e if theta.dim() == 1 else place_e
        theta_e, p_e, library_e = theta.take(where_e), p_nG.take(place_e), library_n1.take(row_e)
        a_e = None if a_nG is None else a_nG.take(place_e)
        entry_e = _entries_forward(x_e, library_e * p_e, log_s_nG.take(place_e), a_e)
        entry_e += torch.lgamma(x_e + theta_e) - _of_theta(torch.lgamma, theta, theta_e, where_e)
        if a_nG is not None:
            # sigmoid(A) is the zeros' share in the gradient; at a count it is 1, as that of infinity is.
            a_nG.view(-1).index_fill_(0, place_e, torch.inf)
        of_spots, of_entries = (library_n1, theta, pi_nG, p_nG, log_s_nG, a_nG), (theta_e, p_e, library_e)
        ctx.save_for_backward(*of_spots, *of_entries, place_e, row_e, where_e, x_e)
        return found_n.index_add_(0, row_e, entry_e)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_n,) = gradients
        library_n1, theta, pi_nG, p_nG, log_s_nG, a_nG, *of_entries = ctx.saved_tensors
        theta_e, p_e, library_e, place_e, row_e, where_e, x_e = of_entries
        share_grad_e, theta_grad_e = _entries_backward(
            grad_n.take(row_e), x_e, theta_e, _of_theta(digamma, theta, theta_e, where_e), p_e, library_e
        )
        entries_n = torch.zeros_like(grad_n).index_add_(0, row_e, share_grad_e)
        logit_grad_nG, library_grad_n1, theta_grad, pi_grad_nG = _dense_backward(
            grad_n[:, None], library_n1, theta, pi_nG, p_nG, log_s_nG, a_nG, entries_n[:, None]
        )
        logit_grad_nG.view(-1).index_add_(0, place_e, library_e * share_grad_e)
        theta_grad.view(-1).index_add_(0, where_e, theta_grad_e)
        return logit_grad_nG, library_grad_n1, theta_grad, pi_grad_nG, None, None, None, None


def _of_theta(function: Callable[[Tensor], Tensor], theta: Tensor, theta_e: Tensor, where_e: Tensor) -> Tensor:
    """Return `function` of theta at the entries, computed for each gene where theta is a gene's, and else for each
    entry.
    """
    return function(theta).take(where_e) if theta.dim() == 1 else function(theta_e)


def _entries_forward(x_e: Tensor, mu_e: Tensor, log_s_e: Tensor, a_e: Tensor | None) -> Tensor:
    """Return what a count adds to the log-probability of a zero in its place, without its lgamma terms."""
    of_x_e = x_e * (torch.log(mu_e + EPS) - log_s_e)
    return of_x_e if a_e is None else of_x_e - F.softplus(-a_e)


def _entries_backward(
    grad_e: Tensor, x_e: Tensor, theta_e: Tensor, digamma_theta_e: Tensor, p_e: Tensor, library_e: Tensor
) -> tuple[Tensor, Tensor]:
    """Return for the counts' terms p times the gradient of p, divided by the library; and the gradient of theta."""
    mu_e = library_e * p_e
    inverse_s_e = 1.0 / (mu_e + theta_e + EPS)
    share_grad_e = grad_e * x_e * (1.0 / (mu_e + EPS) - inverse_s_e) * p_e
    return share_grad_e, grad_e * (digamma(x_e + theta_e) - digamma_theta_e - x_e * inverse_s_e)


def _dense_forward(
    logit_nG: Tensor, library_n1: Tensor, theta: Tensor, pi_nG: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return p, log s, A (None without extra zeros), and the log-probability (n,) of a spot without counts."""
    p_nG = torch.softmax(logit_nG, dim=1)
    log_s_nG = torch.addcmul(theta + EPS, library_n1, p_nG).log()
    b_nG = (torch.log(theta + EPS) - log_s_nG) * theta
    if pi_nG is None:
        return p_nG, log_s_nG, None, b_nG.sum(dim=1)
    a_nG = b_nG - pi_nG
    # softplus(A) - softplus(-pi) with one logarithm: softplus(u) = max(u, 0) + log(1 + exp(-|u|)).
    ratio_nG = (1.0 + torch.exp(-a_nG.abs())) / (1.0 + torch.exp(-pi_nG.abs()))
    return p_nG, log_s_nG, a_nG, (a_nG.clamp(min=0.0) + pi_nG.clamp(max=0.0) + ratio_nG.log()).sum(dim=1)


def _dense_backward(
    grad_n1: Tensor,
    library_n1: Tensor,
    theta: Tensor,
    pi_nG: Tensor | None,
    p_nG: Tensor,
    log_s_nG: Tensor,
    a_nG: Tensor | None,
    entries_n1: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return gradients of logits, library, theta and pi but for the terms of single entries; `entries_n1` is what those
    add to the softmax's sum of p times its gradient.
    """
    pi_grad_nG = None
    if pi_nG is None or a_nG is None:
        zero_nG = grad_n1.expand_as(p_nG)
    else:
        zero_nG = torch.sigmoid(a_nG)
        pi_grad_nG = (torch.sigmoid(-pi_nG) - zero_nG) * grad_n1
        zero_nG = zero_nG * grad_n1
    ratio_nG = theta * torch.exp(-log_s_nG)
    mu_grad_nG = zero_nG * ratio_nG  # but for its sign
    theta_grad = zero_nG * (torch.log(theta + EPS) + theta / (theta + EPS) - log_s_nG - ratio_nG)
    if theta.dim() == 1:
        theta_grad = theta_grad.sum(dim=0)
    sum_n1 = entries_n1 - (p_nG * mu_grad_nG).sum(dim=1, keepdim=True)
    logit_grad_nG = (mu_grad_nG + sum_n1) * p_nG * -library_n1
    return logit_grad_nG, sum_n1, theta_grad, pi_grad_nG
