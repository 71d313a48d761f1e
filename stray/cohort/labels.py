"""Label tables: CSV files that fill the labels which a section leaves empty."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stray import columns as c
from stray.cohort.section import Section, local_spot_name, plural
from stray.config.ingest import LabelTableConfig
from stray.errors import InputError, Problem


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """The rows of one label table that concern one section."""

    name: str
    """The table's name: the label source of what it fills."""
    path: str
    labels: Mapping[str, str]
    """Spot, without a section prefix -> class."""


def label_tables(
    configs: Iterable[LabelTableConfig], sections: set[str]
) -> tuple[list[dict[str, LabelRows]], list[Problem]]:
    """Each table's rows by section, and what is wrong with the tables; `sections` are those that sources hold."""
    tables, problems = [], []
    for config in configs:
        rows, found = _read_labels(config)
        problems += found
        unknown = sorted(set(rows) - sections)
        if unknown:
            what = f"labels sections that no source holds: {', '.join(unknown[:8])}"
            problems.append(
                Problem(
                    config.path,
                    what,
                    f"the sections are {', '.join(sorted(sections)[:40])}",
                )
            )
        tables.append(
            {
                name: LabelRows(
                    name=config.name,
                    path=str(Path(config.path).expanduser().resolve()),
                    labels=labels,
                )
                for name, labels in rows.items()
            }
        )
    return tables, problems


def _read_labels(
    config: LabelTableConfig,
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    by_section: dict[str, dict[str, str]] = defaultdict(dict)
    problems: list[Problem] = []
    try:
        with open(Path(config.path).expanduser(), encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines)
            missing = [name for name in ("section", "spot", "label") if name not in (table.fieldnames or ())]
            if missing:
                what = f"lacks the columns {', '.join(missing)}; it has {', '.join(table.fieldnames or ['none'])}"
                return {}, [Problem(config.path, what, "the first line must read section,spot,label")]
            for row in table:
                section, label = (
                    (row["section"] or "").strip(),
                    (row["label"] or "").strip(),
                )
                spot = local_spot_name(section, (row["spot"] or "").strip())
                if not label:
                    continue
                if by_section[section].setdefault(spot, label) != label:
                    what = f"gives spot {spot} of section {section} both {by_section[section][spot]!r} and {label!r}"
                    problems.append(
                        Problem(
                            f"{config.path}, line {table.line_num}",
                            what,
                            "keep one of them",
                        )
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return {}, [
            Problem(
                config.path,
                f"cannot be read: {error}",
                "give a CSV file: section,spot,label",
            )
        ]
    if not by_section and not problems:
        problems.append(Problem(config.path, "holds no label", "give a CSV file: section,spot,label"))
    return dict(by_section), problems


def fill_labels(section: Section, tables: tuple[LabelRows, ...]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Label and label source of each spot, and what to warn of. Tables fill, in order, what is still empty."""
    labels = np.full(len(section.spots), None, dtype=object) if section.labels is None else section.labels.copy()
    sources = np.array([None if label is None else c.ANNOTATED for label in labels], dtype=object)
    row_of = {spot: row for row, spot in enumerate(section.spots)}
    warnings = []
    for table in tables:
        strangers = [spot for spot in table.labels if spot not in row_of]
        if len(strangers) == len(table.labels):
            raise InputError(
                Problem(
                    table.path,
                    f"none of its {len(strangers)} rows for section {section.name} names a spot of it: "
                    f"the table has {strangers[0]}, the section {section.spots[0]}",
                    "name spots as the source does, with or without the section in front",
                )
            )
        if strangers:
            warnings.append(
                f"{plural(len(strangers), 'row')} of the label table {table.name} without a spot of it: "
                + ", ".join(strangers[:5])
            )
        for spot, label in table.labels.items():
            row = row_of.get(spot)
            if row is not None and labels[row] is None:
                labels[row], sources[row] = label, table.name
    return labels, sources, warnings


def count_labels(labels: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, int]]:
    """Label source -> class -> number of spots."""
    counted: dict[str, Counter[str]] = {}
    for label, source in zip(labels, sources, strict=True):
        if label is not None:
            counted.setdefault(source, Counter())[label] += 1
    return {source: dict(sorted(counter.items())) for source, counter in sorted(counted.items())}
