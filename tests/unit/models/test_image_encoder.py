"""Image encoders: torchvision's, those of a callable, their layers, what of them is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from stray.config import (
    CallableConfig,
    TorchvisionConfig,
)
from stray.errors import InputError
from stray.models.backbones import restored
from stray.models.image_encoder import ImageEncoder
from stray.models.keyed_dropout import KeyedDropout
from stray.models.norm import GlobalBatchNorm
from tests.support import encoders_at_hand
from tests.support.encoders_at_hand import FACTORY, noise, patches, seeded

FEATURES = {
    "convnext_tiny": (768, 5),
    "densenet121": (1024, 5),
    "efficientnet_b0": (1280, 8),
    "inception_v3": (2048, 12),
    "maxvit_t": (512, 5),
    "mnasnet0_5": (1280, 7),
    "resnet50": (2048, 5),
    "squeezenet1_1": (512, 9),
    "swin_t": (768, 5),
    "vgg11_bn": (4096, 10),
    "vit_b_32": (768, 13),
}
"""Features, and layers with the stem."""


def codes_without_weights(name: str) -> ImageEncoder:
    """Built and run without memory; a state without torch's version numbers must fit again."""
    with torch.device("meta"):
        encoder = ImageEncoder(TorchvisionConfig(name=name)).eval()
        with torch.no_grad():
            assert encoder(torch.zeros(2, 3, 224, 224)).shape == (2, encoder.dim)
        encoder.load_state_dict(dict(encoder.state_dict()))
    return encoder


@pytest.mark.parametrize("name", FEATURES)
def test_every_family_of_torchvision_gives_features_and_knows_its_layers(name: str) -> None:
    encoder = codes_without_weights(name)
    depths = encoder.depths()
    assert (encoder.dim, max(depths.values())) == FEATURES[name]
    assert set(depths.values()) == set(range(1, FEATURES[name][1] + 1)), "no layer is empty"
    assert list(depths.values())[-1] == 1
    assert next(iter(depths.values())) == FEATURES[name][1]
    assert not any(type(m) in (nn.BatchNorm2d, nn.Dropout) for m in encoder.modules() if getattr(m, "p", 1) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision.models.list_models(torchvision.models))
def test_every_model_of_torchvision_gives_features(name: str) -> None:
    if name.startswith("regnet") and not name.endswith("400mf"):
        pytest.skip("RegNets cannot be built without memory; the family is tried by its smallest")
    if name.startswith("regnet"):
        assert ImageEncoder(TorchvisionConfig(name=name)).eval()(patches(2)).shape == (2, 400 if "_x_" in name else 440)
    else:
        codes_without_weights(name)


def test_a_resnet_has_its_four_stages_and_its_stem() -> None:
    with torch.device("meta"):
        depths = ImageEncoder(TorchvisionConfig()).depths()
    parts = {"layer4": 1, "layer3": 2, "layer2": 3, "layer1": 4, "conv1": 5, "bn1": 5}
    assert depths == {name: parts[name.split(".")[1]] for name in depths}


def test_patches_are_resized_to_what_a_vision_transformer_takes() -> None:
    encoder = seeded(TorchvisionConfig(name="vit_b_32", size_px=64)).eval()
    small = patches(2, 48)
    assert encoder.preprocess(small).shape == (2, 3, 64, 64)
    assert encoder(small).shape == (2, 768)


def test_patches_that_are_too_small_are_refused_with_the_remedy() -> None:
    encoder = seeded(TorchvisionConfig(name="alexnet"))
    assert encoder.check(64, 64) is None
    with pytest.raises(InputError, match=r"alexnet cannot code patches of 16 x 16 pixels.*\n.*size_px"):
        encoder.check(16, 16)
    assert encoder.training


def test_the_place_of_downloaded_weights_is_kept_for_those_of_a_folder() -> None:
    assert restored(TorchvisionConfig(name="resnet18", weights="DEFAULT")) == TorchvisionConfig(name="resnet18")
    big = restored(TorchvisionConfig(name="vit_h_14", weights="DEFAULT"))
    assert big == TorchvisionConfig(name="vit_h_14", size_px=518), "the positions of these weights are of 518 pixels"
    own = CallableConfig(factory=FACTORY, options={"a": 1, "pretrained": True}, restore_options={"pretrained": False})
    assert restored(own).options == {"a": 1, "pretrained": False}  # type: ignore[union-attr]


