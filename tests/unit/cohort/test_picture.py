from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stray.cohort.picture import NOTE, check_content, from_array, open_picture, to_rgb
from stray.errors import InputError
from tests.support.tiny import picture

RGB = np.asarray(picture(0, (40, 30)))
GREY = RGB[..., 0]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (RGB, RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB.astype(np.float32) / 255, RGB),
        (np.where(RGB.max() == RGB, 1.0000001, RGB / RGB.max()).astype(np.float32), RGB / RGB.max() * 255),
        (RGB.astype(np.float16) / 255, RGB),
        (RGB.astype(np.float64), RGB),
        (RGB.astype(np.int64), RGB),
        (RGB.astype(np.uint16), RGB),
        (RGB.astype(np.uint16) * 16, RGB),
        (np.moveaxis(RGB, 2, 0), RGB),
        (GREY, np.repeat(GREY[..., None], 3, axis=2)),
        (GREY[..., None], np.repeat(GREY[..., None], 3, axis=2)),
        (GREY > 100, np.repeat((GREY > 100)[..., None] * 255, 3, axis=2)),
        (np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)]), RGB),
        (np.dstack([RGB / 255, np.ones(GREY.shape)]).astype(np.float32), RGB),
    ],
    ids=[
        *("uint8", "uint16", "float 0-1", "overshoot", "float16", "float 0-255", "int64", "8 bits in 16"),
        *("12 bits in 16", "channels first", "grey", "one channel", "bool", "alpha", "float alpha"),
    ],
)
def test_an_array_is_scaled_by_what_it_is(stored: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(np.asarray(from_array(stored, "x")).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("stored", "complaint"),
    [
        ((RGB / 255).round().astype(np.uint8), "uint8 with only the values 0 and 1"),
        (RGB * 1.5, r"float64 with values from .* to [23]"),
        (RGB / 100 - 1, "with values from -"),
        (RGB / RGB.max() * 1.2, "with values from"),
        (np.where(RGB > 190, np.nan, RGB / 255), "values that are not finite"),
        (RGB.astype(np.int32) - 200, "int32 with values from -"),
        (RGB.astype(np.uint32) * 1000, "uint32 with values from"),
        (RGB.astype(complex), "a picture of complex128"),
        (RGB.astype(str), "a picture of str"),
        (RGB[..., :2], "not height x width x 3"),
        (RGB[:0], "not height x width x 3"),
        (RGB[None, :, :, :, None], "not height x width x 3"),
    ],
    ids=["0 or 1", "float 382", "negative", "1.2", "nan", "int", "uint32", "complex", "text", "2", "empty", "5-d"],
)
def test_an_array_that_is_no_picture_is_refused(stored: np.ndarray, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        from_array(stored, "x")


def test_how_a_picture_was_scaled_is_said() -> None:
    assert "12-bit integers" in from_array(RGB.astype(np.uint16) * 16, "x").info[NOTE][0]
    assert "0 to 255" in from_array(RGB.astype(np.float32), "x").info[NOTE][0]
    assert NOTE not in from_array(RGB.astype(np.uint16) * 257, "x").info


def saved(path: Path, image: Image.Image, **how: object) -> str:
    image.save(path, **how)  # type: ignore[arg-type]
    return str(path)


def test_pictures_of_every_mode_show_the_same(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    grey, many = np.repeat(GREY[..., None], 3, axis=2), tmp_path
    found = {
        "16-bit tiff": (saved(many / "a.tif", Image.fromarray(GREY.astype(np.uint16) * 257)), grey),
        "16-bit png": (saved(many / "a.png", Image.fromarray(GREY.astype(np.uint16) * 257)), grey),
        "float tiff": (saved(many / "b.tif", Image.fromarray((GREY / 255).astype(np.float32))), grey),
        "cmyk": (saved(many / "c.tif", image.convert("CMYK")), RGB),
        "alpha": (saved(many / "d.png", image.convert("RGBA")), RGB),
        "grey alpha": (saved(many / "e.png", Image.fromarray(GREY).convert("LA")), grey),
        "palette": (saved(many / "f.png", image.quantize(256)), RGB),
        "grey": (saved(many / "g.png", Image.fromarray(GREY)), grey),
    }
    for name, (path, expected) in found.items():
        apart = np.abs(np.asarray(open_picture(path)).astype(int) - expected)
        assert apart.mean() < (6 if name == "palette" else 1), name
    one_bit = open_picture(saved(many / "h.tif", Image.fromarray(GREY > 100)))
    np.testing.assert_array_equal(np.asarray(one_bit)[..., 0] == 255, GREY > 100)


def test_a_turned_photograph_is_set_upright_and_that_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", Image.fromarray(np.rot90(RGB)), exif=exif)
    found = open_picture(path)
    np.testing.assert_array_equal(np.asarray(found), RGB)
    assert found.info[NOTE] == ("its EXIF orientation (6) was applied",)


def test_of_several_pages_the_largest_is_taken_and_equals_are_refused(tmp_path: Path) -> None:
    small, large = (Image.fromarray(RGB).resize(size) for size in ((20, 15), (80, 60)))
    pyramid = saved(tmp_path / "a.tif", small, save_all=True, append_images=[large, small.resize((10, 8))])
    assert open_picture(pyramid).size == (80, 60)
    for name, other in (("stack.tif", large.rotate(90)), ("animation.gif", large.rotate(180))):
        path = saved(tmp_path / name, large, save_all=True, append_images=[other])
        with pytest.raises(InputError, match="holds 2 pages or frames, several of 80 x 60 pixels"):
            open_picture(path)


def test_transparency_becomes_glass() -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert np.asarray(to_rgb(clear)).min() == 255


def test_a_large_picture_is_no_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 64 x 64 is more than twice that: PIL would refuse
    assert open_picture(str(tmp_path / "large.png")).size == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 100


def declares(path: Path, width: int, height: int) -> str:
    """A PNG of a few bytes that declares this size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data, b"IEND")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return str(path)


def test_a_picture_that_declares_more_than_the_memory_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: the picture declares 2,000,000 x 2,000,000 pixels"):
        open_picture(declares(tmp_path / "a.png", 2_000_000, 2_000_000))
    with pytest.raises(InputError, match=r"b\.png: the picture cannot be decoded"):
        open_picture(declares(tmp_path / "b.png", 100, 100))


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for name, complaint in (
        ("fifo.png", "is a device, pipe or socket"),
        ("folder.png", "is a folder"),
        ("link.png", "is missing"),
        ("none.png", "is missing"),
        ("nul\0.png", "cannot be opened: embedded null byte"),
    ):
        with pytest.raises(InputError, match=complaint):
            open_picture(str(tmp_path / name))
    with pytest.raises(InputError, match="is a device"):
        open_picture("/dev/zero")


@pytest.mark.parametrize("form", ["jpg", "png", "tif", "webp", "gif", "bmp", "jp2"])
def test_a_damaged_picture_of_any_kind_is_named(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"cut.{form}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for kept in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=rf"cut\.{form}: the picture cannot be decoded"):
            open_picture(str(path))


def test_scripts_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match=r"a\.png: the picture cannot be decoded"):
        open_picture(str(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("colour", "complaint"),
    [((0, 0, 0), "is black"), ((9, 4, 8), "is black"), ((252, 251, 255), "is white"), ((200, 150, 180), "is blank")],
)
def test_a_picture_that_shows_nothing_is_refused(colour: tuple[int, int, int], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check_content(Image.new("RGB", (2000, 1500), colour), "x")
    with pytest.raises(InputError, match=r"\(1 x 1 pixels\)"):
        check_content(Image.new("RGB", (1, 1), colour), "x")


@pytest.mark.parametrize("ground", [0, 245])
def test_little_tissue_on_a_large_ground_is_no_blank_picture(ground: int) -> None:
    pixels = np.full((1500, 2000, 3), ground, np.uint8)
    pixels[700:780, 900:980] = (180, 90, 150)
    check_content(Image.fromarray(pixels), "x")
