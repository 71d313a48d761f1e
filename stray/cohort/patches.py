"""Patch around a spot: a crop of a physical size, resampled to a number of pixels.

A spot whose centre lies off the picture is dropped (there is nothing to see); a crop that only sticks out over the
edge is padded with white, the colour of empty glass, so that a spot at the tissue's edge is not lost with it.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from PIL import Image

from stray.cohort.picture import GLASS

_JPEG_QUALITY = 95


def inside(xy_px: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return which spot centres (S, 2) lie on a picture of `size` (width, height); bool (S,)."""
    return np.all((xy_px >= 0) & (xy_px < np.asarray(size)), axis=1)


def crop(image: Image.Image, x: float, y: float, side: float, size_px: int) -> Image.Image:
    """Return the square of `side` pixels around (x, y), resampled to `size_px` pixels; white where it sticks out."""
    left, top = x - side / 2, y - side / 2
    box = (left, top, left + side, top + side)
    if left < 0 or top < 0 or box[2] > image.width or box[3] > image.height:
        x0, y0 = int(np.floor(left)), int(np.floor(top))
        ground = Image.new("RGB", (int(np.ceil(box[2])) - x0, int(np.ceil(box[3])) - y0), GLASS)
        seen = (
            max(x0, 0),
            max(y0, 0),
            min(x0 + ground.width, image.width),
            min(y0 + ground.height, image.height),
        )
        ground.paste(image.crop(seen), (seen[0] - x0, seen[1] - y0))
        image, box = ground, (left - x0, top - y0, left - x0 + side, top - y0 + side)
    # Lanczos widens its window with the scale, so shrinking a patch does not alias the nuclei.
    return image.resize((size_px, size_px), Image.Resampling.LANCZOS, box=box)


def tissue_fraction(patch: Image.Image) -> float:
    """Return the fraction of a patch's pixels that are stained."""
    return float(stained(np.asarray(patch)).mean())


def stained(pixels: np.ndarray) -> np.ndarray:
    """Return which pixels (h, w, 3) uint8 are coloured, and neither glass nor a black mask; bool (h, w)."""
    lightest, darkest = pixels.max(axis=2), pixels.min(axis=2)
    # Glass is grey and light, blanked fields are black; both stains are coloured.
    return (lightest.astype(np.int16) - darkest >= 20) & (lightest >= 40)


def encode(patch: Image.Image, encoding: Literal["png", "jpeg"]) -> bytes:
    """Return the patch as the bytes of a PNG or JPEG file."""
    buffer = io.BytesIO()
    if encoding == "png":
        patch.save(buffer, "PNG")
    else:
        patch.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
