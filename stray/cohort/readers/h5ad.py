"""AnnData files in the scanpy/squidpy convention.

    X, or layers["counts"]                              raw counts, spots x genes
    obs: patient, section, label                        section may be absent in a file that holds one
    obs: in_tissue                                      0 where a spot lies beside the tissue
    obs: any other column of text                       where it is constant over a section, a column of the section
    obsm["spatial"]                                     spot centres in pixels of the full-resolution picture
    uns["spatial"][LIBRARY]["images"]["hires"]          the picture, uint8 or float in 0..1
    uns["spatial"][LIBRARY]["scalefactors"]             tissue_hires_scalef: from full resolution to that picture
    uns["spatial"][LIBRARY]["metadata"]                 microns_per_pixel (of full resolution), or source_image_path

Where the file holds no picture, one beside it is taken: the one that its metadata names, or the file's own name as
.png, .jpg or .tif. Pictures and counts are read from the file only when they are needed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from stray.cohort.genes import named_genes
from stray.cohort.readers import SectionHandle
from stray.cohort.readers.h5ad_counts import find_counts, read_counts
from stray.cohort.readers.h5ad_file import (
    element,
    libraries_of,
    library_of,
    path_beside,
    picture_of,
    reading,
)
from stray.cohort.readers.h5ad_obs import array_position, constant_texts, in_tissue, labels
from stray.cohort.scale import (
    VISIUM_PITCH_UM,
    choose_microns_per_pixel,
    is_hexagonal,
    regressed_microns_per_pixel,
)
from stray.cohort.section import (
    Genes,
    Section,
    check_section,
    keep_spots,
    local_spot_name,
    plural,
)
from stray.cohort.text import clean, clean_column, shown, user_path
from stray.config.ingest import H5adSourceConfig
from stray.errors import InputError, Problem, raise_if_any

_PATIENT_COLUMNS = {"donor_id", "donor", "patient_id", "subject", "subject_id", "individual", "case_id"}
_XY = "give the spots' pixel coordinates: an array of numbers, spots x 2 (x, y)"


@dataclass(frozen=True)
class _Place:
    file: Path
    patient: str
    rows: np.ndarray
    """The section's rows of the file."""
    columns: dict[str, str]
    """The columns of obs that are one text over the section."""
    library: str | None
    """Its `library_id`; None where obs has none."""
    alone: bool
    """Whether it is the file's only section."""


class H5adReader:
    """Sections of one .h5ad file, or of all in a folder."""

    kind = "h5ad"

    def __init__(self, config: H5adSourceConfig) -> None:
        self.place = user_path(config.path)
        self._pitch_um = config.pitch_um
        self._found: dict[str, _Place] | None = None

    def sections(self) -> tuple[SectionHandle, ...]:
        handles = []
        for name, place in self._sections().items():
            with reading(place.file) as file:
                beside = path_beside(_library(file, name, place)[0], place.file)
            inputs = (
                str(place.file),
                *([str(beside)] if beside is not None and beside.exists() else []),
            )
            options = {"pitch_um": self._pitch_um}
            made = SectionHandle(
                name=name, patient=place.patient, inputs=inputs, options=options, columns=place.columns
            )
            handles.append(made)
        return tuple(handles)

    def remarks(self) -> tuple[str, ...]:
        return ()

    def genes(self, name: str) -> Genes | None:
        with reading(self._sections()[name].file) as file:
            counts = find_counts(file)
            if counts is None:
                return None
            var = element(file, counts.var)
        return named_genes(var.index, var)

    def read(self, name: str) -> Section:
        place = self._sections()[name]
        with reading(place.file) as file:
            whole = element(file, "obs")
            obs = whole.iloc[place.rows]
            found = find_counts(file)
            counts = None
            genes = self.genes(name)
            if found is not None and genes is not None:
                counts = read_counts(file, found.key, place.rows, (len(whole), len(genes.symbols)))
            xy_full = _coordinates(file, len(whole))[place.rows]
            library, note = _library(file, name, place)
            picture = picture_of(library, place.file, xy_full)
        notes = [text for text in (note, found.note if found is not None else "", *picture.warnings) if text]
        image, factor, pixel = picture.image, picture.factor, picture.microns
        image = None if image is None else replace(image, scale=factor)
        spots = tuple(local_spot_name(name, clean(spot) or "") for spot in obs.index)
        row, col, known = array_position(obs, spots)
        placed = np.asarray(np.isfinite(xy_full).all(axis=1))
        microns, warnings = self._microns_per_pixel(place.file, xy_full, placed & known, row, col, pixel)
        if row is not None and not known.all():
            notes.append(f"{plural(int((~known).sum()), 'spot')} without a position on the array: no position is kept")
            row = col = None
        section = Section(
            name=name,
            patient=place.patient,
            spots=spots,
            genes=genes,
            counts=counts,
            xy_px=xy_full * factor,
            microns_per_pixel=microns / factor,
            array_row=row,
            array_col=col,
            labels=labels(obs),
            in_tissue=in_tissue(obs, f"{place.file}: obs/in_tissue"),
            image=image,
            warnings=(*notes, *warnings),
        )
        section = keep_spots(section, placed, "no pixel coordinates")
        check_section(section, str(place.file))
        return section

    def _sections(self) -> dict[str, _Place]:
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> dict[str, _Place]:
        path = Path(self.place)
        files = sorted(path.glob("*.h5ad")) if path.is_dir() else [path]
        if not files:
            raise InputError(
                Problem(
                    self.place,
                    "holds no .h5ad file",
                    "give a .h5ad file, or a folder of them",
                )
            )
        read: list[tuple[dict[str, _Place], bool]] = []
        problems: list[Problem] = []
        for file in files:
            try:
                read.append(_sections_of(file))
            except InputError as error:
                problems += error.problems
        times = Counter(name for places, _ in read for name in places)
        found: dict[str, _Place] = {}
        for places, named in read:
            for name, place in places.items():
                # A name that obs does not give and another file has too (HEST-1k calls every library ST) says nothing.
                own = place.file.stem if not named and times[name] > 1 else name
                if own in found:
                    what = f"section {own} stands in {found[own].file} and in {place.file}"
                    remedy = 'give different sections different names in obs["section"], or leave one file out'
                    problems.append(Problem(self.place, what, remedy))
                found[own] = place
        raise_if_any(problems)
        return found

    def _microns_per_pixel(
        self,
        file: Path,
        xy_full: np.ndarray,
        placed: np.ndarray,
        row: np.ndarray | None,
        col: np.ndarray | None,
        stated: float | None,
    ) -> tuple[float, tuple[str, ...]]:
        """Micrometres per pixel of full resolution, and what to warn of."""
        regressed = None
        if row is not None and col is not None:
            pitch = self._pitch_um or (
                VISIUM_PITCH_UM if is_hexagonal(row[placed], col[placed], xy_full[placed]) else None
            )
            if pitch is not None:
                regressed = regressed_microns_per_pixel(xy_full[placed], row[placed], col[placed], pitch)
        return choose_microns_per_pixel(
            regressed,
            stated,
            str(file),
            'write it to uns["spatial"][LIBRARY]["metadata"]["microns_per_pixel"], or set the source\'s `pitch_um`',
        )


