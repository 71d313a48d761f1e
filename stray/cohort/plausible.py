"""Plausibility checks of patches: on tissue, not mirrored, and not upsampled too far."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from stray.cohort.patches import inside, stained
from stray.cohort.picture import reduction, thumbnail
from stray.cohort.scale import array_steps
from stray.cohort.section import Section
from stray.config.ingest import PatchConfig
from stray.errors import InputError, Problem

WARNING = "warning: "
"""Prefix of a warning on a section whose patches are most likely wrong."""
BARE = 0.05
"""A patch that is stained over a smaller share shows no tissue. Patches of HER2ST, fat included, are above 0.3."""
_NOTED, _WARNED = 0.01, 0.05
_ENLARGED = 2.0
_GROWTH = 1.25
_FEWEST_PAIRS = 20


def check_frame(section: Section, on_picture: np.ndarray, size: tuple[int, int], place: str) -> None:
    """Raise InputError when most spots of a section lie outside its picture of `size`: their frames differ."""
    if on_picture.mean() > 0.5:
        return
    low, high = section.xy_px.min(axis=0), section.xy_px.max(axis=0)
    larger = float((high / size).max())
    hint = "give coordinates in pixels of this picture"
    if inside(section.xy_px[:, ::-1], size).all():
        hint = "x and y seem to be swapped"
    elif larger > 1 and (low < high / 2).all() and (low >= 0).all():
        hint = f"they belong to a picture about {larger:.2g} times as large: give that picture, or its scale factor"
    raise InputError(
        Problem(
            place,
            f"{int((~on_picture).sum())} of {len(on_picture)} spots of section {section.name} lie outside the picture: "
            f"x from {low[0]:.6g} to {high[0]:.6g} and y from {low[1]:.6g} to {high[1]:.6g} "
            f"on {size[0]} x {size[1]} pixels",
            hint,
        )
    )


def same_slide(section: Section, other: Section) -> bool:
    """Return whether two sections of one name can be one slide: their total counts correlate at shared spots."""
    if section.counts is None or other.counts is None:
        return True
    total, other_total = (
        dict(zip(one.spots, np.asarray(one.counts.sum(axis=1)).ravel().tolist(), strict=True))  # pyright: ignore[reportOptionalMemberAccess]
        for one in (section, other)
    )
    both = [spot for spot in total if spot in other_total]
    pairs = np.array([(total[spot], other_total[spot]) for spot in both], dtype=float)
    if len(pairs) < _FEWEST_PAIRS or (np.ptp(pairs, axis=0) == 0).any():
        return True
    return float(np.corrcoef(pairs.T)[0, 1]) > 0.5


def check_patch_size(section: Section, size: tuple[int, int], patch: PatchConfig, place: str) -> None:
    """Raise InputError when a patch is a point of the picture of `size` pixels, or far larger than the picture."""
    side = patch.size_um / section.microns_per_pixel
    if not 2 <= side <= 2 * max(size):
        what = (
            f"a patch of {patch.size_um:g} um is {side:.3g} pixels of this picture of {size[0]} x {size[1]}, "
            f"at {section.microns_per_pixel:.4g} um per pixel"
        )
        raise InputError(Problem(place, what, "correct the micrometres per pixel, or `ingest.patch.size_um`"))


def enlargement(section: Section, patch: PatchConfig) -> tuple[str, ...]:
    """Return warnings about patches that are upsampled from fewer pixels of the picture."""
    side = patch.size_um / section.microns_per_pixel
    if round(side) >= patch.size_px:
        return ()
    shown = f"{patch.size_um:g} um are {side:.1f} pixels of this picture, the patch has {patch.size_px}"
    times = patch.size_px / side
    if times <= _ENLARGED:
        return (f"its patches are upsampled: {shown}",)
    remedies = ["give the picture at full resolution"]
    if side >= 8:
        remedies.append(f"take patches of {round(side)} pixels (--patch-px {round(side)})")
    remedies.append(f"take larger ones (--patch-um {math.ceil(round(patch.size_px * section.microns_per_pixel, 6))})")
    return (f"{WARNING}its patches are upsampled {times:.1f} times: {shown}; {', or '.join(remedies)}",)


def orientation(section: Section) -> tuple[str, ...]:
    """Return warnings about an array whose rows and columns are mirrored on the picture."""
    if section.array_row is None or section.array_col is None:
        return ()
    steps = array_steps(section.xy_px, section.array_row, section.array_col)
    if steps is None or np.linalg.det(steps) >= 0:
        return ()
    (right, _), (_, down) = np.abs(steps)
    (_, turned_col), (turned_row, _) = np.abs(steps)
    swapped = turned_col + turned_row > right + down
    cause = "x and y of its spots are probably swapped" if swapped else "the picture or its coordinates are mirrored"
    return (
        f"{WARNING}its array is mirrored on the picture: {cause}, or the array's rows and columns are; "
        "look at some patches before training",
    )


def tissue(section: Section, image: Image.Image, patch: PatchConfig, fraction: np.ndarray, off: int) -> tuple[str, ...]:
    """Return warnings about spots on glass: `fraction` is the stained fraction of each patch, `off` the spots off the
    picture.
    """
    small = thumbnail(image).astype(np.int16)
    if np.percentile(small.max(axis=2) - small.min(axis=2), 99.9) < 20:
        return (
            "its picture is grey: tissue is detected by colour, so it was not checked whether the spots lie on tissue",
        )
    if section.in_tissue is not None:
        fraction = fraction[section.in_tissue]  # spots kept off the tissue are expected to show none
    bare, spots = int((fraction < BARE).sum()), len(fraction) + off
    share = (bare + off) / max(1, spots)
    if share <= _NOTED:
        return ()
    off_picture = f", {off} of them off the picture" if off else ""
    said = f"{bare + off} of {spots} spots ({share:.1%}) show no tissue{off_picture}"
    if share <= _WARNED:
        return (said,)
    return (f"{WARNING}{said}; {_cause(section, image, patch, share)}",)


def _cause(section: Section, image: Image.Image, patch: PatchConfig, share: float) -> str:
    """Return the change of the coordinates that would bring the spots onto tissue, or else the likely causes."""
    factor = reduction(image)
    side = max(1, round(patch.size_um / section.microns_per_pixel / factor))
    stained_HW = uniform_filter(stained(thumbnail(image)).astype(np.float32), side, mode="constant")
    size = np.array(image.size)

    def bare(xy: np.ndarray) -> float:
        on = inside(xy, image.size)
        x, y = np.minimum(xy[on] // factor, np.array(stained_HW.shape)[::-1] - 1).astype(int).T
        return 1 - float((stained_HW[y, x] >= BARE).sum()) / len(xy)

    xy = section.xy_px
    changes = [("x and y seem to be swapped: exchanged,", xy[:, ::-1])]
    scale = 1.0 if section.image is None else section.image.scale
    if scale != 1:
        held = f"the coordinates seem to contain the scale factor {scale:g} already: without it,"
        changes += [(held, xy / scale), (f"x and y seem to be swapped, and {held}", xy[:, ::-1] / scale)]
    changes += [
        ("the picture seems to be mirrored from left to right: undone,", xy * (-1, 1) + (size[0] - 1, 0)),
        ("the picture seems to be mirrored from top to bottom: undone,", xy * (1, -1) + (0, size[1] - 1)),
        ("the picture seems to be upside down: turned,", size - 1 - xy),
        ("the picture seems to be turned by 90 degrees: turned back,", xy[:, ::-1] * (1, -1) + (0, size[1] - 1)),
        ("the picture seems to be turned by 90 degrees: turned back,", xy[:, ::-1] * (-1, 1) + (size[0] - 1, 0)),
    ]
    # Only larger factors: coordinates that shrink into one corner of the tissue fit any picture.
    times = _GROWTH ** np.arange(1, 1 + math.log(max(1.0, float((size / xy.max(axis=0)).min())), _GROWTH))
    changes += [(f"the coordinates seem to be of a smaller picture: times {k:.2g},", xy * k) for k in times]
    left = [bare(changed) for _, changed in changes]
    # Take the first of those that fit about as well as the best: `changes` are in the order of their frequency.
    best = next(i for i, part in enumerate(left) if part <= min(left) + _NOTED)
    if left[best] <= max(_NOTED, share / 4):
        other = ", or it is another section's" if changes[best][0].startswith("the picture") else ""
        return f"{changes[best][0]} {left[best]:.1%} would{other}"
    return (
        "likely causes: another section's picture, swapped x and y, coordinates that are already scaled, "
        "or spots beside the tissue (obs column in_tissue)"
    )
