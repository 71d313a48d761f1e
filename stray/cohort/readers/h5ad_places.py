"""Assignment of an .h5ad file's rows to sections: by obs, else by the library or the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stray.cohort.readers.h5ad_obs import array_position, constant_texts
from stray.cohort.text import clean, clean_column
from stray.errors import InputError, Problem, raise_if_any

_PATIENT_COLUMNS = {"donor_id", "donor", "patient_id", "subject", "subject_id", "individual", "case_id"}
_SECTION_COLUMNS = ("batch", "sample", "sample_id", "slide", "slide_id", "library", "dataset", "section_id")
_PLACES, _SHARED = 8, 0.1
"""Spots are from several arrays if they have at least so many positions and more than this fraction share theirs."""


@dataclass(frozen=True)
class Place:
    """Place of a section in a file."""

    name: str
    """Name by obs, the library or the file; the section may be renamed if another file uses this name."""
    file: Path
    patient: str
    rows: np.ndarray
    """The section's rows of the file."""
    columns: dict[str, str]
    """Columns of obs with one text value over the section."""
    library: str | None
    """Its `library_id`; None where obs has none."""
    alone: bool
    """Whether it is the file's only section."""
    named: bool
    """Whether obs names it."""
    pictures: tuple[str, ...] = ()
    """Paths of its picture outside the file."""


def places_of(path: Path, obs: pd.DataFrame, libraries: list[str]) -> dict[str, Place]:
    """Return the sections of a file by name. Raises InputError with all that is wrong with how obs tells them apart."""
    if "patient" not in obs:
        near = [str(name) for name in obs.columns if str(name).lower() in _PATIENT_COLUMNS]
        remedy = "add it: folds hold out whole patients, never spots"
        remedy += f" (adata.obs['patient'] = adata.obs[{near[0]!r}]?)" if near else ""
        raise InputError(Problem(str(path), "has no obs column `patient`", remedy))
    if not len(obs):
        raise InputError(Problem(str(path), "has no spot", "leave the file out"))
    nameless = sum(clean(spot) is None for spot in obs.index)
    if nameless:
        what = f"has {nameless} spots without a name"
        raise InputError(Problem(f"{path}: obs", what, "name them (adata.obs_names), or leave them out"))
    named_by = next((key for key in ("section", "library_id") if key in obs), None)
    known = {key: clean_column(obs[key]) for key in ("patient", named_by) if key is not None}
    empty = [key for key, values in known.items() if any(value is None for value in values)]
    if empty:
        what = f"has spots without a value in the obs columns {', '.join(empty)}"
        raise InputError(Problem(str(path), what, "fill them, or leave these spots out"))
    if named_by is None:
        _check_one(path, obs, libraries, known["patient"])
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
            problems.append(Problem(str(path), what, "a section belongs to one patient: correct obs"))
        if len(set(held[rows])) > 1:
            what = f"section {name} has the library_ids {', '.join(map(str, dict.fromkeys(held[rows])))}"
            problems.append(Problem(str(path), what, "a section is on one slide: correct obs, or drop `section`"))
        places[str(name)] = Place(
            name=str(name),
            file=path,
            patient=patients[0],
            rows=rows,
            columns=constant_texts(obs.iloc[rows]),
            library=held[rows].tolist()[0],
            alone=len(sections) == 1,
            named=named_by is not None,
        )
    raise_if_any(problems)
    return places


def _check_one(path: Path, obs: pd.DataFrame, libraries: list[str], patients: np.ndarray) -> None:
    """Raise InputError where a file whose sections obs does not name holds more than one."""
    row, col, known = array_position(obs, tuple(map(str, obs.index)))
    shared = 0
    if row is not None and col is not None:
        places, times = np.unique(np.stack([row, col])[:, known], axis=1, return_counts=True)
        shared = int(times[times > 1].sum()) if places.shape[1] >= _PLACES else 0
    if len(libraries) > 1:
        what = f'holds {len(libraries)} entries of uns["spatial"] ({", ".join(libraries[:5])})'
    elif len(found := sorted(set(patients))) > 1:
        what = f"holds spots of the patients {', '.join(found[:5])}"
    elif shared > _SHARED * len(obs):
        what = f"holds {shared} spots whose array position another spot has too"
    else:
        return
    near = next((str(name) for name in obs.columns if str(name).lower() in _SECTION_COLUMNS), None)
    remedy = "name each spot's section in obs['section']" + (
        f" (adata.obs['section'] = adata.obs[{near!r}]?)" if near else ""
    )
    raise InputError(Problem(str(path), f"{what} and does not name its sections", remedy))
