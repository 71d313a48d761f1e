"""The worker pool: slots that take stages from one queue, for experiments and searches alike.

The driver submits stages and hears how each ended. Slots are started as there is work for them and as the cluster has
room, and dismissed when there is none left.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import ray

from stray import storage
from stray.config import RunConfig
from stray.errors import Problem, RunError
from stray.on_ray import waiting
from stray.on_ray.assignment import Assignment, Ended, Standing
from stray.on_ray.failures import full_storage, input_error
from stray.on_ray.interruptible import THREAD
from stray.on_ray.queue import open_stage_queue
from stray.on_ray.resources import SlotPlan
from stray.on_ray.share import Share
from stray.on_ray.slot import SLOTS, Slot, run_slot, threads_of

POLL_S = 0.5
STARTING = 8
"""Slots that are started at the same time: each asks the cluster, or its autoscaler, for room."""
TRIES = 3
"""Times that workers may fail to start, one after the other, before the pool gives up."""
CLOSE_S = 60.0
"""Seconds that slots have to end."""


class Pool:
    """Slots and their queue; a context manager that ends them."""

    def __init__(self, run: RunConfig, plan: SlotPlan, root: str, events: Any) -> None:
        """`root` is the folder of the results, `events` the queue that workers report to."""
        self.plan, self.queue = plan, open_stage_queue(run.max_failures)
        self._run, self._root, self._events = run, storage.absolute(root), events
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._dismissed, self._failed, self._closing = 0, 0, False
        self._error: Exception | None = None
        self._last: Standing = Standing((), 0, 0)
        workers = f"{plan.workers} worker" + ("s" if plan.workers > 1 else "")
        self._share = Share()
        self._wait = waiting.start_wait(waiting.Need(workers, plan.resources_per_worker, plan.workers))

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._share.leave()
        if kind is not None and not issubclass(kind, Exception):
            return  # the session ends, and all that runs in it
        with contextlib.suppress(Exception):
            ray.get(self.queue.close.remote(), timeout=CLOSE_S)
        for thread in list(self._threads.values()):
            thread.join(CLOSE_S if kind is None else 0.0)
        ray.kill(self.queue)
        with contextlib.suppress(OSError):
            storage.delete_folder(storage.join(self._root, SLOTS))

    @property
    def unfinished(self) -> int:
        """Number of stages that were waiting or running when `ended` was called last."""
        return self._last.unfinished

    def submit(self, assignments: Sequence[Assignment], owner: str = "") -> None:
        """Add stages to the queue, each after those that it reads, and start slots for them."""
        unfinished = _get(self.queue.add.remote(list(assignments), owner))
        with self._lock:
            self._grow(min(self.plan.slots, unfinished))

    def ended(self, *, more: bool, timeout: float = POLL_S) -> tuple[Ended, ...]:
        """Return the stages that ended since the last call, waiting for one at most `timeout` seconds. To be called
        all the time: it also starts slots where there is work for them.

        `more`: further stages will be submitted. Raises InputError when nothing could start within the patience, and
        what kept workers from starting.
        """
        self._last = last = _get(self.queue.standing.remote(timeout))
        if self._error is not None:
            raise self._error
        if last.barren >= TRIES:
            what = f"workers were lost {last.barren} times before they took a stage: {last.reason}"
            raise RunError(
                Problem("worker pool", what, "see Ray's logs for the cause; is stray installed on every node?")
            )
        with self._lock:
            live = len(self._threads) - self._dismissed
            wants = min(self.plan.slots, last.unfinished)
            most = self._share.allowed(min(live, last.joined), wants, self._has_room)
            self._grow(int(min(wants, most)))
            keeps = min(most, live if more else last.unfinished)
            if (spare := live - int(max(1, keeps))) > 0 and live > keeps:
                self._dismissed += spare
                self.queue.dismiss.remote(spare)
        if last.unfinished:
            self._wait.look()
        return last.ended

    def keep(self, *, more: bool) -> None:
        """Do what `ended` does where others ask the queue how stages ended."""
        self.ended(more=more, timeout=0.0)

    def finish(self, each: Callable[[Ended], None], *, more: bool = False) -> None:
        """Wait until no stage is left, and call `each` with every end."""
        while True:
            for ended in self.ended(more=more):
                each(ended)
            if not self._last.unfinished and not self._last.ended:
                return

    def _grow(self, slots: int) -> None:
        """Start slots until there are so many, a few at a time."""
        starting = len(self._threads) - self._last.joined
        missing = slots - (len(self._threads) - self._dismissed)
        for _ in range(min(missing, STARTING - starting)):
            self._start()

    def _has_room(self) -> bool:
        """Return whether the cluster has free resources for the workers of another slot."""
        free = ray.available_resources()
        each = self.plan.resources_per_worker
        return all(free.get(name, 0.0) >= amount * self.plan.workers for name, amount in each.items())

    def _start(self) -> None:
        name = f"slot-{uuid.uuid4().hex[:8]}"
        # Named as a thread that a process which ends must not wait for: it is inside Ray.
        thread = threading.Thread(target=self._keep, args=(name,), name=THREAD, daemon=True)
        self._threads[name] = thread
        thread.start()

    def _keep(self, name: str) -> None:
        """Run a slot to its end, in a thread of its own."""
        slot = Slot(
            name=name,
            queue=self.queue,
            events=self._events,
            run=self._run,
            root=self._root,
            threads=threads_of(self.plan),
        )
        try:
            run_slot(slot, self.plan)
            error = None
        except SystemExit:  # Ray ends threads so whose session is over
            return
        except Exception as raised:
            error = raised
        if self._closing or sys.is_finalizing():
            return
        try:
            joined = ray.get(self.queue.leave.remote(name, "lost its slot" if error else ""))
        except Exception:  # the session is over
            return
        with self._lock:
            del self._threads[name]
            self._dismissed = max(0, self._dismissed - (error is None))
            self._failed = 0 if joined or error is None else self._failed + 1
            if error is not None and self._failed >= TRIES:
                place = storage.join(self._root, SLOTS)
                what = f"its workers failed to start {TRIES} times: {type(error).__name__}: {error}"
                unknown = RunError(Problem("worker pool", what, "see Ray's logs for the cause"))
                self._error = input_error(error) or full_storage(error, place) or unknown


def _get(ref: Any) -> Any:
    return ray.get(ref)


def fit(assignments: Sequence[Assignment], *, run: RunConfig, plan: SlotPlan, root: str, events: Any) -> None:
    """Run stages to their end in a pool of their own.

    Raises the error of the first stage that fails for good, once the others have ended.
    """
    failed: list[Exception] = []
    with Pool(run, plan, root, events) as pool:
        pool.submit(assignments)
        pool.finish(lambda ended: failed.append(ended.error) if ended.error is not None else None)
    if failed:
        raise failed[0]
