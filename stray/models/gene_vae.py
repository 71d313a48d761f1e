"""scVI: a variational autoencoder of gene counts whose encoder never sees the batch (Lopez et al., Nature Methods
2018).

Generative, for spot n of batch s (a patient, unless the recipe says otherwise) and gene g:

| symbol | meaning | variable |
|---|---|---|
| z ~ N(0, I) | gene code | `z_nZ` |
| rho = softmax(f(z, s)) | share of each gene | `share_nG` |
| l | the spot's count total over the panel, observed | `library_n1` |
| theta | inverse dispersion of a gene | `theta_G` |
| pi | logit of an extra zero (ZINB) | `pi_nG` |
| x ~ NB or ZINB(l rho, theta, pi) | counts | `x_nG` |

Inference: q(z | x) = N(mu(log1p x), sigma^2(log1p x)), with sigma^2 = exp(.) + 1e-4. Names and defaults follow
scvi-tools.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.config import ScviConfig
from stray.likelihood import kl_standard_normal, nb_log_prob, zinb_log_prob
from stray.models.mlp import Mlp
from stray.noise import Noise


@dataclass(frozen=True)
class GeneLoss:
    """Per-spot terms (n,): both positive when poor."""

    reconstruction_n: Tensor
    """-E_q log p(x | z, s), in nats."""
    kl_n: Tensor
    """KL(q(z | x) || N(0, I)), in nats."""


class GeneVae(nn.Module):
    """scVI with observed library and one dispersion a gene."""

    def __init__(self, config: ScviConfig, *, n_genes: int, n_batches: int) -> None:
        super().__init__()
        self.config = config
        self.n_genes, self.n_batches = n_genes, n_batches
        hidden, layers = config.n_hidden, config.n_layers
        self.encoder = Mlp(n_genes, hidden, layers, dropout=config.dropout)
        self.mean = nn.Linear(hidden, config.n_latent)
        self.log_variance = nn.Linear(hidden, config.n_latent)
        self.decoder = Mlp(config.n_latent, hidden, layers, dropout=0.0, n_injected=n_batches)
        self.share = nn.Linear(hidden, n_genes)
        self.zero = nn.Linear(hidden, n_genes) if config.likelihood == "zinb" else None
        self.log_theta_G = nn.Parameter(torch.randn(n_genes))

    def infer(self, x_nG: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, Z) of q(z | x) for counts x."""
        hidden = self.encoder(torch.log1p(x_nG), noise=noise, site="encoder")
        return self.mean(hidden), torch.exp(self.log_variance(hidden)) + 1e-4

    def decode(self, z_nZ: Tensor, library_n1: Tensor, batch_n: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean (n, G), inverse dispersion (G,) and logits of extra zeros (n, G) or None, for batches `batch_n`."""
        one_hot_nB = F.one_hot(batch_n, self.n_batches).to(z_nZ)
        hidden = self.decoder(z_nZ, one_hot_nB)
        mu_nG = library_n1 * torch.softmax(self.share(hidden), dim=-1)
        return mu_nG, torch.exp(self.log_theta_G), None if self.zero is None else self.zero(hidden)

    def loss(self, x_nG: Tensor, batch_n: Tensor, noise: Noise | None) -> GeneLoss:
        """Per-spot terms of the negative ELBO with one draw of z; at the posterior mean where there is no noise."""
        mean_nZ, variance_nZ = self.infer(x_nG, noise)
        draw = 0.0 if noise is None else noise.normal("z", self.config.n_latent, mean_nZ)
        z_nZ = mean_nZ + variance_nZ.sqrt() * draw
        # A spot without counts in the panel has library 0: its mean is 0 and explains its zeros exactly.
        mu_nG, theta_G, pi_nG = self.decode(z_nZ, x_nG.sum(dim=1, keepdim=True), batch_n)
        log_prob_nG = nb_log_prob(x_nG, mu_nG, theta_G) if pi_nG is None else zinb_log_prob(x_nG, mu_nG, theta_G, pi_nG)
        return GeneLoss(-log_prob_nG.sum(dim=-1), kl_standard_normal(mean_nZ, variance_nZ))

    @torch.no_grad()
    def encode(self, x_nG: Tensor) -> Tensor:
        """Gene codes (n, Z): the posterior mean. Call in eval mode."""
        return self.infer(x_nG)[0]
