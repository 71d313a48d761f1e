"""Address of the MLflow store that a recipe logs to, and folder of what it has not taken yet."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote

from stray import storage
from stray.config import Recipe
from stray.errors import InputError, Problem

SPOOL = "mlflow-unsent"
"""Folder of what a store has not taken yet."""
_SQLITE = "sqlite:///"


def tracking_uri(recipe: Recipe) -> str:
    """Return the address of the recipe's store, else MLFLOW_TRACKING_URI, else a SQLite file beside the results.

    Raises InputError where the results lie in a bucket and no store is named, or a file in the working directory: no
    SQLite file can live in a bucket, and the working directory of a job is removed with it.
    """
    given, home = recipe.track.uri or os.environ.get("MLFLOW_TRACKING_URI"), local_folder(recipe.output)
    relative = given is not None and given.startswith(_SQLITE) and given[len(_SQLITE) :][:1] not in ("/", "~")
    if given and not (relative and home is None):
        return given
    if home is None:
        what = f"no MLflow store is named, and none can be kept in a bucket ({recipe.output})"
        if given:
            what = f"{given} lies in the working directory, which a job loses, and the results in {recipe.output}"
        remedy = (
            "start a server (`mlflow server`) and give it: --set track.uri=http://HOST:5000 or MLFLOW_TRACKING_URI; or "
            "a file on a disk that stays: --set track.uri=sqlite:////PATH/mlflow.db"
        )
        raise InputError(Problem("track.uri", what, remedy))
    return sqlite_uri(os.path.join(home, "mlflow.db"))


def spool_folder(recipe: Recipe, uri: str) -> str:
    """Return the folder of what the store at `uri` has not taken yet.

    It lies beside a SQLite file, else beside the results, or in the working directory where these lie in a bucket.
    """
    file = sqlite_file(uri)
    if file is not None:
        return str(file.parent / SPOOL)
    return os.path.join(local_folder(recipe.output) or os.getcwd(), SPOOL)


def experiment_name(recipe: Recipe) -> str:
    """Return the MLflow experiment of a recipe."""
    return recipe.track.experiment or recipe.name


def sqlite_uri(file: str | os.PathLike[str]) -> str:
    """Return the address of a SQLite file. `%` and `?` would otherwise be read as an escape and as a query."""
    return _SQLITE + os.fspath(file).replace("%", "%25").replace("?", "%3F")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite address, absolute; None for any other address.

    `%20` and the like are escapes, unless only the folder of that very name exists.
    """
    if not uri.startswith(_SQLITE):
        return None
    text = uri.removeprefix(_SQLITE).removesuffix(sqlite_query(uri))
    literal, plain = (Path(name).expanduser().resolve() for name in (text, unquote(text)))
    return literal if literal.parent.is_dir() and not plain.parent.is_dir() else plain


def sqlite_query(uri: str) -> str:
    """Return the query of a SQLite address with its `?`, as in `mlflow.db?timeout=60`; empty where there is none."""
    _, mark, after = uri.rpartition("?")
    return f"?{after}" if mark and "/" not in after and "=" in after else ""


def local_folder(path: str) -> str | None:
    """Return the folder of a local path; None for a bucket, which is not asked."""
    place = storage.absolute(path)
    return storage.resolve(place)[1] if place.startswith("file://") else None if "://" in place else place
