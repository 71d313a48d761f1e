"""Checks of an image encoder before use: it fits the patches, and its weights are equal on all workers."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from stray.collective import all_sum, world_size
from stray.data.source import PatchSource
from stray.errors import InputError, Problem
from stray.models.image_encoder import ImageEncoder
from stray.models.norm import GlobalBatchNorm


def check_encoder(encoder: ImageEncoder, patches: PatchSource, device: torch.device) -> None:
    """Raise InputError on all workers alike when the encoder cannot code the patches, its weights differ between
    workers, or statistics of its batch norm would. Every worker must call it.
    """
    if len(patches):
        encoder.check(*patches.gather(np.zeros(1, dtype=np.int64)).shape[2:])
    if world_size() == 1:
        return
    encoder.train()
    own = [n for n, m in encoder.named_modules() if isinstance(m, _BatchNorm) and not _is_global(m)]
    place = "contrastive.image"
    if own:
        what = f"custom batch norm at {', '.join(own[:3])}: each worker would normalise by its own spots"
        remedy = "take one worker (run.workers=1), contrastive.trainable.kind=adapters, or BatchNorm2d"
        raise InputError(Problem(place, what, remedy))
    sums = torch.stack([value.detach().double().sum() for value in encoder.parameters()]).to(device)
    shared = all_sum(sums) / world_size()
    differs = ((sums - shared).abs() > 1e-9 * (1 + shared.abs())).any().double().reshape(1)
    if all_sum(differs) > 0:
        what = "the factory returned different weights on different workers"
        raise InputError(Problem(place, what, "draw weights from torch's generator alone, or load them from a file"))


def _is_global(norm: _BatchNorm) -> bool:
    return isinstance(norm, GlobalBatchNorm) or not norm.training
