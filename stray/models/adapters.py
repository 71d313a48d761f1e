"""Low-rank adapters (LoRA, Hu et al. 2021) of linear and convolution layers, and what of an encoder is trained.

The weight of a layer, seen as a matrix W (out, in * kernel), becomes W + alpha / rank * U D with D (rank, in * kernel)
drawn as torch draws linear layers and U (out, rank) zero: training starts at the untouched encoder. As parametrisations
of the weight, adapters also act where a network hands a layer's weight to a function (attention of ViT and Swin).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from stray.config import (
    TrainableAdaptersConfig,
    TrainableAllConfig,
    TrainableConfig,
    TrainableLastStageConfig,
    TrainableNoneConfig,
)
from stray.models.image_encoder import ImageEncoder

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LowRank(nn.Module):
    """A weight plus a change of low rank."""

    def __init__(self, config: TrainableAdaptersConfig, weight: Tensor) -> None:
        super().__init__()
        out, rest = weight.shape[0], weight[0].numel()
        rank = min(config.rank, out, rest)
        self.scale = config.alpha / config.rank
        self.down = nn.Parameter(weight.new_empty(rank, rest))
        self.up = nn.Parameter(weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        # The change is small beside the weight: its digits would be lost in bf16.
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.scale * self.up @ self.down).view_as(weight)


def train_only(encoder: ImageEncoder, config: TrainableConfig) -> None:
    """Leave still what of `encoder` is not trained. Adapters draw from torch's current generator."""
    match config:
        case TrainableAllConfig():
            pass
        case TrainableLastStageConfig():
            encoder.keep_still(from_depth=2)
        case TrainableNoneConfig():
            encoder.keep_still(from_depth=1)
        case TrainableAdaptersConfig():
            encoder.keep_still(from_depth=1)
            _adapt(encoder, config)


def _adapt(encoder: ImageEncoder, config: TrainableAdaptersConfig) -> None:
    for module in list(encoder.modules()):
        names = ["weight"] if isinstance(module, ADAPTED) else []
        if isinstance(module, nn.MultiheadAttention):
            # Queries, keys and values are a linear layer that is no module.
            names = [name for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
                     if getattr(module, name) is not None]  # fmt: skip
        for name in names:
            # Unsafe: neither shape nor type changes, and the check would compute every weight anew.
            parametrize.register_parametrization(module, name, LowRank(config, getattr(module, name)), unsafe=True)
    encoder.train(encoder.training)  # what was added is as still as the rest


def fold(encoder: ImageEncoder) -> None:
    """Write the adapters into the weights that they change: the encoder is one without adapters again."""
    for module in list(encoder.modules()):
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
