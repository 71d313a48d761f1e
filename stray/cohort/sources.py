"""Plan of an ingest: which section is read from where, with which labels, over which genes."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

import stray
from stray.cohort.genes import gene_warnings, unite_genes
from stray.cohort.labels import LabelRows, label_tables
from stray.cohort.readers import Reader, SectionHandle, make_reader, reading_file
from stray.cohort.schema import SPOTS
from stray.cohort.section import Genes
from stray.cohort.section_table import section_columns
from stray.cohort.text import patient_warnings
from stray.columns import CONTRACT_VERSION
from stray.config.ingest import IngestConfig, PatchConfig, check_values
from stray.errors import InputError, Problem, raise_if_any


@dataclass(frozen=True, kw_only=True)
class SectionTask:
    """Everything that one section of the dataset is made from. Travels to the worker that makes it."""

    handle: SectionHandle
    reader: Reader
    others: tuple[Reader, ...]
    """Sources that hold the section too and were not preferred."""
    labels: tuple[LabelRows, ...]
    """In the order in which they fill."""
    columns: Mapping[str, str]
    """Facts about the section as a whole. They stand in the manifest alone, so they may change without a new file."""
    gene_index: np.ndarray | None
    """Cohort-wide index of each of the section's genes, int32; None without counts."""
    id_prefix: str
    """Prefix of the name of each spot in its id."""
    patch: PatchConfig
    off_tissue: str
    """See `IngestConfig`."""
    fingerprint: str
    """Digest of all of this but the columns, and of the input files' sizes and times."""


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """Plan of an ingest."""

    tasks: tuple[SectionTask, ...]
    """Sorted by patient and section."""
    genes: pa.Table
    """Every gene of the cohort."""
    overlap: Mapping[str, float]
    """Section -> share of the genes measured in at least half of the other sections that it measured, too."""
    warnings: tuple[str, ...]
    config: IngestConfig


def make_plan(config: IngestConfig) -> IngestPlan:
    """List the sources' sections, settle which source gives which, join label tables, and unite the genes.

    Reads no counts and no pictures. Raises InputError with all that is wrong.
    """
    if not config.sources:
        raise InputError(
            Problem(
                "ingest.sources",
                "there is no source",
                "name one: --her2st PATH, --h5ad PATH or --synthetic",
            )
        )
    check_values(config)
    readers, handles, problems = [], [], []
    for source in config.sources:
        try:
            with reading_file(str(getattr(source, "path", source.kind))):
                reader = make_reader(source)
                handles.append({handle.name: handle for handle in reader.sections()})
            readers.append(reader)
        except InputError as error:
            problems += error.problems
    handles = _told_apart(handles)
    chosen, choice_problems = _choose(readers, handles, config.prefer)
    # Which sections there are is not known where a source could not be listed.
    tables, table_problems = label_tables(config.labels, None if problems else set(chosen))
    known = {name: handles[first][name].columns for name, (first, _) in chosen.items()}
    columns, column_problems = section_columns(config.sections, known, whole=not problems)
    problems += ([] if problems else choice_problems) + table_problems + column_problems
    genes_of: dict[str, Genes] = {}
    for name, (first, _) in chosen.items():
        try:
            with reading_file(next(iter(handles[first][name].inputs), readers[first].place)):
                genes = readers[first].genes(name)
        except InputError as error:
            problems += error.problems
            continue
        if genes is not None:
            genes_of[name] = genes
    raise_if_any(problems)
    places = {
        name: next(iter(handles[first][name].inputs), readers[first].place) for name, (first, _) in chosen.items()
    }
    cohort = unite_genes(genes_of, config.duplicate_genes, places)
    overlap = cohort.overlap()
    prefixes = _id_prefixes(chosen)
    tasks = []
    for name, (first, rest) in chosen.items():
        handle, reader = handles[first][name], readers[first]
        others = tuple(readers[other] for other in rest)
        other_handles = [handles[other][name] for other in rest]
        gene_index = cohort.index.get(name)
        labels = tuple(rows for table in tables if (rows := table.get(name)) is not None)
        fingerprint = _fingerprint(reader, handle, other_handles, labels, gene_index, config, prefixes[name])
        tasks.append(
            SectionTask(
                handle=handle,
                reader=reader,
                others=others,
                labels=labels,
                columns=columns[name],
                gene_index=gene_index,
                id_prefix=prefixes[name],
                patch=config.patch,
                off_tissue=config.off_tissue,
                fingerprint=fingerprint,
            )
        )
    remarks = [f"{reader.kind} {reader.place}: {remark}" for reader in readers for remark in reader.remarks()]
    return IngestPlan(
        tasks=tuple(sorted(tasks, key=lambda task: (task.handle.patient, task.handle.name))),
        genes=cohort.table,
        overlap=overlap,
        warnings=(
            *remarks,
            *patient_warnings({task.handle.patient for task in tasks}),
            *cohort.warnings,
            *gene_warnings(overlap),
        ),
        config=config,
    )


