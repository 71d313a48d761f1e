"""Contrastive stage as a task of the training loop: aligns image codes with gene codes in a shared space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stray.collective import gather_rows, rank_rows
from stray.config import ContrastiveConfig, FrozenTowerConfig, MlpTowerConfig, TunedTowerConfig
from stray.data.batches import BatchPlan
from stray.data.blocks import Counts
from stray.data.feed import DeviceFeed, Prefetcher, pinned
from stray.data.sampling import SampledPlan, plan_of
from stray.data.source import PatchSource
from stray.data.streaming import Stream, StreamPlan
from stray.likelihood.counts import SparseCounts
from stray.losses.expression import Explained
from stray.losses.gather import gather
from stray.losses.mixture import Mixed, mixture
from stray.models.image_encoder import ImageEncoder
from stray.models.towers import Coded, ContrastiveModel, FrozenCodes, MlpTower, TunedTower
from stray.noise import Noise, torch_generator
from stray.stages.contrastive.accumulate import check_batch_norm, in_chunks
from stray.stages.contrastive.augment import augment
from stray.stages.contrastive.encoder_checks import check_encoder
from stray.stages.contrastive.frozen_features import FrozenFeatures
from stray.stages.contrastive.gene_inputs import GeneInput
from stray.stages.contrastive.monitor import PairMonitor, collapse, from_first
from stray.stages.judge import JUDGED, Judge
from stray.training.averages import Averages
from stray.training.process import half_precision
from stray.training.task import StepOutput


@dataclass(frozen=True)
class PairedBatch:
    """Patches (n, 3, px, px) uint8, or a frozen encoder's features (n, F) of them; what the gene tower takes: codes
    (n, Z) or counts (n, G); and what some losses ask for: classes (n,), -1 where a spot has none; counts with the
    batches (n,) that they come from.
    """

    patches_nCHW: Tensor
    genes_nX: Tensor
    class_n: Tensor | None = None
    x: SparseCounts | None = None
    batch_n: Tensor | None = None


@dataclass(frozen=True)
class PatchInput:
    """Image side of N training spots, and what batches of them are drawn by."""

    source: PatchSource
    label_N: np.ndarray | None = None
    """Classes, empty where they are not known; where a loss is guided by them or batches are balanced over them."""
    patient_N: np.ndarray | None = None
    """Patients, where batches are not drawn from all spots alike."""
    stream: Stream | None = None
    """Stream of the patches, where they fit no memory."""

    def plan(self, config: ContrastiveConfig, seed: int) -> BatchPlan:
        """Return the plan of batches. Raises InputError when they cannot be drawn as `config` says."""
        if self.stream is None:
            return plan_of(config, len(self.source), seed, self.patient_N, self.label_N)
        return StreamPlan(len(self.source), config.batch_size, seed, keep_remainder=False, stream=self.stream)

    def class_indices(self) -> Tensor:
        """Return the class of each spot (N,) among the sorted names of classes, -1 where it is not known."""
        assert self.label_N is not None
        classes = np.unique(self.label_N[self.label_N != ""])
        return torch.from_numpy(np.where(self.label_N == "", -1, np.searchsorted(classes, self.label_N)))


class ContrastiveTask:
    """Minimises the weighted sum of losses between the towers."""

    def __init__(
        self,
        config: ContrastiveConfig,
        patches: PatchInput,
        genes: GeneInput,
        *,
        seed: int,
        device: torch.device,
        monitor: PairMonitor | None = None,
        judge: tuple[Judge, PatchSource] | None = None,
    ) -> None:
        """`patches` and `genes` are of the same training spots; `monitor` holds spots that do not train, `judge` a
        sample of labelled spots and their patches.

        Raises InputError when batches cannot be drawn, or not be taken in chunks, as `config` says.
        """
        self.config, self.device, self.epochs = config, device, config.epochs
        self._patches, self._genes, self._monitor, self._judge = patches.source, genes, monitor, judge
        self._told = -1  # the epoch whose batches `patches` expects
        self._last: tuple[Tensor, Tensor] | None = None
        self._half = half_precision(config.precision, device)
        self._class_N = patches.class_indices() if config.losses.guided.weight > 0 else None
        self._expression = genes.expression
        self._chance = 0.0 if genes.expression is None else genes.expression.chance(device)
        self.plan = patches.plan(config, seed)
        n_latent = None if genes.expression is None else genes.expression.decoder.dim
        module = build(config, genes.tower, seed, n_latent, genes.tuned)
        self.module = module.to(memory_format=torch.channels_last)
        check_encoder(self.module.encoder, patches.source, device)
        self._features = None
        if config.trainable.kind == "none":
            encoder = self.module.encoder.to(device).to(memory_format=torch.channels_last)
            self._features = FrozenFeatures(encoder, patches.source, config, seed, device, self._half)
        if config.accumulate > 1 and config.accumulate_batch_norm == "refuse":
            check_batch_norm(self.module)
        if config.compile:
            # In place, to keep the names of the weights.
            self.module.encoder.backbone.compile()

    def gather(self, positions: np.ndarray, noise: Noise) -> PairedBatch:
        """Gather the spots at `positions`, on the host."""
        if self._features is None:
            self._tell(noise)
            patches = self._patches.gather(positions)
        else:
            patches = self._features.gather(positions, noise.epoch)
        genes_nX, x, batch_n = self._genes.gather(positions)
        class_n = None if self._class_N is None else self._class_N[torch.from_numpy(positions)]
        return PairedBatch(patches, genes_nX, class_n, x, batch_n)

    def _tell(self, noise: Noise) -> None:
        """Tell the patch source the remaining batches of the epoch, once."""
        if noise.epoch != self._told:
            ahead = self.plan.batches(noise.epoch)[noise.step :]
            self._patches.expect([batch[rank_rows(len(batch))] for batch in ahead])
            self._told = noise.epoch

    def step(self, batch: PairedBatch, noise: Noise) -> StepOutput:
        """Return this rank's part of the loss over the global batch."""
        patches = batch.patches_nCHW.to(self.device, non_blocking=True)
        genes = batch.genes_nX.to(self.device, non_blocking=True)
        coded = self._coded(patches, genes, noise)
        scales = self.module.scales()
        class_n = None if batch.class_n is None else batch.class_n.to(self.device, non_blocking=True)
        codes = gather(coded.image_nD, coded.gene_nD, noise.count, class_n)
        self._last = codes.image_ND.detach(), codes.gene_ND.detach()
        explained = self._explain(coded.z_nZ, batch)
        mixed = mixture(self.config.losses, codes, scales, self.module.scales.siglip_bias, explained)
        # Check before the loss, where one non-finite code affects all others.
        finite = {
            "what the gene tower takes": genes.sum(dim=1).isfinite(),
            "the gene code": coded.gene_nD.detach().sum(dim=1).isfinite(),
            "the image code": coded.image_nD.detach().sum(dim=1).isfinite(),
        }
        sums = self._sums(mixed, scales, len(patches), noise.count)
        if isinstance(self.plan, SampledPlan):
            repeated = self.plan.repeated(noise.epoch, noise.step)
            sums["repeated_spots"] = codes.image_nD.new_tensor(repeated * len(patches))
        return StepOutput(mixed.loss, sums, len(patches), finite)

    def _coded(self, patches_nCHW: Tensor, genes_nX: Tensor, noise: Noise) -> Coded:
        """Return codes of the augmented patches, or of the features of a frozen encoder, and of the genes."""

        def code(rows: slice) -> tuple[Tensor, ...]:
            mine = noise.part(rows)
            x = patches_nCHW[rows]
            if self._features is None:
                x = augment(x, self.config.augment, mine).contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, self._half, enabled=self._half is not None):
                coded: Coded = self.module(x, genes_nX[rows], mine)
            return tuple(codes for codes in coded if codes is not None)

        image_nD, gene_nD, *z = in_chunks(code, self.module, noise.count, self.config.accumulate)
        return Coded(image_nD, gene_nD, z[0] if z else None)

    def scaler(self) -> torch.amp.GradScaler | None:
        """Return the loss scaler of fp16; None in other precisions."""
        return torch.amp.GradScaler(self.device.type) if self._half == torch.float16 else None

    def _explain(self, z_nZ: Tensor | None, batch: PairedBatch) -> Explained | None:
        """Return the decoder's output for the pictures, where a loss asks for it."""
        if self._expression is None:
            return None
        assert z_nZ is not None
        assert batch.x is not None
        assert batch.batch_n is not None
        x, batch_n = batch.x.to(self.device, non_blocking=True), batch.batch_n.to(self.device, non_blocking=True)
        return self._expression.explain(z_nZ, x, batch_n, self._chance)

    def _sums(self, mixed: Mixed, scales: dict[str, Tensor], n: int, count: int) -> dict[str, Tensor]:
        """Return the logged terms. Parts of a mean over the global batch, as sums over this rank's items, average to
        it.
        """
        weights = self.config.losses.weights
        shares = {f"loss_{name}": term for name, term in mixed.terms.items()}
        shares |= {f"chance_{name}": chance for name, chance in mixed.chances.items()}
        shares["chance_loss"] = torch.stack([w * mixed.chances[name] for name, w in weights.items()]).sum()
        sums = {name: value.detach() * count for name, value in (shares | mixed.health).items()}
        sums |= {f"temperature_{name}": n / scale.detach() for name, scale in scales.items()}
        bias = self.module.scales.siglip_bias
        return sums if bias is None else sums | {"bias_siglip": n * bias.detach()}

    def after_step(self) -> None:
        """Clamp the logit scales."""
        self.module.scales.clamp()

    @torch.no_grad()
    def validate(self, epoch: int) -> Averages:
        """Measure retrieval on the held-out spots (never a loss: losses at two temperatures do not compare), with the
        weights as they are, not their average, and without augmentation; spread and effective rank of these codes, or
        of those of the epoch's last batch, as it trained, where no spots are held out; and the probe's score at the
        epochs of a judge.
        """
        averages = Averages()
        if self._monitor is not None:
            self.module.eval()
            averages.add(*self._monitor.measure(self._code_held_out))
        elif self._last is not None:
            averages.add(*collapse(*self._last))
        if self._judge is not None and epoch + 1 in self._judge[0].epochs:
            averages.add(*self._judged(*self._judge))
        return averages

    def _judged(self, judge: Judge, patches: PatchSource) -> tuple[dict[str, Tensor], float]:
        """Return the probe's score of the weights as they are."""
        local_mD = embed(self.module.unfolded_coder(), patches, self.device)
        features_MD = gather_rows(local_mD.to(self.device), len(judge.rows)).cpu().numpy()
        return from_first({JUDGED: judge.score(features_MD)}, self.device)

    def _code_held_out(self, patches_nCHW: Tensor, genes_nX: Tensor) -> tuple[Tensor, Tensor]:
        """Return image and gene codes (n, D) as the step makes them, of a batch on the host."""
        patches = patches_nCHW.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self._half, enabled=self._half is not None):
            images = patches if self._features is None else self.module.encoder(patches)
            coded: Coded = self.module(images, genes_nX.to(self.device, non_blocking=True))
        return coded.image_nD, coded.gene_nD


