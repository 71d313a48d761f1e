"""Conversion of any picture to 8-bit RGB: scaled by its value range, or refused. Nothing is clipped silently."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stray.cohort.text import irregular
from stray.errors import InputError, Problem

GLASS = (255, 255, 255)
NOTE = "stray"
"""Key of `Image.info` under which the remarks on how a picture was read stand, a tuple of sentences."""
FORMATS = ("PNG", "JPEG", "TIFF", "JPEG2000", "WEBP", "BMP", "PPM", "GIF")
"""Formats that are decoded. Others are left out on purpose: PIL hands EPS files to Ghostscript."""
_STEP = 1 / 255
_DEPTHS = (8, 10, 12, 14, 16)
_ORIENTATION = 0x0112
_FORMS = "store 8-bit RGB (uint8 from 0 to 255), uint16, or floats from 0 to 1"
_bomb_lock = threading.Lock()


@contextmanager
def any_size() -> Iterator[None]:
    """Let PIL open pictures of any size: a section of 100 million pixels is not a decompression bomb."""
    with _bomb_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def open_picture(path: str) -> Image.Image:
    """Decode the picture at `path` to RGB.

    Raises InputError when it is missing, no regular file, truncated, no picture, several pictures, or declares more
    pixels than the free memory holds.
    """
    check_file(path)
    try:
        with any_size(), warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            _choose_frame(image, path)
            check_room(image.size, 4 if image.mode == "RGB" else 12, path)
            image.load()
            turn = image.getexif().get(_ORIENTATION, 1)
            if turn != 1:
                ImageOps.exif_transpose(image, in_place=True)
            found = to_rgb(image, path)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            Problem(
                path,
                f"the picture cannot be decoded: {what}",
                "fetch the file again if it is damaged or cut short; stray reads " + ", ".join(FORMATS),
            )
        ) from error
    return _noted(found, f"its EXIF orientation ({turn}) was applied") if turn not in (0, 1) else found


def picture_size(path: str) -> tuple[int, int]:
    """Return width and height of the picture at `path` without decoding it. Raises InputError as `open_picture`."""
    check_file(path)
    try:
        with any_size(), Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception as error:
        what = f"the picture cannot be decoded: {str(error).strip().splitlines()[0] if str(error) else error!r}"
        raise InputError(Problem(path, what, "fetch the file again if it is damaged")) from error


def to_rgb(image: Image.Image, place: str = "picture") -> Image.Image:
    """Return `image` as RGB; transparent pixels become glass (white). Raises InputError when it has no colours."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return _checked(image.copy() if image.readonly else image, place)
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        return from_array(np.asarray(image), place)
    try:
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
            layered = image.convert(straight).convert("RGBA")
            ground = Image.new("RGB", image.size, GLASS)
            ground.paste(layered, mask=layered.getchannel("A"))
            return _checked(ground, place)
        return _checked(image.convert("RGB"), place)
    except ValueError as error:
        what = f"is a picture in the mode {image.mode}: {error}"
        raise InputError(Problem(place, what, "convert it to 8-bit RGB")) from None


def from_array(pixels: np.ndarray, place: str) -> Image.Image:
    """Return an array (height, width[, 1, 3 or 4 channels], or channels first) as RGB.

    Booleans become black and white; integers are scaled by the least of 8, 10, 12, 14 and 16 bits that holds them;
    floats are from 0 to 1 or from 0 to 255. Raises InputError for anything else.
    """
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, 2)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if not (pixels.size and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4)))):
        what = f"is an array of shape {pixels.shape}, not height x width x 3"
        raise InputError(Problem(place, what, "store the picture as height x width x 3"))
    top, note = _top(pixels, place)
    if pixels.dtype != np.uint8:
        factor = 255 / top
        # Row by row: the whole picture in float would take four to eight times its size.
        lines = [(line * np.float64(factor)).round().clip(0, 255).astype(np.uint8) for line in pixels]
        pixels = np.stack(lines)
    image = to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), place)
    return _noted(image, note) if note else image


def check_content(image: Image.Image, place: str) -> None:
    """Raise InputError when a picture shows nothing: black, white, or of one colour."""
    small = thumbnail(image)
    lightest, darkest = small.max(axis=2), small.min(axis=2)
    spread = np.percentile(small, 99.9, axis=(0, 1)) - np.percentile(small, 0.1, axis=(0, 1))
    if np.percentile(lightest, 99.9) < 20:
        what = f"the picture is black: its largest value is {lightest.max()} of 255"
    elif np.percentile(darkest, 0.1) > 240:
        what = "the picture is white: it shows nothing, or is transparent throughout"
    elif spread.max() < 8:
        what = f"the picture is blank: every pixel has the colour {tuple(small[0, 0].tolist())}"
    else:
        return
    what = f"{what} ({image.width} x {image.height} pixels)"
    raise InputError(
        Problem(
            place, what, "give the section's own picture, or remove this one: the section is then used without pictures"
        )
    )


