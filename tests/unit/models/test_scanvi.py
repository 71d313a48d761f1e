from __future__ import annotations

import numpy as np
import pytest
import torch

from stray.config import PcaConfig, ScanviConfig, ScviConfig
from stray.models.gene_vae import GeneVae
from stray.models.pca import Pca, log_normalised
from stray.models.scanvi import Scanvi
from stray.noise import Noise

NOISE = Noise(seed=0, epoch=0, step=0, count=6, rows=slice(0, 6))
BATCH = torch.zeros(6, dtype=torch.long)


def counts(n: int = 6, genes: int = 9) -> torch.Tensor:
    return torch.poisson(torch.full((n, genes), 4.0), generator=torch.Generator().manual_seed(0))


def scanvi(**settings) -> Scanvi:
    torch.manual_seed(0)
    return Scanvi(ScanviConfig(**settings), n_genes=9, n_batches=1, n_classes=3)


@pytest.mark.parametrize("linear", [False, True], ids=["deep classifier", "linear classifier"])
def test_class_probabilities_add_up_to_one(linear: bool) -> None:
    probability = scanvi(linear_classifier=linear).eval().probabilities(counts())
    assert probability.shape == (6, 3)
    torch.testing.assert_close(probability.sum(1), torch.ones(6))


def test_scanvi_learns_the_classes_that_the_counts_carry() -> None:
    rng = np.random.default_rng(0)
    classes = torch.from_numpy(np.arange(60) % 3)
    rates = torch.from_numpy(rng.gamma(1.0, 4.0, (3, 9))).float()
    x = torch.poisson(rates[classes], generator=torch.Generator().manual_seed(1))
    model, batch = scanvi().train(), torch.zeros(60, dtype=torch.long)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        noise = Noise.of_rank(0, 0, step, 60)
        loss = model.loss(x, batch, noise).weighted(1.0).mean() + 50 * model.cross_entropy(x, classes, noise)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model.eval().probabilities(x).argmax(1) == classes).float().mean() > 0.9


def test_each_copy_of_the_batch_has_noise_of_its_own_and_the_same_on_any_rank() -> None:
    whole = NOISE.repeated(3).normal("z2", 4, torch.zeros(0))
    part = Noise(0, 0, 0, 6, slice(2, 5)).repeated(3).normal("z2", 4, torch.zeros(0))
    torch.testing.assert_close(part.view(3, 3, 4), whole.view(3, 6, 4)[:, 2:5])
    assert len(torch.unique(whole)) == 3 * 6 * 4


def test_without_batch_correction_the_decoder_is_told_nothing() -> None:
    model = GeneVae(ScviConfig(batch_correction=False), n_genes=9, n_batches=2).eval()
    z = torch.randn(6, 10)
    means = [model.decode(z, torch.full((6,), b))[0] for b in (0, 1)]
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=0)


def test_covariates_in_the_first_layer_alone_make_the_others_narrower() -> None:
    deep = GeneVae(ScviConfig(n_layers=3, inject="first"), n_genes=9, n_batches=4)
    assert [layer.weight.shape[1] for layer in deep.decoder.linears] == [14, 128, 128]  # type: ignore[union-attr]


def test_layer_norm_trains_a_leftover_batch_of_one_spot() -> None:
    model = GeneVae(ScviConfig(norm="layer"), n_genes=9, n_batches=1).train()
    terms = model.loss(counts(1), BATCH[:1], Noise(0, 0, 0, 1, slice(0, 1)))
    terms.weighted(1.0).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_learned_librarys_prior_is_that_of_the_batchs_log_totals() -> None:
    model = GeneVae(ScviConfig(library="learned"), n_genes=9, n_batches=3)
    totals, batch = torch.tensor([1.0, 3.0, 2.0, 6.0, 5.0]), torch.tensor([0, 0, 1, 1, 2])
    model.set_library_prior(totals, batch)
    assert model.library_mean_B.tolist() == [2.0, 4.0, 5.0]
    assert model.library_variance_B[:2].tolist() == [1.0, 4.0]
    assert model.library_variance_B[2] == pytest.approx(float(totals.var(correction=0)))  # one spot has none of its own


def test_pca_in_chunks_is_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(size=(200, 3)) * [1.0, 0.6, 0.3] @ rng.normal(size=(3, 9)) + 2)
    x = torch.from_numpy(rng.poisson(rates)).float()
    model = Pca(PcaConfig(n_latent=3), n_genes=9)
    model.fit(x.split(100))
    expected = PCA(3).fit_transform(log_normalised(x, 1e4).numpy().astype(np.float64))
    found = model.encode(x).numpy()
    correlation = [abs(np.corrcoef(found[:, k], expected[:, k])[0, 1]) for k in range(3)]
    assert min(correlation) > 0.97
