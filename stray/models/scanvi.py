"""scANVI: scVI with a class above the gene code, known for some spots (Xu et al., Molecular Systems Biology 2021).

| symbol | meaning | variable |
|---|---|---|
| y ~ Categorical(1 / K) | class, known or not | `y_K` enumerated |
| z2 ~ N(0, I) | what a class leaves open | `z2_mZ` |
| z1 ~ N(f(z2, y)) | gene code, scVI's z | `z1_nZ` |

Every class is enumerated on every spot, labelled or not (rows m = K * n, class by class); a known class enters through
a cross-entropy on the posterior mean of labelled spots. Names and terms follow scvi-tools (`scvi/module/_scanvae.py`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.config import ScanviConfig
from stray.likelihood import kl_standard_normal, normal_log_prob
from stray.models.gene_vae import Counted, GeneLoss, GeneVae, sparse
from stray.models.mlp import Gaussian, Mlp
from stray.noise import Noise


class Classifier(nn.Module):
    """Class logits of gene codes."""

    def __init__(self, config: ScanviConfig, n_classes: int) -> None:
        super().__init__()
        self.body = None
        if not config.linear_classifier:
            depth = config.n_layers
            self.body = Mlp(config.n_latent, config.n_hidden, depth, dropout=config.dropout, norm=config.norm)
        self.logits = nn.Linear(config.n_latent if self.body is None else config.n_hidden, n_classes)

    def forward(self, z_nZ: Tensor, noise: Noise | None, site: str) -> Tensor:
        return self.logits(z_nZ if self.body is None else self.body(z_nZ, noise=noise, site=site))


class Scanvi(GeneVae):
    """scVI with a classifier and a second latent."""

    def __init__(self, config: ScanviConfig, *, n_genes: int, n_batches: int, n_classes: int) -> None:
        super().__init__(config, n_genes=n_genes, n_batches=n_batches)
        self.n_classes = n_classes
        n_latent, hidden, layers, norm = config.n_latent, config.n_hidden, config.n_layers, config.norm
        injected = n_classes if n_classes > 1 else 0
        self.classifier = Classifier(config, n_classes)
        self.z2_encoder = Gaussian(
            n_latent, n_latent, hidden, layers, dropout=config.dropout, n_injected=injected, norm=norm
        )
        self.z1_decoder = Gaussian(
            n_latent, n_latent, hidden, layers, dropout=0.0, floor=0.0, n_injected=injected, norm=norm
        )

    def loss(self, x: Counted, batch_n: Tensor, noise: Noise | None) -> GeneLoss:
        """Return per-spot terms of the negative ELBO of a spot whose class is not known; a learned library's KL is
        warmed up with the others.
        """
        x = sparse(x)
        q = self.posterior(x, batch_n, noise)
        probability_nK = torch.softmax(self.classifier(q.z_nZ, noise, "classifier"), dim=-1)
        many = None if noise is None else noise.repeated(self.n_classes)
        z1_mZ = q.z_nZ.repeat(self.n_classes, 1)
        one_hot_KK = torch.eye(self.n_classes, dtype=z1_mZ.dtype, device=z1_mZ.device)
        y_mK = one_hot_KK.repeat_interleave(len(x), dim=0)
        mean_mZ, variance_mZ = self.z2_encoder(z1_mZ, y_mK, many, "z2_encoder")
        draw = 0.0 if many is None else many.normal("z2", self.config.n_latent, mean_mZ)
        z1_mean_mZ, z1_variance_mZ = self.z1_decoder(mean_mZ + variance_mZ.sqrt() * draw, y_mK)
        log_p_z1_nK = normal_log_prob(z1_mZ, z1_mean_mZ, z1_variance_mZ).view(self.n_classes, -1).T
        kl_z2_nK = kl_standard_normal(mean_mZ, variance_mZ).view(self.n_classes, -1).T
        log_q_z1_n = normal_log_prob(q.z_nZ, q.mean_nZ, q.variance_nZ)
        upper_n = log_q_z1_n - (probability_nK * log_p_z1_nK).sum(dim=-1)
        kl_class_n = torch.special.xlogy(probability_nK, probability_nK).sum(dim=-1) + math.log(self.n_classes)
        kl_n = (probability_nK * kl_z2_nK).sum(dim=-1) + kl_class_n + q.kl_library_n
        reconstruction_n = self.reconstruction(x, q, batch_n) + upper_n
        return GeneLoss(reconstruction_n, kl_n, torch.zeros_like(kl_n), q)

    def cross_entropy(self, x: Counted, class_n: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor]:
        """Return cross-entropy (n,) of labelled spots' classes on the posterior mean, and the logits (n, K)."""
        mean_nZ, _ = self.infer(x, noise, site="labelled/encoder")
        logits_nK = self.classifier(mean_nZ, noise, "labelled/classifier")
        return F.cross_entropy(logits_nK, class_n, reduction="none"), logits_nK

    @torch.no_grad()
    def probabilities(self, x: Counted) -> Tensor:
        """Return class probabilities (n, K) at the posterior mean. Call in eval mode."""
        return torch.softmax(self.classifier(self.infer(x)[0], None, ""), dim=-1)
