from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from stray.config import AugmentConfig, ScviConfig, TorchvisionConfig
from stray.errors import InputError
from stray.models.gene_vae import GeneVae
from stray.models.image_encoder import ImageEncoder
from stray.models.norm import GlobalBatchNorm, globalise
from stray.noise import Noise
from stray.stages.contrastive.augment import augment

NOISE = Noise(seed=0, epoch=0, step=0, count=6, rows=slice(0, 6))


def counts(n: int = 6, genes: int = 9) -> torch.Tensor:
    return torch.poisson(torch.full((n, genes), 4.0), generator=torch.Generator().manual_seed(0))


def test_the_gene_encoder_never_sees_the_batch() -> None:
    model = GeneVae(ScviConfig(), n_genes=9, n_batches=3).eval()
    x = counts()
    codes = model.encode(x)
    assert codes.shape == (6, 10)
    with torch.no_grad():
        means = [model.decode(codes, torch.full((6,), b))[0] for b in (0, 1)]
    assert not torch.allclose(means[0], means[1])  # the decoder does


def test_decoding_gives_a_dispersion_a_gene_and_no_extra_zeros_where_there_are_none() -> None:
    model = GeneVae(ScviConfig(likelihood="nb"), n_genes=9, n_batches=1)
    logits, theta, zero = model.decode(torch.randn(6, 10), torch.zeros(6, dtype=torch.long))
    assert logits.shape == (6, 9)
    assert theta.shape == (9,)
    assert zero is None


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_a_spot_without_counts_has_a_finite_loss_and_gradient(likelihood: str) -> None:
    model = GeneVae(ScviConfig(likelihood=likelihood), n_genes=9, n_batches=1)  # type: ignore[arg-type]
    x = counts()
    x[2] = 0
    terms = model.loss(x, torch.zeros(6, dtype=torch.long), NOISE)
    (terms.reconstruction_n.sum() + terms.kl_n.sum()).backward()
    assert terms.reconstruction_n.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_dropout_in_training_needs_the_steps_noise() -> None:
    model = GeneVae(ScviConfig(), n_genes=9, n_batches=1).train()
    with pytest.raises(ValueError, match="needs the step's noise"):
        model.infer(counts())


def test_global_batch_norm_on_one_process_is_torchs() -> None:
    torch.manual_seed(0)
    ours, torchs = GlobalBatchNorm(4), torch.nn.BatchNorm2d(4)
    x = torch.randn(5, 4, 3, 3)
    torch.testing.assert_close(ours(x), torchs(x))
    torch.testing.assert_close(ours.running_var, torchs.running_var)


def test_globalise_keeps_weights_and_replaces_every_batch_norm() -> None:
    net = torchvision.models.resnet18(weights=None)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    globalise(net)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 20
    assert all(isinstance(m, GlobalBatchNorm) for m in norms)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_weights_from_a_file_are_those_of_the_file_whatever_its_classifier(tmp_path: Path) -> None:
    saved = torchvision.models.resnet18(num_classes=7)
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    encoder = ImageEncoder(TorchvisionConfig(weights=str(tmp_path / "weights.pt")))
    torch.testing.assert_close(encoder.backbone.get_parameter("conv1.weight"), saved.conv1.weight)
    assert encoder.dim == 512
    assert encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 512)


def test_weights_of_another_model_are_refused_with_the_names_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet50(num_classes=2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not fit resnet18"):
        ImageEncoder(TorchvisionConfig(weights=str(tmp_path / "weights.pt")))


def test_a_model_that_torchvision_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(InputError, match="resnet50"):
        ImageEncoder(TorchvisionConfig(name="resnet19"))


def test_uint8_patches_and_floats_give_the_same_features() -> None:
    encoder = ImageEncoder(TorchvisionConfig()).eval()
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder(patches), encoder(patches.float() / 255))


def test_flips_and_turns_move_pixels_and_change_none() -> None:
    patches = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    plain = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0)
    turned = augment(patches, plain, NOISE)
    assert not torch.equal(turned, patches / 255)
    for before, after in zip(patches / 255, turned, strict=True):
        np.testing.assert_allclose(before.flatten().sort().values, after.flatten().sort().values, atol=1e-6)
        images = [torch.rot90(flip, k, (1, 2)) for flip in (before, before.flip(2)) for k in range(4)]
        assert any(torch.equal(after, image) for image in images)


def test_colour_jitter_stays_in_range_and_leaves_grey_nearly_grey_when_the_hue_turns() -> None:
    patches = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    jittered = augment(patches, AugmentConfig(), NOISE)
    assert jittered.min() >= 0
    assert jittered.max() <= 1
    grey = torch.full((6, 3, 4, 4), 128, dtype=torch.uint8)
    turned = augment(grey, AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0.3), NOISE)
    torch.testing.assert_close(turned, torch.full_like(turned, 128 / 255), atol=1e-5, rtol=0)


def test_augmentation_is_a_function_of_seed_epoch_and_step() -> None:
    patches = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    again = augment(patches, AugmentConfig(), Noise(0, 0, 0, 6, slice(0, 6)))
    torch.testing.assert_close(augment(patches, AugmentConfig(), NOISE), again, rtol=0, atol=0)
    other = augment(patches, AugmentConfig(), Noise(0, 0, 1, 6, slice(0, 6)))
    assert not torch.equal(again, other)
