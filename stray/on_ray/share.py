"""Fair share of a cluster among the commands that train on it: each lets go of the slots beyond its share.

Every pool keeps a note of its slots in the key-value store of the cluster. A note that does not change for a while is
that of a command that is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from stray.on_ray.private import internal_kv

_NAMESPACE = "stray-slots"
NOTE_S = 2.0
"""Seconds between two notes."""
GONE_S = 20.0
"""Seconds without a new note after which a command counts as gone."""


class Notes(Protocol):
    """Store of the notes of all pools."""

    def write(self, key: str, note: str) -> None:
        """Keep a note."""
        ...

    def read(self) -> Mapping[str, str]:
        """Return all notes."""
        ...

    def delete(self, key: str) -> None:
        """Delete a note."""
        ...


class ClusterNotes:
    """Notes in the key-value store of Ray's control service."""

    def write(self, key: str, note: str) -> None:
        internal_kv._internal_kv_put(key, note, namespace=_NAMESPACE)

    def read(self) -> Mapping[str, str]:
        keys = internal_kv._internal_kv_list("", namespace=_NAMESPACE)
        found = {key.decode(): internal_kv._internal_kv_get(key, namespace=_NAMESPACE) for key in keys}
        return {key: note.decode() for key, note in found.items() if note is not None}

    def delete(self, key: str) -> None:
        internal_kv._internal_kv_del(key, namespace=_NAMESPACE)


@dataclass
class Share:
    """Share of one pool."""

    notes: Notes = field(default_factory=ClusterNotes)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._key, self._count = uuid.uuid4().hex, itertools.count()
        self._seen: dict[str, tuple[str, float]] = {}
        self._noted = -math.inf
        self._allowed: float = math.inf

    def allowed(self, has: int, wants: int, room: Callable[[], bool]) -> float:
        """Return how many slots this pool may hold while it has so many and wants so many; at least one.

        Infinite while no other pool wants more than it has. `room` tells whether the cluster has room for another slot.
        """
        now = self.clock()
        if now - self._noted < NOTE_S:
            return self._allowed
        self._noted = now
        with contextlib.suppress(Exception):  # the control service is unreachable, and may come back
            self.notes.write(self._key, json.dumps({"has": has, "wants": wants, "count": next(self._count)}))
            self._allowed = self._part(has, room, now)
        return self._allowed

    def leave(self) -> None:
        """Delete this pool's note."""
        with contextlib.suppress(Exception):
            self.notes.delete(self._key)

    def _part(self, has: int, room: Callable[[], bool], now: float) -> float:
        others = []
        for key, note in self.notes.read().items():
            if key == self._key:
                continue
            if key not in self._seen or self._seen[key][0] != note:
                self._seen[key] = note, now
            if now - self._seen[key][1] < GONE_S:
                others.append(json.loads(note))
        waiting = [other for other in others if other["wants"] > other["has"]]
        if not waiting:
            return math.inf
        slots = has + sum(other["has"] for other in others) + room()
        pools = 1 + sum(other["wants"] > 0 for other in others)
        # The larger part of what does not divide evenly stays where it is: slots must not go to and fro.
        return max(1, math.ceil(slots / pools))
