"""Runs in an MLflow store, which one process writes: created, nested and resumed."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stray.errors import without_secrets
from stray.track.items import CloseRun, Item, LogArtifact, LogMetrics, LogModel, LogParams, OpenRun, Point, SetTags
from stray.track.mlflow_client import is_transient, open_client, open_experiment, resolve_uri
from stray.track.mlflow_sender import Sender
from stray.track.outbox import Outbox
from stray.track.place import SPOOL, sqlite_file
from stray.track.records import KEY, WARNING
from stray.track.spool import Leftover, Spool, leftovers
from stray.track.tracker import RunStatus

if TYPE_CHECKING:
    import numpy as np
    import torch


logger = logging.getLogger(__name__)


class MlflowStore:
    """The one writer of an experiment of an MLflow store. Use it as a context manager, or call `close`."""

    def __init__(
        self, uri: str, experiment: str, *, unsent_folder: str | None = None, close_seconds: float = 30.0
    ) -> None:
        """Open the store, and make the experiment where there is none.

        Args:
            uri: `sqlite:///FILE`, `http(s)://...`, or another database that MLflow knows.
            experiment: Name of the experiment.
            unsent_folder: Folder of what the store has not taken yet; None: beside a SQLite file, else in the working
                directory. What an earlier process left there for this experiment is sent first.
            close_seconds: Seconds that `close` waits for a server.

        Raises:
            InputError: The store cannot be opened. A wrong address is found before the training, not after it.
        """
        self.uri, self.experiment, self._close_seconds = resolve_uri(uri), experiment, close_seconds
        database = sqlite_file(self.uri)
        home = database.parent if database else Path.cwd()
        self._spool = Spool(unsent_folder or home / SPOOL, self.uri, experiment)
        self._client = open_client(self.uri)
        self.experiment_id = open_experiment(self._client, self.uri, experiment)
        self._sender = Sender(self._client, self.experiment_id)
        self._outbox = Outbox(self._sender.send, is_transient, self._spool)
        atexit.register(self.close)
        self.adopted = self._adopt_own()
        """Number of items that earlier processes had left."""

    def __enter__(self) -> MlflowStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        name: str,
        parent: MlflowTracker | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> MlflowTracker:
        """Open a run, nested under `parent`.

        A run of this experiment with the same `stray.key` tag is resumed, whatever its status: no duplicate.
        """
        local = uuid.uuid4().hex
        # Without a key of its own a run gets one: asking again after a lost answer must not make a second run.
        keyed = {KEY: local, **{key: without_secrets(str(value)) for key, value in (tags or {}).items()}}
        self.put(OpenRun(run=local, name=name, tags=keyed, parent=None if parent is None else parent.local))
        return MlflowTracker(self, local)

    def flush(self, timeout_seconds: float = 60.0) -> bool:
        """Wait until the store has everything; False when it did not take it in time."""
        return self._outbox.flush(timeout_seconds)

    def close(self, timeout_seconds: float | None = None) -> Path | None:
        """Send the remaining items, and return the file of those that could not be sent, or None. Never raises.

        Gives up when the server took nothing for `timeout_seconds` (`close_seconds` where it is not given).
        """
        atexit.unregister(self.close)
        return self._outbox.close(self._close_seconds if timeout_seconds is None else timeout_seconds)

    def adopt(self, left: Leftover) -> int:
        """Queue what an earlier process could not send, and return how many items that is."""
        items = list(self._spool.adopt(left))
        for item in items:
            self._outbox.put(item)
        left.remove()
        return len(items)

    def _adopt_own(self) -> int:
        where = (without_secrets(self.uri), self.experiment)
        found, problems = leftovers(self._spool.home)
        for problem in problems:
            logger.warning("what an earlier command could not track stays unsent: %s", problem)
        return sum(self.adopt(left) for left in found if (left.store, left.experiment) == where)

    def finished(self) -> dict[str, set[str]]:
        """Return the finished runs of the experiment: key -> names of their metrics."""
        return self._sender.finished()

    def has_closed(self, run: MlflowTracker) -> bool:
        """Return whether the store has taken everything of a run, up to its end."""
        return run.local in self._sender.closed

    def put(self, item: Item) -> None:
        """Queue an item of one of this store's runs (the trackers' way in)."""
        self._outbox.put(item)

    def stage(self, source: str | os.PathLike[str]) -> str:
        """Copy a file or folder to a place where it stays until it is sent. Raises FileNotFoundError."""
        source = Path(source)
        target = self._spool.place(source.name)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
        return str(target)

    def stage_model(self, module: torch.nn.Module, example: np.ndarray) -> str:
        """Write the module as an MLflow model to a folder that stays until it is sent."""
        from stray.track.mlflow_model import save_model

        target = self._spool.place("model")
        save_model(module, example, target)
        return str(target)

    def wait_id(self, local: str, timeout_seconds: float) -> str | None:
        """Return the id that MLflow gave a run; None while the server has not answered."""
        self._outbox.wait_for(lambda: local in self._sender.ids, timeout_seconds)
        return self._sender.ids.get(local)


class MlflowTracker:
    """A run of MLflow, made by `MlflowStore.run`. Logging is instant and never raises because of the server."""

    def __init__(self, store: MlflowStore, local: str) -> None:
        self._store, self.local = store, local

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None when the server has not given one within ten seconds."""
        return self._store.wait_id(self.local, 10.0)

    def params(self, values: Mapping[str, Any]) -> None:
        """See `Tracker.params`. Lists and mappings are logged as JSON; texts above 6,000 characters are cut, and
        whole in the artifact `long_params.json`."""
        texts = {name: without_secrets(_text(value)) for name, value in values.items()}
        self._store.put(LogParams(run=self.local, values=texts))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """See `Tracker.metrics`."""
        self._log_points((name, step, float(value)) for name, value in values.items())

    def curves(self, points: Sequence[tuple[str, int, float]]) -> None:
        """Log the measured values, with their name and step, that the run does not have yet."""
        self._log_points(points)

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        texts = {name: without_secrets(str(value)) for name, value in values.items()}
        self._store.put(SetTags(run=self.local, values=texts))

    def warn(self, subject: str, text: str) -> None:
        """See `Tracker.warn`: a tag of the run."""
        self.tags({f"{WARNING}{subject}": text})

    def artifact(self, path_local: str | os.PathLike[str], folder: str = "") -> None:
        """See `Tracker.artifact`. Warns, and sends nothing, where the disk has no room for a copy."""
        with _no_room(f"the artifact {Path(path_local).name}"):
            self._store.put(LogArtifact(run=self.local, path=self._store.stage(path_local), folder=folder))

    def model(self, module: torch.nn.Module, example: np.ndarray, name: str = "model") -> None:
        """Log a module that maps one array to one array, in a form that `mlflow` alone loads and serves.

        example: an input of two or more items (batch, ...), so that the size of the batch stays free. The module's
        graph is exported from a copy in evaluation mode on the CPU. Raises ValueError for a smaller example.
        """
        if len(example) < 2:
            raise ValueError("the example input needs two items or more: with one the batch size would be fixed")
        with _no_room(f"the model {name}"):
            self._store.put(LogModel(run=self.local, path=self._store.stage_model(module, example), name=name))

    def close(self, status: RunStatus = "FINISHED") -> None:
        """See `Tracker.close`. Sending goes on in the background."""
        self._store.put(CloseRun(run=self.local, status=status, time=_now()))

    def _log_points(self, points: Iterable[Point]) -> None:
        if points := tuple(points):
            self._store.put(LogMetrics(run=self.local, points=points, time=_now()))


@contextmanager
def _no_room(what: str) -> Iterator[None]:
    """Warn of a copy that cannot be made, instead of stopping the training."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        remedy = "make room, and run the same command again"
        logger.warning("%s is not tracked: its copy cannot be written (%s); %s", what, error, remedy)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, list | tuple | Mapping) else str(value)


def _now() -> int:
    return time.time_ns() // 1_000_000
