"""Image encoders: from uint8 patches to one feature vector each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stray.config import CallableConfig, ImageConfig
from stray.errors import InputError, Problem
from stray.models.backbones import PLACE, build_backbone
from stray.models.keyed_dropout import KeyedDropout, key_dropout
from stray.models.layers import depth_of, layers
from stray.models.norm import globalise
from stray.noise import Noise, key

# Channel statistics of ImageNet, which torchvision's weights expect; for random weights they serve as well as any.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

TRIED_PX = 224
"""Size of the pictures by which a callable's module is tried, where no setting says another."""


class ImageEncoder(nn.Module):
    """A network without its classifier, and the preprocessing of its patches. `dim` is the width of its features."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ImageConfig) -> None:
        """Build with random weights from torch's current generator, or load those that `config` names.

        Raises InputError when there is no such network, the weights cannot be loaded, or what a factory returned does
        not give a feature vector a patch.
        """
        super().__init__()
        made = build_backbone(config)
        self._name = config.factory if isinstance(config, CallableConfig) else config.name
        self._size_px = made.size_px
        self._is_called = isinstance(config, CallableConfig)
        own = isinstance(config, CallableConfig) and hasattr(made.module, "preprocess")
        self._own_preprocess = own
        mean, std = (config.mean, config.std) if isinstance(config, CallableConfig) else (None, None)
        if own and (given := [n for n in ("mean", "std", "size_px") if getattr(config, n) is not None]):
            what = f"{self._name} brings its own `preprocess`, which is used instead"
            raise InputError([Problem(f"{PLACE}.{name}", what, "remove the setting") for name in given])
        self._layers = layers(made.module)
        self._still: tuple[str, ...] = ()
        self.backbone = globalise(key_dropout(made.module, "image_encoder"))
        self.register_buffer("mean", torch.tensor(mean or MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std or STD).view(1, 3, 1, 1), persistent=False)
        self.dim = self._try(self._size_px or TRIED_PX) if made.dim is None else made.dim

    def preprocess(self, patches_nCHW: Tensor) -> Tensor:
        """Convert floats in [0, 1] or uint8 (n, 3, H, W) to normalised floats, of the size that the network takes."""
        if self._own_preprocess:
            return self.backbone.preprocess(patches_nCHW)  # pyright: ignore[reportCallIssue]
        x = patches_nCHW.float() / 255.0 if patches_nCHW.dtype == torch.uint8 else patches_nCHW
        if self._size_px is not None and x.shape[2:] != (self._size_px, self._size_px):
            x = F.interpolate(x, size=(self._size_px, self._size_px), mode="bilinear", antialias=True)
        return (x - self.mean) / self.std

    def forward(self, patches_nCHW: Tensor, noise: Noise | None = None) -> Tensor:
        """Return features (n, dim) of patches (n, 3, H, W), uint8 or floats in [0, 1]. A network with dropout needs
        `noise` in training.
        """
        if not self.training or noise is None:
            return self.backbone(self.preprocess(patches_nCHW))
        for module in self.modules():
            if isinstance(module, KeyedDropout):
                module.noise = noise
        with self._seeded(noise, patches_nCHW.device):
            return self.backbone(self.preprocess(patches_nCHW))

    def depths(self) -> dict[str, int]:
        """Return the depth of each parameter below the heads, by its name: 1 for the last layer, to 5 for a ResNet's
        stem.
        """
        return {name: self.depth(name) for name, _ in self.named_parameters()}

    def depth(self, name: str) -> int:
        """Return the depth of the parameter `name` below the heads."""
        return depth_of(name.removeprefix("backbone."), self._layers)

    def keep_still(self, from_depth: int) -> None:
        """Leave everything at `from_depth` and below as it is: no gradient, no dropout, batch norm by its kept
        statistics, which stay.
        """
        for name, parameter in self.named_parameters():
            if self.depth(name) >= from_depth:
                parameter.requires_grad_(False)
        modules = dict(self.backbone.named_modules())
        names = [name for below in self._layers[from_depth - 1 :] for name in below if name in modules]
        self._still = tuple(names if from_depth > 1 else [""])
        self.train(self.training)

    def train(self, mode: bool = True) -> ImageEncoder:
        """Train mode, but for the parts that are kept still."""
        super().train(mode)
        for name in self._still:
            self.backbone.get_submodule(name).eval()
        return self

    def check(self, height: int, width: int) -> None:
        """Raise InputError when the network cannot code patches of this size."""
        self._try(height, width)

    @torch.no_grad()
    def _try(self, height: int, width: int | None = None) -> int:
        """Return the width of the features of two black patches."""
        was, where = self.training, self.mean.device
        place = f"{PLACE}.factory" if self._is_called else f"{PLACE}.name"
        patches = torch.zeros(2, 3, height, width or height, dtype=torch.uint8, device=where)
        self.eval()
        try:
            features = self(patches)
        except Exception as error:  # foreign code may raise anything
            what = f"{self._name} cannot code patches of {height} x {width or height} pixels: {error}"
            remedy = f"set {PLACE}.size_px to a size that it takes, such as 224"
            raise InputError(Problem(place, what, remedy)) from error
        finally:
            self.train(was)
        if not (isinstance(features, Tensor) and features.dim() == 2 and len(features) == 2):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            what = f"{self._name} gives {shape} of 2 patches, not (2, features)"
            remedy = "name a callable whose module gives one vector a patch (in timm: num_classes=0)"
            raise InputError(Problem(place, what, remedy))
        return features.shape[1]

    @contextmanager
    def _seeded(self, noise: Noise, device: torch.device) -> Iterator[None]:
        """Seed torch's own generator, from which a callable's module may draw, by (seed, epoch, step) and the rank's
        first row: a resumed run draws the same. On another number of workers it differs, unlike everything else.
        """
        if not self._is_called:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(key(noise.seed, noise.epoch, noise.step, "image_encoder", noise.rows.start))
            yield