def thumbnail(image: Image.Image, side: int = 1024) -> np.ndarray:
    """Return an RGB picture reduced by a whole factor to about `side` pixels, uint8 (h, w, 3)."""
    return np.asarray(image.reduce(reduction(image, side)))


def reduction(image: Image.Image, side: int = 1024) -> int:
    """Return the factor by which `thumbnail` reduces."""
    return max(1, max(image.size) // side)


def check_room(size: tuple[int, int], bytes_per_pixel: int, place: str) -> None:
    """Raise InputError when a picture of `size` (width, height) does not fit into the free memory."""
    needed, free = size[0] * size[1] * bytes_per_pixel, free_memory()
    if needed > free:
        what = (
            f"the picture declares {size[0]:,} x {size[1]:,} pixels: {needed / 2**30:,.1f} GiB to decode, "
            f"{free / 2**30:,.1f} GiB of memory are free"
        )
        raise InputError(Problem(place, what, "give a smaller picture (and its scale factor), or more memory"))


def free_memory() -> int:
    """Return the free memory in bytes of this machine or of the process's container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    with suppress(OSError, ValueError):
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return free


def check_file(path: str) -> None:
    """Raise InputError unless `path` is a regular file."""
    what = irregular(Path(path))
    if what:
        raise InputError(Problem(path, f"the picture {what}", "give a picture file, or remove the reference to it"))


def _choose_frame(image: Image.Image, path: str) -> None:
    """Select the largest page, as in the pyramid of a slide. Raises InputError when several pages are equally large."""
    pages = getattr(image, "n_frames", 1)
    if pages == 1:
        return
    sizes = [image.size]
    for page in range(1, pages):
        image.seek(page)
        if image.size == sizes[0]:
            sizes = [image.size, image.size]
            break
        sizes.append(image.size)
    areas = [width * height for width, height in sizes]
    if areas.count(max(areas)) > 1:
        what = f"holds {pages} pages or frames, several of {sizes[0][0]} x {sizes[0][1]} pixels"
        raise InputError(Problem(path, what, "save the page that shows the section in RGB as a separate file"))
    image.seek(areas.index(max(areas)))


def _top(pixels: np.ndarray, place: str) -> tuple[float, str]:
    """Return the value of full light (white), and a note on how it was chosen."""
    kind, name = pixels.dtype.kind, pixels.dtype.name
    if kind == "b":
        return 1, ""
    if kind not in "uif":
        raise InputError(Problem(place, f"is a picture of {name}", _FORMS))
    low, high = pixels.min(), pixels.max()
    held = f"is a picture of {name} with values from {low:g} to {high:g}"
    if kind == "f":
        if not np.isfinite([low, high]).all():
            what = f"is a picture of {name} with {int((~np.isfinite(pixels)).sum()):,} values that are not finite"
            raise InputError(Problem(place, what, _FORMS))
        # Resampling and rounding overshoot a little: by less than half of an 8-bit step nothing shows.
        if low >= -_STEP / 2 and high <= 1 + _STEP / 2:
            return 1, ""
        if low >= -0.5 and 16 <= high <= 255.5:
            return 255, f"its largest {name} value is {high:g}: values were read as 0 to 255"
        raise InputError(Problem(place, held, _FORMS))
    if low < 0 or high >= 2 ** _DEPTHS[-1]:
        raise InputError(Problem(place, held, _FORMS))
    if high == 1:
        raise InputError(Problem(place, f"is a picture of {name} with only the values 0 and 1", _MASK))
    bits = next(bits for bits in _DEPTHS if high < 2**bits)
    note = f"its largest {name} value is {high}: values were read as {bits}-bit integers"
    return 2**bits - 1, note if bits < 8 * pixels.dtype.itemsize else ""


_MASK = "a mask is not a picture; multiply a float picture from 0 to 1 by 255 before converting it to integers"


def _checked(image: Image.Image, place: str) -> Image.Image:
    if max(high for _, high in image.getextrema()) == 1:  # type: ignore[misc]  # of RGB: a pair a channel
        raise InputError(Problem(place, "is a picture with only the values 0 and 1", _MASK))
    return image


def _noted(image: Image.Image, note: str) -> Image.Image:
    image.info[NOTE] = (*image.info.get(NOTE, ()), note)
    return image
