"""Reconstruction loss: likelihood of a spot's counts under the frozen gene decoder (scVI, Lopez et al. 2018), applied
to the code of its picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stray.likelihood.counts import SparseCounts
from stray.likelihood.reconstruction import count_log_prob


@dataclass(frozen=True)
class Explained:
    """The counts of n local spots over G genes, and the decoder's output for the codes of their pictures."""

    x: SparseCounts
    logit_nG: Tensor
    """Their softmax is the share of each gene."""
    library_n1: Tensor
    """The mean of a count is this times the share."""
    theta: Tensor
    """(G,) or (n, G)."""
    pi_nG: Tensor | None
    """Logits of extra zeros; None for NB."""
    chance: float = 0.0
    """Loss of a decoder that receives the patient and the total count, but no picture."""


def expression_loss(explained: Explained, count: int) -> Tensor:
    """Return this rank's part of the loss: its spots' terms over the global count, a scalar in nats per spot and gene.

    The shares of all ranks add up to the mean over the `count` spots of the global batch and over genes of

        -log NB(x; mu, theta), or -log ZINB(x; mu, theta, pi) where there are logits of extra zeros.
    """
    log_prob_n = count_log_prob(explained.x, explained.logit_nG, explained.library_n1, explained.theta, explained.pi_nG)
    return -log_prob_n.sum() / (count * explained.x.n_genes)
