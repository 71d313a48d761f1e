"""Elements of an .h5ad file, read piece by piece: matrices, its entry of uns["spatial"], its picture."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from anndata.io import read_elem
from PIL import Image

from stray.cohort.patches import inside
from stray.cohort.picture import check_file, check_room, free_memory, from_array, open_picture, picture_size
from stray.cohort.readers import reading_file
from stray.cohort.section import SectionImage
from stray.cohort.text import irregular, shown
from stray.errors import InputError, Problem

_NUMBER = re.compile(
    r"([+]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?:um|\u00b5m|\u03bcm|microns?)?(?:\s*(?:/|per)\s*(?:px|pixel))?"
)
_LEAST, _MOST = 1e-4, 1e4
"""Plausible range of pixel sizes in um and of scale factors; values outside are ignored."""
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_TEXT_BYTES = 100
"""Memory in bytes that one string takes in Python."""
_AGAIN = "write the file again with a current anndata: adata.write_h5ad(...)"


def opened(path: Path) -> h5py.File:
    """Open the file for reading. Raises InputError when it is missing or not HDF5."""
    what = irregular(path)
    if not what:
        try:
            return h5py.File(path, "r")
        except (OSError, ValueError) as error:
            what = f"cannot be read as HDF5: {error}"
    raise InputError(Problem(str(path), what, "check the path, or fetch the file again"))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open the file; an error inside the block becomes an InputError that names the file."""
    with opened(path) as file, reading_file(str(path), _AGAIN + ", or fetch it again"):
        _check_self_contained(file)
        yield file


def _check_self_contained(file: h5py.File) -> None:
    """Raise InputError if a link or data set is dangling or leaves the file: reading a pipe would block."""

    def visit(name: str, link: Any) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"{name} is a link to another file, {shown(link.filename)}"
        if isinstance(link, h5py.SoftLink):
            try:
                file[name]
            except (KeyError, OSError, RuntimeError):
                return f"{name} is a link to {shown(link.path)}, which does not exist"
        return None

    def look(name: str, stored: Any) -> str | None:
        if isinstance(stored, h5py.Dataset) and (stored.is_virtual or stored.external):
            return f"the values of {name} are stored in other files"
        return None

    what = file.visititems_links(visit) or file.visititems(look)
    if what is not None:
        raise InputError(Problem(str(file.filename), what, f"store everything in the file: {_AGAIN}"))


def element(file: h5py.File, key: str) -> Any:
    """Return the element at `key` as anndata reads it. Raises InputError when it cannot."""
    place = f"{file.filename}: {key}"
    with reading_file(place, _AGAIN):
        stored: Any = file[key]
        needed, free = _declared_bytes(stored), free_memory()
        if needed > free:
            what = f"declares {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB of memory are free"
            raise InputError(Problem(place, what, f"{_AGAIN}, or use a machine with more memory"))
        return read_elem(stored)


def _declared_bytes(stored: Any) -> int:
    """Return the memory that an element takes when it is read, from the sizes that it declares."""
    if isinstance(stored, h5py.Dataset):
        text = h5py.check_string_dtype(stored.dtype) is not None
        return int(stored.size or 0) * max(stored.dtype.itemsize, _TEXT_BYTES if text else 1)
    found: list[int] = []
    stored.visititems(
        lambda _, member: found.append(_declared_bytes(member)) if isinstance(member, h5py.Dataset) else None
    )
    return sum(found)


