"""AnnData files in the scanpy/squidpy convention.

    X, or layers["counts"]                              raw counts, spots x genes
    obs: patient, section, label                        section may be absent in a file that holds one
    obs: in_tissue                                      0 where a spot lies beside the tissue
    obs: any other column of text                       where it is constant over a section, a column of the section
    obsm["spatial"]                                     spot centres in pixels of the full-resolution picture
    uns["spatial"][LIBRARY]["images"]["hires"]          the picture, uint8 or float in 0..1
    uns["spatial"][LIBRARY]["scalefactors"]             tissue_hires_scalef: from full resolution to that picture
    uns["spatial"][LIBRARY]["metadata"]                 microns_per_pixel (of full resolution), or source_image_path

Without a picture in the file, one beside it is used: the one named by its metadata, or the file's own name as
.png, .jpg or .tif. Pictures and counts are read from the file only when they are needed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from stray.cohort.readers import SectionHandle
from stray.cohort.readers.h5ad_counts import check_layout, find_counts, read_counts
from stray.cohort.readers.h5ad_file import element, libraries_of, library_of, picture_of, reading
from stray.cohort.readers.h5ad_obs import (
    array_position,
    check_spread,
    coordinates,
    genes_of,
    in_tissue,
    labels,
)
from stray.cohort.readers.h5ad_places import Place, places_of
from stray.cohort.scale import (
    VISIUM_PITCH_UM,
    choose_microns_per_pixel,
    is_hexagonal,
    regressed_microns_per_pixel,
)
from stray.cohort.section import (
    Genes,
    Section,
    SectionImage,
    check_section,
    keep_spots,
    local_spot_name,
    plural,
)
from stray.cohort.text import clean, user_path
from stray.config.ingest import H5adSourceConfig
from stray.errors import InputError, Problem, raise_if_any


@dataclass(frozen=True)
class _Frame:
    """Positions of a section's spots, on the array and on its picture; everything but counts and labels."""

    spots: tuple[str, ...]
    placed: np.ndarray
    """Which spots have coordinates."""
    xy_px: np.ndarray
    row: np.ndarray | None
    col: np.ndarray | None
    microns_per_pixel: float
    image: SectionImage | None
    notes: tuple[str, ...]


