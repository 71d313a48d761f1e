"""Access to an MLflow store: its address, client and experiment, and which of its failures are transient."""

from __future__ import annotations

import fcntl
import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Read by MLflow when it is imported: it must contact only the tracking server, and give up a request soon, since
# the outbox asks again anyway. What the user has set stays.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}.items():
    os.environ.setdefault(_name, _value)

import requests  # noqa: E402
import sqlalchemy.exc  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from stray.errors import InputError, Problem  # noqa: E402
from stray.track.place import sqlite_file, sqlite_query, sqlite_uri  # noqa: E402

# urllib3 warns of every refused connection; the outbox says once that the server is away.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
# So does MLflow of a database that takes no more, with a traceback each time.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
_PASSING = {408, 425, 429}
_LOCK_SECONDS = 60.0
_FAILURES = (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError, OSError)


def resolve_uri(uri: str) -> str:
    """Return `uri` with a relative SQLite path made absolute (workers change directory).

    Raises InputError for an address that MLflow 3 has no store for.
    """
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if "://" not in uri or scheme not in _SCHEMES:
        raise InputError(
            Problem(
                "track.uri",
                f"{uri!r} is no MLflow store",
                "give a server (http://HOST:PORT) or a file (sqlite:///PATH/mlflow.db)",
            )
        )
    file = sqlite_file(uri)
    return sqlite_uri(file) + sqlite_query(uri) if file else uri


def open_client(uri: str, *, must_exist: bool = False) -> MlflowClient:
    """Open a client of the store, its SQLite schema made. Raises InputError when it does not answer or (`must_exist`)
    is not there.

    A fresh SQLite file opened by several processes at once fails in all of them, so the first use is under a lock.
    """
    file = sqlite_file(uri)
    try:
        if file is None:
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
            return client
        if must_exist and not file.exists():
            raise InputError(
                Problem(uri, "there is no such file", "give the store that `stray train` named at its end")
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        written = Path(uri.removeprefix("sqlite:///")).parent
        there = written.is_dir()
        with _locked(file.with_name(f"{file.name}.lock")), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy deprecates what MLflow's tables use
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
        if not there and written != file.parent:
            with suppress(OSError):
                os.removedirs(written)  # MLflow makes the folder of a path as it is escaped, too
        return client
    except _FAILURES as error:
        raise _unusable(uri, "opened", error) from error


def open_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of the experiment `name`, made when there is none; with a SQLite store its artifacts lie beside the
    file.

    Raises InputError when it was deleted.
    """
    file = sqlite_file(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        place = None
        if file is not None:
            safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
            place = (file.parent / "mlflow-artifacts" / safe).as_uri()
        try:
            return client.create_experiment(name, artifact_location=place)
        except _FAILURES as error:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise _unusable(uri, "written", error) from error
    if found.lifecycle_stage != "active":
        raise InputError(
            Problem("track.experiment", f"{name!r} was deleted in {uri}", "restore it in MLflow, or name another")
        )
    return found.experiment_id


def _unusable(uri: str, verb: str, error: Exception) -> InputError:
    file = sqlite_file(uri)
    remedy = "start the server, or correct the address"
    if file is not None:
        remedy = f"make {file.parent} writable, with room on its disk, or name another store with track.uri"
    return InputError(Problem(uri, f"the MLflow store cannot be {verb}: {_short(error)}", remedy))


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed later: the server is away or busy, and the request is valid."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
    elif isinstance(error, MlflowException):
        status = error.get_http_status_code()
    elif isinstance(error, sqlalchemy.exc.OperationalError):
        return True  # a SQLite file that is locked, or on a full disk
    else:
        return isinstance(error, requests.RequestException | OSError) and not isinstance(error, FileNotFoundError)
    return status >= 500 or status in _PASSING


def quoted(text: str) -> str:
    """Return `text` as a string of an MLflow filter, which knows two kinds of quotes and no escapes; with both, it
    finds nothing.
    """
    quote = '"' if "'" in text else "'"
    return f"{quote}{text.replace(quote, '_')}{quote}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    deadline = time.monotonic() + _LOCK_SECONDS
    with open(path, "w", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