def build(
    config: ContrastiveConfig,
    genes: Tensor | Counts,
    seed: int,
    n_latent: int | None = None,
    tuned: TunedTower | None = None,
) -> ContrastiveModel:
    """Build the model with its initial weights, a function of the seed alone; `n_latent` as in `ContrastiveModel`,
    `tuned` as the gene stage left it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "contrastive", "init").initial_seed())
        match config.gene_tower:
            case FrozenTowerConfig():
                assert isinstance(genes, Tensor)
                tower = FrozenCodes(genes.shape[1])
                tower.fit(genes)
            case MlpTowerConfig():
                assert isinstance(genes, Counts)
                tower = MlpTower(config.gene_tower, genes.n_genes)
            case TunedTowerConfig():
                assert tuned is not None
                tower = tuned
        return ContrastiveModel(config, ImageEncoder(config.image), tower, n_latent)


@torch.no_grad()
def embed(
    module: torch.nn.Module, patches: PatchSource, device: torch.device, *, chunk: int = 256, ahead: int = 1
) -> Tensor:
    """Return image features (this rank's rows, dim) float32 on the host, without augmentation, in eval mode."""
    module.eval()
    mine = np.arange(len(patches))[rank_rows(len(patches))]
    chunks = [mine[start : start + chunk] for start in range(0, len(mine), chunk)]
    patches.expect(chunks)
    parts = []
    data = Prefetcher(lambda chunk: pinned(patches.gather(chunk), device), ahead)
    for _, batch in DeviceFeed(device).over(data.over(chunks)):
        parts.append(module(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts) if parts else torch.empty(0, int(module.dim))  # pyright: ignore[reportArgumentType]
