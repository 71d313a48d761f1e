"""One section to its Parquet file: read, labelled, cropped and written, or skipped where nothing has changed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from stray import columns as c
from stray import storage
from stray.cohort.labels import count_labels, fill_labels
from stray.cohort.manifest import FileEntry, SectionEntry, file_sha256
from stray.cohort.patches import inside
from stray.cohort.picture import NOTE, check_content
from stray.cohort.plausible import (
    WARNING,
    check_frame,
    check_patch_size,
    enlargement,
    orientation,
    same_slide,
    tissue,
)
from stray.cohort.readers import reading_file
from stray.cohort.rows import row_groups
from stray.cohort.schema import ROW_GROUP_SPOTS, SPOTS, folder_name, shard_path
from stray.cohort.section import Section, keep_spots, plural
from stray.cohort.sources import SectionTask
from stray.errors import InputError, Problem, without_secrets

OFF_TISSUE = "in_tissue is 0"
"""Why spots beside the tissue are dropped."""
PART_BYTES = 2**30
"""A section's file is closed, and the next one begun, when it has grown to this size."""


@dataclass(frozen=True, kw_only=True)
class SectionOutcome:
    """Outcome of one section's task. An error of the input is a value here: one section must not hide another's."""

    name: str
    patient: str
    entry: SectionEntry | None = None
    """The section in the manifest; None when it failed."""
    problems: tuple[Problem, ...] = ()
    kept: bool = False
    """Whether it stood already, made from the same inputs."""
    seconds: float = 0.0


def run_task(task: SectionTask, out: str) -> SectionOutcome:
    """Make the file of one section below `out`, or find that it stands already. Input errors are in the outcome."""
    start = time.monotonic()
    handle = task.handle
    try:
        entry = _standing(task, out)
        kept = entry is not None
        if entry is None:
            entry = _write_section(task, out)
    except InputError as error:
        return SectionOutcome(
            name=handle.name,
            patient=handle.patient,
            problems=error.problems,
            seconds=time.monotonic() - start,
        )
    return SectionOutcome(
        name=handle.name,
        patient=handle.patient,
        entry=entry,
        kept=kept,
        seconds=time.monotonic() - start,
    )


def note_path(patient: str, section: str) -> str:
    """Return the place of the note that says what a section's file was made from, relative to the dataset.

    Notes outlive the ingest: by them the next one knows what to skip. Nothing else reads them.
    """
    return f".ingest/{folder_name(patient)}/{folder_name(section)}.json"


def write_parts(tables: Iterator[pa.Table], out: str, patient: str, section: str) -> tuple[FileEntry, ...]:
    """Write the spots of a section, a row group each of `tables`, in files of about `PART_BYTES`.

    Raises InputError when the place cannot be written.
    """
    files: list[FileEntry] = []
    while (first := next(tables, None)) is not None:
        relative = shard_path(patient, section, len(files))
        files.append(write_table(chain([first], tables), SPOTS, out, relative, most_bytes=PART_BYTES))
    return tuple(files)


def write_table(
    tables: Iterator[pa.Table], schema: pa.Schema, out: str, relative: str, *, most_bytes: float = math.inf
) -> FileEntry:
    """Write `tables`, a row group each, as one Parquet file that appears whole or not at all.

    Takes no further table once `most_bytes` are written. Raises InputError when the place cannot be written.
    """
    place = storage.join(out, relative)
    rows = 0
    try:
        with storage.new_file(*storage.resolve(place)) as stream:
            sink = _HashingSink(stream)
            repeated = [name for name in (c.PATIENT, c.SECTION, c.LABEL, c.LABEL_SOURCE) if name in schema.names]
            # Dictionaries pay for repeated strings only; encoded pictures and counts would fill them in vain.
            with pq.ParquetWriter(
                pa.PythonFile(sink, mode="w"),
                schema,
                compression="zstd",
                use_dictionary=repeated,  # type: ignore[arg-type]  # pyarrow takes a list of columns too
            ) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=ROW_GROUP_SPOTS)
                    rows += table.num_rows
                    if sink.size >= most_bytes:
                        break
    except OSError as error:
        raise InputError(
            Problem(
                place,
                f"cannot be written: {error}",
                "choose another output, or make room and set its rights",
            )
        ) from error
    return FileEntry(path=relative, sha256=sink.digest.hexdigest(), bytes=sink.size, rows=rows)