def _told_apart(handles: list[dict[str, SectionHandle]]) -> list[dict[str, SectionHandle]]:
    """Return the sources' sections, where two sources have one of a name called by their second names.

    A section that its source does not name is called after something that other sources may have too: two files of
    one library key are two slides.
    """
    times = Counter(name for sections in handles for name in sections)
    stated = {name for sections in handles for name, handle in sections.items() if not handle.second_name}

    def told(handle: SectionHandle) -> SectionHandle:
        other = handle.second_name
        clash = times[handle.name] > 1 and handle.name not in stated
        return replace(handle, name=other) if clash and not times[other] else handle

    return [{own.name: own for own in map(told, sections.values())} for sections in handles]


def _id_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Return for each section what stands before its spots in their ids.

    `SECTION_`, but where another section's name begins so (V1 and V1_2): there the spot 2_x of V1 would be the spot x
    of V1_2, and underscores are added until no other name begins alike.
    """
    names = tuple(names)
    prefixes = {}
    for name in names:
        prefix = f"{name}_"
        while any(other.startswith(prefix) for other in names):
            prefix += "_"
        prefixes[name] = prefix
    return prefixes


def _choose(
    readers: list[Reader],
    handles: list[dict[str, SectionHandle]],
    prefer: tuple[str, ...],
) -> tuple[dict[str, tuple[int, list[int]]], list[Problem]]:
    """Return for every section the number of the reader that gives it and those of the others that hold it too."""
    holders: dict[str, list[int]] = defaultdict(list)
    for number, sections in enumerate(handles):
        for name in sections:
            holders[name].append(number)
    wanted, problems = _preferences(readers, handles, prefer)
    chosen = {}
    undecided: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, numbers in holders.items():
        if len(numbers) > 1 and name not in wanted:
            undecided[tuple(numbers)].append(name)
        first = wanted.get(name, numbers[0])
        chosen[name] = (first, [number for number in numbers if number != first])
        patients = {handles[number][name].patient for number in numbers}
        if len(patients) > 1:
            what = f"section {name} belongs to patient {' and to '.join(sorted(patients))} in different sources"
            problems.append(
                Problem(
                    "ingest.sources",
                    what,
                    "correct the sources: a section is of one patient",
                )
            )
    for numbers, names in undecided.items():
        sources = [readers[number] for number in numbers]
        kinds = [source.kind for source in sources]
        keys = kinds if len(set(kinds)) == len(kinds) else [source.place for source in sources]
        problems.append(
            Problem(
                "ingest.sources",
                f"{len(sources)} sources hold the sections {', '.join(sorted(names))}: "
                + " and ".join(f"{source.kind} ({source.place})" for source in sources),
                "where they are the same slide choose: "
                + " or ".join(f"--prefer {key}:{','.join(sorted(names))}" for key in keys)
                + '; where they are different slides, name them apart (obs["section"] of an .h5ad file)',
            )
        )
    return chosen, problems


def _preferences(
    readers: list[Reader],
    handles: list[dict[str, SectionHandle]],
    prefer: tuple[str, ...],
) -> tuple[dict[str, int], list[Problem]]:
    """Return for each section the number of the preferred reader."""
    wanted: dict[str, int] = {}
    problems = []
    for entry in prefer:
        key, colon, names = entry.rpartition(":")
        if not colon or not key or not names:
            problems.append(
                Problem(
                    "ingest.prefer",
                    f"{entry!r} is not KIND:SECTION",
                    "write it like h5ad:A1",
                )
            )
            continue
        for name in names.split(","):
            matches = [
                number
                for number, reader in enumerate(readers)
                if name in handles[number] and key in (reader.kind, reader.place, Path(reader.place).name)
            ]
            if len(matches) == 1:
                wanted[name] = matches[0]
                continue
            found = ", ".join(f"{reader.kind} ({reader.place})" for reader in readers)
            what = f"{entry!r}: {len(matches)} sources called {key} hold section {name}; the sources are {found}"
            problems.append(Problem("ingest.prefer", what, "name a source by its kind, or by its path"))
    return wanted, problems


def _fingerprint(
    reader: Reader,
    handle: SectionHandle,
    others: list[SectionHandle],
    labels: tuple[LabelRows, ...],
    gene_index: np.ndarray | None,
    config: IngestConfig,
    id_prefix: str,
) -> str:
    parts = {
        "contract": [CONTRACT_VERSION, SPOTS.names],
        "stray": stray.__version__,
        "source": [reader.kind, handle.name, handle.patient, dict(handle.options)],
        "inputs": _stamps(handle),
        "others": [_stamps(other) for other in others],
        "labels": [[rows.name, sorted(rows.labels.items())] for rows in labels],
        "genes": "" if gene_index is None else hashlib.sha256(gene_index.tobytes()).hexdigest(),
        "patch": asdict(config.patch),
        "off_tissue": config.off_tissue,
        "ids": id_prefix,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stamps(handle: SectionHandle) -> list[tuple[str, int, int]]:
    """Return name, size and time of each input file: enough to see a change, and free of reading gigabytes of
    pictures.
    """
    return [(path, (stat := os.stat(path)).st_size, stat.st_mtime_ns) for path in handle.inputs]
