"""Drawing the tissue of one section: amounts of haematoxylin and eosin at every pixel.

Each class is drawn by what a pathologist knows it by: nests of large pale nuclei between septa (cancer), rings of
nuclei around a lumen (glands), wavy fibres with spindle nuclei (connective tissue), empty cells with thin walls
(adipose tissue), sheets of small dark nuclei (immune infiltrate). The continuous latents bend these within a class:
cellularity sets how dense and how large nuclei are, fibrosis how much collagen there is.

Legend: Y, X pixels of the section image; "amount" is optical density of a unit dye, about 0 to 1.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from stray.cohort.synthetic.canvas import Canvas, prepare
from stray.cohort.synthetic.fields import SmoothField
from stray.cohort.synthetic.glands import draw_glands
from stray.cohort.synthetic.layout import ADIPOSE, CANCER, CLASSES, CONNECTIVE, GLANDS, IMMUNE, Layout
from stray.cohort.synthetic.nuclei import Nuclei, draw_nuclei, stamp_nuclei

_FAT_CELL_UM = 50.0
_FAT_WALL_UM = 1.1
_NEST_UM = 85.0


def draw_tissue(
    seed: int, patient: int, section: int, layout: Layout, microns_per_pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the amounts of haematoxylin and eosin over the section's image, each (Y, X) float32."""
    canvas = prepare(seed, patient, section, layout, microns_per_pixel)
    haematoxylin, eosin, septa, gap = _ground(canvas)
    walls = _draw_fat(canvas)
    eosin = np.maximum(eosin, walls)
    nuclei = Nuclei.join(
        [
            _cancer_nuclei(canvas, np.clip(septa + gap, 0.0, 1.0)),
            _spindle_nuclei(canvas, septa),
            *_immune_nuclei(canvas),
            _fat_nuclei(canvas, walls),
        ]
    )
    nuclei = draw_glands(canvas, nuclei, haematoxylin, eosin)
    stain, cover = stamp_nuclei(nuclei, eosin.shape, microns_per_pixel, canvas.rng)
    eosin *= 1.0 - 0.4 * cover
    haematoxylin = np.maximum(haematoxylin, stain)
    inside = layout.tissue.on_grid(canvas.x_um, canvas.y_um)
    # Sections are thicker here and thinner there, and their border takes up more dye.
    thickness = np.exp(0.14 * SmoothField.draw(canvas.rng, 180.0).on_grid(canvas.x_um, canvas.y_um))
    thickness *= canvas.cover(inside) * (1.0 + 0.25 * np.exp(-np.maximum(inside, 0.0) / 8.0))
    return haematoxylin * thickness, eosin * thickness


