"""Tab-separated tables, read with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from stray.cohort.section import plural, repeated
from stray.errors import InputError, Problem


def table_of(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """The table at `path`. Raises InputError when it cannot be read or lacks one of the columns `needed`."""
    try:
        table = pd.read_csv(path, sep="\t")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    missing = [column for column in needed if column not in table.columns]
    if missing:
        found = ", ".join(str(column) for column in table.columns)
        raise InputError(
            Problem(
                str(path),
                f"lacks the columns {', '.join(missing)}; it has {found}",
                "correct it",
            )
        )
    return table


def check_unique(spots: tuple[str, ...], path: Path) -> None:
    """Raise InputError when a spot name occurs twice."""
    twice = repeated(spots)
    if twice:
        what = f"names {plural(len(twice), 'spot')} more than once: {', '.join(twice[:5])}"
        raise InputError(
            Problem(
                str(path),
                what,
                "a spot name must be unique in its section: remove the copies",
            )
        )


def unreadable(path: Path, error: BaseException) -> InputError:
    """What to raise for a file that cannot be read."""
    return InputError(Problem(str(path), f"cannot be read: {error}", "fetch the file again"))
