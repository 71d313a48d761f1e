"""The gene stage as a task of the loop: scVI or scANVI on the counts of the training patients."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from stray.collective import rank_rows
from stray.config import GeneConfig, ScanviConfig, ScviConfig
from stray.data.batches import BatchPlan, LabelledPlan, hold_out
from stray.data.blocks import Counts, ResidentCounts
from stray.errors import InputError, Problem
from stray.likelihood.counts import SparseCounts
from stray.models.gene_vae import GeneLoss, GeneVae
from stray.models.norm import GlobalBatchNorm
from stray.models.scanvi import Scanvi
from stray.noise import Noise, numpy_generator
from stray.stages.gene.encoder import build_gene_model
from stray.stages.gene.monitor import CodeMonitor
from stray.training.averages import Averages
from stray.training.task import StepOutput

RECALIBRATE_BELOW_STEPS = 500
"""Batch norm with momentum 0.01 keeps (0.99)^steps of its initial statistics; below this many they are estimated
anew.
"""

LABELLED = "the cross-entropy of the class"
"""The term of the labelled batch beside the step's."""


@dataclass(frozen=True)
class GeneBatch:
    """Counts (n, G) and batch indices (n,); for scANVI also labelled spots' counts (m, G) and classes (m,)."""

    x: SparseCounts
    batch_n: Tensor
    labelled_x: SparseCounts | None = None
    class_m: Tensor | None = None

    def to(self, device: torch.device) -> GeneBatch:
        """Return the batch on a device."""
        moved = [None if t is None else t.to(device, non_blocking=True) for t in vars(self).values()]
        return GeneBatch(*moved)  # pyright: ignore[reportArgumentType]


