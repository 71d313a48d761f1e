"""Ingest: from a recipe to a whole dataset. The caller decides where the sections' tasks run: here, or on a cluster."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

import pyarrow as pa
from pyarrow import fs

import stray
from stray import storage
from stray.cohort.manifest import Manifest, SectionEntry, dataset_digest, pack_genes
from stray.cohort.parquet import read_row_groups
from stray.cohort.schema import GENE_TABLE
from stray.cohort.section import plural
from stray.cohort.sources import IngestPlan, SectionTask, make_plan
from stray.cohort.text import class_warnings
from stray.cohort.write import SectionOutcome, run_task, write_table
from stray.columns import CLAIMS, GENES, MANIFEST, SPOT_ID
from stray.config.ingest import IngestConfig
from stray.errors import InputError, Problem, raise_if_any
from stray.lease import lease

RunTasks = Callable[[Sequence[SectionTask], str], Iterable[SectionOutcome]]
"""Runs every task for the dataset at a path; yields an outcome a task, in any order."""
OnEvent = Callable[[dict], None]
_WRITERS = ("pyarrow", "numpy", "pillow", "anndata")


def run_here(tasks: Sequence[SectionTask], out: str) -> Iterator[SectionOutcome]:
    """Run one section after the other, in this process."""
    for task in tasks:
        yield run_task(task, out)


def build_dataset(
    config: IngestConfig,
    out: str,
    *,
    run_tasks: RunTasks = run_here,
    on_event: OnEvent | None = None,
) -> Manifest:
    """Build the paired dataset of `config` at `out` (path or URI), and return its manifest.

    Sections that stand there already, made from the same inputs, are kept. The manifest is taken away before the
    first file changes and written after the last one: an ingest that fails or is killed leaves none.
    `on_event` is called with the plan (`event: plan`), of each section (`event: section`, with `state` written, kept or
    failed) and of the end (`event: done`).
    Raises InputError with the problems of all sections; those that succeeded are kept for the next run; and when
    another ingest writes there.
    """
    out = storage.absolute(out)
    check_output(out)
    with lease(out, "stray ingest", "wait until it has ended, or name another folder", folder=CLAIMS):
        return _build(config, out, run_tasks, on_event or (lambda event: None))


def _build(config: IngestConfig, out: str, run_tasks: RunTasks, tell: OnEvent) -> Manifest:
    plan = make_plan(config)
    tell(
        {
            "event": "plan",
            "sections": len(plan.tasks),
            "genes": plan.genes.num_rows,
            "overlap": dict(plan.overlap),
            "warnings": plan.warnings,
        }
    )
    if not _unchanged(plan, out):
        _remove_manifest(out)
    outcomes: list[SectionOutcome] = []
    for outcome in run_tasks(plan.tasks, out):
        outcomes.append(outcome)
        tell(_section_event(outcome, len(outcomes), len(plan.tasks)))
    failed = [problem for outcome in outcomes for problem in outcome.problems]
    if failed:
        # The file that a failed section leaves no longer agrees with its inputs.
        _remove_manifest(out)
        raise_if_any(failed)
    manifest = _finish(plan, outcomes, out)
    tell(
        {
            "event": "done",
            "spots": manifest.n_spots,
            "sections": len(manifest.sections),
            "digest": manifest.digest,
            "warnings": manifest.warnings[len(plan.warnings) :],
        }
    )
    return manifest


def _finish(plan: IngestPlan, outcomes: Sequence[SectionOutcome], out: str) -> Manifest:
    entries = sorted(
        (outcome.entry for outcome in outcomes if outcome.entry is not None),
        key=lambda entry: (entry.patient, entry.name),
    )
    _check_spot_ids(entries, out)
    genes = write_table(iter([plan.genes]), GENE_TABLE, out, GENES)
    measured = {task.handle.name: task.gene_index for task in plan.tasks if task.gene_index is not None}
    files = tuple(file for entry in entries for file in entry.files)
    manifest = Manifest(
        digest=dataset_digest([genes, *files]),
        sections=tuple(entries),
        genes=genes,
        n_genes=plan.genes.num_rows,
        measured=pack_genes(measured, plan.genes.num_rows),
        patch=plan.config.patch,
        ingest=_as_json(plan.config),
        versions={
            "python": platform.python_version(),
            "stray": stray.__version__,
            **{name: importlib.metadata.version(name) for name in _WRITERS},
        },
        warnings=(*plan.warnings, *class_warnings({name for entry in entries for name in _classes(entry)})),
    )
    _remove_strangers({file.path for file in files}, out)
    try:
        manifest.save(out)
    except OSError as error:
        raise _unwritable(out, error) from error
    return manifest


def _classes(entry: SectionEntry) -> Iterator[str]:
    for counted in entry.labels.values():
        yield from counted


def _check_spot_ids(entries: Sequence[SectionEntry], out: str) -> None:
    """Raise InputError if two spots of the cohort have the same id."""
    columns = [
        read_row_groups(storage.join(out, file.path), None, [SPOT_ID])[SPOT_ID]
        for entry in entries
        for file in entry.files
    ]
    ids = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    if len(ids.unique()) == len(ids):
        return
    twice = [str(found["values"]) for found in ids.value_counts().to_pylist() if found["counts"] > 1]
    what = f"{plural(len(twice), 'spot id')} of the cohort are not unique: {', '.join(twice[:5])}"
    raise InputError(
        Problem(out, what, "rename the sections so that no section's name is the start of another's spot ids")
    )


def _as_json(config: IngestConfig) -> dict[str, object]:
    tree = asdict(config)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()}


def _section_event(outcome: SectionOutcome, done: int, total: int) -> dict:
    entry = outcome.entry
    return {
        "event": "section",
        "section": outcome.name,
        "patient": outcome.patient,
        "state": "failed" if entry is None else "kept" if outcome.kept else "written",
        "spots": 0 if entry is None else entry.n_spots,
        "dropped": 0 if entry is None else sum(len(spots) for spots in entry.dropped.values()),
        "has_image": entry is not None and entry.has_image,
        "warnings": () if entry is None else entry.warnings,
        "problems": outcome.problems,
        "seconds": outcome.seconds,
        "done": done,
        "total": total,
    }


def check_output(out: str) -> None:
    """Raise InputError if `out` cannot be written or contains other files, before any source is read."""
    filesystem, inner = storage.resolve(out)
    try:
        info = filesystem.get_file_info(inner)
        if info.type == fs.FileType.File:
            raise InputError(Problem(out, "is a file", "name a folder for the dataset"))
        if info.type == fs.FileType.Directory:
            names = {child.base_name for child in filesystem.get_file_info(fs.FileSelector(inner))}
            if names and not names & {MANIFEST, ".ingest", "spots"}:
                what = f"already contains other files: {', '.join(sorted(names)[:5])}"
                raise InputError(Problem(out, what, "name an empty or a new folder for the dataset"))
        storage.write_bytes(storage.join(out, ".ingest", "started"), b"")
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: str, error: OSError) -> InputError:
    return InputError(
        Problem(
            out,
            f"cannot be written: {error}",
            "choose another output, or change its permissions",
        )
    )


def _unchanged(plan: IngestPlan, out: str) -> bool:
    """Return whether the existing dataset at `out` equals the one that the plan would make."""
    try:
        manifest = Manifest.load(out)
    except InputError:
        return False
    return manifest.ingest == _as_json(plan.config) and [(t.fingerprint, t.columns) for t in plan.tasks] == [
        (entry.fingerprint, entry.columns) for entry in manifest.sections
    ]


def _remove_manifest(out: str) -> None:
    filesystem, inner = storage.resolve(storage.join(out, MANIFEST))
    if filesystem.get_file_info(inner).type == fs.FileType.File:
        filesystem.delete_file(inner)


def _remove_strangers(files: set[str], out: str) -> None:
    """Delete spot files of sections that have left the cohort, so that readers of the whole folder do not see them."""
    filesystem, folder = storage.resolve(storage.join(out, "spots"))
    wanted = {storage.resolve(storage.join(out, file))[1] for file in files}
    for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True)):
        if info.type == fs.FileType.File and info.path not in wanted:
            filesystem.delete_file(info.path)
