"""The runs of an experiment in MLflow: one parent, a child a cell or trial. The driver alone writes them."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import assert_never

import ray

from stray import __version__
from stray.config import Recipe
from stray.on_ray.events import (
    Artifact,
    Curves,
    Event,
    Metrics,
    Note,
    Params,
    RunEnded,
    RunOpened,
    StageDone,
    StageStarted,
    Warned,
)
from stray.on_ray.progress import Progress
from stray.recipe import dump_yaml, flatten
from stray.track import records
from stray.track.mlflow import MlflowStore, MlflowTracker
from stray.track.place import experiment_name, spool_folder, tracking_uri
from stray.track.spool import leftovers
from stray.track.tracker import RunStatus, Tracker


class Tracking:
    """The parent run and its children, by key; a context manager that closes what is open as it was left."""

    def __init__(self, recipe: Recipe, *, kind: str, key: str, dataset: str, progress: Progress) -> None:
        """`kind` is `records.EXPERIMENT` or `records.SEARCH`; the same `key` goes on with the same runs."""
        self.key, self.uri = key, tracking_uri(recipe)
        spool = spool_folder(recipe, self.uri)
        self._store = MlflowStore(self.uri, experiment_name(recipe), unsent_folder=spool)
        self._tell_of_leftovers(spool, progress)
        self._stored = self._store.finished()
        self._awaited: list[tuple[MlflowTracker, Callable[[], None]]] = []
        self.opened: set[str] = set()
        """Keys of the child runs opened by this process."""
        self._tags = {records.DATASET: dataset, records.VERSION: __version__}
        if (job := _job()) is not None:
            self._tags[records.JOB] = job
        self._progress = progress
        self._lock = threading.Lock()
        self._open: dict[str, MlflowTracker] = {}
        self._started: set[str] = set()
        self.parent = self._store.run(recipe.name, tags={**self._tags, records.KIND: kind, records.KEY: key})
        self.parent.params(flatten(recipe))
        log_text(self.parent, "recipe.yaml", dump_yaml(recipe))

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status: RunStatus = "FINISHED" if kind is None else "KILLED" if not issubclass(kind, Exception) else "FAILED"
        # Successful cells and trials have closed their runs: a run that is still open has failed.
        for key in list(self._open):
            self.close(key, "FAILED" if status == "FINISHED" else status)
        self.parent.close(status)
        # After SIGTERM little time is left; items that the server does not accept in time are kept on disk.
        unsent = self._store.close(5.0 if status == "KILLED" else None)
        self._settle()
        if unsent is not None:
            remedy = f"send it with the same command or with `stray track replay {unsent.parent}`"
            self._progress.say(f"the tracking server did not receive everything; the rest is kept on disk: {remedy}")
        elif self._awaited:
            remedy = (
                "check the store (is its disk full?) and run the same command again: finished training is not repeated"
            )
            self._progress.say(f"{self.uri} did not receive everything: {remedy}")

    def open(self, key: str, name: str, recipe: Recipe, tags: Mapping[str, str]) -> MlflowTracker:
        """Open the child run of this key; resume it if it exists."""
        with self._lock:
            if key not in self._open:
                run = self._store.run(name, self.parent, {**self._tags, **tags, records.KEY: key})
                run.params(flatten(recipe))
                log_text(run, "recipe.yaml", dump_yaml(recipe))
                self._open[key] = run
                self.opened.add(key)
            return self._open[key]

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Give tags to the open child run of this key, if there is one."""
        with self._lock:
            if (run := self._open.get(key)) is not None:
                run.tags(tags)

    def close(self, key: str, status: RunStatus = "FINISHED", stored: Callable[[], None] | None = None) -> None:
        """End the child run of this key; `stored` is called once the store has all of it."""
        with self._lock:
            run = self._open.pop(key, None)
            if run is not None and stored is not None:
                self._awaited.append((run, stored))
        if run is not None:
            run.close(status)
        self._settle()

    def has(self, key: str, metrics: Iterable[str] = ()) -> bool:
        """Return whether the store had the child run of this key, finished and with these metrics, when this process
        began.
        """
        return key in self._stored and self._stored[key].issuperset(metrics)

    def _settle(self) -> None:
        with self._lock:
            done = [one for one in self._awaited if self._store.has_closed(one[0])]
            self._awaited = [one for one in self._awaited if one not in done]
        for _, stored in done:
            stored()

    def _tell_of_leftovers(self, spool: str, progress: Progress) -> None:
        if self._store.adopted:
            progress.say(f"sent {self._store.adopted} tracked items that an earlier command could not send")
            self._store.flush()
        for left in leftovers(spool)[0]:
            what = f"{len(left.items)} tracked items for the experiment {left.experiment} in {left.store} are unsent"
            progress.say(f"{what}: `stray track replay {left.path}` sends them")

    def deliver(self, event: Event) -> None:
        """Deliver an event to the runs that it is for, and to the progress display."""
        title, targets = event.source.title, event.source.targets
        runs = [self._open[target] for target in targets if target in self._open]
        if title not in self._started:
            self._started.add(title)
            self._progress.start(title, title, event.source.epochs or None)
        match event.content:
            case RunOpened(name, recipe, tags):
                self.open(targets[0], name, recipe, tags)
            case RunEnded(status, tags):
                for run in runs:
                    run.tags(tags)
                self.close(targets[0], status)
            case Params(values):
                for run in runs:
                    run.params(values)
            case Metrics(values, step):
                for run in runs:
                    run.metrics(values, step)
                if any(name.endswith("/learning_rate") for name in values):
                    self._progress.update(title, step, describe(values))
            case Curves(points):
                for run in runs:
                    run.curves(points)
            case Artifact(name, content, folder):
                for run in runs:
                    log_bytes(run, name, content, folder)
            case Warned(subject, text):
                for run in runs:
                    run.warn(subject, text)
                self._progress.say(f"{title}: warning: {text}")
            case Note(text):
                self._progress.say(f"{title}: {text}")
            case StageStarted():
                pass  # the display shows it from now on
            case StageDone(note):
                self._progress.finish(title, note)
            case _:
                assert_never(event.content)


