"""Tab-separated tables, read with errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stray.cohort.readers import reading_file
from stray.cohort.section import plural, repeated
from stray.cohort.text import irregular
from stray.errors import InputError, Problem


def read_tsv(path: Path, *, index: bool = False) -> pd.DataFrame:
    """Read the table at `path`. Raises InputError when it cannot be read."""
    if what := irregular(path):
        raise InputError(Problem(str(path), what, "fetch the file again"))
    with reading_file(str(path), "fetch the file again"):
        return pd.read_csv(path, sep="\t", index_col=0 if index else None)


def table_of(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """Return the table at `path`. Raises InputError when it cannot be read or lacks one of the columns `needed`."""
    table = read_tsv(path)
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


def array_places(x: pd.Series, y: pd.Series, path: Path) -> list[str]:
    """Return the names XxY of array positions. Raises InputError if a number is not a valid position."""
    both = np.stack([x.to_numpy(float), y.to_numpy(float)])
    if not (np.abs(both) < 2**31).all():
        worst = both[~(np.abs(both) < 2**31)][0]
        raise InputError(Problem(str(path), f"gives {worst:g} as an array position", "correct x and y"))
    return [f"{x:.0f}x{y:.0f}" for x, y in both.round().T + 0.0]
