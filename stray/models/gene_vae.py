"""scVI: a variational autoencoder of gene counts whose encoder never sees the batch (Lopez et al., Nature Methods
2018).

Generative, for spot n of batch s (a patient, unless the recipe says otherwise) and gene g:

| symbol | meaning | variable |
|---|---|---|
| z ~ N(0, I) | gene code | `z_nZ` |
| rho = softmax(f(z, s)) | share of each gene | `logit_nG` is f(z, s) |
| l | the spot's count total over the panel, observed; or log l ~ N(m_s, v_s), inferred | `library_n1` |
| theta | inverse dispersion of a gene, or of a gene in a batch | `theta_G`, `theta_nG` |
| pi | logit of an extra zero (ZINB) | `pi_nG` |
| x ~ NB or ZINB(l rho, theta, pi) | counts | `x_nG` |

Inference: q(z | x) = N(mu(log1p x), sigma^2(log1p x)), with sigma^2 = exp(.) + 1e-4. Names and defaults follow
scvi-tools (`scvi/module/_vae.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.config import ScviConfig
from stray.likelihood import kl_normal, kl_standard_normal
from stray.likelihood.counts import SparseCounts
from stray.likelihood.reconstruction import count_log_prob
from stray.models.mlp import Gaussian, Mlp
from stray.noise import Noise

Counted = Tensor | SparseCounts
"""Counts (n, G)."""


@dataclass(frozen=True)
class GeneLoss:
    """Per-spot terms (n,), in nats: minus their sum is the ELBO."""

    reconstruction_n: Tensor
    """-E_q log p(x | z, s); for scANVI also what the upper latent adds to it."""
    kl_n: Tensor
    """The KL terms whose weight is warmed up."""
    kl_library_n: Tensor
    """KL of a learned library where its weight is 1 from the first step; zeros elsewhere."""
    posterior: Posterior
    """The draw that they are the terms of."""

    def weighted(self, kl_weight: float) -> Tensor:
        """Return the loss of each spot, (n,)."""
        return self.reconstruction_n + kl_weight * self.kl_n + self.kl_library_n

    @property
    def elbo_n(self) -> Tensor:
        """The evidence lower bound."""
        return -self.weighted(1.0)


@dataclass(frozen=True)
class Posterior:
    """q(z, l | x) and one draw of it."""

    z_nZ: Tensor
    mean_nZ: Tensor
    variance_nZ: Tensor
    library_n1: Tensor
    """Counts, not their logarithm."""
    kl_library_n: Tensor
    """Zeros where the library is observed."""


class GeneVae(nn.Module):
    """scVI."""

    library_mean_B: Tensor
    library_variance_B: Tensor

    def __init__(self, config: ScviConfig, *, n_genes: int, n_batches: int) -> None:
        super().__init__()
        self.config = config
        self.n_genes, self.n_batches = n_genes, n_batches
        hidden, layers, norm = config.n_hidden, config.n_layers, config.norm
        # A single batch carries no information: like scvi-tools, leave its one-hot out.
        self._injected = n_batches if config.batch_correction and n_batches > 1 else 0
        self.encoder = Gaussian(n_genes, config.n_latent, hidden, layers, dropout=config.dropout, norm=norm)
        self.library_encoder = None
        if config.library == "learned":
            self.library_encoder = Gaussian(n_genes, 1, hidden, 1, dropout=config.dropout, norm=norm)
            self.register_buffer("library_mean_B", torch.zeros(n_batches))
            self.register_buffer("library_variance_B", torch.ones(n_batches))
        self.decoder = Mlp(
            config.n_latent,
            hidden,
            layers,
            dropout=0.0,
            n_injected=self._injected,
            inject=config.inject,
            norm=norm,
        )
        self.share = nn.Linear(hidden, n_genes)
        self.zero = nn.Linear(hidden, n_genes) if config.likelihood == "zinb" else None
        shape = (n_genes,) if config.dispersion == "gene" else (n_batches, n_genes)
        self.log_theta = nn.Parameter(torch.randn(shape))

    @property
    def dim(self) -> int:
        """Dimensions of the gene code."""
        return self.config.n_latent

    @torch.no_grad()
    def set_library_prior(self, log_totals_N: Tensor, batch_N: Tensor) -> None:
        """Set the prior of a learned library: mean and variance of the log totals of each batch of training spots.

        A batch of one spot has no variance of its own and takes that of all.
        """
        if self.library_encoder is None:
            return
        for batch in range(self.n_batches):
            own = log_totals_N[batch_N == batch]
            self.library_mean_B[batch] = own.mean()
            self.library_variance_B[batch] = (own if len(own) > 1 else log_totals_N).var(correction=0).clamp_min(1e-4)

    def infer(self, x: Counted, noise: Noise | None = None, site: str = "encoder") -> tuple[Tensor, Tensor]:
        """Return mean and variance (n, Z) of q(z | x) for counts x."""
        return self.encoder(_log1p(x), noise=noise, site=site)

    def posterior(self, x: SparseCounts, batch_n: Tensor, noise: Noise | None) -> Posterior:
        """Return q(z, l | x) with one draw; its mean where there is no noise."""
        log_x_nG = _log1p(x)
        mean_nZ, variance_nZ = self.encoder(log_x_nG, noise=noise, site="encoder")
        z_nZ = _draw(mean_nZ, variance_nZ, noise, "z")
        if self.library_encoder is None:
            # A spot without counts in the panel has library 0: its mean is 0 and explains its zeros exactly.
            total_n1 = x.total_n[:, None]
            return Posterior(z_nZ, mean_nZ, variance_nZ, total_n1, torch.zeros_like(total_n1[:, 0]))
        mean_n1, variance_n1 = self.library_encoder(log_x_nG, noise=noise, site="library_encoder")
        library_n1 = torch.exp(_draw(mean_n1, variance_n1, noise, "library"))
        prior_n1 = self.library_mean_B[batch_n][:, None], self.library_variance_B[batch_n][:, None]
        kl_n = kl_normal(mean_n1, variance_n1, *prior_n1)
        return Posterior(z_nZ, mean_nZ, variance_nZ, library_n1, kl_n)

    def decode(self, z_nZ: Tensor, batch_n: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (n, G) whose softmax is the share of each gene, inverse dispersion (G,) or (n, G), and logits
        of extra zeros (n, G) or None, for batches `batch_n`.
        """
        one_hot_nB = F.one_hot(batch_n, self.n_batches).to(z_nZ) if self._injected else None
        hidden = self.decoder(z_nZ, one_hot_nB)
        theta = torch.exp(self.log_theta)
        theta = theta if self.log_theta.dim() == 1 else theta[batch_n]
        return self.share(hidden), theta, None if self.zero is None else self.zero(hidden)

    def reconstruction(self, x: SparseCounts, q: Posterior, batch_n: Tensor) -> Tensor:
        """Return -log p(x | z, l, s) of the draw, (n,)."""
        logit_nG, theta, pi_nG = self.decode(q.z_nZ, batch_n)
        return -count_log_prob(x, logit_nG, q.library_n1, theta, pi_nG)

    def loss(self, x: Counted, batch_n: Tensor, noise: Noise | None) -> GeneLoss:
        """Return per-spot terms of the negative ELBO with one draw of z; at the posterior mean where there is no
        noise.
        """
        x = sparse(x)
        q = self.posterior(x, batch_n, noise)
        kl_n = kl_standard_normal(q.mean_nZ, q.variance_nZ)
        return GeneLoss(self.reconstruction(x, q, batch_n), kl_n, q.kl_library_n, q)

    @torch.no_grad()
    def encode(self, x: Counted) -> Tensor:
        """Return gene codes (n, Z): the posterior mean. Call in eval mode."""
        return self.infer(x)[0]


def sparse(x: Counted) -> SparseCounts:
    """Return the counts as their non-zero entries."""
    return x if isinstance(x, SparseCounts) else SparseCounts.of(x)


def _log1p(x: Counted) -> Tensor:
    return x.dense(torch.log1p(x.x_e)) if isinstance(x, SparseCounts) else torch.log1p(x)


def _draw(mean: Tensor, variance: Tensor, noise: Noise | None, site: str) -> Tensor:
    if noise is None:
        return mean
    return mean + variance.sqrt() * noise.normal(site, mean.shape[1], mean)
