"""The gene stage as a task of the loop: scVI on the counts of the training patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stray.collective import share
from stray.config import GeneConfig
from stray.models.gene_vae import GeneVae
from stray.models.norm import GlobalBatchNorm
from stray.noise import Noise, numpy_generator, torch_generator
from stray.train.averages import Averages
from stray.train.blocks import Counts
from stray.train.plan import BatchPlan
from stray.train.schedules import kl_weight
from stray.train.task import StepOutput

RECALIBRATE_BELOW_STEPS = 500
"""Batch norm with momentum 0.01 keeps (0.99)^steps of its initial statistics; below this many they are estimated
anew.
"""


@dataclass(frozen=True)
class GeneBatch:
    """Counts (n, G) and batch indices (n,)."""

    x_nG: Tensor
    batch_n: Tensor


class GeneTask:
    """Minimises the negative ELBO per spot, with the KL term warmed up."""

    def __init__(
        self, config: GeneConfig, counts: Counts, batch_N: np.ndarray, *, seed: int, device: torch.device
    ) -> None:
        """`counts` of the training patients' spots; `batch_N` names the batch (patient) of each."""
        self.config, self.device, self.epochs = config, device, config.epochs
        self.names, codes_N = np.unique(batch_N, return_inverse=True)
        self._counts, self._batch_N = counts, torch.from_numpy(codes_N.astype(np.int64))
        usable = np.flatnonzero(counts.totals() >= config.min_count)
        self._train, self._held_out = _split(usable, codes_N, config.validation_share, seed)
        self.plan = BatchPlan(len(self._train), config.batch_size, seed, keep_remainder=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_generator(seed, "gene", "init").initial_seed())
            self.module = GeneVae(config.model, n_genes=counts.n_genes, n_batches=len(self.names))

    def gather(self, positions: np.ndarray, noise: Noise | None = None) -> GeneBatch:
        """The spots at `positions` of the training spots."""
        return self._read(self._train[positions])

    def step(self, batch: GeneBatch, noise: Noise) -> StepOutput:
        """One draw of z; this rank's spots' terms over the global count."""
        batch = self._to_device(batch)
        terms = self.module.loss(batch.x_nG, batch.batch_n, noise)
        model = self.config.model
        weight = kl_weight(model.kl_weight, model.kl_warmup_share, noise.epoch, self.epochs)
        reconstruction, kl = terms.reconstruction_n.sum(), terms.kl_n.sum()
        sums = {"reconstruction": reconstruction, "kl": kl, "elbo": -(reconstruction + kl)}
        return StepOutput((reconstruction + weight * kl) / noise.count, sums, len(batch.x_nG))

    def after_step(self) -> None:
        """Nothing follows the step."""

    @torch.no_grad()
    def validate(self, epoch: int) -> Averages:
        """ELBO per spot (nats, one keyed draw of z) on the held-out tenth of the training patients' spots."""
        self.module.eval()
        averages = Averages()
        for start in range(0, len(self._held_out), 1024):
            chunk = self._held_out[start : start + 1024]
            noise = Noise.of_rank(0, 0, start, len(chunk))
            batch = self._to_device(self._read(chunk[noise.rows]))
            terms = self.module.loss(batch.x_nG, batch.batch_n, noise)
            averages.add({"validation_elbo": -(terms.reconstruction_n + terms.kl_n).sum()}, len(batch.x_nG))
        return averages

    @torch.no_grad()
    def finish(self) -> None:
        """After the last epoch of a short run: estimate batch norm's statistics in one pass over the training spots.

        Every rank must call it; the pass is in global batches, so that all ranks end with the same statistics.
        """
        if self.epochs * self.plan.steps >= RECALIBRATE_BELOW_STEPS:
            return
        norms = [m for m in self.module.modules() if isinstance(m, GlobalBatchNorm)]
        kept = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's cumulative average
        self.module.train()
        for step, batch in enumerate(self.plan.batches(self.epochs)):
            noise = Noise.of_rank(0, self.epochs, step, len(batch))
            local = self._to_device(self.gather(batch[noise.rows]))
            self.module.loss(local.x_nG, local.batch_n, noise)
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum

    @torch.no_grad()
    def codes(self, counts: Counts) -> Tensor:
        """Gene codes (this rank's share of the rows, Z) on the host."""
        self.module.eval()
        mine = np.arange(len(counts))[share(len(counts))]
        chunks = [mine[i : i + 1024] for i in range(0, len(mine), 1024)]
        parts = [self.module.encode(counts.gather(chunk).to(self.device)).cpu() for chunk in chunks]
        return torch.cat(parts) if parts else torch.empty(0, self.config.model.n_latent)

    def _read(self, positions: np.ndarray) -> GeneBatch:
        return GeneBatch(self._counts.gather(positions), self._batch_N[positions])

    def _to_device(self, batch: GeneBatch) -> GeneBatch:
        return GeneBatch(
            batch.x_nG.to(self.device, non_blocking=True), batch.batch_n.to(self.device, non_blocking=True)
        )


def _split(usable: np.ndarray, codes_N: np.ndarray, held_out_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions that train, and the validation share of each batch (at least one spot of a batch always trains)."""
    held_out = []
    generator = numpy_generator(seed, "gene", "validation")
    for code in np.unique(codes_N[usable]):
        members = generator.permutation(usable[codes_N[usable] == code])
        held_out.append(members[: min(round(held_out_share * len(members)), len(members) - 1)])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(usable, validation), validation
