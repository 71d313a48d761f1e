"""scVI and scANVI against scvi-tools: same weights, same noise, same terms and same gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.benchmarks.quality.weights import as_ours, copy_weights
from stray.config import ScanviConfig, ScviConfig
from stray.models.gene_vae import GeneVae
from stray.models.scanvi import Scanvi
from stray.noise import Noise
from tests.parity.scvi_tools import same_noise

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

N, GENES, CLASSES = 24, 17, 4
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
CASES = list(
    itertools.product(
        ("nb", "zinb"), ("gene", "gene-batch"), (1, 8), (1, 3), ("observed", "learned"), (torch.float64, torch.float32)
    )
)
IDS = [f"{like}, {disp}, {n} batches, {deep} layers, {lib} library, {kind}" for like, disp, n, deep, lib, kind in CASES]


def counts(n: int, dtype: torch.dtype, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.negative_binomial(1, 0.3, size=(n, GENES)) + (np.arange(GENES) == 0)).to(dtype)


def prior(batches: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "library_log_means": rng.normal(3, 0.3, (1, batches)),
        "library_log_vars": rng.uniform(0.2, 1, (1, batches)),
    }


def close(theirs: Tensor, ours: Tensor, what: str, dtype: torch.dtype) -> None:
    scale = max(1.0, float(theirs.abs().max()))
    assert theirs.shape == ours.shape, what
    difference = float((theirs - ours).abs().max())
    assert difference <= TOLERANCE[dtype] * scale, f"{what}: differs by {difference} at a scale of {scale}"


def same_gradients(pairs: list, dtype: torch.dtype) -> None:
    for name, theirs, ours in pairs:
        assert ours.grad is not None, name
        close(as_ours(theirs.grad, ours.grad), ours.grad, f"gradient of {name}", dtype)


@pytest.mark.parametrize(("likelihood", "dispersion", "batches", "layers", "library", "dtype"), CASES, ids=IDS)
def test_scvi_has_the_terms_and_gradients_of_scvi_tools(likelihood, dispersion, batches, layers, library, dtype):
    from scvi.module import VAE  # pyright: ignore[reportMissingImports]

    config = ScviConfig(
        likelihood=likelihood, dispersion=dispersion, library=library, n_layers=layers, n_hidden=16, n_latent=5
    )
    torch.manual_seed(0)
    learned = prior(batches) if library == "learned" else {}
    theirs = VAE(
        GENES, n_batch=batches, n_hidden=16, n_latent=5, n_layers=layers, dispersion=dispersion,
        gene_likelihood=likelihood, use_observed_lib_size=library == "observed", **learned,
    ).to(dtype)  # fmt: skip
    ours = GeneVae(config, n_genes=GENES, n_batches=batches).to(dtype)
    pairs = copy_weights(theirs, ours)
    x, batch = counts(N, dtype, 0), torch.arange(N) % batches
    noise = Noise(7, 2, 5, N, slice(0, N))
    tensors = {"X": x, "batch": batch[:, None], "labels": torch.zeros(N, 1, dtype=torch.long)}
    with same_noise(theirs, ours, noise, None, x):
        _, _, expected = theirs(tensors, loss_kwargs={"kl_weight": 0.3})
    got = ours.loss(x, batch, noise)
    loss = got.weighted(0.3).mean()
    close(expected.reconstruction_loss["reconstruction_loss"], got.reconstruction_n, "reconstruction", dtype)
    close(expected.kl_local["kl_divergence_z"], got.kl_n, "KL of z", dtype)
    close(expected.kl_local["kl_divergence_l"], got.kl_library_n, "KL of the library", dtype)
    close(expected.loss, loss, "loss", dtype)
    expected.loss.backward()
    loss.backward()
    same_gradients(pairs, dtype)


@pytest.mark.parametrize("labelled", [False, True], ids=["no labels in the batch", "labels in the batch"])
@pytest.mark.parametrize(("likelihood", "dispersion", "batches", "layers", "library", "dtype"), CASES, ids=IDS)
def test_scanvi_has_the_terms_and_gradients_of_scvi_tools(
    likelihood, dispersion, batches, layers, library, dtype, labelled
):
    from scvi.module import SCANVAE  # pyright: ignore[reportMissingImports]

    config = ScanviConfig(
        likelihood=likelihood, dispersion=dispersion, library=library, n_layers=layers, n_hidden=16, n_latent=5
    )
    torch.manual_seed(0)
    learned = prior(batches) if library == "learned" else {}
    theirs = SCANVAE(
        GENES, n_batch=batches, n_labels=CLASSES, n_hidden=16, n_latent=5, n_layers=layers, dispersion=dispersion,
        gene_likelihood=likelihood, use_observed_lib_size=library == "observed", **learned,
    ).to(dtype)  # fmt: skip
    ours = Scanvi(config, n_genes=GENES, n_batches=batches, n_classes=CLASSES).to(dtype)
    pairs = copy_weights(theirs, ours)
    x, batch = counts(N, dtype, 0), torch.arange(N) % batches
    noise = Noise(7, 2, 5, N, slice(0, N))
    known_x, known = counts(10, dtype, 1), torch.arange(10) % CLASSES
    known_noise = Noise(7, 2, 5, 10, slice(0, 10)) if labelled else None
    tensors = {"X": x, "batch": batch[:, None], "labels": torch.zeros(N, 1, dtype=torch.long)}
    more = {"X": known_x, "batch": torch.arange(10)[:, None] % batches, "labels": known[:, None]}
    settings = {"kl_weight": 0.3} | ({"labelled_tensors": more, "classification_ratio": 50} if labelled else {})
    with same_noise(theirs, ours, noise, known_noise, x):
        _, _, expected = theirs(tensors, loss_kwargs=settings)
    got = ours.loss(x, batch, noise)
    loss = got.weighted(0.3).mean()
    close(expected.reconstruction_loss["reconstruction_loss"], got.reconstruction_n, "reconstruction", dtype)
    close(expected.kl_local["kl_local"], got.kl_n, "KL", dtype)
    if labelled:
        cross_entropy_n, logits = ours.cross_entropy(known_x, known, known_noise)
        close(expected.logits, logits, "logits", dtype)
        close(expected.classification_loss, cross_entropy_n.mean(), "cross-entropy", dtype)
        loss = loss + 50 * cross_entropy_n.mean()
    close(expected.loss, loss, "loss", dtype)
    expected.loss.backward()
    loss.backward()
    if not labelled:
        assert all(p.grad is not None for name, p in ours.named_parameters())
    same_gradients(pairs, dtype)
