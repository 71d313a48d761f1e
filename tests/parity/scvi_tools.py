"""scvi-tools' modules with the weights and the noise of ours: what lets both be compared term by term."""

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


def copy_weights(theirs: Any, ours: GeneVae) -> list[tuple[str, Tensor, Tensor]]:
    """Copy every weight of scvi-tools' module into ours; returns (name, theirs, ours) for the gradients' sake."""
    pairs: list[tuple[str, Tensor, Tensor]] = []

    def linear(name: str, source: nn.Linear, target: nn.Linear) -> None:
        pairs.append((f"{name}.weight", source.weight, target.weight))
        pairs.append((f"{name}.bias", source.bias, target.bias))

    def layers(name: str, source: Any, target: Any) -> None:
        for i, layer in enumerate(source.fc_layers):
            linear(f"{name}.{i}", layer[0], target.linears[i])
            norm = layer[1]
            pairs.append((f"{name}.{i}.norm.weight", norm.weight, target.norms[i].weight))
            pairs.append((f"{name}.{i}.norm.bias", norm.bias, target.norms[i].bias))

    def gaussian(name: str, body: Any, mean: nn.Linear, variance: nn.Linear, target: Any) -> None:
        layers(name, body, target.body)
        linear(f"{name}.mean", mean, target.mean)
        linear(f"{name}.variance", variance, target.log_variance)

    z = theirs.z_encoder
    gaussian("encoder", z.encoder, z.mean_encoder, z.var_encoder, ours.encoder)
    if ours.library_encoder is not None:
        el = theirs.l_encoder
        gaussian("library", el.encoder, el.mean_encoder, el.var_encoder, ours.library_encoder)
        ours.library_mean_B.copy_(theirs.library_log_means[0])
        ours.library_variance_B.copy_(theirs.library_log_vars[0])
    layers("decoder", theirs.decoder.px_decoder, ours.decoder)
    linear("share", theirs.decoder.px_scale_decoder[0], ours.share)
    if ours.zero is not None:
        linear("zero", theirs.decoder.px_dropout_decoder, ours.zero)
    pairs.append(("theta", theirs.px_r, ours.log_theta))
    if isinstance(ours, Scanvi):
        assert ours.classifier.body is not None
        layers("classifier", theirs.classifier.classifier[0], ours.classifier.body)
        linear("classifier.logits", theirs.classifier.classifier[1], ours.classifier.logits)
        z2, z1 = theirs.encoder_z2_z1, theirs.decoder_z1_z2
        gaussian("z2_encoder", z2.encoder, z2.mean_encoder, z2.var_encoder, ours.z2_encoder)
        gaussian("z1_decoder", z1.decoder, z1.mean_decoder, z1.var_decoder, ours.z1_decoder)
    with torch.no_grad():
        for _, source, target in pairs:
            target.copy_(as_ours(source, target))
    copied = {id(target) for _, _, target in pairs}
    left = [name for name, parameter in ours.named_parameters() if id(parameter) not in copied]
    assert not left, f"no weight of scvi-tools was copied to {left}"
    return pairs


def as_ours(source: Tensor, target: Tensor) -> Tensor:
    """Their (genes, batches) is our (batches, genes)."""
    return source if source.shape == target.shape else source.T


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
