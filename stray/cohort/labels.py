"""Label tables: CSV files that fill the labels which a section leaves empty."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stray import columns as c
from stray.cohort.section import Section, local_spot_name, plural
from stray.cohort.text import UNLABELLED, read_table
from stray.config.evaluation import EvalConfig
from stray.config.ingest import LabelTableConfig
from stray.errors import InputError, Problem

_REMEDY = "give a table with the columns section, spot and label, such as a CSV file: section,spot,label"


@dataclass(frozen=True, kw_only=True)
class LabelRows:
    """The rows of one label table that concern one section."""

    name: str
    """Name of the table: the label source of the labels that it fills in."""
    path: str
    labels: Mapping[str, str]
    """Spot, without a section prefix -> class."""


def label_tables(
    configs: Iterable[LabelTableConfig], sections: set[str] | None
) -> tuple[list[dict[str, LabelRows]], list[Problem]]:
    """Return each table's rows by section, and the problems of the tables; `sections` are those that sources hold.

    `sections` are those that sources hold; None where that is not known.
    """
    tables, problems = [], []
    for config in configs:
        rows, found = _read_labels(config)
        problems += found
        unknown = sorted(set(rows) - sections) if sections is not None else []
        if unknown and sections is not None:
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


def _read_labels(config: LabelTableConfig) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    by_section: dict[str, dict[str, str]] = defaultdict(dict)
    try:
        table = read_table(config.path, ("section", "spot", "label"), _REMEDY)
    except InputError as error:
        return {}, list(error.problems)
    problems = list(table.problems)
    for line, row in table.rows:
        section, spot, label = row["section"], row["spot"], row["label"]
        if label is None:
            continue
        if section is None or spot is None:
            what = f"labels a spot {label!r} and names no {'section' if section is None else 'spot'}"
            problems.append(Problem(f"{config.path}, line {line}", what, _REMEDY))
            continue
        spot = local_spot_name(section, spot)
        known = by_section[section].setdefault(spot, label)
        if known != label:
            what = f"gives spot {spot} of section {section} both {known!r} and {label!r}"
            problems.append(Problem(f"{config.path}, line {line}", what, "keep one of them"))
    if not by_section and not problems:
        problems.append(Problem(config.path, "holds no label", _REMEDY))
    return dict(by_section), problems


def fill_labels(section: Section, tables: tuple[LabelRows, ...]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return label and label source of each spot, and what to warn of.

    Tables fill, in order, what is still empty or stands for no label (`UNLABELLED`).
    """
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
            if row is not None and (labels[row] is None or labels[row].casefold() in UNLABELLED):
                labels[row], sources[row] = label, table.name
    placeholders = Counter(label for label in labels if label is not None and _excluded(label))
    for label, number in sorted(placeholders.items()):
        warnings.append(
            f"{plural(number, 'spot')} labelled {label!r}: neither trained on nor scored (eval.exclude_classes)"
        )
    return labels, sources, warnings


def _excluded(label: str) -> bool:
    return label.casefold() in EvalConfig().excluded


def count_labels(labels: np.ndarray, sources: np.ndarray) -> dict[str, dict[str, int]]:
    """Return the number of spots by label source and class."""
    counted: dict[str, Counter[str]] = {}
    for label, source in zip(labels, sources, strict=True):
        if label is not None:
            counted.setdefault(source, Counter())[label] += 1
    return {source: dict(sorted(counter.items())) for source, counter in sorted(counted.items())}
