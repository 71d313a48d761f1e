"""Drawing the tissue of one section: amounts of haematoxylin and eosin at every pixel.

Each class is drawn by what a pathologist knows it by: nests of large pale nuclei between septa (cancer), rings of nuclei around a
lumen (glands), wavy fibres with spindle nuclei (connective tissue), empty cells with thin walls (adipose tissue), sheets of small dark nuclei
(immune infiltrate). The continuous latents bend these within a class: cellularity sets how dense and how large nuclei are, fibrosis how much
collagen there is.

Legend: Y, X pixels of the section image; "amount" is optical density of a unit dye, about 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree

from stray.cohort.synthetic.fields import SmoothField, generator, jittered_points, spread_normals
from stray.cohort.synthetic.layout import ADIPOSE, CANCER, CONNECTIVE, GLANDS, IMMUNE, Layout
from stray.cohort.synthetic.nuclei import Nuclei, draw_nuclei, stamp_nuclei

_GLAND_SPACING_UM = 70.0
_GLAND_RADIUS_UM = 25.0
_EPITHELIUM_UM = 12.0
_FAT_CELL_UM = 50.0
_FAT_WALL_UM = 1.1
_NEST_UM = 85.0


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """What every drawing step looks at. Fields are (Y, X) float32 unless stated."""

    layout: Layout
    rng: np.random.Generator
    microns_per_pixel: float
    x_um: np.ndarray
    """Middle of each pixel column, (X,)."""
    y_um: np.ndarray
    """Middle of each pixel row, (Y,)."""
    region: np.ndarray
    """Class of each pixel, (Y, X) int8."""
    cellularity: np.ndarray
    fibrosis: np.ndarray
    fibre: np.ndarray
    """Collagen fibres, 0 between and 1 on them."""
    fibre_direction: SmoothField
    fibre_slope: np.ndarray
    nucleus_scale: float
    """The patient's own factor on the radius of nuclei."""
    fat_scale: float
    """The patient's own factor on the size of fat cells."""

    def cover(self, inside_um: np.ndarray) -> np.ndarray:
        """Share of a pixel on the inner side of a border that lies `inside_um` away: anti-aliasing."""
        return np.clip(inside_um / self.microns_per_pixel + 0.5, 0.0, 1.0).astype(np.float32)

    def pixels_of(self, chosen: np.ndarray) -> np.ndarray:
        """Positions of the pixels of a mask (Y, X), (N, 2) micrometres."""
        row, column = np.nonzero(chosen)
        return np.stack([self.x_um[column], self.y_um[row]], axis=1)

    def sample(self, grid: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Values of a grid (Y, X) at points (N, 2), nearest pixel; points outside take the border's."""
        column = np.clip((xy[:, 0] / self.microns_per_pixel).astype(int), 0, grid.shape[1] - 1)
        row = np.clip((xy[:, 1] / self.microns_per_pixel).astype(int), 0, grid.shape[0] - 1)
        return grid[row, column]

    def scatter(self, spacing_um: float, region: int | None, jitter: float = 0.35) -> np.ndarray:
        """Points `spacing_um` apart in the pixels of one class (everywhere, when None), (N, 2)."""
        points = jittered_points(self.rng, self.layout.width_um, self.layout.height_um, spacing_um, jitter)
        return points if region is None else points[self.sample(self.region, points) == region]

    def thin(self, points: np.ndarray, share: np.ndarray | float) -> np.ndarray:
        """Each point with probability `share`."""
        return points[self.rng.random(len(points)) < share]

    def along_fibres(self, xy: np.ndarray) -> np.ndarray:
        """Direction of the fibres at points, radians (N,): at right angles to the gradient that makes them."""
        step = 1.0
        gradient = [
            slope + 55.0 * (self.fibre_direction.at(xy + move) - self.fibre_direction.at(xy - move)) / (2 * step)
            for slope, move in zip(self.fibre_slope, np.eye(2) * step, strict=True)
        ]
        return np.arctan2(gradient[1], gradient[0]) + np.pi / 2


def draw_tissue(
    seed: int, patient: int, section: int, layout: Layout, microns_per_pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Amounts of haematoxylin and eosin over the section's image, each (Y, X) float32."""
    canvas = _prepare(seed, patient, section, layout, microns_per_pixel)
    haematoxylin, eosin, septa, gap = _ground(canvas)
    walls = _draw_fat(canvas)
    eosin = np.maximum(eosin, walls)
    nuclei = [_cancer_nuclei(canvas, np.clip(septa + gap, 0.0, 1.0)), _spindle_nuclei(canvas, septa), *_immune_nuclei(canvas)]
    nuclei += [_fat_nuclei(canvas, walls)]
    nuclei = [_drop_from_glands(canvas, nuclei, haematoxylin, eosin)]
    stain, cover = stamp_nuclei(Nuclei.join(nuclei), eosin.shape, microns_per_pixel, canvas.rng)
    eosin *= 1.0 - 0.4 * cover
    haematoxylin = np.maximum(haematoxylin, stain)
    inside = layout.tissue.on_grid(canvas.x_um, canvas.y_um)
    # Sections are thicker here and thinner there, and their border takes up more dye.
    thickness = np.exp(0.14 * SmoothField.draw(canvas.rng, 180.0).on_grid(canvas.x_um, canvas.y_um))
    thickness *= canvas.cover(inside) * (1.0 + 0.25 * np.exp(-np.maximum(inside, 0.0) / 8.0))
    return haematoxylin * thickness, eosin * thickness


def _prepare(seed: int, patient: int, section: int, layout: Layout, microns_per_pixel: float) -> _Canvas:
    rng = generator(seed, "tissue", patient, section)
    x_um = (np.arange(int(np.ceil(layout.width_um / microns_per_pixel))) + 0.5) * microns_per_pixel
    y_um = (np.arange(int(np.ceil(layout.height_um / microns_per_pixel))) + 0.5) * microns_per_pixel
    own = spread_normals(seed, "morphology", patient, 3)
    # Fibres are the level lines of a slanted, wavy surface: parallel, wavy, never crossing.
    direction = SmoothField.draw(rng, 95.0)
    angle = rng.uniform(0.0, 2 * np.pi)
    slope = np.array([np.cos(angle), np.sin(angle)])
    height = 55.0 * direction.on_grid(x_um, y_um)
    height += (slope[0] * x_um[None, :] + slope[1] * y_um[:, None]).astype(np.float32)
    fibre = np.zeros_like(height)
    for width_um, weight in ((26.0, 0.30), (12.0, 0.40), (6.5, 0.30)):
        width_um *= float(np.exp(0.10 * own[2]))
        turns = height / np.float32(width_um) + 0.35 * SmoothField.draw(rng, 2.0 * width_um).on_grid(x_um, y_um)
        fibre += np.float32(weight) * (0.5 + 0.5 * np.cos(np.float32(2 * np.pi) * turns))
    latents = [field.on_grid(x_um, y_um) for field in layout.latent_fields]
    return _Canvas(
        layout=layout,
        rng=rng,
        microns_per_pixel=microns_per_pixel,
        x_um=x_um,
        y_um=y_um,
        region=layout.regions.on_grid(x_um, y_um),
        cellularity=latents[0],
        fibrosis=latents[1],
        fibre=fibre,
        fibre_direction=direction,
        fibre_slope=slope,
        nucleus_scale=float(np.exp(0.06 * own[0])),
        fat_scale=float(np.exp(0.10 * own[1])),
    )


def _ground(canvas: _Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What lies between the nuclei: haematoxylin, eosin, septa through the cancer and clefts beside them."""
    soft = [gaussian_filter((canvas.region == k).astype(np.float32), 3.0 / canvas.microns_per_pixel) for k in range(5)]
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
    haematoxylin = soft[CANCER] * (1.0 - septa) * (1.0 - 0.9 * gap) * 0.11 + soft[IMMUNE] * 0.07 + soft[CONNECTIVE] * 0.02
    texture = np.maximum(1.0 + grain, 0.0)
    return haematoxylin * texture, eosin * texture, septa, gap


def _between_nests(canvas: _Canvas, xy: np.ndarray, fibrosis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of a septum, and of a cleft beside it, there is at points (N, 2) of the cancer, each (N,)."""
    wave = [SmoothField.draw(canvas.rng, 25.0) for _ in range(2)]
    row_um, column_um = canvas.y_um, canvas.x_um
    bent = xy + 9.0 * np.stack([canvas.sample(field.on_grid(column_um, row_um), xy) for field in wave], axis=1)
    distance, _ = cKDTree(canvas.scatter(_NEST_UM, None)).query(bent, k=2)
    half_width = 5.0 * np.exp(0.5 * fibrosis)
    inside = (distance[:, 1] - distance[:, 0]) / 2
    # Nests shrink away from their septa when tissue is fixed, more in one place than in another.
    shrunk = SmoothField.draw(canvas.rng, 90.0).on_grid(column_um, row_um)
    cleft = 5.0 * np.clip(canvas.sample(shrunk, xy) - 0.2, 0.0, 1.5)
    septum = canvas.cover(half_width - inside)
    return septum, canvas.cover(half_width + cleft - inside) - septum


def _draw_fat(canvas: _Canvas) -> np.ndarray:
    """Eosin of the walls of fat cells."""
    walls = np.zeros(canvas.region.shape, dtype=np.float32)
    chosen = canvas.region == ADIPOSE
    if chosen.any():
        cells = canvas.scatter(_FAT_CELL_UM * canvas.fat_scale, None, jitter=0.3)
        distance, _ = cKDTree(cells).query(canvas.pixels_of(chosen), k=3)
        wall = canvas.cover(
            _FAT_WALL_UM * np.exp(0.3 * canvas.fibrosis[chosen]) - (distance[:, 1] - distance[:, 0]) / 2
        )
        corner = canvas.cover(3.0 - (distance[:, 2] - distance[:, 0]) / 2)  # where three cells meet
        walls[chosen] = 0.36 * np.maximum(wall, corner)
    return walls


def _cancer_nuclei(canvas: _Canvas, between: np.ndarray) -> Nuclei:
    points = canvas.scatter(11.5, CANCER, jitter=0.3)
    cellularity = canvas.sample(canvas.cellularity, points)
    points = canvas.thin(
        points, (1.0 - canvas.sample(between, points)) * np.clip(0.72 * np.exp(0.22 * cellularity), 0, 1)
    )
    cellularity = canvas.sample(canvas.cellularity, points)
    radius = 4.5 * canvas.nucleus_scale * np.exp(0.08 * cellularity)
    return draw_nuclei(canvas.rng, points, radius_um=radius, spread=0.22, aspect=(1.0, 1.7), stain=0.52, grain=0.55)


def _spindle_nuclei(canvas: _Canvas, septa: np.ndarray) -> Nuclei:
    """Fibroblasts: in connective tissue, between glands, and in the septa of the cancer."""
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


def _immune_nuclei(canvas: _Canvas) -> list[Nuclei]:
    """Sheets of lymphocytes with some larger, paler cells, and a few lymphocytes everywhere."""
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


def _fat_nuclei(canvas: _Canvas, walls: np.ndarray) -> Nuclei:
    points = canvas.scatter(12.0, ADIPOSE, jitter=0.5)
    on_wall = canvas.sample(walls, points) > 0.2
    share = np.clip(0.3 * np.exp(0.5 * canvas.sample(canvas.cellularity, points)), 0, 1)
    points = canvas.thin(points, on_wall * share)
    return draw_nuclei(canvas.rng, points, radius_um=2.2, spread=0.15, aspect=(1.5, 3.0), stain=0.6, grain=0.2)


def _drop_from_glands(canvas: _Canvas, groups: list[Nuclei], haematoxylin: np.ndarray, eosin: np.ndarray) -> Nuclei:
    """Draw the glands into the dyes; all nuclei of `groups` outside them, with those of the glands."""
    nuclei = Nuclei.join(groups)
    rng = canvas.rng
    centers = canvas.scatter(_GLAND_SPACING_UM, GLANDS, jitter=0.16)
    if not len(centers):
        return nuclei
    n = len(centers)
    size = _GLAND_RADIUS_UM * np.exp(0.10 * canvas.sample(canvas.cellularity, centers) + rng.normal(0.0, 0.13, n))
    wave = rng.uniform(0.0, 0.08, (n, 2))
    phase = rng.uniform(0.0, 2 * np.pi, (n, 2))
    secretion = 0.34 * rng.random(n) ** 1.5  # what the lumen holds stains with eosin

    def border(gland: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Distance from a gland's centre to its border in direction `theta`, micrometres."""
        bumps = wave[gland, 0] * np.cos(2 * theta + phase[gland, 0]) + wave[gland, 1] * np.cos(
            3 * theta + phase[gland, 1]
        )
        return size[gland] * (1.0 + bumps)

    tree = cKDTree(centers)
    # A gland's centre lies in its region, but the gland may reach over the border.
    near = distance_transform_edt(canvas.region != GLANDS) * canvas.microns_per_pixel < 1.4 * _GLAND_RADIUS_UM
    xy = canvas.pixels_of(near)
    radius, gland = tree.query(xy)
    away = xy - centers[gland]
    edge = border(gland, np.arctan2(away[:, 1], away[:, 0]))
    body = canvas.cover(edge - radius)
    lumen = canvas.cover(edge - _EPITHELIUM_UM - radius)
    haematoxylin[near] = haematoxylin[near] * (1 - body) + 0.10 * (body - lumen)
    eosin[near] = eosin[near] * (1 - body) + 0.30 * (body - lumen) + secretion[gland] * lumen

    radius, gland = tree.query(nuclei.xy)
    away = nuclei.xy - centers[gland]
    outside = radius > border(gland, np.arctan2(away[:, 1], away[:, 0])) + 1.5
    kept = Nuclei(
        xy=nuclei.xy[outside],
        radius=nuclei.radius[outside],
        angle=nuclei.angle[outside],
        stain=nuclei.stain[outside],
        grain=nuclei.grain[outside],
    )
    # One nucleus every 6.5 micrometres around the ring; slots beyond a gland's own number stay empty.
    slots = np.arange(48)
    number = np.clip(2 * np.pi * (size - 0.6 * _EPITHELIUM_UM) / 6.5, 5, 48).astype(int)
    gland, slot = np.nonzero(slots[None, :] < number[:, None])
    theta = 2 * np.pi * (slot + rng.uniform(-0.25, 0.25, len(slot))) / number[gland]
    depth = _EPITHELIUM_UM * rng.uniform(0.38, 0.62, len(slot))
    ring = np.maximum(border(gland, theta) - depth, 1.0)
    at = centers[gland] + ring[:, None] * np.stack([np.cos(theta), np.sin(theta)], axis=1)
    radius_um = 3.1 * canvas.nucleus_scale
    rings = draw_nuclei(rng, at, radius_um=radius_um, spread=0.1, aspect=(1.1, 1.8), stain=0.66, grain=0.3, angle=theta)
    return Nuclei.join([kept, rings])