class GeneTask:
    """Minimises the negative ELBO per spot, with the KL term warmed up; for scANVI with the cross-entropy of labelled
    spots.
    """

    def __init__(
        self,
        config: GeneConfig,
        counts: Counts,
        batch_N: np.ndarray,
        label_N: np.ndarray,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """`counts` of the training patients' spots; `batch_N` names the batch (patient) of each, `label_N` its class,
        empty where it is not known: scANVI learns from it, and of every model's codes it is watched how far apart
        they keep the classes.

        Raises InputError when fewer than two spots are left to train.
        """
        assert isinstance(config.model, ScviConfig), "the other models are fitted, not trained"
        self.config, self.model, self.device, self.epochs = config, config.model, device, config.epochs
        totals_N = counts.totals()
        usable = np.flatnonzero(totals_N >= config.min_count)
        # A batch without training spots would leave its decoder parameters at their initial values.
        self.names = np.unique(batch_N[usable])
        codes_N = np.minimum(np.searchsorted(self.names, batch_N), len(self.names) - 1)  # read where usable only
        self._batch_N = torch.from_numpy(codes_N.astype(np.int64))
        # On a GPU, a step would wait for the transfer of its entries.
        self._counts = ResidentCounts(counts, device) if device.type == "cuda" else counts
        drawn = numpy_generator(seed, "gene", "validation")
        self._train, self._held_out = hold_out(usable, codes_N, config.validation_share, drawn)
        if len(self._train) < 2:
            what = f"{len(self._train)} of {len(totals_N)} spots have enough counts to train on; batch norm needs two"
            raise InputError(Problem("gene.min_count", what, "lower it, or take a panel with more counts"))
        self._monitor = CodeMonitor(self._held_out, batch_N, label_N, seed)
        self.plan = BatchPlan(len(self._train), config.batch_size, seed, keep_remainder=True)
        self.classes: np.ndarray = np.empty(0, dtype=str)
        self._labelled = None
        if isinstance(config.model, ScanviConfig):
            if (label_N != "").any() and (label_N[usable] == "").all():
                what = f"none of the {int((label_N != '').sum())} labelled spots has enough counts to train on"
                raise InputError(Problem("gene.min_count", what, "lower it, or take a panel with more counts"))
            label_N = np.where(totals_N >= config.min_count, label_N, "")
            self.classes = np.unique(label_N[label_N != ""])
            class_N = np.where(label_N == "", -1, np.searchsorted(self.classes, label_N))
            self._class_N = torch.from_numpy(class_N)
            # Use every labelled spot, also those held out of the ELBO: labels are few.
            self._labelled = LabelledPlan(
                class_N, config.batch_size, self.plan.steps, seed, balanced=config.model.balanced
            )
        model = build_gene_model(
            config.model, n_genes=counts.n_genes, n_batches=len(self.names), n_classes=len(self.classes), seed=seed
        )
        assert isinstance(model, GeneVae)
        self.module = model
        # Batch sizes and numbers of counts change from step to step.
        self._loss = torch.compile(model.loss, dynamic=True) if config.compile else model.loss
        log_totals = np.log(np.maximum(totals_N[self._train], 1))
        self.module.set_library_prior(torch.from_numpy(log_totals).float(), self._batch_N[self._train])

    @property
    def trains(self) -> np.ndarray:
        """Positions of the spots that train, among all spots of the counts."""
        return self._train

    @property
    def held_out(self) -> np.ndarray:
        """Positions of the spots on which the ELBO is watched."""
        return self._held_out

    @property
    def n_held_out(self) -> int:
        """Spots on which the ELBO is watched."""
        return len(self._held_out)

    def gather(self, positions: np.ndarray, noise: Noise | None = None) -> GeneBatch:
        """Gather the spots at `positions` of the training spots, and this rank's labelled spots of the step."""
        batch = self._read(self._train[positions])
        if self._labelled is not None and noise is not None:
            labelled = self._labelled.batch(noise.epoch, noise.step)
            mine = labelled[rank_rows(len(labelled))]
            batch = replace(batch, labelled_x=self._counts.entries(mine), class_m=self._class_N[mine])
        return batch

    def step(self, batch: GeneBatch, noise: Noise) -> StepOutput:
        """Return the terms of this rank's spots at one draw of z, over the global count."""
        batch = batch.to(self.device)
        terms = self._loss(batch.x, batch.batch_n, noise)
        weight = kl_weight(self.model, noise.epoch, self.epochs, noise.epoch * self.plan.steps + noise.step)
        loss = terms.weighted(weight).sum() / noise.count
        sums, finite = _sums(terms), _finite(batch.x, terms)
        if isinstance(self.module, Scanvi) and self._labelled is not None:
            assert isinstance(self.model, ScanviConfig)
            assert batch.labelled_x is not None
            assert batch.class_m is not None
            size = self._labelled.batch_size
            labelled_noise = replace(noise, count=size, rows=rank_rows(size))
            entropy_m, logits_mK = self.module.cross_entropy(batch.labelled_x, batch.class_m, labelled_noise)
            loss = loss + self.model.classification_weight * entropy_m.sum() / size
            # Sums are averaged over all spots; these are means over the labelled ones.
            right_m = (logits_mK.argmax(dim=1) == batch.class_m).float()
            finite[LABELLED] = entropy_m.detach().isfinite()
            sums["cross_entropy"] = entropy_m.detach().sum() * noise.count / size
            sums["label_accuracy"] = right_m.sum() * noise.count / size
        sums["kl_weight"] = torch.full_like(sums["elbo"], weight * len(batch.x))
        return StepOutput(loss, sums, len(batch.x), finite)

    def places(self, term: str | None, epoch: int, step: int) -> np.ndarray:
        """Return places among all spots of the counts of the global batch that a term of a step is over: the step's
        batch, or its labelled batch.
        """
        if term == LABELLED and self._labelled is not None:
            return self._labelled.batch(epoch, step)
        return self._train[self.plan.batches(epoch)[step]]

    def after_step(self) -> None:
        """Do nothing: no parameter needs clamping."""

    @torch.no_grad()
    def validate(self, epoch: int) -> Averages:
        """Return the ELBO per spot (nats, one keyed draw of z) on the held-out tenth of the training patients' spots,
        and how separate their codes (posterior means) are by batch, where low is good, and by class, where high is
        good.

        scANVI learns from every label: of its codes the separation of classes is no held-out measure.
        """
        self.module.eval()
        averages = Averages()
        for start in range(0, len(self._held_out), 1024):
            chunk = self._held_out[start : start + 1024]
            noise = Noise.of_rank(0, 0, start, len(chunk))
            batch = self._read(chunk[noise.rows]).to(self.device)
            terms = self.module.loss(batch.x, batch.batch_n, noise)
            averages.add({f"validation_{name}": value for name, value in _sums(terms).items()}, len(batch.x))
        averages.add(*self._monitor.measure(lambda p: self.module.encode(self._counts.entries(p).to(self.device))))
        return averages

    @torch.no_grad()
    def finish(self, epochs: int) -> None:
        """Estimate batch norm's statistics in one pass over the training spots, where the weights are of a short run.

        `epochs` are those behind the weights: fewer than planned where the stage stopped early or kept its best epoch.
        Every rank must call it; the pass is in global batches, so that all ranks end with the same statistics.
        """
        if epochs * self.plan.steps >= RECALIBRATE_BELOW_STEPS:
            return
        norms = [m for m in self.module.modules() if isinstance(m, GlobalBatchNorm)]
        kept = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's cumulative average
        self.module.train()
        for step, batch in enumerate(self.plan.batches(self.epochs)):
            noise = Noise.of_rank(0, self.epochs, step, len(batch))
            local = self.gather(batch[noise.rows]).to(self.device)
            self.module.loss(local.x, local.batch_n, noise)
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum

    def _read(self, positions: np.ndarray) -> GeneBatch:
        return GeneBatch(self._counts.entries(positions), self._batch_N[positions])


@torch.no_grad()
def _finite(x: SparseCounts, terms: GeneLoss) -> dict[str, Tensor]:
    """Return whether what each spot gives is finite, (n,), in the order of computing.

    The posterior comes first: a draw of it that is not finite reaches every spot of the batch through the decoder's
    batch norm.
    """
    q = terms.posterior
    return {
        "the sum of the counts": x.total_n.isfinite(),
        "the posterior q(z | x)": (q.mean_nZ + q.variance_nZ).sum(dim=1).add(q.kl_library_n).isfinite(),
        "the negative ELBO": (terms.reconstruction_n + terms.kl_n).isfinite(),
    }


def _sums(terms: GeneLoss) -> dict[str, Tensor]:
    """Return the logged terms of a batch, summed over its spots."""
    sums = {
        "reconstruction": terms.reconstruction_n.sum(),
        "kl": (terms.kl_n + terms.kl_library_n).sum(),
        "elbo": terms.elbo_n.sum(),
    }
    return {name: value.detach() for name, value in sums.items()}


def kl_weight(config: ScviConfig, epoch: int, epochs: int, step: int) -> float:
    """Return the weight of the KL term in epoch `epoch` of `epochs` at global step `step`: rises linearly from 0, by
    epochs or by steps as `config` says.
    """
    done, warmup = float(epoch), config.kl_warmup_share * epochs
    if config.kl_warmup_steps is not None:
        done, warmup = float(step), float(config.kl_warmup_steps)
    return config.kl_weight if done >= warmup else config.kl_weight * done / warmup
