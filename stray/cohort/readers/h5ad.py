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

import re
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from stray.cohort.genes import named_genes
from stray.cohort.readers import SectionHandle
from stray.cohort.readers.h5ad_file import (
    element,
    library_names,
    library_of,
    opened,
    path_beside,
    picture_of,
)
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
)
from stray.cohort.text import clean, clean_column
from stray.columns import SECTION_FACTS
from stray.config.ingest import H5adSourceConfig
from stray.errors import InputError, Problem, raise_if_any

_TAKEN = (*SECTION_FACTS, "label", "in_tissue")
"""Columns of obs that mean something else already (`source` is the reader)."""
_ON = {"1", "1.0", "true", "t", "yes", "y", "", "nan", "na", "none", "<na>"}
_OFF = {"0", "0.0", "false", "f", "no", "n"}
"""What stands in `in_tissue`, in lower case; a missing value says nothing against the spot."""
_ARRAY_NAME = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True)
class _Place:
    file: Path
    patient: str
    rows: np.ndarray
    """The section's rows of the file."""
    columns: dict[str, str]
    """The columns of obs that are one text over the section."""


class H5adReader:
    """Sections of one .h5ad file, or of all in a folder."""

    kind = "h5ad"

    def __init__(self, config: H5adSourceConfig) -> None:
        self.place = str(Path(config.path).expanduser().resolve())
        self._pitch_um = config.pitch_um
        self._found: dict[str, _Place] | None = None

    def sections(self) -> tuple[SectionHandle, ...]:
        handles = []
        for name, place in self._sections().items():
            with opened(place.file) as file:
                beside = path_beside(file, library_of(file, name, place.file), place.file)
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
        with opened(self._sections()[name].file) as file:
            if _counts_key(file) is None:
                return None
            var = element(file, "var")
        return named_genes(var.index, var)

    def read(self, name: str) -> Section:
        place = self._sections()[name]
        with opened(place.file) as file:
            obs = element(file, "obs").iloc[place.rows]
            key = _counts_key(file)
            counts = None if key is None else sparse.csr_matrix(element(file, key)[place.rows])
            if "obsm/spatial" not in file:
                raise InputError(
                    Problem(
                        str(place.file),
                        'has no obsm["spatial"]',
                        "add the spots' pixel coordinates there",
                    )
                )
            xy_full = np.asarray(element(file, "obsm/spatial"), dtype=float)[place.rows, :2]
            library = library_of(file, name, place.file)
            image, factor, pixel = picture_of(file, library, place.file)
        image = None if image is None else replace(image, scale=factor)
        spots = tuple(local_spot_name(name, clean(spot) or "") for spot in obs.index)
        row, col = _array_position(obs, spots)
        placed = np.asarray(np.isfinite(xy_full).all(axis=1))
        microns, warnings = self._microns_per_pixel(place.file, xy_full, placed, row, col, pixel)
        section = Section(
            name=name,
            patient=place.patient,
            spots=spots,
            genes=self.genes(name),
            counts=counts,
            xy_px=xy_full * factor,
            microns_per_pixel=microns / factor,
            array_row=row,
            array_col=col,
            labels=_labels(obs),
            in_tissue=_in_tissue(obs, f"{place.file}: obs/in_tissue"),
            image=image,
            warnings=warnings,
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
        found: dict[str, _Place] = {}
        problems = []
        for file in files:
            for name, place in _sections_of(file).items():
                if name in found:
                    what = f"section {name} stands in {found[name].file} and in {file}"
                    problems.append(
                        Problem(
                            self.place,
                            what,
                            "give the files one by one, and --prefer FILE:SECTION",
                        )
                    )
                found[name] = place
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


def _counts_key(file: h5py.File) -> str | None:
    return next((key for key in ("layers/counts", "X") if key in file), None)


def _sections_of(path: Path) -> dict[str, _Place]:
    with opened(path) as file:
        obs = element(file, "obs")
        libraries = library_names(file)
    if "patient" not in obs:
        raise InputError(
            Problem(
                str(path),
                "has no obs column `patient`",
                "add it: folds hold out whole patients, never spots",
            )
        )
    known = {key: clean_column(obs[key]) for key in ("patient", "section") if key in obs}
    empty = [key for key, values in known.items() if any(value is None for value in values)]
    if empty:
        what = f"has spots without a value in the obs columns {', '.join(empty)}"
        raise InputError(Problem(str(path), what, "fill them, or leave these spots out"))
    if "section" in obs:
        names = known["section"]
    else:
        names = np.full(len(obs), libraries[0] if len(libraries) == 1 else path.stem, dtype=object)
    places, problems = {}, []
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(names == name)
        patients = sorted(set(known["patient"][rows]))
        if len(patients) > 1:
            what = f"section {name} belongs to the patients {', '.join(patients)}"
            problems.append(Problem(str(path), what, "a section is of one patient: correct obs"))
        places[str(name)] = _Place(path, patients[0], rows, _constant_texts(obs.iloc[rows]))
    raise_if_any(problems)
    return places


def _constant_texts(obs: pd.DataFrame) -> dict[str, str]:
    """The columns of text or categories that have one value at all spots of a section, where it is no blank."""
    found = {}
    for name, column in obs.items():
        text = isinstance(column.dtype, pd.CategoricalDtype) or pd.api.types.is_string_dtype(column)
        if text and name not in _TAKEN and not column.isna().any() and column.nunique() == 1:
            value = clean(column.iloc[0])
            if value is not None:
                found[str(name)] = value
    return found


def _array_position(obs: pd.DataFrame, spots: tuple[str, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Rows and columns on the array: from obs, or from spot names such as 22x12 (column x row)."""
    if "array_row" in obs and "array_col" in obs:
        row, col = (pd.to_numeric(obs[key], errors="coerce").to_numpy(float) for key in ("array_row", "array_col"))
        known = bool(np.isfinite(row).all() and np.isfinite(col).all())
        return (row.astype(np.int32), col.astype(np.int32)) if known else (None, None)
    matches = [_ARRAY_NAME.fullmatch(spot) for spot in spots]
    pairs = [(int(match.group(2)), int(match.group(1))) for match in matches if match is not None]
    if not pairs or len(pairs) < len(matches):
        return None, None
    positions = np.array(pairs, dtype=np.int32)
    return positions[:, 0], positions[:, 1]


def _in_tissue(obs: pd.DataFrame, place: str) -> np.ndarray | None:
    """Whether spots lie on tissue, (S,) bool; a spot without a value is taken to. Raises InputError for other words."""
    if "in_tissue" not in obs:
        return None
    words = obs["in_tissue"].astype(object).map(lambda value: "" if pd.isna(value) else str(value).strip().lower())
    unknown = sorted({str(word) for word in words} - _ON - _OFF)
    if unknown:
        what = f"holds {', '.join(unknown[:5])}, where 1 (on tissue) or 0 (beside it) is expected"
        raise InputError(Problem(place, what, "write 0 and 1 there, or remove the column to keep all spots"))
    return ~words.isin(list(_OFF)).to_numpy(dtype=bool)


def _labels(obs: pd.DataFrame) -> np.ndarray | None:
    if "label" not in obs:
        return None
    return clean_column(obs["label"])
