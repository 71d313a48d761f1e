from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stray.cohort.patches import crop, encode, inside, tissue_fraction


def test_a_crop_of_the_stored_size_is_the_picture_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    patch = crop(Image.fromarray(pixels), 20, 16, 12, 12)
    np.testing.assert_array_equal(np.asarray(patch), pixels[10:22, 14:26])


def test_a_shrunk_crop_averages_and_does_not_sample() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    patch = np.asarray(crop(Image.fromarray(stripes), 32, 32, 48, 12))
    assert abs(int(patch.mean()) - 127) <= 2
    assert np.ptp(patch.astype(int)) < 30  # nearest-neighbour sampling would give 255


def test_what_sticks_out_is_white() -> None:
    patch = np.asarray(crop(Image.new("RGB", (30, 30), (200, 0, 0)), 0, 29, 10, 10))
    assert (patch[:, :5] == 255).all()
    assert (patch[6:] == 255).all()
    assert (patch[:6, 5:] == (200, 0, 0)).all()


def test_centres_on_the_far_edge_are_outside() -> None:
    xy = np.array([[0, 0], [29.5, 9.5], [30, 5], [5, 10], [-0.1, 5]])
    assert inside(xy, (30, 10)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("colour", "fraction"),
    [((255, 255, 255), 0.0), ((225, 220, 222), 0.0), ((0, 0, 0), 0.0), ((180, 90, 150), 1.0), ((70, 50, 120), 1.0)],
    ids=["glass", "grey glass", "black mask", "eosin", "haematoxylin"],
)
def test_tissue_is_what_is_stained(colour: tuple[int, int, int], fraction: float) -> None:
    assert tissue_fraction(Image.new("RGB", (8, 8), colour)) == fraction


def test_png_loses_nothing_and_jpeg_little() -> None:
    patch = Image.fromarray(np.random.default_rng(0).integers(90, 110, (16, 16, 3), dtype=np.uint8))
    stored = {form: np.asarray(Image.open(io.BytesIO(encode(patch, form)))) for form in ("png", "jpeg")}
    np.testing.assert_array_equal(stored["png"], np.asarray(patch))
    assert np.abs(stored["jpeg"].astype(int) - np.asarray(patch)).mean() < 4


def test_memory_stays_near_the_decoded_picture(tmp_path: Path) -> None:
    path = tmp_path / "section.jpg"
    Image.new("RGB", (9270, 9910), (200, 150, 180)).save(path)
    # Not ru_maxrss: a child begins with that of the process that forked it, and this one may be large by now.
    program = (
        "import sys\n"
        "from stray.cohort.patches import crop\n"
        "from stray.cohort.picture import open_picture\n"
        "image = open_picture(sys.argv[1])\n"
        "for x in range(0, 9270, 500): crop(image, x, x, 297, 64)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    decoded_kib = 9270 * 9910 * 3 / 1024
    assert int(done.stdout) < 3 * decoded_kib  # 0.85 GB; measured 0.4 GB
