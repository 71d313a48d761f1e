"""A dataset as pictures: a contact sheet of patches, and each section with its spots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stray.cohort.dataset import PairedDataset, SpotTable
from stray.cohort.schema import folder_name
from stray.columns import ANNOTATED
from stray.errors import InputError, Problem
from stray.report.style import colours
from stray.report.tissue import Mosaic, contact_sheet, mosaic, section_figure

_SHEET_COLUMNS = 16
_SHEET_ROWS = 40
_PIECE = 512


def write_pictures(dataset: PairedDataset, folder: Path) -> Iterator[Path]:
    """Write `contact-sheet.png` (where there are patches) and a PNG a section into `folder`; yields each path.

    Raises InputError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sheet = _contact_sheet(dataset, folder)
        if sheet is not None:
            yield sheet
        spots = dataset.spots()
        class_colours = colours(sorted({label for label in spots.label if label is not None}))
        start = 0
        for section in dataset.manifest.sections:
            rows = np.arange(start, start + section.n_spots)
            start += section.n_spots
            here = spots.take(rows)
            picture = "" if section.has_image else ", no picture"
            path = folder / f"section-{folder_name(section.name)}.png"
            section_figure(
                f"{section.name} (patient {section.patient}{picture})",
                _xy(here),
                list(here.label),
                np.array([source not in (None, ANNOTATED) for source in here.label_source]),
                class_colours,
                _tissue(dataset, rows, here) if section.has_image else None,
                path,
            )
            yield path
    except OSError as error:
        raise InputError(Problem(str(folder), f"cannot be written: {error}", "choose another folder")) from error


def _xy(spots: SpotTable) -> np.ndarray:
    return np.stack([spots.x_um, spots.y_um], axis=1)


def _tissue(dataset: PairedDataset, rows: np.ndarray, spots: SpotTable) -> Mosaic:
    xy = _xy(spots)
    # In chunks: all patches of a large section do not fit in memory.
    pieces = ((dataset.patches(rows[i : i + _PIECE]), xy[i : i + _PIECE]) for i in range(0, len(rows), _PIECE))
    bounds = (*xy.min(axis=0).tolist(), *xy.max(axis=0).tolist())
    return mosaic(pieces, bounds, dataset.manifest.patch.size_um)


def _contact_sheet(dataset: PairedDataset, folder: Path) -> Path | None:
    """Return patches spread evenly over each pictured section."""
    sheet, start, pictured = [], 0, 0
    for section in dataset.manifest.sections:
        if section.has_image:
            pictured += 1
            if len(sheet) < _SHEET_ROWS:
                number = min(_SHEET_COLUMNS, section.n_spots)
                rows = start + np.linspace(0, section.n_spots - 1, number).round().astype(int)
                sheet.append((section.name, dataset.patches(rows)))
        start += section.n_spots
    if not sheet:
        return None
    patch = dataset.manifest.patch
    shown = "" if len(sheet) == pictured else f", {len(sheet)} of {pictured} sections"
    title = f"patches of {patch.size_um:g} um at {patch.size_px} px{shown}"
    path = folder / "contact-sheet.png"
    contact_sheet(sheet, title, path, _SHEET_COLUMNS)
    return path