def libraries_of(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the entries of uns["spatial"] by name, without other keys stored there (`is_single`)."""
    stored: Any = file.get("uns/spatial")
    return {} if not isinstance(stored, h5py.Group) else {k: v for k, v in stored.items() if isinstance(v, h5py.Group)}


def library_of(
    libraries: Mapping[str, h5py.Group], names: Sequence[str | None], path: Path, *, alone: bool
) -> tuple[h5py.Group | None, str]:
    """Return the entry that belongs to a section which is called by one of `names`, and what to warn of.

    The only entry of a file belongs to its only section (`alone`). Raises InputError where it is not clear.
    """
    for name in names:
        if name is not None and name in libraries:
            return libraries[name], ""
    if not libraries:
        return None, ""
    if alone and len(libraries) == 1:
        return next(iter(libraries.values())), ""
    return None, f'uns["spatial"] holds {", ".join(libraries)} but no entry for this section: it has no picture'


def _scalar(library: h5py.Group | None, key: str) -> Any:
    """Return a value of an entry; for a list of one, its member."""
    stored: Any = None if library is None else library.get(key)
    if not isinstance(stored, h5py.Dataset) or stored.size != 1:
        return None
    value = stored[()]
    value = value.ravel()[0] if isinstance(value, np.ndarray) else value
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def _number(library: h5py.Group | None, key: str) -> float | None:
    """Return a positive number of an entry; None where there is none. Text may carry a unit, as in `0.5 um`."""
    value = _scalar(library, key)
    match = _NUMBER.fullmatch(str(value).strip()) if value is not None else None
    number = float(match.group(1)) if match else 0.0
    return number if _LEAST < number < _MOST else None


def _found(library: h5py.Group | None, key: str) -> str:
    """Describe the value found at a key that should hold a number, for messages."""
    stored: Any = None if library is None else library.get(key)
    if isinstance(stored, h5py.Dataset) and stored.size == 1:
        return repr(shown(_scalar(library, key)))
    return "missing" if stored is None else f"not a single number ({shown(getattr(stored, 'shape', 'a group'))})"


def _named(library: h5py.Group | None) -> str | None:
    """Return the picture path in the metadata, as written there; None if there is none."""
    if library is None or library.get("metadata/source_image_path") is None:
        return None
    named = _scalar(library, "metadata/source_image_path")
    return _found(library, "metadata/source_image_path") if named is None else str(named)


@dataclass(frozen=True)
class Picture:
    """The picture of a section."""

    image: SectionImage | None = None
    factor: float = 1.0
    """From pixels of full resolution to its own."""
    microns: float | None = None
    """Stated micrometres per full-resolution pixel."""
    warnings: tuple[str, ...] = ()


def path_beside(library: h5py.Group | None, path: Path, *, alone: bool) -> Path | None:
    """Return the picture's file: the one that the metadata names, where it exists, or one of the .h5ad file's own name.

    Raises InputError where a picture of the file's name may belong to any of its sections (not `alone`).
    """
    named = _scalar(library, "metadata/source_image_path")
    if named is not None:
        with contextlib.suppress(OSError, ValueError):  # the path is too long or contains a NUL
            source = path.parent / str(named)
            if source.is_file():
                return source.resolve()
    if _stored(library):
        return None
    beside = (path.with_suffix(suffix) for suffix in _PICTURES)
    found = next((picture for picture in beside if os.path.lexists(picture)), None)
    if found is not None and not alone:
        what = f"is beside {path.name}, which holds several sections: it is unclear which section it shows"
        remedy = (
            'name each section\'s picture in uns["spatial"][SECTION]["metadata"]["source_image_path"], or move it away'
        )
        raise InputError(Problem(str(found), what, remedy))
    return found


def _stored(library: h5py.Group | None) -> dict[str, float | None]:
    """Return names of the stored pictures that have a known relation to full resolution, with their factors."""
    return {name: _number(library, f"scalefactors/tissue_{name}_scalef") for name in _images_of(library)}


def _images_of(library: h5py.Group | None) -> Mapping[str, Any]:
    """Return the pictures that an entry of uns["spatial"] holds, by name."""
    images: Any = None if library is None else library.get("images")
    return images if isinstance(images, h5py.Group) else {}


def _scalefactors(library: h5py.Group | None) -> tuple[str, ...]:
    stored: Any = None if library is None else library.get("scalefactors")
    return tuple(stored) if isinstance(stored, h5py.Group) else ()


def picture_of(library: h5py.Group | None, path: Path, xy_full: np.ndarray, *, alone: bool) -> Picture:
    """Return the picture of a section whose spots lie at `xy_full` (S, 2), in pixels of full resolution.

    The source picture that the metadata names goes before a stored one; of those, the largest. Raises InputError where
    none of several candidates is certain.
    """
    warnings = []
    microns = None
    for key in ("metadata/microns_per_pixel", "scalefactors/microns_per_pixel"):
        if library is not None and library.get(key) is not None and microns is None:
            microns = _number(library, key)
            if microns is None:
                warnings.append(f"{key} is {_found(library, key)}, no size of a pixel in um: it is not used")
    for key, kind in (("images", h5py.Group), ("scalefactors", h5py.Group), ("metadata", h5py.Group)):
        if library is not None and not isinstance(library.get(key, library), kind):
            warnings.append(f"{library.name}/{key} is no group of entries: it is not used")
    named, stored = _named(library), _stored(library)
    beside = path_beside(library, path, alone=alone)
    if named is not None and (beside is None or beside.name != Path(named).name):
        if not stored:
            what = f"the picture that {path} names is missing"
            raise InputError(Problem(str(path.parent / named), what, "put it there, or drop source_image_path"))
        warnings.append(f"source_image_path names {shown(named)!r}, which is missing: a smaller stored picture is used")
    if beside is not None:
        check_file(str(beside))
        factor, note = _factor_beside(library, beside, path, xy_full)
        warnings += [note] if note else []
        image = SectionImage(place=str(beside), load=lambda: open_picture(str(beside)))
        return Picture(image, factor, microns, tuple(warnings))
    if "fullres" in stored and "tissue_fullres_scalef" not in _scalefactors(library):
        # Its factor is 1, unless it is a copy of a smaller picture, as some converters leave it.
        size = getattr(_images_of(library)["fullres"], "shape", (0, 0))[1::-1]
        placed = xy_full[np.isfinite(xy_full).all(axis=1)]
        if len(placed) and inside(placed, (int(size[0]), int(size[1]))).mean() > 0.95:
            stored["fullres"] = 1.0
    unclear = [name for name, factor in stored.items() if factor is None]
    usable = {name: factor for name, factor in stored.items() if factor is not None}
    if stored and not usable:
        place = f"{path}: {library.name if library is not None else ''}/images/{unclear[0]}"
        key = f"scalefactors/tissue_{unclear[0]}_scalef"
        what = f"there is no usable {key} for this picture: it is {_found(library, key)}"
        raise InputError(Problem(place, what, "add it: a positive number, 1.0 if unscaled"))
    warnings += [f"the stored picture {name} has no usable scale factor: it is not used" for name in unclear]
    if not usable or library is None:
        return Picture(None, 1.0, microns, tuple(warnings))
    best = max(usable, key=lambda name: usable[name])
    key = f"{library.name}/images/{best}"
    image = SectionImage(place=f"{path}: {key}", load=lambda: _stored_picture(path, key))
    return Picture(image, usable[best], microns, tuple(warnings))


def _factor_beside(library: h5py.Group | None, picture: Path, path: Path, xy_full: np.ndarray) -> tuple[float, str]:
    """Return factor from the spots' pixels to those of a picture beside the file: 1, or a scale factor of the file."""
    factors = {f for n in _scalefactors(library) if (f := _number(library, f"scalefactors/{n}")) and "_scalef" in n}
    factors -= {1.0}
    placed = xy_full[np.isfinite(xy_full).all(axis=1)]
    if not factors or not len(placed) or _scalar(library, "metadata/source_image_path") is not None:
        return 1.0, ""
    width, height = picture_size(str(picture))
    fits = {f: float(inside(placed * f, (width, height)).mean()) for f in (1.0, *sorted(factors))}
    if fits[1.0] > 0.95:
        return 1.0, f"{picture.name} is taken as the full-resolution picture: the spots fit on it without scaling"
    good = [f for f in factors if fits[f] > 0.95]
    if len(good) == 1:
        return good[0], f"{picture.name} is taken as scaled by {good[0]:g}: the spots fit on it only with this factor"
    what = f"{picture} has {width} x {height} pixels; it is unclear which scale factor of the file applies to it"
    raise InputError(Problem(str(path), what, 'store it in uns["spatial"][LIBRARY]["images"] with its scale factor'))


def _stored_picture(path: Path, key: str) -> Image.Image:
    place = f"{path}: {key}"
    with opened(path) as file:
        stored: Any = file[key]
        if isinstance(stored, h5py.Dataset) and stored.ndim > 1:
            # Check before reading: a file of a few bytes may declare a picture of terabytes.
            width, height = stored.shape[1], stored.shape[0]
            check_room((width, height), 8 + stored.nbytes // max(1, width * height), place)
        pixels = np.asarray(element(file, key))
    return from_array(pixels, place)