def describe(metrics: Mapping[str, float]) -> str:
    """Return a short summary of an epoch."""
    short = {name.split("/", 1)[1]: value for name, value in metrics.items()}
    words = []
    if "elbo" in short:
        words.append(f"ELBO {short['elbo']:.1f}")
        if "validation_elbo" in short:
            words.append(f"held out {short['validation_elbo']:.1f}")
    elif "chance_loss" in short:
        words.append(f"loss {short['loss']:.2f} (chance {short['chance_loss']:.2f})")
        if "validation_recall_10_chance" in short:
            found, chance = short["validation_recall_10_image_to_gene"], short["validation_recall_10_chance"]
            words.append(f"recall@10 {found:.0%} (chance {chance:.0%})")
        if "image_effective_rank" in short:
            words.append(f"rank {short['image_effective_rank']:.0f}")
    words.append(f"{short['spots_per_second']:.0f} spots/s")
    words.append(f"waiting {short['waiting_for_data_share']:.0%}")
    words.append(f"{short['peak_memory_gib']:.1f} GiB")
    return "  ".join(words)


def log_text(run: MlflowTracker, name: str, text: str) -> None:
    """Log a text as an artifact."""
    log_bytes(run, name, text.encode(), "")


def log_bytes(run: Tracker, name: str, content: bytes, folder: str) -> None:
    """Log content as an artifact."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        path.write_bytes(content)
        run.artifact(path, folder)


def _job() -> str | None:
    """Return the submission id of the Ray job that this process is, or Ray's own id of the driver."""
    if config := os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return json.loads(config).get("metadata", {}).get("job_submission_id")
    return ray.get_runtime_context().get_job_id() if ray.is_initialized() else None