def _coordinates(file: h5py.File, n_spots: int) -> np.ndarray:
    """The spots' centres in pixels of full resolution (N, 2), NaN where one is not known. Raises InputError."""
    key = next((key for key in ("obsm/spatial", "obsm/X_spatial") if key in file), None)
    if key is None:
        raise InputError(
            Problem(str(file.filename), 'has no obsm["spatial"]', "add the spots' pixel coordinates there")
        )
    try:
        found = np.asarray(element(file, key)).astype(float)
    except (TypeError, ValueError) as error:
        raise InputError(Problem(f"{file.filename}: {key}", f"holds no numbers: {shown(error)}", _XY)) from None
    if found.ndim != 2 or found.shape[0] != n_spots or found.shape[1] < 2:
        what = f"has the shape {found.shape}, expected ({n_spots}, 2)"
        raise InputError(Problem(f"{file.filename}: {key}", what, _XY))
    return found[:, :2]


def _library(file: h5py.File, name: str, place: _Place) -> tuple[h5py.Group | None, str]:
    return library_of(libraries_of(file), (name, place.library), place.file, alone=place.alone)


def _sections_of(path: Path) -> tuple[dict[str, _Place], bool]:
    """The sections of a file, and whether they are named by obs (and not by the library or the file)."""
    with reading(path) as file:
        obs = element(file, "obs")
        libraries = list(libraries_of(file))
        if not isinstance(obs, pd.DataFrame):
            remedy = "write the file again with a current anndata: adata.write_h5ad(...)"
            raise InputError(Problem(f"{path}: obs", "is no table as anndata writes it since 0.7", remedy))
        return _places(path, obs, libraries)


def _places(path: Path, obs: pd.DataFrame, libraries: list[str]) -> tuple[dict[str, _Place], bool]:
    if "patient" not in obs:
        near = [str(name) for name in obs.columns if str(name).lower() in _PATIENT_COLUMNS]
        remedy = "add it: folds hold out whole patients, never spots"
        remedy += f" (adata.obs['patient'] = adata.obs[{near[0]!r}]?)" if near else ""
        raise InputError(Problem(str(path), "has no obs column `patient`", remedy))
    if not len(obs):
        raise InputError(Problem(str(path), "has no spot", "leave the file out"))
    named_by = next((key for key in ("section", "library_id") if key in obs), None)
    known = {key: clean_column(obs[key]) for key in ("patient", named_by) if key is not None}
    empty = [key for key, values in known.items() if any(value is None for value in values)]
    if empty:
        what = f"has spots without a value in the obs columns {', '.join(empty)}"
        raise InputError(Problem(str(path), what, "fill them, or leave these spots out"))
    alone = libraries[0] if len(libraries) == 1 else path.stem
    names = np.full(len(obs), alone, dtype=object) if named_by is None else known[named_by]
    held = clean_column(obs["library_id"]) if "library_id" in obs else np.full(len(obs), None, dtype=object)
    places, problems = {}, []
    sections = list(dict.fromkeys(names))
    for name in sections:
        rows = np.flatnonzero(names == name)
        patients = sorted(set(known["patient"][rows]))
        if len(patients) > 1:
            what = f"section {name} belongs to the patients {', '.join(patients)}"
            problems.append(Problem(str(path), what, "a section is of one patient: correct obs"))
        if len(set(held[rows])) > 1:
            what = f"section {name} has the library_ids {', '.join(map(str, dict.fromkeys(held[rows])))}"
            problems.append(Problem(str(path), what, "a section lies on one slide: correct obs, or drop `section`"))
        columns = constant_texts(obs.iloc[rows])
        places[str(name)] = _Place(path, patients[0], rows, columns, held[rows].tolist()[0], len(sections) == 1)
    raise_if_any(problems)
    return places, named_by is not None
