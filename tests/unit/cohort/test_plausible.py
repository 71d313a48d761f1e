from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stray.cohort.patches import crop, inside, tissue_fraction
from stray.cohort.plausible import WARNING, orientation, tissue
from stray.cohort.section import Section, SectionImage, keep_spots
from stray.config.ingest import PatchConfig

PATCH = PatchConfig(size_um=20.0, size_px=16)
SIZE = (400, 300)


def picture(ground: int = 240) -> Image.Image:
    """Stained tissue in the shape of an L, which no turn and no mirror maps to itself."""
    pixels = np.full((SIZE[1], SIZE[0], 3), ground, np.uint8)
    pixels[40:240, 50:120] = pixels[160:240, 50:330] = (180, 90, 150)
    return Image.fromarray(pixels)


def section(image: Image.Image, scale: float = 1.0) -> Section:
    """Spots all over the tissue, 10 pixels apart, 1 um a pixel."""
    row, col = (axis.ravel() for axis in np.meshgrid(np.arange(30), np.arange(40), indexing="ij"))
    x, y = 10 * col + 5, 10 * row + 5
    on = (np.asarray(picture())[y, x] == (180, 90, 150)).all(axis=1)
    return Section(
        name="A1",
        patient="A",
        spots=tuple(f"{a}x{b}" for a, b in zip(col[on], row[on], strict=True)),
        xy_px=np.stack([x[on], y[on]], axis=1).astype(float),
        microns_per_pixel=1.0,
        array_row=row[on],
        array_col=col[on],
        image=SectionImage(place="A1.png", load=lambda: image, scale=scale),
    )


def remarks(of: Section, image: Image.Image) -> tuple[str, ...]:
    """As the ingest makes them."""
    on = inside(of.xy_px, image.size)
    kept = keep_spots(of, on, "off")
    fraction = np.array([tissue_fraction(crop(image, x, y, 20.0, 16)) for x, y in kept.xy_px])
    return (*orientation(kept), *tissue(kept, image, PATCH, fraction, int((~on).sum())))


@pytest.mark.parametrize("ground", [240, 0], ids=["glass", "black mask"])
def test_spots_on_tissue_are_not_remarked_on(ground: int) -> None:
    image = picture(ground)
    assert remarks(section(image), image) == ()


def test_swapped_axes_are_named_by_the_tissue_and_by_the_array() -> None:
    image = picture()
    made = section(image)
    mirror, bare = remarks(replace(made, xy_px=made.xy_px[:, ::-1].copy()), image)
    assert mirror.startswith(f"{WARNING}its array is mirrored on the picture: x and y of its spots")
    assert bare.startswith(WARNING)
    assert "x and y seem to be swapped: exchanged, 0.0% would" in bare


def test_coordinates_that_were_scaled_already_are_named() -> None:
    image = picture()
    made = section(image, scale=0.5)
    (bare,) = remarks(replace(made, xy_px=made.xy_px * 0.5), image)
    assert "seem to contain the scale factor 0.5 already: without it, 0.0% would" in bare
    made = section(image)
    (bare,) = remarks(replace(made, xy_px=made.xy_px / 1.25**3), image)
    assert "seem to be of a smaller picture: times 2, 0.0% would" in bare


@pytest.mark.parametrize(
    ("turn", "named"),
    [
        (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored from left to right"),
        (Image.Transpose.FLIP_TOP_BOTTOM, "mirrored from top to bottom"),
        (Image.Transpose.ROTATE_180, "upside down"),
    ],
)
def test_a_turned_picture_is_named(turn: Image.Transpose, named: str) -> None:
    image = picture().transpose(turn)
    (bare,) = remarks(section(image), image)
    assert named in bare


def test_another_sections_picture_has_its_causes_listed() -> None:
    pixels = np.full((SIZE[1], SIZE[0], 3), 240, np.uint8)
    pixels[100:130, 100:130] = (180, 90, 150)
    image = Image.fromarray(pixels)
    (bare,) = remarks(section(image), image)
    assert bare.startswith(WARNING)
    assert "likely causes: another section's picture" in bare


def test_a_few_bare_patches_are_a_note_and_one_in_a_hundred_is_nothing() -> None:
    image = picture()
    made = section(image)
    far = made.xy_px.copy()
    for bare, said in ((3, 0), (9, 1), (15, 1)):
        far[:bare] = (380, 20)
        found = [remark for remark in remarks(replace(made, xy_px=far), image) if "show no tissue" in remark]
        assert len(found) == said
        assert all(remark.startswith(WARNING) == (bare / len(far) > 0.05) for remark in found)


def test_spots_off_the_picture_show_no_tissue_either() -> None:
    image = picture()
    made = section(image)
    far = made.xy_px.copy()
    far[:9] = (5000, 20)
    assert f"9 of {len(far)} spots ({9 / len(far):.1%}) show no tissue, 9 of them off the picture" in remarks(
        replace(made, xy_px=far), image
    )


def test_spots_that_are_kept_beside_the_tissue_are_not_counted() -> None:
    image = picture()
    made = section(image)
    far, on = made.xy_px.copy(), np.ones(len(made.spots), dtype=bool)
    far[:50], on[:50] = (380, 20), False
    found = remarks(replace(made, xy_px=far, in_tissue=on, array_row=None, array_col=None), image)
    assert found == ()


def test_of_a_grey_picture_it_is_said_that_nothing_was_checked() -> None:
    image = picture().convert("L").convert("RGB")
    (said,) = remarks(section(image), image)
    assert "its picture is grey" in said