def _ground(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw the ground between the nuclei: haematoxylin, eosin, septa through the cancer and clefts beside them."""
    soft = [
        gaussian_filter((canvas.region == k).astype(np.float32), 3.0 / canvas.microns_per_pixel)
        for k in range(len(CLASSES))
    ]
    grain = gaussian_filter(canvas.rng.standard_normal(canvas.region.shape, dtype=np.float32), 1.0)
    grain *= 0.12 / grain.std()
    # Where there is little collagen the tissue is oedematous: its fibres stand apart and glass shows between them.
    apart = 1.0 / (1.0 + np.exp(1.0 + 1.6 * canvas.fibrosis))
    fibre = np.clip((canvas.fibre - 0.55 * apart) / (1.0 - 0.75 * apart), 0.0, 1.0)
    collagen = 0.40 * np.exp(0.18 * canvas.fibrosis) * (0.35 * (1.0 - apart) + 0.75 * fibre)
    septa, gap = np.zeros_like(collagen), np.zeros_like(collagen)
    chosen = canvas.region == CANCER
    if chosen.any():
        septa[chosen], gap[chosen] = _between_nests(canvas, canvas.pixels_of(chosen), canvas.fibrosis[chosen])
    eosin = soft[CONNECTIVE] * collagen
    eosin += soft[GLANDS] * 0.75 * collagen
    eosin += soft[CANCER] * (septa * collagen + (1.0 - septa) * 0.27) * (1.0 - 0.9 * gap)
    eosin += soft[IMMUNE] * (0.10 + 0.30 * collagen)
    eosin += soft[ADIPOSE] * 0.015
    haematoxylin = soft[CANCER] * (1.0 - septa) * (1.0 - 0.9 * gap) * 0.11
    haematoxylin += soft[IMMUNE] * 0.07 + soft[CONNECTIVE] * 0.02
    texture = np.maximum(1.0 + grain, 0.0)
    return haematoxylin * texture, eosin * texture, septa, gap


def _between_nests(canvas: Canvas, xy: np.ndarray, fibrosis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the amount of septum, and of the cleft beside it, at points (N, 2) of the cancer, each (N,)."""
    wave = [SmoothField.draw(canvas.rng, 25.0) for _ in range(2)]
    moves = [canvas.sample(field.on_grid(canvas.x_um, canvas.y_um), xy) for field in wave]
    bent = xy + 9.0 * np.stack(moves, axis=1)
    distance, _ = KDTree(canvas.scatter(_NEST_UM, None)).query(bent, k=2)
    half_width = 5.0 * np.exp(0.5 * fibrosis)
    inside = (distance[:, 1] - distance[:, 0]) / 2
    # Nests shrink away from their septa when tissue is fixed, more in one place than in another.
    shrunk = SmoothField.draw(canvas.rng, 90.0).on_grid(canvas.x_um, canvas.y_um)
    cleft = 5.0 * np.clip(canvas.sample(shrunk, xy) - 0.2, 0.0, 1.5)
    septum = canvas.cover(half_width - inside)
    return septum, canvas.cover(half_width + cleft - inside) - septum


def _draw_fat(canvas: Canvas) -> np.ndarray:
    """Draw the eosin of the walls of fat cells."""
    walls = np.zeros(canvas.region.shape, dtype=np.float32)
    chosen = canvas.region == ADIPOSE
    if chosen.any():
        cells = canvas.scatter(_FAT_CELL_UM * canvas.fat_scale, None, jitter=0.3)
        distance, _ = KDTree(cells).query(canvas.pixels_of(chosen), k=3)
        wall = canvas.cover(
            _FAT_WALL_UM * np.exp(0.3 * canvas.fibrosis[chosen]) - (distance[:, 1] - distance[:, 0]) / 2
        )
        corner = canvas.cover(3.0 - (distance[:, 2] - distance[:, 0]) / 2)  # where three cells meet
        walls[chosen] = 0.36 * np.maximum(wall, corner)
    return walls


def _cancer_nuclei(canvas: Canvas, between: np.ndarray) -> Nuclei:
    points = canvas.scatter(11.5, CANCER, jitter=0.3)
    share = np.clip(0.72 * np.exp(0.22 * canvas.sample(canvas.cellularity, points)), 0, 1)
    points = canvas.thin(points, (1.0 - canvas.sample(between, points)) * share)
    cellularity = canvas.sample(canvas.cellularity, points)
    radius = 4.5 * canvas.nucleus_scale * np.exp(0.08 * cellularity)
    return draw_nuclei(canvas.rng, points, radius_um=radius, spread=0.22, aspect=(1.0, 1.7), stain=0.52, grain=0.55)


def _spindle_nuclei(canvas: Canvas, septa: np.ndarray) -> Nuclei:
    """Return fibroblasts: in connective tissue, between glands, and in the septa of the cancer."""
    points = canvas.scatter(16.0, None)
    region = canvas.sample(canvas.region, points)
    share = np.select([region == CONNECTIVE, region == GLANDS], [0.42, 0.40], 0.0)
    share = np.where(region == CANCER, canvas.sample(septa, points) * 0.6, share)
    points = canvas.thin(points, np.clip(share * np.exp(0.35 * canvas.sample(canvas.cellularity, points)), 0, 1))
    angle = canvas.along_fibres(points) + canvas.rng.normal(0.0, 0.25, len(points))
    radius = 2.7 * canvas.nucleus_scale
    return draw_nuclei(
        canvas.rng, points, radius_um=radius, spread=0.15, aspect=(2.5, 6.0), stain=0.62, grain=0.2, angle=angle
    )


def _immune_nuclei(canvas: Canvas) -> list[Nuclei]:
    """Return sheets of lymphocytes with some larger, paler cells, and a few lymphocytes everywhere."""
    points = canvas.scatter(8.2, IMMUNE, jitter=0.3)
    share = np.clip(0.66 * np.exp(0.22 * canvas.sample(canvas.cellularity, points)), 0, 1)
    points = canvas.thin(points, share)
    pale = canvas.rng.random(len(points)) < 0.12
    strays = canvas.scatter(24.0, None)
    elsewhere = np.select([canvas.sample(canvas.region, strays) == k for k in (IMMUNE, ADIPOSE)], [0.0, 0.05], 0.16)
    strays = canvas.thin(strays, elsewhere)
    small = np.concatenate([points[~pale], strays])
    scale = canvas.nucleus_scale
    return [
        draw_nuclei(canvas.rng, small, radius_um=2.9 * scale, spread=0.1, aspect=(1, 1.2), stain=0.82, grain=0.25),
        draw_nuclei(
            canvas.rng, points[pale], radius_um=4.0 * scale, spread=0.15, aspect=(1, 1.4), stain=0.5, grain=0.4
        ),
    ]


def _fat_nuclei(canvas: Canvas, walls: np.ndarray) -> Nuclei:
    points = canvas.scatter(12.0, ADIPOSE, jitter=0.5)
    on_wall = canvas.sample(walls, points) > 0.2
    share = np.clip(0.3 * np.exp(0.5 * canvas.sample(canvas.cellularity, points)), 0, 1)
    points = canvas.thin(points, on_wall * share)
    return draw_nuclei(canvas.rng, points, radius_um=2.2, spread=0.15, aspect=(1.5, 3.0), stain=0.6, grain=0.2)
