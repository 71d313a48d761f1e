"""Waiting for resources on the cluster: reported after ten seconds, then every minute, with a time limit."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import ray

from stray.config import RunConfig
from stray.errors import InputError, Problem
from stray.on_ray.interruptible import interruptible
from stray.on_ray.private import internal_kv, state
from stray.on_ray.usage import Usage, amounts, job_id, read_usage

T = TypeVar("T")

FIRST_S, AGAIN_S = 10.0, 60.0
"""Seconds until a wait is reported, and between reports. A wait that lacks nothing, such as a slow start, is reported
after the second."""

_NAMESPACE = "stray-running"


@dataclass(frozen=True)
class Need:
    """Resources that must be free before work goes on."""

    what: str
    """Text for messages: `2 workers`."""
    each: Mapping[str, float]
    """Resources of one, by Ray's names."""
    count: int = 1

    def lack(self, usage: Usage) -> str:
        """Return the missing resources and the jobs that hold them; empty where there is room."""
        # Resources that this command already holds may be those that it requests.
        free = self._fits([node.free for node in usage.nodes])
        if free >= self.count or all(usage.own.get(name, 0.0) >= n * self.count for name, n in self.each.items()):
            return ""
        each = "" if self.count == 1 else " each"
        parts = [f"needed: {amounts(self.each)}{each}"]
        if self._fits([node.total for node in usage.nodes]) < self.count:
            have = [f"{amounts(node.total, self.each)} on {node.host}" for node in usage.nodes] or ["no node"]
            parts.append(f"the cluster has {' + '.join(have)}")
            parts += [f"gone: {', '.join(usage.gone)}"] if usage.gone else []
        else:
            parts.append(f"free: {amounts(usage.free(), self.each)} of {amounts(usage.total(), self.each)}")
        held = {who: amounts(found, self.each, zeros=False) for who, found in usage.others.items()}
        parts += [f"{text} held by {who}" for who, text in held.items() if text]
        return "; ".join(parts)

    def _fits(self, rooms: Sequence[Mapping[str, float]]) -> int:
        wanted = {name: amount for name, amount in self.each.items() if amount > 0}
        if not wanted:
            return self.count if rooms else 0
        # Fractions such as 2/3 must not lose a worker to rounding.
        return sum(min(math.floor(room.get(name, 0.0) / n + 1e-6) for name, n in wanted.items()) for room in rooms)


@dataclass(frozen=True)
class Patience:
    """Time limit of waiting, and the function that receives its reports."""

    minutes: float | None = RunConfig().wait_minutes
    say: Callable[[str], None] = logging.getLogger(__name__).warning
    setting: str = "run.wait_minutes"
    """Name of the setting of `minutes`, as the user writes it."""


_patience = Patience()


@contextlib.contextmanager
def patience(minutes: float | None, say: Callable[[str], None], setting: str = "run.wait_minutes") -> Iterator[None]:
    """Have all waits of this process, in every thread, report through `say` and end after `minutes`."""
    global _patience
    before, _patience = _patience, Patience(minutes, say, setting)
    try:
        yield
    finally:
        _patience = before


def patiently(function: Callable[[], T], need: Need) -> T:
    """Return what `function` does, which waits for tasks or workers of this job that count themselves as `running`.

    Raises InputError when nothing of the job ran for longer than the patience; the function is then left behind.
    """
    return interruptible(function, start_wait(need).look)


def start_wait(need: Need) -> Wait:
    """Return the state of a wait that begins now, whose `look` is to be called all the while."""
    return Wait(need, _patience)


@dataclass
class Wait:
    """State of one wait, polled frequently."""

    need: Need
    patience: Patience
    runs: Callable[[], bool] = field(default_factory=lambda: anything_runs)
    usage: Callable[[], Usage] = field(default_factory=lambda: read_usage)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._since = self._looked = self.clock()
        self._said = -math.inf

    def look(self) -> None:
        """Report the wait when it is due. Raises InputError when the time limit is reached."""
        now = self.clock()
        if now - self._looked < 1:
            return
        self._looked = now
        try:
            if self.runs():
                self._since, self._said = now, -math.inf
                return
        except Exception:  # the control service is unreachable, and may come back
            return
        waited = now - self._since
        over = self.patience.minutes is not None and waited >= 60 * self.patience.minutes
        if not over and (waited < FIRST_S or now - self._said < AGAIN_S):
            return
        try:
            lack = self.need.lack(self.usage())
        except Exception as error:
            lack = f"the holders of the resources are unknown: {error}"
        if over:
            raise InputError(self._given_up(lack))
        if lack or waited >= AGAIN_S:
            self._said = now
            self.patience.say(
                f"{self.need.what}: waiting since {waited:.0f} s; {lack or 'resources are free, starting'}"
            )

    def _given_up(self, lack: str) -> Problem:
        setting, minutes = self.patience.setting, self.patience.minutes
        what = f"{self.need.what} did not start within {minutes:g} min; {lack or 'the resources were free'}"
        if lack:
            remedy = f"end the program that holds it, add nodes, request less, or wait longer with {setting}"
        else:
            remedy = f"check Ray's logs and `ray status`, or wait longer with {setting}"
        return Problem(setting, what, f"{remedy}; the same command continues where this one stopped")


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Count the task or worker that this is as running, until the block ends."""
    context = ray.get_runtime_context()
    key = f"{context.get_job_id()}:{uuid.uuid4().hex}"
    value = json.dumps({"node": context.get_node_id(), "actor": context.get_actor_id()})
    with contextlib.suppress(Exception):  # counting only informs; the work must not depend on it
        internal_kv._internal_kv_put(key, value, namespace=_NAMESPACE)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            internal_kv._internal_kv_del(key, namespace=_NAMESPACE)


def anything_runs() -> bool:
    """Return whether any task or worker of this job is `running`, ignoring those whose node or process is gone."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    for key in internal_kv._internal_kv_list(f"{job_id()}:", namespace=_NAMESPACE):
        found = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
        if found is None:
            continue
        place = json.loads(found)
        if place["node"] in alive and (place["actor"] is None or _lives(place["actor"])):
            return True
        internal_kv._internal_kv_del(key, namespace=_NAMESPACE)
    return False


def _lives(actor: str) -> bool:
    return state.actors(actor).get("State") == "ALIVE"
