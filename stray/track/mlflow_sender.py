"""Sender of the items of the outbox: every call of the MLflow client that writes, all from one thread."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import assert_never

# First: it sets what MLflow reads when it is imported.
from stray.track.mlflow_client import is_transient, quoted

# isort: split
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from stray.track.items import CloseRun, Item, LogArtifact, LogMetrics, LogModel, LogParams, OpenRun, Point, SetTags
from stray.track.records import ERROR, KEY, PARENT, STATE

logger = logging.getLogger(__name__)

_MAX_PARAM, _MAX_TAG = 6000, 8000
_PARAMS_A_BATCH, _METRICS_A_BATCH = 50, 1000


class Sender:
    """Sender of items to one experiment."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self._experiment_id = client, experiment_id
        self.ids: dict[str, str] = {}
        """The id that MLflow gave each run, by its name in the outbox."""
        self._models: dict[str, str] = {}
        self.closed: set[str] = set()
        """Runs whose end the store has, by name in the outbox."""
        self._there: dict[str, dict[str, dict[tuple[int, float], None]]] = {}
        """Values that open runs have already by metric, by run; as they were logged."""
        self._fresh: set[str] = set()
        """Runs that were made here: there was nothing in them before."""

    def send(self, items: list[Item]) -> None:
        """Send consecutive items of one kind and run. Raises when MLflow does not take them."""
        points: list[tuple[Point, int]] = []
        for item in items:
            match item:
                case OpenRun():
                    self.ids[item.run] = self._open_run(item)
                case LogParams():
                    self._log_params(self._id(item), item.values)
                case LogMetrics():
                    points += [(point, item.time) for point in item.points]
                case SetTags():
                    tags = [RunTag(key, _cut(value, _MAX_TAG)) for key, value in item.values.items()]
                    self._client.log_batch(self._id(item), tags=tags)
                case LogArtifact():
                    self._log_artifact(self._id(item), item)
                case LogModel():
                    self._log_model(self._id(item), item)
                case CloseRun():
                    self._close_run(self._id(item), item)
                case _:
                    assert_never(item)
        if points:
            self._log_points(self._id(items[0]), points)

    def _id(self, item: Item) -> str:
        if item.run not in self.ids:
            raise LookupError(f"the run {item.run} was never opened")
        return self.ids[item.run]

    def _log_points(self, run_id: str, points: list[tuple[Point, int]]) -> None:
        """Log the points, with their times, that the run lacks, each once."""
        new: dict[tuple[str, int, float], Metric] = {}
        for (name, step, value), time in points:
            if self._is_new(run_id, name, step, value):
                key = (name, -1 if step is None else step, _alike(value))
                new.setdefault(key, Metric(name, value, time, step or 0))
        entries = list(new.values())
        for start in range(0, len(entries), _METRICS_A_BATCH):
            self._log_metrics(run_id, entries[start : start + _METRICS_A_BATCH])

    def _is_new(self, run_id: str, name: str, step: int | None, value: float) -> bool:
        """Return whether the run lacks the value at the step; without a step, whether its last value is another.

        The same values are sent again, to the last digit, by a training that resumes from a checkpoint, by a retry
        after a lost answer, and by a process that sends what an earlier one had kept.
        """
        of_run = self._there.setdefault(run_id, {})
        if name not in of_run:
            before = [] if run_id in self._fresh else self._client.get_metric_history(run_id, name)
            before = sorted(before, key=lambda metric: metric.timestamp)
            of_run[name] = {(metric.step, _alike(metric.value)): None for metric in before}
        if step is None:
            return (0, _alike(value)) != next(reversed(of_run[name]), None)
        return (step, _alike(value)) not in of_run[name]

    def _log_metrics(self, run_id: str, entries: list[Metric]) -> None:
        """Log a batch; MLflow refuses one for a single bad name, so halve it until the good ones are through, then
        raise for the bad.
        """
        try:
            self._client.log_batch(run_id, metrics=entries)
            for entry in entries:
                known = self._there.setdefault(run_id, {}).setdefault(entry.key, {})
                known.pop(point := (entry.step, _alike(entry.value)), None)
                known[point] = None
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

    def _open_run(self, item: OpenRun) -> str:
        tags = {key: _cut(value, _MAX_TAG) for key, value in item.tags.items()}
        if parent := self.ids.get(item.parent or ""):
            tags[PARENT] = parent
        where = f"tags.`{KEY}` = {quoted(tags[KEY])}"
        found = self._client.search_runs([self._experiment_id], where, max_results=1)
        if found:
            run_id = found[0].info.run_id
            if item.known:  # an earlier process had opened it: only what it could not send is added
                return run_id
            self._client.update_run(run_id, status="RUNNING", name=item.name)
            for tag in (ERROR, STATE):
                if tag in found[0].data.tags:
                    self._client.delete_tag(run_id, tag)
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            return run_id
        made = self._client.create_run(self._experiment_id, tags=tags, run_name=item.name).info.run_id
        self._fresh.add(made)
        return made

    def finished(self) -> dict[str, set[str]]:
        """See `MlflowStore.finished`."""
        found, token = {}, None
        while True:
            page = self._client.search_runs([self._experiment_id], "attributes.status = 'FINISHED'", page_token=token)
            found |= {run.data.tags[KEY]: set(run.data.metrics) for run in page if KEY in run.data.tags}
            if not (token := page.token):
                return found

    def _log_params(self, run_id: str, values: dict[str, str]) -> None:
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

    def _log_artifact(self, run_id: str, item: LogArtifact) -> None:
        path = Path(item.path)
        if not path.exists():
            return  # sent before, when the answer was lost
        if path.is_dir():
            folder = "/".join(part for part in (item.folder, path.name) if part)
            self._client.log_artifacts(run_id, str(path), folder)
        else:
            self._client.log_artifact(run_id, str(path), item.folder or None)
        _discard(path)

    def _log_model(self, run_id: str, item: LogModel) -> None:
        if not os.path.exists(item.path):
            return  # sent before, when the answer was lost
        if item.path not in self._models:
            made = self._client.create_logged_model(self._experiment_id, name=item.name, source_run_id=run_id)
            self._models[item.path] = made.model_id
        model = self._client.get_logged_model(self._models[item.path])
        described = Model.load(item.path)
        described.run_id, described.model_id = run_id, model.model_id
        described.artifact_path = model.artifact_location
        described.save(os.path.join(item.path, "MLmodel"))
        self._client.log_model_artifacts(model.model_id, item.path)
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        _discard(Path(item.path))

    def _close_run(self, run_id: str, item: CloseRun) -> None:
        self._client.set_terminated(run_id, status=item.status, end_time=item.time)
        self._there.pop(run_id, None)
        self._fresh.discard(run_id)
        self.closed.add(item.run)


def _alike(value: float) -> float:
    """Return a value to compare by: nan equals nan, and an infinity the largest number, as databases store it."""
    if math.isnan(value):
        return -1.2345678901234567e308
    return max(-sys.float_info.max, min(sys.float_info.max, value))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} long)"


def _discard(staged: Path) -> None:
    """Remove a staged copy, and the store's staging folder with the last of them."""
    shutil.rmtree(staged.parent, ignore_errors=True)
    with suppress(OSError):
        staged.parent.parent.rmdir()
