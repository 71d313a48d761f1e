"""Events from workers to the driver, the only owner of the tracking store: a queue that holds no CPU.

So a local SQLite store works on a cluster of several nodes, and a slow or absent tracking server holds up no worker.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stray.config import Recipe
from stray.on_ray.ending import leaving
from stray.track.tracker import RunStatus

POLL_S = 0.3


@dataclass(frozen=True)
class RunOpened:
    """A run of MLflow begins: that of the first target."""

    name: str
    recipe: Recipe
    tags: Mapping[str, str]


@dataclass(frozen=True)
class RunEnded:
    """The run of the first target ended."""

    status: RunStatus
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Params:
    """Settings by name."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Metrics:
    """Measured values by name, at one step."""

    values: Mapping[str, float]
    step: int | None


@dataclass(frozen=True)
class Curves:
    """Measured values with their name and step, some of which the runs may have."""

    points: Sequence[tuple[str, int, float]]


@dataclass(frozen=True)
class Artifact:
    """A file with its content."""

    name: str
    content: bytes
    folder: str


@dataclass(frozen=True)
class Warned:
    """A warning, which the runs keep by subject."""

    subject: str
    text: str


@dataclass(frozen=True)
class Note:
    """A line for the progress display."""

    text: str


@dataclass(frozen=True)
class StageStarted:
    """A slot has taken the stage."""


@dataclass(frozen=True)
class StageDone:
    """The stage ended."""

    note: str | None = None
    """Note on its end, where it did not end well."""


Content = RunOpened | RunEnded | Params | Metrics | Curves | Artifact | Warned | Note | StageStarted | StageDone


@dataclass(frozen=True)
class Source:
    """Sender of events."""

    targets: tuple[str, ...]
    """Keys of the MLflow runs that its events go to."""
    title: str
    """Title in the progress display."""
    epochs: int
    """Epochs that the progress counts to; 0 where nothing is trained."""


@dataclass(frozen=True)
class Event:
    """Message of a worker to the driver."""

    source: Source
    content: Content


@ray.remote(num_cpus=0)
class EventQueue:
    """Queue of events that the driver drains."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, events: list[Event]) -> None:
        """Add events."""
        self._events += events

    def drain(self) -> list[Event]:
        """Take all events."""
        taken, self._events = self._events, []
        return taken


def open_queue() -> Any:
    """Open a queue on the driver's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return EventQueue.options(scheduling_strategy=here).remote()  # pyright: ignore[reportAttributeAccessIssue]


class EventTracker:
    """Tracker of a worker: queues what it is given as events, in bundles of half a second."""

    def __init__(self, queue: Any, source: Source) -> None:
        self._queue, self._source = queue, source
        self._held: list[Event] = []
        self._sent_at = time.monotonic()

    def params(self, values: Mapping[str, Any]) -> None:
        """See `Tracker.params`."""
        self._post(Params(dict(values)))

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """See `Tracker.metrics`."""
        self._post(Metrics(dict(values), step))

    def curves(self, points: Sequence[tuple[str, int, float]]) -> None:
        """See `MlflowTracker.curves`."""
        self._post(Curves(list(points)))

    def artifact(self, path_local: str | os.PathLike[str], folder: str = "") -> None:
        """See `Tracker.artifact`; one file, whose content travels in the event."""
        path = Path(path_local)
        self._post(Artifact(path.name, path.read_bytes(), folder))

    def warn(self, subject: str, text: str) -> None:
        """See `Tracker.warn`."""
        self._post(Warned(subject, text))
        self.flush()

    def open(self, name: str, recipe: Recipe, tags: Mapping[str, str]) -> None:
        """Open the run of the first target."""
        self._post(RunOpened(name, recipe, dict(tags)))

    def end(self, status: RunStatus = "FINISHED", tags: Mapping[str, str] | None = None) -> None:
        """Give the run of the first target these tags, and close it."""
        self._post(RunEnded(status, dict(tags or {})))
        self.flush(wait=True)

    def note(self, text: str) -> None:
        """Send a line for the progress display."""
        self._post(Note(text))
        self.flush()

    def started(self) -> None:
        """Tell that a slot has taken the stage."""
        self._post(StageStarted())
        self.flush()

    def done(self, note: str | None = None) -> None:
        """Tell that the stage ended, well unless a `note` says otherwise."""
        self._post(StageDone(note))
        self.flush(wait=True)

    def close(self, status: RunStatus = "FINISHED") -> None:
        """Send what is held; the driver closes the runs."""
        self.flush()

    def flush(self, *, wait: bool = False) -> None:
        """Send what is held; `wait` until the queue has it."""
        if self._held:
            taken = self._queue.put.remote(self._held)
            self._held = []
            if wait:
                ray.get(taken)
        self._sent_at = time.monotonic()

    def _post(self, content: Content) -> None:
        self._held.append(Event(self._source, content))
        if time.monotonic() - self._sent_at > 0.5:
            self.flush()


@contextmanager
def listen(deliver: Callable[[Event], None]) -> Iterator[Any]:
    """Yield a queue whose events a thread of the driver hands to `deliver` until the block ends.

    Raises what `deliver` raised.
    """
    with relayed(deliver) as relay:
        yield relay.queue


@contextmanager
def relayed(deliver: Callable[[Event], None]) -> Iterator[Relay]:
    """Yield a `Relay`: like `listen`, for callers that wait until all events so far are delivered."""
    relay = Relay(open_queue(), deliver)
    try:
        yield relay
    finally:
        relay.close()


class Relay:
    """Thread of the driver that hands the events of a queue to `deliver`, until it is closed."""

    def __init__(self, queue: Any, deliver: Callable[[Event], None]) -> None:
        self.queue, self._deliver = queue, deliver
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stray-relay", daemon=True)
        self._thread.start()

    def catch_up(self) -> None:
        """Deliver what is in the queue now. Raises what `deliver` raised, if anything."""
        self._once()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Deliver what is left and stop. Raises what `deliver` raised, if anything."""
        self._stop.set()
        self._thread.join(timeout=5 if leaving.is_set() else 30)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.wait(POLL_S):
                self._once()
            self._once()
        except BaseException as error:
            self._error = error

    def _once(self) -> None:
        if not ray.is_initialized():
            return
        with self._lock:
            for event in ray.get(self.queue.drain.remote()):
                self._deliver(event)
