"""A dataset as tables for the terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stray.cohort.dataset import PairedDataset
from stray.cohort.genes import gene_overlap
from stray.cohort.manifest import Manifest, SectionEntry
from stray.cohort.section import plural
from stray.columns import ANNOTATED

_NAMES_SHOWN = 6


def card(dataset: PairedDataset, *, verified: bool) -> Iterator[RenderableType]:
    """Yield the parts of the card: what it is, patients, sections, their columns, classes, dropped spots, warnings."""
    manifest = dataset.manifest
    yield _head(dataset, verified)
    yield _patients(manifest)
    yield _sections(dataset)
    yield from _columns(manifest)
    yield from _classes(manifest)
    yield from _dropped(manifest)
    yield from _warnings(manifest)


def _head(dataset: PairedDataset, verified: bool) -> Panel:
    manifest = dataset.manifest
    size = sum(file.bytes for file in (manifest.genes, *manifest.files))
    paired = sum(section.n_spots for section in manifest.sections if section.has_image and section.has_counts)
    lines = [
        f"{plural(manifest.n_spots, 'spot')}, {plural(len(manifest.sections), 'section')}, "
        f"{plural(len(manifest.patients), 'patient')}, {plural(manifest.n_genes, 'gene')}",
        f"{plural(paired, 'spot')} with picture and counts",
        f"patches of {manifest.patch.size_um:g} um at {manifest.patch.size_px} px ({manifest.patch.encoding}), "
        f"{size / 1e6:,.1f} MB",
        f"contract version {manifest.contract_version}, digest {manifest.digest[:16]}, "
        f"stray {manifest.versions.get('stray', '?')}",
    ]
    checked = "every file agrees with its checksum" if verified else "file sizes agree; --verify compares checksums"
    text = Text("\n".join(lines))
    text.append(f"\n{checked}", style="green" if verified else "dim")
    return Panel(text, title=Text(dataset.path), title_align="left", box=box.ROUNDED, expand=False)


def _table(title: str, *columns: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return table


def _labelled(section: SectionEntry, *, annotated: bool) -> int:
    return sum(sum(n.values()) for source, n in section.labels.items() if (source == ANNOTATED) == annotated)


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def _patients(manifest: Manifest) -> Table:
    columns = ("sections", "spots", "with picture", "with counts", "annotated", "other labels")
    table = _table("Patients", "patient", *columns, numbers=columns)
    for patient in manifest.patients:
        sections = [section for section in manifest.sections if section.patient == patient]
        table.add_row(
            patient,
            _number(len(sections)),
            _number(sum(section.n_spots for section in sections)),
            _number(sum(section.n_spots for section in sections if section.has_image)),
            _number(sum(section.n_spots for section in sections if section.has_counts)),
            _number(sum(_labelled(section, annotated=True) for section in sections)),
            _number(sum(_labelled(section, annotated=False) for section in sections)),
        )
    return table


def _sections(dataset: PairedDataset) -> Table:
    numbers = ("spots", "genes", "shared genes", "um/px", "annotated", "other labels", "dropped")
    columns = ("section", "source", "spots", "picture", *numbers[1:])
    table = _table("Sections", *columns, numbers=numbers)
    table.caption = "shared genes: share of the genes of at least half of the other sections that the section measured"
    table.caption_justify = "left"
    overlap = gene_overlap(np.asarray(dataset.genes["n_sections"]), dataset.manifest.genes_measured())
    for section in dataset.manifest.sections:
        share = overlap.get(section.name)
        table.add_row(
            section.name,
            section.source,
            _number(section.n_spots),
            "yes" if section.has_image else "-",
            _number(section.n_genes),
            "-" if share is None else Text(f"{share:.0%}", style="yellow" if share < 0.5 else ""),
            f"{section.microns_per_pixel:.3f}",
            _number(_labelled(section, annotated=True)),
            _number(_labelled(section, annotated=False)),
            _number(sum(len(spots) for spots in section.dropped.values())),
        )
    return table


def _columns(manifest: Manifest) -> Iterator[Table]:
    """Return the columns that `gene.batch_key` may name beside patient, section and source."""
    if not manifest.columns:
        return
    numbers = ("sections", "without it")
    table = _table("Columns of the sections", "column", *numbers, "values and their sections", numbers=numbers)
    for column in manifest.columns:
        found = Counter(section.columns[column] for section in manifest.sections if column in section.columns)
        shown = ", ".join(f"{value} ({number})" for value, number in found.most_common(_NAMES_SHOWN))
        more = f" and {len(found) - _NAMES_SHOWN} more (manifest.json)" if len(found) > _NAMES_SHOWN else ""
        without = len(manifest.sections) - found.total()
        table.add_row(column, _number(found.total()), _number(without), shown + more)
    yield table


def _classes(manifest: Manifest) -> Iterator[Table]:
    spots: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    patients: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for section in manifest.sections:
        for source, counted in section.labels.items():
            for label, number in counted.items():
                spots[label][source] += number
                patients[label][source].add(section.patient)
    sources = sorted({source for by in spots.values() for source in by}, key=lambda name: (name != ANNOTATED, name))
    if not sources:
        return
    columns = [column for number in sources for column in (number, "patients")]
    table = _table("Classes by label source", "class", *columns, numbers=sources)
    for label in sorted(spots, key=lambda label: -sum(spots[label].values())):
        cells = [label]
        for source in sources:
            cells += [_number(spots[label][source]), ", ".join(sorted(patients[label][source]))]
        table.add_row(*cells)
    totals = [sum(by.get(source, 0) for by in spots.values()) for source in sources]
    table.add_row("total", *(cell for total in totals for cell in (f"{total:,}", "")), style="dim")
    yield table


def _dropped(manifest: Manifest) -> Iterator[Table]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for section in manifest.sections:
        for reason, names in section.dropped.items():
            by_reason[reason] += [f"{section.name} {name}" for name in names]
    if not by_reason:
        return
    table = _table("Dropped spots", "reason", "spots", "which", numbers=("spots",))
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more (manifest.json)" if len(names) > _NAMES_SHOWN else ""
        table.add_row(reason, _number(len(names)), shown + more)
    yield table


def _warnings(manifest: Manifest) -> Iterator[RenderableType]:
    lines = [
        *manifest.warnings,
        *(f"section {section.name}: {warning}" for section in manifest.sections for warning in section.warnings),
    ]
    if lines:
        yield Text("Warnings", style="bold")
        # A grid, so that a long warning wraps under itself.
        grid = Table.grid(padding=(0, 1))
        for line in lines:
            grid.add_row(" -", Text(line), style="yellow")
        yield grid
