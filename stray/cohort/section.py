"""One tissue section: counts, picture, spot coordinates, labels, and the spots left out of it.

Legend: S spots kept, G genes measured in this section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
from PIL import Image
from scipy import sparse

from stray.errors import InputError, Problem


@dataclass(frozen=True, kw_only=True)
class Genes:
    """The genes that a section measured, in the order of its count columns."""

    symbols: tuple[str, ...]
    """Gene symbols; the accession where a gene has no symbol here."""
    ids: tuple[str | None, ...] = ()
    """Accessions (Ensembl) without version, parallel to `symbols`; empty when the source has none."""

    def __post_init__(self) -> None:
        if self.ids and len(self.ids) != len(self.symbols):
            raise ValueError(f"{len(self.ids)} gene ids for {len(self.symbols)} symbols")


@dataclass(frozen=True, kw_only=True)
class SectionImage:
    """A picture that is opened when it is needed and not before: one is up to 300 MB decoded."""

    place: str
    """Origin, for messages: a path, or a key inside a file."""
    load: Callable[[], Image.Image]
    """Decodes it to an RGB picture. Raises InputError when it is missing or broken."""
    scale: float = 1.0
    """Factor from the coordinates in the source to pixels of this picture."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One slice of tissue on one slide, as a reader hands it over. Checked when made."""

    name: str
    """Unique in the cohort, such as `A1`."""
    patient: str
    """The patient that it was cut from."""
    spots: tuple[str, ...]
    """S spot names, unique in the section and without the section's name in front."""
    source_names: tuple[str, ...] = ()
    """The same spots as the source writes them, (S,); empty: as `spots`."""
    genes: Genes | None = None
    """The count columns; None exactly when `counts` is."""
    counts: sparse.csr_matrix | None = None
    """Raw counts, (S, G), integers that are not negative; None when the section has no counts."""
    xy_px: np.ndarray
    """Spot centres in pixels of the picture's frame (x to the right, y down), (S, 2) float64."""
    microns_per_pixel: float
    """Micrometres of tissue along one pixel of that frame."""
    array_row: np.ndarray | None = None
    """Row on the capture array, (S,) int; None when the source knows none."""
    array_col: np.ndarray | None = None
    """Column on the capture array, (S,) int; None when the source knows none."""
    labels: np.ndarray | None = None
    """Class names, (S,) object, None where a spot is not annotated; None when the section has no labels at all."""
    in_tissue: np.ndarray | None = None
    """Whether the source says that a spot lies on tissue, (S,) bool; None when it does not tell."""
    image: SectionImage | None = None
    """The picture; None when the section has none."""
    dropped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Spots that the source names but that are not kept: reason -> spot names."""
    warnings: tuple[str, ...] = ()
    """Warnings about this section for the user, a sentence each."""
    id_prefix: str = ""
    """Prefix of a spot's name in its id; empty: the section's name and `_`."""

    def __post_init__(self) -> None:
        n_spots = len(self.spots)
        if self.source_names and len(self.source_names) != n_spots:
            raise ValueError(f"section {self.name}: {len(self.source_names)} source names of {n_spots} spots")
        if self.xy_px.shape != (n_spots, 2):
            raise ValueError(f"section {self.name}: xy_px is {self.xy_px.shape}, expected {(n_spots, 2)}")
        if (self.counts is None) != (self.genes is None):
            raise ValueError(f"section {self.name}: counts and genes come together")
        if self.counts is not None and self.genes is not None:
            expected = (n_spots, len(self.genes.symbols))
            if self.counts.shape != expected:
                raise ValueError(f"section {self.name}: counts are {self.counts.shape}, expected {expected}")
        for column in (self.array_row, self.array_col, self.labels, self.in_tissue):
            if column is not None and column.shape != (n_spots,):
                raise ValueError(f"section {self.name}: a spot column is {column.shape}, expected {(n_spots,)}")

    @property
    def spot_ids(self) -> tuple[str, ...]:
        """Spot names that are unique in the cohort: `SECTION_spot`."""
        prefix = self.id_prefix or f"{self.name}_"
        return tuple(f"{prefix}{spot}" for spot in self.spots)


def local_spot_name(section: str, spot: str) -> str:
    """Return `spot` without a `SECTION_` prefix: sources name the spot 22x12 of A1 `22x12` or `A1_22x12`."""
    return spot.removeprefix(f"{section}_")


def check_section(section: Section, place: str) -> None:
    """Raise `InputError` with all that is wrong with a section's content: names, counts, coordinates.

    `place` names the file that the user can look into.
    """
    problems = [*_name_problems(section, place), *_count_problems(section, place)]
    if not np.isfinite(section.xy_px).all():
        bad = int((~np.isfinite(section.xy_px).all(axis=1)).sum())
        problems.append(
            Problem(
                place,
                f"{plural(bad, 'spot')} without finite pixel coordinates",
                "drop them with a reason",
            )
        )
    if not (np.isfinite(section.microns_per_pixel) and section.microns_per_pixel > 0):
        problems.append(
            Problem(
                place,
                f"microns per pixel is {section.microns_per_pixel}",
                "it must be a positive number",
            )
        )
    if problems:
        raise InputError(problems)


def _name_problems(section: Section, place: str) -> list[Problem]:
    problems = []
    twice = repeated(section.spots)
    if twice:
        problems.append(
            Problem(
                place,
                f"section {section.name} names {plural(len(twice), 'spot')} more than once: {', '.join(twice[:5])}",
                "a spot name must be unique in its section: correct or remove the copies",
            )
        )
    return problems


def _count_problems(section: Section, place: str) -> list[Problem]:
    if section.counts is None:
        return []
    values = section.counts.data
    remedy = "give the raw integer counts: not normalised, scaled or logarithms"
    if not np.isfinite(values).all():
        return [
            Problem(
                place,
                f"section {section.name} has counts that are not finite numbers",
                remedy,
            )
        ]
    problems = []
    negative = values < 0
    if negative.any():
        problems.append(
            Problem(
                place,
                f"section {section.name} has {plural(int(negative.sum()), 'negative count')}, the least {values.min()}",
                remedy,
            )
        )
    fractional = values != np.floor(values)
    if fractional.any():
        example = values[fractional][0]
        problems.append(
            Problem(
                place,
                f"section {section.name} has {plural(int(fractional.sum()), 'fractional count')}, such as {example}",
                remedy,
            )
        )
    if section.spots and not values.any():
        what = f"section {section.name} has no count above 0"
        problems.append(Problem(place, what, f"{remedy}; without counts the section is used for its picture alone"))
    if values.size and values.max() > np.iinfo(np.uint32).max:
        problems.append(Problem(place, f"section {section.name} has a count of {values.max()}", remedy))
    return problems


def repeated(names: tuple[str, ...]) -> list[str]:
    """Return the names that occur more than once, each once, sorted."""
    unique, counts = np.unique(np.asarray(names, dtype=object).astype(str), return_counts=True)
    return [str(name) for name in unique[counts > 1]]


def keep_spots(section: Section, keep: np.ndarray, reason: str) -> Section:
    """Return the section with the spots where `keep` (S,) is true; the others are listed as dropped for `reason`."""
    if keep.all():
        return section
    gone = tuple(spot for spot, kept in zip(section.spots, keep, strict=True) if not kept)

    def rows(column: np.ndarray | None) -> np.ndarray | None:
        return None if column is None else column[keep]

    return replace(
        section,
        spots=tuple(compress(section.spots, keep)),
        source_names=tuple(compress(section.source_names, keep)),
        counts=None if section.counts is None else sparse.csr_matrix(section.counts[keep]),
        xy_px=section.xy_px[keep],
        array_row=rows(section.array_row),
        array_col=rows(section.array_col),
        labels=rows(section.labels),
        in_tissue=rows(section.in_tissue),
        dropped={**section.dropped, reason: (*section.dropped.get(reason, ()), *gone)},
    )


def plural(number: int, noun: str) -> str:
    """Return `1 spot`, `2 spots`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
