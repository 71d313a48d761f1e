"""Augmentation: every part alone, against its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from stray.config import AugmentConfig
from stray.noise import Noise, torch_generator
from stray.stages.contrastive.augment import STAINS_23, augment

COUNT = 7  # odd: two workers hold four and three
NOISE = Noise(seed=0, epoch=0, step=0, count=COUNT, rows=slice(0, COUNT))
NOTHING = AugmentConfig(flips=False, rotations=False, brightness=0, contrast=0, saturation=0, hue=0)
PARTS: dict[str, dict[str, Any]] = {
    "crops": {"crop_area": 0.5},
    "stain": {"stain_factor": 0.3, "stain_shift": 0.1},
    "blur": {"blur_px": 1.5},
}
EVERYTHING = replace(AugmentConfig(), **{name: value for part in PARTS.values() for name, value in part.items()})

each_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


def pictures(size: int = 16, low: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(low, 256, (COUNT, 3, size, size), dtype=torch.uint8, generator=generator)


def test_with_every_setting_at_nothing_patches_stay_as_they_are() -> None:
    assert torch.equal(augment(pictures(), NOTHING, NOISE), pictures() / 255)


@each_part
def test_a_part_is_off_by_default_and_changes_patches_when_on(part: dict[str, Any]) -> None:
    assert all(getattr(AugmentConfig(), name) == getattr(NOTHING, name) for name in part)
    found = augment(pictures(), replace(NOTHING, **part), NOISE)
    assert found.shape == pictures().shape
    assert found.dtype == torch.float32
    changed = (found - pictures() / 255).abs().flatten(1).amax(dim=1)
    assert (changed > 1e-3).sum() >= 3, "a blur that is drawn narrow changes nothing to speak of"
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("config", [EVERYTHING, *(replace(NOTHING, **part) for part in PARTS.values())])
def test_two_workers_shares_are_the_whole_batch_to_the_last_bit(config: AugmentConfig) -> None:
    whole = augment(pictures(), config, NOISE)
    shares = [augment(pictures()[rows], config, replace(NOISE, rows=rows)) for rows in (slice(0, 4), slice(4, COUNT))]
    assert torch.equal(torch.cat(shares), whole)


@each_part
def test_a_part_is_drawn_from_seed_epoch_and_step(part: dict[str, Any]) -> None:
    config = replace(NOTHING, **part)
    first = augment(pictures(), config, NOISE)
    assert torch.equal(augment(pictures(), config, replace(NOISE)), first)
    for other in ({"seed": 1}, {"epoch": 1}, {"step": 1}):
        assert not torch.equal(augment(pictures(), config, replace(NOISE, **other)), first), other


def test_flips_and_colours_draw_what_they_drew_before_there_were_other_parts() -> None:
    u_N7 = torch.rand(COUNT, 7, generator=torch_generator(0, 0, 0, "augment"))
    x = pictures() / 255
    flipped = torch.where((u_N7[:, 0] < 0.5).view(-1, 1, 1, 1), x.flip(3), x)
    flipped = torch.where((u_N7[:, 1] < 0.5).view(-1, 1, 1, 1), flipped.flip(2), flipped)
    brighter = (flipped * (1 + 0.2 * (2 * u_N7[:, 3].view(-1, 1, 1, 1) - 1))).clamp(0, 1)
    torch.testing.assert_close(augment(pictures(), replace(NOTHING, flips=True, brightness=0.2), NOISE), brighter)


@each_part
def test_a_part_shifts_no_draw_of_the_others(part: dict[str, Any]) -> None:
    """A part so weak that it does nothing leaves what all others make of a patch."""
    weak = {name: 1 - 1e-7 if name == "crop_area" else 1e-9 for name in part}
    others = {name: value for p in PARTS.values() if p is not part for name, value in p.items()}
    config = replace(AugmentConfig(), **others)
    found, expected = (augment(pictures(), c, NOISE) for c in (replace(config, **weak), config))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@each_part
def test_uint8_and_floats_are_augmented_alike(part: dict[str, Any]) -> None:
    config = replace(NOTHING, **part)
    assert torch.equal(augment(pictures(), config, NOISE), augment(pictures() / 255, config, NOISE))


def test_nothing_is_made_on_another_device_than_the_patches() -> None:
    """The meta device takes part in no arithmetic with the CPU; only the draws come from there."""
    found = augment(pictures().to("meta"), EVERYTHING, NOISE)
    assert found.device.type == "meta"
    assert found.shape == pictures().shape


def test_a_crop_is_a_box_of_the_patch_of_its_shape_and_at_least_the_smallest_area() -> None:
    size = 32
    ramp_S = (torch.arange(size) + 0.5) / size
    ramps = torch.zeros(1, 3, size, size)
    ramps[0, 0], ramps[0, 1] = ramp_S[None, :], ramp_S[:, None]  # each pixel holds its own place
    count = 200
    noise = Noise(0, 0, 0, count, slice(0, count))
    found = augment(ramps.expand(count, -1, -1, -1), replace(NOTHING, crop_area=0.25), noise)
    inner = found[:, :, 4:-4, 4:-4]  # at the edge of a patch there is nothing to interpolate with
    width = (inner[:, 0, 0, -1] - inner[:, 0, 0, 0]) * size / (size - 9)
    height = (inner[:, 1, -1, 0] - inner[:, 1, 0, 0]) * size / (size - 9)
    torch.testing.assert_close(width, height, atol=1e-4, rtol=0)
    area = width * height
    assert 0.25 - 1e-3 <= area.min() < 0.3
    assert 0.95 < area.max() <= 1 + 1e-3
    centre = found[:, :2, size // 2 - 1 : size // 2 + 1, size // 2 - 1 : size // 2 + 1].mean(dim=(2, 3))
    assert ((centre - 0.5).abs() <= (1 - area.sqrt())[:, None] / 2 + 1e-3).all()
    assert (centre - 0.5).abs().max() > 0.15, "boxes lie anywhere"
    assert torch.corrcoef(centre.T)[0, 1].abs() < 0.3, "columns and rows are drawn apart"


def test_a_crop_keeps_the_range_and_the_colours_of_the_patch() -> None:
    patches = pictures(low=60)
    found = augment(patches, replace(NOTHING, crop_area=0.3), NOISE)
    for before, after in zip(patches / 255, found, strict=True):
        assert (after.amin(dim=(1, 2)) >= before.amin(dim=(1, 2)) - 1e-6).all()
        assert (after.amax(dim=(1, 2)) <= before.amax(dim=(1, 2)) + 1e-6).all()
    plain = torch.full_like(patches, 77)
    torch.testing.assert_close(augment(plain, replace(NOTHING, crop_area=0.3), NOISE), plain / 255)


def stained(amount_K: tuple[float, float]) -> Tensor:
    """Patches of tissue with these amounts of haematoxylin and eosin, in double precision."""
    vectors_23 = torch.nn.functional.normalize(torch.tensor(STAINS_23, dtype=torch.float64), dim=1)
    density_3 = torch.tensor(amount_K, dtype=torch.float64) @ vectors_23
    return (10.0**-density_3).view(1, 3, 1, 1).expand(COUNT, 3, 4, 4).clone()


def test_stain_jitter_moves_optical_density_along_the_two_stains_alone() -> None:
    patches = pictures(low=40).double() / 255  # far enough from black and white that nothing is cut off
    patches = patches * 0.8
    found = augment(patches, replace(NOTHING, **PARTS["stain"]), NOISE)
    change_n3P = (patches.log10() - found.log10()).flatten(2)
    h_3, e_3 = torch.tensor(STAINS_23, dtype=torch.float64)
    normal_3 = torch.linalg.cross(h_3, e_3)
    across = torch.einsum("nip,i->np", change_n3P, normal_3 / normal_3.norm())
    inside = (found < 1).all(dim=1).flatten(1)
    assert inside.float().mean() > 0.9
    assert across[inside].abs().max() < 1e-9
    assert change_n3P.abs().max() > 0.05


@pytest.mark.parametrize("stain", [0, 1], ids=["haematoxylin", "eosin"])
def test_stain_factors_scale_the_amount_and_shifts_add_to_it(stain: int) -> None:
    u_N4 = torch.rand(COUNT, 4, generator=torch_generator(0, 0, 0, "augment_stain")).double()
    amounts = (0.3, 0.2)
    found = augment(stained(amounts), replace(NOTHING, stain_factor=0.4, stain_shift=0.05), NOISE)
    vectors_23 = torch.nn.functional.normalize(torch.tensor(STAINS_23, dtype=torch.float64), dim=1)
    amount_N = (-found[:, :, 0, 0].log10() @ torch.linalg.pinv(vectors_23))[:, stain]
    expected_N = amounts[stain] * (1 + 0.4 * (2 * u_N4[:, stain] - 1)) + 0.05 * (2 * u_N4[:, 2 + stain] - 1)
    torch.testing.assert_close(amount_N, expected_N, atol=1e-9, rtol=0)


def test_white_stays_white_under_factors_and_black_patches_stay_finite() -> None:
    config = replace(NOTHING, stain_factor=0.5)
    white, black = (torch.full((COUNT, 3, 4, 4), value, dtype=torch.uint8) for value in (255, 0))
    assert torch.equal(augment(white, config, NOISE), torch.ones(COUNT, 3, 4, 4))
    assert augment(black, replace(config, stain_shift=0.2), NOISE).isfinite().all()


def test_blur_is_torchvisions_with_a_deviation_for_each_patch() -> None:
    largest = 1.5
    u_N = torch.rand(COUNT, 1, generator=torch_generator(0, 0, 0, "augment_blur"))[:, 0]
    found = augment(pictures(), replace(NOTHING, blur_px=largest), NOISE)
    for patch, u, after in zip(pictures() / 255, u_N.tolist(), found, strict=True):
        expected = tv.gaussian_blur(patch, [11, 11], [largest * u] * 2)  # 11 taps reach 3 x 1.5 px, rounded up
        torch.testing.assert_close(after, expected, atol=1e-5, rtol=0)


def test_blur_takes_high_frequencies_and_keeps_the_mean() -> None:
    before, after = pictures(64) / 255, augment(pictures(64), replace(NOTHING, blur_px=2.0), NOISE)
    sigma_N = 2.0 * torch.rand(COUNT, 1, generator=torch_generator(0, 0, 0, "augment_blur"))[:, 0]
    energy = [torch.fft.rfft2(x)[..., 16:48, 16:].abs().square().sum(dim=(1, 2, 3)) for x in (before, after)]
    assert (energy[1] <= energy[0] * 1.0001).all()
    assert (energy[1] < 0.1 * energy[0])[sigma_N > 0.8].sum() >= 2
    torch.testing.assert_close(after.mean(dim=(2, 3)), before.mean(dim=(2, 3)), atol=0.02, rtol=0)


def test_a_blur_wider_than_the_patch_is_cut_to_it() -> None:
    found = augment(pictures(4), replace(NOTHING, blur_px=20.0), NOISE)
    assert found.isfinite().all()
    assert found.std() < (pictures(4) / 255).std()