class H5adReader:
    """Sections of one .h5ad file, or of all in a folder."""

    kind = "h5ad"

    def __init__(self, config: H5adSourceConfig) -> None:
        self.place = user_path(config.path)
        self._pitch_um = config.pitch_um
        self._found: dict[str, Place] | None = None

    def sections(self) -> tuple[SectionHandle, ...]:
        options = {"pitch_um": self._pitch_um}
        return tuple(
            SectionHandle(
                name=name,
                patient=place.patient,
                inputs=(str(place.file), *place.pictures),
                options=options,
                columns=place.columns,
                second_name="" if place.named else place.file.stem,
            )
            for name, place in self._sections().items()
        )

    def remarks(self) -> tuple[str, ...]:
        hidden = [file.name for file in _files(Path(self.place)) if _is_hidden(file)]
        if not hidden:
            return ()
        return (f"{plural(len(hidden), 'file')} with a leading dot left out, such as {hidden[0]}",)

    def genes(self, name: str) -> Genes | None:
        with reading(self._place(name).file) as file:
            found = find_counts(file)
            return None if found is None else genes_of(file, found)

    def read(self, name: str) -> Section:
        place = self._place(name)
        with reading(place.file) as file:
            whole = element(file, "obs")
            obs = whole.iloc[place.rows]
            frame = self._frame(file, whole, place, name)
            found = find_counts(file)
            genes, counts = None, None
            notes = frame.notes
            if found is not None:
                genes = genes_of(file, found)
                counts = read_counts(file, found.key, place.rows, (len(whole), len(genes.symbols)))
                notes = (*notes, *filter(None, [found.note]))
            else:
                notes = (*notes, "the file has no matrix of counts")
            section = Section(
                name=name,
                patient=place.patient,
                spots=frame.spots,
                source_names=tuple(map(str, obs.index)),
                genes=genes,
                counts=counts,
                xy_px=frame.xy_px,
                microns_per_pixel=frame.microns_per_pixel,
                array_row=frame.row,
                array_col=frame.col,
                labels=labels(obs),
                in_tissue=in_tissue(obs, f"{place.file}: obs/in_tissue"),
                image=frame.image,
                warnings=notes,
            )
        section = keep_spots(section, frame.placed, "no pixel coordinates")
        check_section(section, str(place.file))
        return section

    def _place(self, name: str) -> Place:
        found = self._sections()
        return found[name] if name in found else next(place for place in found.values() if place.file.stem == name)

    def _sections(self) -> dict[str, Place]:
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> dict[str, Place]:
        path = Path(self.place)
        files = [file for file in _files(path) if not _is_hidden(file)]
        if not files:
            remedy = "give a .h5ad file, or a folder of them"
            raise InputError(Problem(self.place, "holds no .h5ad file", remedy))
        read: list[dict[str, Place]] = []
        problems: list[Problem] = []
        for file in files:
            try:
                read.append(self._sections_of(file))
            except InputError as error:
                problems += error.problems
        times = Counter(name for places in read for name in places)
        found: dict[str, Place] = {}
        for places in read:
            for name, place in places.items():
                # A name not from obs that another file has too is not informative (HEST-1k calls every library ST).
                own = place.file.stem if not place.named and times[name] > 1 else name
                if own in found:
                    what = f"section {own} is in both {found[own].file} and {place.file}"
                    remedy = 'give different sections different names in obs["section"], or leave one file out'
                    problems.append(Problem(self.place, what, remedy))
                found[own] = place
        raise_if_any(problems)
        return found

    def _sections_of(self, path: Path) -> dict[str, Place]:
        """Return the sections of a file. Raises InputError with every problem except those of count values."""
        with reading(path) as file:
            obs = element(file, "obs")
            if not isinstance(obs, pd.DataFrame):
                remedy = "write the file again with a current anndata: adata.write_h5ad(...)"
                raise InputError(Problem(f"{path}: obs", "is not a table as anndata 0.7 or newer writes it", remedy))
            places = places_of(path, obs, list(libraries_of(file)))
            problems: list[Problem] = []
            made = {}
            for name, place in places.items():
                try:
                    in_tissue(obs.iloc[place.rows], f"{path}: obs/in_tissue")
                    frame = self._frame(file, obs, place, name)
                except InputError as error:
                    problems += [problem for problem in error.problems if problem not in problems]
                    continue
                beside = frame.image is not None and Path(frame.image.place).exists()
                made[name] = replace(place, pictures=(frame.image.place,) if beside and frame.image else ())
            found = find_counts(file)
            if found is not None:
                try:
                    genes = genes_of(file, found)
                    check_layout(file, found.key, (len(obs), len(genes.symbols)))
                except InputError as error:
                    problems += error.problems
            raise_if_any(problems)
            return made

    def _frame(self, file: h5py.File, whole: pd.DataFrame, place: Place, name: str) -> _Frame:
        xy_full, note = coordinates(file, len(whole))
        xy_full, obs = xy_full[place.rows], whole.iloc[place.rows]
        library, unclear = library_of(libraries_of(file), (place.name, place.library), place.file, alone=place.alone)
        picture = picture_of(library, place.file, xy_full, alone=place.alone)
        spots = tuple(local_spot_name(name, clean(spot) or "") for spot in obs.index)
        row, col, known = array_position(obs, spots)
        placed = np.asarray(np.isfinite(xy_full).all(axis=1))
        check_spread(xy_full[placed], name, f"{file.filename}: obsm/spatial")
        reasons = [
            unclear,
            *(warning for warning in picture.warnings if "microns_per_pixel" in warning or "/metadata" in warning),
        ]
        microns, warnings = self._microns_per_pixel(
            place.file, xy_full, placed & known, row, col, picture.microns, "; ".join(filter(None, reasons))
        )
        lost = ""
        if row is None and "array_row" in obs and "array_col" in obs:
            lost = "array_row and array_col hold no array positions and are not used"
        elif row is not None and not known.all():
            lost = f"{plural(int((~known).sum()), 'spot')} without an array position: no positions are kept"
            row = col = None
        image = None if picture.image is None else replace(picture.image, scale=picture.factor)
        notes = tuple(filter(None, (note, unclear, *picture.warnings, lost, *warnings)))
        return _Frame(spots, placed, xy_full * picture.factor, row, col, microns / picture.factor, image, notes)

    def _microns_per_pixel(
        self,
        file: Path,
        xy_full: np.ndarray,
        placed: np.ndarray,
        row: np.ndarray | None,
        col: np.ndarray | None,
        stated: float | None,
        reason: str,
    ) -> tuple[float, tuple[str, ...]]:
        """Return micrometres per pixel of full resolution, and what to warn of."""
        regressed = None
        if row is not None and col is not None:
            pitch = self._pitch_um or (
                VISIUM_PITCH_UM if is_hexagonal(row[placed], col[placed], xy_full[placed]) else None
            )
            if pitch is not None:
                regressed = regressed_microns_per_pixel(xy_full[placed], row[placed], col[placed], pitch)
        remedy = 'write it to uns["spatial"][LIBRARY]["metadata"]["microns_per_pixel"], or set the source\'s `pitch_um`'
        return choose_microns_per_pixel(regressed, stated, str(file), remedy, reason)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.h5ad")) if path.is_dir() else [path]


def _is_hidden(file: Path) -> bool:
    """Return whether a file is a `._NAME` companion, which macOS leaves beside every NAME on other file systems."""
    return file.name.startswith(".")
