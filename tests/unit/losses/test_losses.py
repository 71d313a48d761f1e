"""Each loss against its formula, written once more by hand, and in chunks against the whole similarity matrix."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stray.config import ScviConfig
from stray.likelihood import nb_log_prob, zinb_log_prob
from stray.likelihood.counts import SparseCounts
from stray.losses.clip import clip_loss
from stray.losses.expression import Explained, expression_loss
from stray.losses.gather import Gathered, gather
from stray.losses.guided import Unlabelled, guided_loss
from stray.losses.siglip import siglip_chance, siglip_loss
from stray.losses.smoothed import smoothed_loss
from stray.models.frozen_decoder import FrozenDecoder
from stray.models.gene_vae import GeneVae
from stray.models.scales import LossScales
from tests.support.losses_at_hand import ALL, Batch, found, losses

N = 9


def codes(n: int = N) -> Gathered:
    """Codes of a whole batch, of length one, that gather gradients."""
    with torch.no_grad():
        image, gene = Batch(losses(clip=1), n).codes(slice(0, n))
    return gather(image.requires_grad_(), gene.requires_grad_(), n)


def same(loss: Tensor, expected: Tensor | float, *leaves: Tensor) -> None:
    """Equal value, and equal gradients of the leaves."""
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def log_softmax(row: Tensor) -> Tensor:
    return row - torch.log(torch.exp(row).sum())


def test_clip_is_the_published_formula() -> None:
    batch, s = codes(), scalar(3.0)
    expected = 0.0
    for i in range(N):
        expected -= log_softmax(s * batch.gene_ND @ batch.image_ND[i])[i]
        expected -= log_softmax(s * batch.image_ND @ batch.gene_ND[i])[i]
    same(clip_loss(batch, s), expected / (2 * N), batch.image_nD, batch.gene_nD, s)


@pytest.mark.parametrize("targets", ["detached", "published"])
def test_smoothed_is_the_published_formula(targets: Literal["detached", "published"]) -> None:
    batch, s, tau = codes(), scalar(3.0), 0.4
    image, gene = batch.image_ND, batch.gene_ND
    target = torch.stack([log_softmax((image @ image[i] + gene @ gene[i]) / (2 * tau)).exp() for i in range(N)])
    if targets == "detached":
        target = target.detach()
    expected = 0.0
    for i in range(N):
        of_image = target[i] if targets == "detached" else target[:, i]
        expected -= (of_image * log_softmax(s * gene @ image[i])).sum()
        expected -= (target[i] * log_softmax(s * image @ gene[i])).sum()
    loss, off = smoothed_loss(batch, s, target_temperature=tau, targets=targets)
    same(loss, expected / (2 * N), batch.image_nD, batch.gene_nD, s)
    torch.testing.assert_close(off, 1 - target.diag().mean().detach(), rtol=0, atol=1e-12)


def test_a_smoothing_that_smooths_nothing_is_clip_and_shows_it() -> None:
    batch = codes()
    loss, off = smoothed_loss(batch, scalar(3.0), target_temperature=1e-3)
    torch.testing.assert_close(loss, clip_loss(batch, scalar(3.0)), rtol=0, atol=1e-9)
    assert off < 1e-9
    assert smoothed_loss(batch, scalar(3.0), target_temperature=10.0)[1] > 0.8


@pytest.mark.parametrize("unlabelled", ["out", "negatives"])
def test_guided_is_the_published_formula(unlabelled: Unlabelled) -> None:
    batch, s = codes(), scalar(3.0)
    classes = [2, 0, -1, 2, 2, 1, -1, 0, -1]
    labelled = [i for i in range(N) if classes[i] >= 0]
    expected = 0.0
    for i in labelled:
        against = labelled if unlabelled == "out" else list(range(N))
        positives = [against.index(p) for p in labelled if classes[p] == classes[i]]
        for own, others in ((batch.image_ND, batch.gene_ND), (batch.gene_ND, batch.image_ND)):
            expected -= log_softmax(s * others[against] @ own[i])[positives].mean()
    guided = guided_loss(replace(batch, class_N=torch.tensor(classes)), s, unlabelled=unlabelled)
    same(guided, expected / (2 * len(labelled)), batch.image_nD, batch.gene_nD, s)


def test_guided_with_a_class_a_spot_is_clip() -> None:
    batch, s = codes(), scalar(3.0)
    guided = guided_loss(replace(batch, class_N=torch.arange(N)), s)
    same(guided, clip_loss(batch, s), batch.image_nD, batch.gene_nD, s)


def test_guided_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the classes"):
        guided_loss(codes(), scalar(3.0))


def test_siglip_is_the_published_formula() -> None:
    batch, s, b = codes(), scalar(3.0), scalar(-1.5)
    expected = 0.0
    for i in range(N):
        for j in range(N):
            logit = s * batch.image_ND[i] @ batch.gene_ND[j] + b
            expected -= torch.log(1 / (1 + torch.exp(-logit if i == j else logit)))
    same(siglip_loss(batch, s, b), expected / N, batch.image_nD, batch.gene_nD, s, b)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("library", ["observed", "learned"])
def test_expression_is_the_likelihood_of_the_decoders_counts(
    likelihood: Literal["nb", "zinb"],
    dispersion: Literal["gene", "gene-batch"],
    library: Literal["observed", "learned"],
) -> None:
    torch.manual_seed(0)
    config = ScviConfig(n_latent=2, n_hidden=3, likelihood=likelihood, dispersion=dispersion, library=library)
    model = GeneVae(config, n_genes=4, n_batches=2).double()
    z, patient = torch.randn(N, 2, dtype=torch.float64, requires_grad=True), torch.arange(N) % 2
    x_nG = torch.poisson(torch.full((N, 4), 2.0)).double()
    counts = SparseCounts.of(x_nG)
    explained = Explained(counts, *FrozenDecoder(model)(z, counts, patient))
    library_n1 = x_nG.sum(dim=1, keepdim=True)
    if model.library_encoder is not None:
        library_n1 = model.library_encoder(torch.log1p(x_nG))[0].exp()
    logit_nG, theta, pi = model.decode(z, patient)
    mu = library_n1 * logit_nG.softmax(dim=1)
    assert (pi is None) is (likelihood == "nb")
    log_prob_nG = nb_log_prob(x_nG, mu, theta) if pi is None else zinb_log_prob(x_nG, mu, theta, pi)
    same(expression_loss(explained, N), -log_prob_nG.mean(), z)


def test_a_frozen_decoder_hands_gradients_through_and_takes_none() -> None:
    batch = Batch(losses(expression=1.0), N)
    model = batch.decoder._model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch.train()
    found(batch)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert batch.image_tower.weight.grad is not None
    assert batch.image_tower.weight.grad.abs().max() > 1e-6


def test_siglip_is_finite_where_the_sigmoid_is_not() -> None:
    batch, s = codes(), scalar(1e4)
    loss = siglip_loss(batch, s, scalar(0.0))
    assert all(g.isfinite().all() for g in (loss, *torch.autograd.grad(loss, [batch.image_nD, s])))


@pytest.mark.parametrize("chunk", [1, 2, 4, 8, 9, 100])
@pytest.mark.parametrize("name", ALL)
def test_chunks_change_neither_value_nor_gradient(name: str, chunk: int) -> None:
    whole, chunked = found(Batch(losses(**ALL[name]), N)), found(Batch(losses(chunk, **ALL[name]), N))
    assert whole.keys() == chunked.keys()
    for number, value in whole.items():
        np.testing.assert_allclose(chunked[number], value, rtol=1e-12, atol=1e-12, err_msg=number)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", [name for name in ALL if name != "expression"])  # which has no such matrix
def test_chunks_bound_the_similarity_matrix_forward_and_backward(name: str) -> None:
    count, chunk, most = 120, 12, {}
    for rows in (None, chunk):
        batch = Batch(losses(rows, **ALL[name]), count)
        with Largest() as largest:
            batch().loss.backward()
        most[rows] = largest.numel
    assert most[None] >= count * count
    assert most[chunk] == chunk * count


@pytest.mark.parametrize("name", ALL)
def test_equal_similarities_give_what_is_called_chance(name: str) -> None:
    batch = Batch(losses(**ALL[name]), N)
    with torch.no_grad():
        for tower in (batch.image_tower, batch.gene_tower):
            tower.weight.zero_()
        if batch.head is not None:
            for parameter in batch.head.parameters():
                parameter.zero_()
        if batch.scales.siglip_bias is not None:  # its best value, where the similarities say nothing
            scale, similarity = batch.scales()["siglip"], torch.mul(*(code[0] for code in batch.codes(slice(0, 1))))
            batch.scales.siglip_bias.copy_(-math.log(N - 1) - scale * similarity.sum())
        mixed = batch()
    for term, value in mixed.terms.items():
        torch.testing.assert_close(value, mixed.chances[term], rtol=0, atol=1e-12)
    assert siglip_chance(1) == 0.0


def test_a_logit_scale_is_clamped_to_its_own_bound_and_trained_only_where_it_is_learned() -> None:
    from stray.config import ClipLossConfig

    scales = LossScales(losses(clip=ClipLossConfig(temperature=0.5, max_logit_scale=4.0)))
    assert scales()["clip"].item() == pytest.approx(2.0)
    with torch.no_grad():
        scales.log_scale["clip"].fill_(9.0)
    scales.clamp()
    assert scales()["clip"].item() == pytest.approx(4.0)
    fixed = LossScales(losses(clip=ClipLossConfig(learned=False)))
    assert not any(parameter.requires_grad for parameter in fixed.parameters())