class _HashingSink:
    """A file that computes the digest of its content as it is written."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self.closed = True


def _standing(task: SectionTask, out: str) -> SectionEntry | None:
    """Return the section's entry, if its file stands unharmed and was made from the same inputs."""
    try:
        note = storage.read_bytes(storage.join(out, note_path(task.handle.patient, task.handle.name)))
        entry = TypeAdapter(SectionEntry).validate_json(note)
        if entry.fingerprint != task.fingerprint:
            return None
        whole = all(file_sha256(storage.join(out, file.path)) == file.sha256 for file in entry.files)
    except (OSError, ValidationError):
        return None
    return replace(entry, columns=dict(task.columns)) if whole else None


def _write_section(task: SectionTask, out: str) -> SectionEntry:
    place = task.handle.inputs[0] if task.handle.inputs else task.reader.place
    with reading_file(place):
        section = replace(task.reader.read(task.handle.name), id_prefix=task.id_prefix)
    section = _without_rivals(task, section)
    labels, label_sources, warnings = fill_labels(section, task.labels)
    if section.in_tissue is not None and task.off_tissue == "drop":
        kept = section.in_tissue
        labels, label_sources = labels[kept], label_sources[kept]
        section = keep_spots(section, kept, OFF_TISSUE)
    _check_spots_left(section, place)
    image, off = None, 0
    if section.image is not None:
        with reading_file(section.image.place):
            image = section.image.load()
        check_content(image, section.image.place)
        on_picture = inside(section.xy_px, image.size)
        check_frame(section, on_picture, image.size, section.image.place)
        check_patch_size(section, image.size, task.patch, section.image.place)
        warnings += image.info.get(NOTE, ())
        labels, label_sources, off = labels[on_picture], label_sources[on_picture], int((~on_picture).sum())
        section = keep_spots(section, on_picture, "centre outside the picture")
        warnings += (*enlargement(section, task.patch), *orientation(section))
    if section.genes is not None and (task.gene_index is None or len(section.genes.symbols) != len(task.gene_index)):
        raise InputError(
            Problem(
                place,
                "its genes have changed while the ingest ran",
                "run the ingest again",
            )
        )
    fractions: list[np.ndarray] = []

    def tables() -> Iterator[pa.Table]:
        for table in row_groups(section, labels, label_sources, image, task.gene_index, task.patch):
            fractions.append(table[c.TISSUE_FRACTION].to_numpy())
            yield table

    files = write_parts(tables(), out, section.patient, section.name)
    if image is not None:
        warnings += tissue(section, image, task.patch, np.concatenate(fractions), off)
    entry = SectionEntry(
        name=section.name,
        patient=section.patient,
        source=task.reader.kind,
        place=without_secrets(task.reader.place),
        fingerprint=task.fingerprint,
        n_spots=len(section.spots),
        n_genes=0 if section.genes is None else len(section.genes.symbols),
        has_image=image is not None,
        has_counts=section.counts is not None,
        microns_per_pixel=section.microns_per_pixel,
        columns=dict(task.columns),
        labels=count_labels(labels, label_sources),
        dropped=dict(section.dropped),
        warnings=(*section.warnings, *warnings),
        files=files,
    )
    note = json.dumps(asdict(entry), sort_keys=True).encode()
    storage.write_bytes(storage.join(out, note_path(section.patient, section.name)), note)
    return entry


def _without_rivals(task: SectionTask, section: Section) -> Section:
    """List the spots that only sources know which were not preferred: they are lost by a choice, not in silence."""
    known = {
        *section.spots,
        *(spot for spots in section.dropped.values() for spot in spots),
    }
    dropped, warnings = dict(section.dropped), list(section.warnings)
    for other in task.others:
        with reading_file(other.place):
            rival = other.read(section.name)
        missing = tuple(spot for spot in rival.spots if spot not in known)
        if missing:
            dropped[f"only in {other.kind} ({other.place}), {task.reader.kind} was preferred"] = missing
        if not same_slide(section, rival):
            warnings.append(
                f"{WARNING}section {section.name} of {other.kind} ({other.place}), which was not preferred, has other "
                "counts at the same spots: if it is another slide, give it another name and ingest again"
            )
    return replace(section, dropped=dropped, warnings=tuple(warnings))


def _check_spots_left(section: Section, place: str) -> None:
    if section.spots:
        return
    dropped = "; ".join(f"{plural(len(spots), 'spot')}: {reason}" for reason, spots in section.dropped.items())
    remedy = "see the spot coordinates"
    if OFF_TISSUE in section.dropped:
        remedy = "correct the column, or keep these spots: `ingest.off_tissue: keep` or --off-tissue keep"
    what = f"section {section.name} has no spot left" + (f" ({dropped})" if dropped else "")
    raise InputError(Problem(place, what, remedy))
