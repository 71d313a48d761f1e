"""Sources of sections. A reader lists a source's sections cheaply and reads one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stray.cohort.section import Genes, Section
from stray.cohort.text import shown
from stray.config.ingest import (
    H5adSourceConfig,
    Her2stSourceConfig,
    SourceConfig,
    SyntheticSourceConfig,
)
from stray.errors import InputError, Problem


@dataclass(frozen=True, kw_only=True)
class SectionHandle:
    """A section that a source holds, known without reading it."""

    name: str
    """The section's name, unique within the source."""
    patient: str
    """The patient that it belongs to."""
    inputs: tuple[str, ...] = ()
    """Absolute paths of every file that the section is made from: their size and time tell whether it changed."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Other inputs of the section (the settings of the synthetic cohort, say); JSON values."""
    second_name: str = ""
    """Second name, where another source has a section of the same name; empty: none."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Other facts that the source knows about the section as a whole (its slide, scanner, kit), by the column's
    name.
    """


class Reader(Protocol):
    """A source of sections. Cheap to make and to pickle: it goes to one Ray task a section."""

    kind: str
    """`her2st`, `h5ad`, `synthetic`: what `--prefer KIND:SECTION` names."""
    place: str
    """The path (or the settings) that the source was made from, for messages."""

    def sections(self) -> tuple[SectionHandle, ...]:
        """Return all sections, in a fixed order. Raises InputError for faults of the source."""
        ...

    def remarks(self) -> tuple[str, ...]:
        """Return notes for the user about the source as a whole, one sentence each; usually empty."""
        ...

    def genes(self, name: str) -> Genes | None:
        """Return the genes of section `name` in the order of its counts, read without them; None when it has no
        counts.
        """
        ...

    def read(self, name: str) -> Section:
        """Return section `name` without opening its picture. Raises InputError with every problem of it."""
        ...


@contextlib.contextmanager
def reading_file(place: str, remedy: str = "fetch the file again, or correct it") -> Iterator[None]:
    """Convert any exception while reading the file at `place` to an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise many kinds of exceptions on damaged files
        reason = shown(str(error).strip().split("\n")[0] or type(error).__name__)
        raise InputError(Problem(place, f"cannot be read: {reason}", remedy)) from error


def make_reader(source: SourceConfig) -> Reader:
    """Return the reader of a source. Readers are imported on use: each imports its own libraries."""
    match source:
        case Her2stSourceConfig():
            from stray.cohort.readers.her2st import Her2stReader

            return Her2stReader(source)
        case H5adSourceConfig():
            from stray.cohort.readers.h5ad import H5adReader

            return H5adReader(source)
        case SyntheticSourceConfig():
            from stray.cohort.readers.synthetic import SyntheticReader

            return SyntheticReader(source)
