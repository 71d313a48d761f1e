"""The features of a frozen image encoder, computed once, of augmented views of every patch or of the patch itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stray.collective import gather_rows, rank_rows
from stray.config import ContrastiveConfig, TrainableNoneConfig
from stray.data.source import PatchSource
from stray.models.image_encoder import ImageEncoder
from stray.noise import Noise, key, numpy_generator
from stray.stages.contrastive.augment import augment

CHUNK = 256
"""Number of patches encoded at a time by all ranks together."""


class FrozenFeatures:
    """Features of all training spots, on the host of every rank; each rank computes its share of them."""

    def __init__(
        self,
        encoder: ImageEncoder,
        patches: PatchSource,
        config: ContrastiveConfig,
        seed: int,
        device: torch.device,
        half: torch.dtype | None,
    ) -> None:
        """Every rank must call it, with `encoder` on `device`; it multiplies in `half`, where that is not None."""
        assert isinstance(config.trainable, TrainableNoneConfig)
        self._seed, self._augments = seed, config.trainable.cached_views > 0
        views, n = max(1, config.trainable.cached_views), len(patches)
        self._views_KNF = torch.empty(views, n, encoder.dim)
        encoder.eval()
        chunks = [np.arange(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        for view in range(views):
            patches.expect([positions[rank_rows(len(positions))] for positions in chunks])
            for start, positions in zip(range(0, n, CHUNK), chunks, strict=True):
                noise = Noise.of_rank(key(seed, "cached views"), view, start // CHUNK, len(positions))
                batch = patches.gather(positions[noise.rows]).to(device, non_blocking=True)
                local_nF = self._code(encoder, batch, config, noise, half)
                self._views_KNF[view, start : start + CHUNK] = gather_rows(local_nF, len(positions)).cpu()

    def gather(self, positions: np.ndarray, epoch: int) -> Tensor:
        """Gather features (n, F) of the spots at `positions`, of the view that each spot has drawn for this epoch."""
        return self._views_KNF[torch.from_numpy(self.view(epoch)[positions]), torch.from_numpy(positions)]

    def view(self, epoch: int) -> np.ndarray:
        """Return which view every spot shows in an epoch, (N,): a function of seed, epoch and spot alone."""
        views, n = self._views_KNF.shape[:2]
        return numpy_generator(self._seed, "view", epoch).integers(0, views, size=n)

    @torch.no_grad()
    def _code(
        self,
        encoder: ImageEncoder,
        patches_nCHW: Tensor,
        config: ContrastiveConfig,
        noise: Noise,
        half: torch.dtype | None,
    ) -> Tensor:
        if len(patches_nCHW) == 0:
            return torch.empty(0, encoder.dim, device=patches_nCHW.device)
        if self._augments:
            patches_nCHW = augment(patches_nCHW, config.augment, noise)
        with torch.autocast(patches_nCHW.device.type, half, enabled=half is not None):
            return encoder(patches_nCHW.contiguous(memory_format=torch.channels_last)).float()
