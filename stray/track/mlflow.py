"""Runs in MLflow: one store, written by one process; runs are created, nested and resumed here.

The modules `stray.track.mlflow*` are the only ones that import MLflow.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

# First: it sets what MLflow reads when it is imported.
from stray.track.mlflow_client import is_transient, open_client, open_experiment, quoted, resolve_uri, sqlite_file

# isort: split
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.time import get_current_time_millis

from stray.track.outbox import Item, Outbox, read_spill
from stray.track.tracker import RunStatus

if TYPE_CHECKING:
    import numpy as np
    import torch

logger = logging.getLogger(__name__)

KEY = "stray.key"
"""Tag that identifies a run across attempts: a run with the same key is gone on with."""
PARENT = "mlflow.parentRunId"
_MAX_PARAM, _MAX_TAG = 6000, 8000
_PARAMS_A_BATCH, _METRICS_A_BATCH = 50, 1000


class MlflowStore:
    """An experiment of an MLflow store, and the one writer to it. Use it as a context manager, or call `close`."""

    def __init__(
        self, uri: str, experiment: str, *, unsent_folder: str | None = None, close_seconds: float = 30.0
    ) -> None:
        """Open `uri` (`sqlite:///FILE`, `http(s)://...`, or another database that MLflow knows), make the experiment.

        unsent_folder: where that is kept which a server never took; beside a SQLite file, else the working directory.
        close_seconds: how long `close` waits for a server. Raises InputError when the store cannot be opened: a wrong
        address is found before the training, not after it.
        """
        self.uri, self.experiment, self._close_seconds = resolve_uri(uri), experiment, close_seconds
        database = sqlite_file(self.uri)
        home = database.parent if database else Path.cwd()
        self._unsent = Path(unsent_folder or home / "mlflow-unsent").resolve()
        self._staging = self._unsent / f"staged-{uuid.uuid4().hex[:8]}"
        self._client = open_client(self.uri)
        self.experiment_id = open_experiment(self._client, self.uri, experiment)
        self._ids: dict[str, str] = {}
        self._models: dict[str, str] = {}
        self._outbox = Outbox(self._send, is_transient, str(self._unsent), self._introduce)
        atexit.register(self.close)

    def __enter__(self) -> MlflowStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        name: str,
        parent_id: str | MlflowTracker | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> MlflowTracker:
        """A run, nested under `parent_id` (an id, or better the parent's tracker, which may not have an id yet).

        A run of this experiment with the same `stray.key` tag, whatever its status, is gone on with: no duplicate.
        """
        local = uuid.uuid4().hex
        parent = parent_id.local if isinstance(parent_id, MlflowTracker) else None
        # Without a key of its own a run gets one: asking again after a lost answer must not make a second run.
        body = {
            "name": name,
            "parent": parent,
            "parent_id": parent_id if isinstance(parent_id, str) else None,
            "tags": {KEY: local, **{key: str(value) for key, value in (tags or {}).items()}},
        }
        self._outbox.put(Item("run", local, body))
        return MlflowTracker(self, local)

    def flush(self, timeout_seconds: float = 60.0) -> bool:
        """Wait until the store has everything; False when it did not take it in time."""
        return self._outbox.flush(timeout_seconds)

    def close(self) -> Path | None:
        """Send what is left, for a limited time; the file that keeps what could not be sent, or None. Never raises."""
        atexit.unregister(self.close)
        unsent = self._outbox.close(self._close_seconds)
        if unsent is None:
            shutil.rmtree(self._staging, ignore_errors=True)
            if self._unsent.is_dir() and not any(self._unsent.iterdir()):
                self._unsent.rmdir()
        return unsent

    def replay(self, unsent: str | os.PathLike[str]) -> None:
        """Queue what an earlier store could not send. Raises ValueError for a file that is no such list."""
        for item in read_spill(unsent):
            self._outbox.put(item)

    def put(self, item: Item) -> None:
        """Queue an item of one of this store's runs (the trackers' way in)."""
        self._outbox.put(item)

    def stage(self, source: str | os.PathLike[str]) -> str:
        """A copy of a file or folder that stays until it is sent. Raises FileNotFoundError."""
        source = Path(source)
        target = self._staging / uuid.uuid4().hex[:12] / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
        return str(target)

    def stage_model(self, module: torch.nn.Module, example: np.ndarray) -> str:
        """A folder with the module as an MLflow model, that stays until it is sent."""
        from stray.track.mlflow_model import save_model

        target = self._staging / uuid.uuid4().hex[:12] / "model"
        target.parent.mkdir(parents=True, exist_ok=True)
        save_model(module, example, target)
        return str(target)

    def wait_id(self, local: str, timeout_seconds: float) -> str | None:
        """The id that MLflow gave a run; None while the server has not answered."""
        self._outbox.wait_for(lambda: local in self._ids, timeout_seconds)
        return self._ids.get(local)

    def _introduce(self, local: str) -> Item:
        return Item("run", local, {"run_id": self._ids.get(local)})

    def _send(self, items: list[Item]) -> None:
        kind, local = items[0].kind, items[0].run
        if kind == "run":
            for item in items:
                self._ids[local] = self._open_run(item)
            return
        if local not in self._ids:
            raise LookupError(f"the run {local} was never opened")
        run_id = self._ids[local]
        if kind == "metrics":
            entries = [
                Metric(name, value, item.body["time"], item.body["step"])
                for item in items
                for name, value in item.body["values"].items()
            ]
            for start in range(0, len(entries), _METRICS_A_BATCH):
                self._log_metrics(run_id, entries[start : start + _METRICS_A_BATCH])
            return
        for item in items:
            getattr(self, f"_send_{kind}")(run_id, item.body)

    def _log_metrics(self, run_id: str, entries: list[Metric]) -> None:
        """MLflow refuses a batch for one bad name: halve it until the good ones are through, then raise for the bad."""
        try:
            self._client.log_batch(run_id, metrics=entries)
        except MlflowException as error:
            if len(entries) == 1 or is_transient(error):
                raise
            refused: MlflowException | None = None
            for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
                try:
                    self._log_metrics(run_id, part)
                except MlflowException as again:
                    if is_transient(again):
                        raise
                    refused = again
            if refused is not None:
                raise refused from error

    def _open_run(self, item: Item) -> str:
        if "run_id" in item.body:  # of a run that an earlier store had opened
            return self._client.get_run(item.body["run_id"]).info.run_id
        tags = {key: _cut(value, _MAX_TAG) for key, value in item.body["tags"].items()}
        if parent := self._ids.get(item.body["parent"] or "") or item.body["parent_id"]:
            tags[PARENT] = parent
        where = f"tags.`{KEY}` = {quoted(tags[KEY])}"
        found = self._client.search_runs([self.experiment_id], where, max_results=1)
        if found:
            run_id = found[0].info.run_id
            self._client.update_run(run_id, status="RUNNING", name=item.body["name"])
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            return run_id
        return self._client.create_run(self.experiment_id, tags=tags, run_name=item.body["name"]).info.run_id

    def _send_params(self, run_id: str, values: dict[str, str]) -> None:
        logged = self._client.get_run(run_id).data.params
        fresh = []
        for name, text in values.items():
            short = _cut(text, _MAX_PARAM)
            if name not in logged:
                fresh.append(Param(name, short))
            elif logged[name] != short:
                logger.warning("parameter %s of run %s stays %r: MLflow changes none", name, run_id, logged[name])
        for start in range(0, len(fresh), _PARAMS_A_BATCH):
            self._client.log_batch(run_id, params=fresh[start : start + _PARAMS_A_BATCH])
        whole = {name: text for name, text in values.items() if len(text) > _MAX_PARAM}
        if whole:
            self._client.log_dict(run_id, whole, "long_params.json")

    def _send_tags(self, run_id: str, values: dict[str, str]) -> None:
        self._client.log_batch(run_id, tags=[RunTag(key, _cut(value, _MAX_TAG)) for key, value in values.items()])

    def _send_artifact(self, run_id: str, body: dict[str, str]) -> None:
        path = Path(body["path"])
        if path.is_dir():
            folder = "/".join(part for part in (body["folder"], path.name) if part)
            self._client.log_artifacts(run_id, str(path), folder)
        else:
            self._client.log_artifact(run_id, str(path), body["folder"] or None)
        _discard(path)

    def _send_model(self, run_id: str, body: dict[str, str]) -> None:
        if body["path"] not in self._models:
            made = self._client.create_logged_model(self.experiment_id, name=body["name"], source_run_id=run_id)
            self._models[body["path"]] = made.model_id
        model = self._client.get_logged_model(self._models[body["path"]])
        described = Model.load(body["path"])
        described.run_id, described.model_id = run_id, model.model_id
        described.artifact_path = model.artifact_location
        described.save(os.path.join(body["path"], "MLmodel"))
        self._client.log_model_artifacts(model.model_id, body["path"])
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        _discard(Path(body["path"]))

    def _send_close(self, run_id: str, body: dict[str, Any]) -> None:
        self._client.set_terminated(run_id, status=body["status"], end_time=body["time"])


class MlflowTracker:
    """A run of MLflow. Logging into it is instant and never raises because of the server. Made by `MlflowStore.run`."""

    def __init__(self, store: MlflowStore, local: str) -> None:
        self._store, self.local = store, local

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None when the server has not given one within ten seconds."""
        return self._store.wait_id(self.local, 10.0)

    def params(self, values: Mapping[str, Any]) -> None:
        """See `Tracker.params`. Lists and mappings are logged as JSON; texts above 6,000 characters are cut, and
        whole in the artifact `long_params.json`."""
        self._put("params", {name: value if isinstance(value, str) else _text(value) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """See `Tracker.metrics`."""
        numbers = {name: float(value) for name, value in values.items()}
        self._put("metrics", {"values": numbers, "step": step or 0, "time": get_current_time_millis()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put("tags", {name: str(value) for name, value in values.items()})

    def artifact(self, path_local: str | os.PathLike[str], folder: str = "") -> None:
        """See `Tracker.artifact`."""
        self._put("artifact", {"path": self._store.stage(path_local), "folder": folder})

    def model(self, module: torch.nn.Module, example: np.ndarray, name: str = "model") -> None:
        """Log a module that maps one array to one array, in a form that `mlflow` alone loads and serves.

        example: an input of two or more items (batch, ...), so that the size of the batch stays free. The module's
        graph is exported from a copy in evaluation mode on the CPU. Raises ValueError for a smaller example.
        """
        if len(example) < 2:
            raise ValueError("the example input needs two items or more: with one the batch size would be fixed")
        self._put("model", {"path": self._store.stage_model(module, example), "name": name})

    def close(self, status: RunStatus = "FINISHED") -> None:
        """See `Tracker.close`. Sending goes on in the background."""
        self._put("close", {"status": status, "time": get_current_time_millis()})

    def _put(self, kind: str, body: dict[str, Any]) -> None:
        self._store.put(Item(kind, self.local, body))


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | tuple | Mapping) else str(value)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} long)"


def _discard(staged: Path) -> None:
    """Remove a staged copy, and the store's staging folder with the last of them."""
    shutil.rmtree(staged.parent, ignore_errors=True)
    with suppress(OSError):
        staged.parent.parent.rmdir()
