"""What is read from an .h5ad file piece by piece: its elements, its entry of uns["spatial"], its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.io import read_elem
from PIL import Image

from stray.cohort.picture import check_room, from_array, open_picture
from stray.cohort.section import SectionImage
from stray.errors import InputError, Problem

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def opened(path: Path) -> h5py.File:
    """The file, open for reading. Raises InputError when it is missing or no HDF5."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        what = "is missing" if not path.exists() else f"cannot be read as HDF5: {error}"
        raise InputError(Problem(str(path), what, "check the path, or fetch the file again")) from error


def element(file: h5py.File, key: str) -> Any:
    """The element at `key` as anndata reads it. Raises InputError when it cannot."""
    try:
        stored: Any = file[key]
        return read_elem(stored)
    except Exception as error:  # anndata wraps what it meets in exceptions of many kinds
        reason = str(error).strip().split("\n")[0]
        raise InputError(Problem(f"{file.filename}: {key}", f"cannot be read: {reason}", "is it AnnData?")) from error


def library_names(file: h5py.File) -> list[str]:
    """Names of the entries of uns["spatial"]."""
    libraries: Any = file.get("uns/spatial")
    return [] if libraries is None else list(libraries)


def library_of(file: h5py.File, name: str, path: Path) -> h5py.Group | None:
    """The entry of uns["spatial"] that belongs to section `name`: by name, or the only one."""
    if "uns/spatial" not in file:
        return None
    libraries: Any = file["uns/spatial"]
    if name in libraries:
        return libraries[name]
    if len(libraries) > 1:
        what = f'uns["spatial"] holds {", ".join(libraries)} and nothing for section {name}'
        raise InputError(Problem(str(path), what, "name the entry like the section"))
    return next(iter(libraries.values()), None)


def _scalar(library: h5py.Group | None, key: str) -> Any:
    if library is None or key not in library:
        return None
    stored: Any = library[key]
    value = stored[()]
    return value.decode() if isinstance(value, bytes) else value


def _stored_key(library: h5py.Group | None) -> str | None:
    keys = [] if library is None else [key for key in ("images/hires", "images/lowres") if key in library]
    return keys[0] if keys else None


def path_beside(file: h5py.File, library: h5py.Group | None, path: Path) -> Path | None:
    """The picture's file where the .h5ad holds no picture: as its metadata says, or of the same name."""
    if _stored_key(library) is not None:
        return None
    named = _scalar(library, "metadata/source_image_path")
    if named:
        return (path.parent / str(named)).resolve()
    return next(
        (path.with_suffix(suffix) for suffix in _PICTURES if path.with_suffix(suffix).exists()),
        None,
    )


def picture_of(
    file: h5py.File, library: h5py.Group | None, path: Path
) -> tuple[SectionImage | None, float, float | None]:
    """The picture, the factor from full resolution to it, and the stated micrometres per full-resolution pixel."""
    stated = _scalar(library, "metadata/microns_per_pixel") or _scalar(library, "scalefactors/microns_per_pixel")
    microns = None if stated is None else float(stated)
    stored = _stored_key(library)
    if stored is not None and library is not None:
        key = f"{library.name}/{stored}"
        factor_key = f"scalefactors/tissue_{stored.removeprefix('images/')}_scalef"
        factor = _scalar(library, factor_key)
        if factor is None:
            raise InputError(
                Problem(
                    f"{path}: {key}",
                    f"there is no {factor_key} for this picture",
                    "add it (1.0 if unscaled)",
                )
            )
        return (
            SectionImage(place=f"{path}: {key}", load=lambda: _stored_picture(path, key)),
            float(factor),
            microns,
        )
    beside = path_beside(file, library, path)
    if beside is None:
        return None, 1.0, microns
    if not beside.exists():
        raise InputError(
            Problem(
                str(beside),
                f"the picture that {path} names is missing",
                "put it there, or drop source_image_path",
            )
        )
    return (
        SectionImage(place=str(beside), load=lambda: open_picture(str(beside))),
        1.0,
        microns,
    )


def _stored_picture(path: Path, key: str) -> Image.Image:
    place = f"{path}: {key}"
    with opened(path) as file:
        stored: Any = file[key]
        if isinstance(stored, h5py.Dataset) and stored.ndim > 1:
            # Before it is read: a file of a few bytes may declare a picture of terabytes.
            width, height = stored.shape[1], stored.shape[0]
            check_room((width, height), 8 + stored.nbytes // max(1, width * height), place)
        pixels = np.asarray(element(file, key))
    return from_array(pixels, place)
