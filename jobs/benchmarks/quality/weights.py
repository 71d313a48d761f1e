"""The weights of scvi-tools' modules in stray's: what lets both be read, coded and judged by one implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stray.models.gene_vae import GeneVae
from stray.models.scanvi import Scanvi


def copy_weights(theirs: Any, ours: GeneVae) -> list[tuple[str, Tensor, Tensor]]:
    """Copy every weight and running statistic of scvi-tools' module (`VAE`, `SCANVAE`) into ours.

    Returns (name, theirs, ours) of the weights, to compare their gradients. Fails where a weight or statistic of ours
    has none of theirs.
    """
    weights: list[tuple[str, Tensor, Tensor]] = []
    statistics: list[tuple[Tensor, Tensor]] = []

    def linear(name: str, source: nn.Linear, target: nn.Linear) -> None:
        weights.append((f"{name}.weight", source.weight, target.weight))
        weights.append((f"{name}.bias", source.bias, target.bias))

    def layers(name: str, source: Any, target: Any) -> None:
        for i, layer in enumerate(source.fc_layers):
            linear(f"{name}.{i}", layer[0], target.linears[i])
            norm, own = layer[1], target.norms[i]
            weights.append((f"{name}.{i}.norm.weight", norm.weight, own.weight))
            weights.append((f"{name}.{i}.norm.bias", norm.bias, own.bias))
            statistics.extend(zip(norm.buffers(), own.buffers(), strict=True))

    def gaussian(name: str, body: Any, mean: nn.Linear, variance: nn.Linear, target: Any) -> None:
        layers(name, body, target.body)
        linear(f"{name}.mean", mean, target.mean)
        linear(f"{name}.variance", variance, target.log_variance)

    z = theirs.z_encoder
    gaussian("encoder", z.encoder, z.mean_encoder, z.var_encoder, ours.encoder)
    if ours.library_encoder is not None:
        el = theirs.l_encoder
        gaussian("library", el.encoder, el.mean_encoder, el.var_encoder, ours.library_encoder)
        statistics.append((theirs.library_log_means[0], ours.library_mean_B))
        statistics.append((theirs.library_log_vars[0], ours.library_variance_B))
    layers("decoder", theirs.decoder.px_decoder, ours.decoder)
    linear("share", theirs.decoder.px_scale_decoder[0], ours.share)
    if ours.zero is not None:
        linear("zero", theirs.decoder.px_dropout_decoder, ours.zero)
    weights.append(("theta", theirs.px_r, ours.log_theta))
    if isinstance(ours, Scanvi):
        if ours.classifier.body is not None:
            layers("classifier", theirs.classifier.classifier[0], ours.classifier.body)
        linear("classifier.logits", theirs.classifier.classifier[-1], ours.classifier.logits)
        z2, z1 = theirs.encoder_z2_z1, theirs.decoder_z1_z2
        gaussian("z2_encoder", z2.encoder, z2.mean_encoder, z2.var_encoder, ours.z2_encoder)
        gaussian("z1_decoder", z1.decoder, z1.mean_decoder, z1.var_decoder, ours.z1_decoder)
    with torch.no_grad():
        for _, source, target in weights:
            target.copy_(as_ours(source, target))
        for source, target in statistics:
            target.copy_(source)
    copied = {id(target) for _, _, target in weights} | {id(target) for _, target in statistics}
    held = (*ours.named_parameters(), *ours.named_buffers())
    left = [name for name, tensor in held if id(tensor) not in copied]
    assert not left, f"nothing of scvi-tools was copied to {left}"
    return weights


def as_ours(source: Tensor, target: Tensor) -> Tensor:
    """Return their weights in our shape: their (genes, batches) is our (batches, genes)."""
    return source if source.shape == target.shape else source.T