def test_a_callable_is_called_with_its_options_and_tried_for_its_features() -> None:
    encoders_at_hand.CALLS.clear()
    encoder = seeded(CallableConfig(factory=FACTORY, options={"width": 12}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    assert encoders_at_hand.CALLS == [{"width": 12, "drop": 0.0}]
    assert encoder.dim == 12
    assert encoder.training
    torch.testing.assert_close(encoder.preprocess(patches()), 2 * (patches() / 255) - 1)
    assert sum(isinstance(m, GlobalBatchNorm) for m in encoder.modules()) == 4
    assert max(encoder.depths().values()) == 5


def test_a_module_with_its_own_preprocessing_is_given_what_it_makes() -> None:
    factory = "tests.support.encoders_at_hand:with_preprocess"
    encoder = seeded(CallableConfig(factory=factory)).eval()
    x = patches()
    torch.testing.assert_close(encoder(x), encoder.backbone(2 * (x / 255) - 1))
    with pytest.raises(InputError, match="brings its own `preprocess`") as caught:
        ImageEncoder(CallableConfig(factory=factory, std=(1, 1, 1), size_px=32))
    assert [p.place for p in caught.value.problems] == ["contrastive.image.std", "contrastive.image.size_px"]


def test_batch_norm_of_timm_keeps_its_activation_and_becomes_global() -> None:
    torch.manual_seed(0)
    own = encoders_at_hand.norm_with_activation()
    encoder = seeded(CallableConfig(factory="tests.support.encoders_at_hand:norm_with_activation"))
    assert sum(isinstance(m, GlobalBatchNorm) for m in encoder.modules()) == 4
    for mode in (True, False):
        torch.testing.assert_close(
            encoder.train(mode)(patches(), noise()), own.train(mode)(encoder.preprocess(patches()))
        )
    own_norm = seeded(CallableConfig(factory="tests.support.encoders_at_hand:own_norm"))
    assert sum(isinstance(m, GlobalBatchNorm) for m in own_norm.modules()) == 3


WRONG = {
    "no colon": ("tests.support.encoders_at_hand.tiny", {}, "package.module:callable"),
    "no such module": ("tests.encoders_at_foot:tiny", {}, "cannot be imported"),
    "no such name": ("tests.support.encoders_at_hand:tiney", {}, "did you mean tiny"),
    "not to be called": ("tests.support.encoders_at_hand:NOTHING", {}, "cannot be called"),
    "no such option": (FACTORY, {"widht": 3}, "unexpected keyword argument 'widht'"),
    "no module": ("tests.support.encoders_at_hand:a_number", {}, "returned int"),
    "feature maps": ("tests.support.encoders_at_hand:maps", {}, r"gives \(2, 4, 14, 14\) of 2 patches"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_factory_is_refused_with_a_remedy(case: str) -> None:
    factory, options, words = WRONG[case]
    with pytest.raises(InputError, match=words) as caught:
        ImageEncoder(CallableConfig(factory=factory, options=options))
    (problem,) = caught.value.problems
    assert problem.place == "contrastive.image.factory"
    assert problem.remedy


def test_weights_of_a_callable_may_come_from_a_file(tmp_path: Path) -> None:
    saved = encoders_at_hand.tiny()
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    encoder = seeded(CallableConfig(factory=FACTORY, weights=str(tmp_path / "weights.pt")))
    torch.testing.assert_close(encoder.backbone.get_parameter("stem.weight"), saved.get_parameter("stem.weight"))
    with pytest.raises(InputError, match="does not fit"):
        ImageEncoder(CallableConfig(factory=FACTORY, options={"width": 4}, weights=str(tmp_path / "weights.pt")))


def test_dropout_of_the_network_is_drawn_from_the_steps_noise() -> None:
    encoder = seeded(CallableConfig(factory=FACTORY, options={"drop": 0.5})).train()
    assert sum(isinstance(m, KeyedDropout) for m in encoder.modules()) == 5
    x, state = patches(), torch.random.get_rng_state()
    first, again, other = encoder(x, noise()), encoder(x, noise()), encoder(x, noise(step=1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    encoder.backbone.eval()
    assert torch.equal(encoder(x, noise()), encoder(x)), "none in evaluation"


@pytest.mark.parametrize("per", ["value", "channel", "spot"])
def test_keyed_dropout_keeps_its_share_scaled_by_what_it_zeroes(per: str) -> None:
    dropout = KeyedDropout(0.25, per, "site").train()  # type: ignore[arg-type]
    dropout.noise = noise(200)
    found = dropout(torch.ones(200, 5, 3, 3))
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 4 / 3]))
    alike = {"value": found.flatten()[:, None], "channel": found.flatten(2), "spot": found.flatten(1)}[per]
    assert (alike.std(dim=-1, correction=0) == 0).all(), "what belongs together is dropped together"
    assert (found == 0).float().mean() == pytest.approx(0.25, abs=0.1)
    dropout.noise = replace(noise(200), rows=slice(50, 60))
    assert torch.equal(dropout(torch.ones(10, 5, 3, 3)), found[50:60]), "a worker takes its rows of the draw"
