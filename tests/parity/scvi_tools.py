"""scvi-tools' modules with the noise of ours: what lets both be compared term by term."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stray.models.gene_vae import GeneVae
from stray.models.scanvi import Scanvi
from stray.noise import Noise


class Mask(nn.Module):
    """Stands where scvi-tools has dropout: multiplies by masks that were drawn before, one a call."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: deque[Tensor] = deque()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.masks.popleft()


@contextmanager
def same_noise(theirs: Any, ours: GeneVae, noise: Noise, labelled: Noise | None, like: Tensor) -> Iterator[None]:
    """Within it, scvi-tools' draws are those that ours takes from `noise`, in the order in which it asks."""
    draws: deque[Tensor] = deque([noise.normal("z", ours.config.n_latent, like)])
    if ours.library_encoder is not None:
        draws.append(noise.normal("library", 1, like))
    masks: list[tuple[Any, str, Noise]] = [(theirs.z_encoder.encoder, "encoder", noise)]
    if ours.library_encoder is not None:
        masks.append((theirs.l_encoder.encoder, "library_encoder", noise))
    if isinstance(ours, Scanvi):
        many = noise.repeated(ours.n_classes)
        draws.append(many.normal("z2", ours.config.n_latent, like))
        masks.append((theirs.encoder_z2_z1.encoder, "z2_encoder", many))
        masks.append((theirs.classifier.classifier[0], "classifier", noise))
    if labelled is not None:
        draws.append(labelled.normal("not used: the mean classifies", ours.config.n_latent, like))
        masks.append((theirs.z_encoder.encoder, "labelled/encoder", labelled))
        masks.append((theirs.classifier.classifier[0], "labelled/classifier", labelled))
    for body, site, source in masks:
        for i, layer in enumerate(body.fc_layers):
            place = next(k for k, part in enumerate(layer) if isinstance(part, (nn.Dropout, Mask)))
            if not isinstance(layer[place], Mask):
                layer[place] = Mask()
            width = torch.empty(0, ours.config.n_hidden, dtype=like.dtype)
            layer[place].masks.append(source.keep(f"{site}/dropout{i}", ours.config.dropout, width))

    def drawn(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        draw = draws.popleft()
        assert tuple(draw.shape) == tuple(shape)
        return draw.to(dtype)

    module: Any = torch.distributions.normal
    normal, to_float = module._standard_normal, Tensor.float
    module._standard_normal = drawn
    if like.dtype == torch.float64:
        Tensor.float = Tensor.double  # type: ignore[method-assign]  # they cast one-hot batches to float32
    try:
        yield
    finally:
        module._standard_normal, Tensor.float = normal, to_float  # type: ignore[method-assign]
    assert not draws, "scvi-tools drew less than expected"
