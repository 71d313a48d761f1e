"""Columns of sections, such as slide, scanner or kit: from their sources and from a CSV table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from stray import columns as c
from stray.cohort.text import read_table
from stray.errors import InputError, Problem, raise_if_any

_REMEDY = "give a CSV file whose first line reads section,COLUMN,..."


def section_columns(
    path: str, known: Mapping[str, Mapping[str, str]], *, whole: bool = True
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Return each section's columns, and the problems of the table at `path`, which may be empty: no table.

    `known` are the sections with the columns that their sources give them. The table fills what these leave empty; that
    it contradicts one of them is a problem. A section that the table does not name lacks its columns. `known` may lack
    sections where it is not `whole`.
    """
    found = {name: dict(columns) for name, columns in known.items()}
    if not path:
        return found, []
    try:
        rows = _read(path)
    except InputError as error:
        return found, list(error.problems)
    problems = []
    unknown = sorted(set(rows) - set(known))
    if unknown and whole:
        what = f"describes sections that no source holds: {', '.join(unknown[:8])}"
        problems.append(Problem(path, what, f"the sections are {', '.join(sorted(known)[:40])}"))
    for section in sorted(set(rows) & set(known)):
        for column, value in rows[section].items():
            if found[section].setdefault(column, value) != value:
                what = f"{column} of section {section} is {value!r}, its source says {found[section][column]!r}"
                problems.append(Problem(path, what, "correct one of them, or name the table's column otherwise"))
    return found, problems


def _read(path: str) -> dict[str, dict[str, str]]:
    """Return the values by section and column, without empty cells. Raises InputError with all that is wrong with the
    table.
    """
    rows: dict[str, dict[str, str]] = {}
    table = read_table(path, (c.SECTION,), _REMEDY)
    _check_header(table.header, path)
    problems = list(table.problems)
    for line, row in table.rows:
        section, place = row.pop(c.SECTION), f"{path}, line {line}"
        if section is None:
            problems.append(Problem(place, "names no section", _REMEDY))
            continue
        if section in rows:
            problems.append(Problem(place, f"describes section {section} again", "keep one line a section"))
        rows[section] = {name: value for name, value in row.items() if name and value is not None}
    raise_if_any(problems)
    return rows


def _check_header(header: tuple[str, ...], path: str) -> None:
    place = f"{path}, line 1"
    header = header[1:] if header[0] == "" else header  # R's row names
    problems = []
    if len(header) < 2:
        problems.append(Problem(place, "has no column beside `section`", _REMEDY))
    for name, times in Counter(header).items():
        if not name:
            problems.append(Problem(place, "has a column without a name", "name it"))
        elif times > 1:
            problems.append(Problem(place, f"names the column {name} {times} times", "keep one of them"))
        elif name in c.SECTION_FACTS and name != c.SECTION:
            problems.append(Problem(place, f"{name} is known of every section already", "rename or remove the column"))
    raise_if_any(problems)
