"""The contrastive stage as a task of the loop: image codes meet gene codes in one space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stray.collective import share
from stray.config import ContrastiveConfig, FrozenTowerConfig
from stray.losses.gather import gather
from stray.losses.mixture import mixture
from stray.models.towers import ContrastiveModel, FrozenCodes, MlpTower
from stray.noise import Noise, torch_generator
from stray.train.augment import augment
from stray.train.averages import Averages
from stray.train.blocks import Counts, Patches
from stray.train.plan import BatchPlan
from stray.train.task import StepOutput


@dataclass(frozen=True)
class PairedBatch:
    """Patches (n, 3, px, px) uint8 and what the gene tower takes: codes (n, Z), or counts (n, G)."""

    patches_nCHW: Tensor
    genes_nX: Tensor


class ContrastiveTask:
    """Minimises the weighted sum of losses between the towers."""

    def __init__(
        self,
        config: ContrastiveConfig,
        patches: Patches,
        genes: Tensor | Counts,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """`patches` of the training spots, and for the same rows their frozen gene codes (N, Z) or their counts."""
        self.config, self.device, self.epochs = config, device, config.epochs
        self._patches, self._genes = patches, genes
        self._bf16 = config.precision == "bf16" or (config.precision == "auto" and multiplies_bf16(device))
        # A batch without its whole set of negatives would change the loss: the remainder sits the epoch out.
        self.plan = BatchPlan(len(patches), config.batch_size, seed, keep_remainder=False)
        self.module = build(config, genes, seed).to(memory_format=torch.channels_last)

    def gather(self, positions: np.ndarray, noise: Noise) -> PairedBatch:
        """The spots at `positions`, in pinned memory where a GPU waits for them."""
        patches = self._patches.gather(positions)
        genes = (
            self._genes[torch.from_numpy(positions)]
            if isinstance(self._genes, Tensor)
            else self._genes.gather(positions)
        )
        if self.device.type == "cuda":
            return PairedBatch(patches.pin_memory(), genes.pin_memory())
        return PairedBatch(patches, genes)

    def step(self, batch: PairedBatch, noise: Noise) -> StepOutput:
        """This rank's share of the loss over the global batch."""
        patches = batch.patches_nCHW.to(self.device, non_blocking=True)
        genes = batch.genes_nX.to(self.device, non_blocking=True)
        patches = augment(patches, self.config.augment, noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            image_nD, gene_nD = self.module(patches, genes, noise)
        loss, terms = mixture(self.config.losses, gather(image_nD, gene_nD, noise.count), self.module.log_scale.exp())
        # Terms are shares of a mean over the global batch; as sums over this rank's items they average to it.
        sums = {f"loss_{name}": term.detach() * noise.count for name, term in terms.items()}
        n = len(patches)
        sums["temperature"] = torch.exp(-self.module.log_scale.detach()) * n
        sums["chance_loss"] = torch.full_like(sums["temperature"], math.log(noise.count) * n)
        # Before the loss, in which one code that is not finite meets all others.
        finite = {
            "what the gene tower takes": genes.sum(dim=1).isfinite(),
            "the gene code": gene_nD.detach().sum(dim=1).isfinite(),
            "the image code": image_nD.detach().sum(dim=1).isfinite(),
        }
        return StepOutput(loss, sums, n, finite)

    def spots(self, name: str, epoch: int, step: int) -> np.ndarray:
        """Places among the paired spots of the step's batch."""
        return self.plan.batches(epoch)[step]

    def after_step(self) -> None:
        """Clamp the logit scale."""
        self.module.clamp()

    def validate(self, epoch: int) -> Averages:
        """Nothing is held out of the training patients here: losses at two temperatures do not compare."""
        return Averages()


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A private name, so its absence means no.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def build(config: ContrastiveConfig, genes: Tensor | Counts, seed: int) -> ContrastiveModel:
    """The model with its initial weights, a function of the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "contrastive", "init").initial_seed())
        if isinstance(config.gene_tower, FrozenTowerConfig):
            assert isinstance(genes, Tensor)
            tower = FrozenCodes(genes.shape[1])
            tower.fit(genes)
        else:
            assert isinstance(genes, Counts)
            tower = MlpTower(config.gene_tower, genes.n_genes)
        return ContrastiveModel(config, tower)


@torch.no_grad()
def embed(module: torch.nn.Module, patches: Patches, device: torch.device, *, chunk: int = 256) -> Tensor:
    """Image features (this rank's share of the rows, dim) float32 on the host, without augmentation, in eval mode."""
    module.eval()
    mine = np.arange(len(patches))[share(len(patches))]
    parts = []
    for start in range(0, len(mine), chunk):
        batch = patches.gather(mine[start : start + chunk]).to(device, non_blocking=True)
        parts.append(module(batch.contiguous(memory_format=torch.channels_last)).float().cpu())
    return torch.cat(parts) if parts else torch.empty(0, int(module.dim))  # pyright: ignore[reportArgumentType]
