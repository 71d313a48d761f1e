"""Graph of stages with their states (ready, running on a slot, paused, done, failed). Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

State = Literal["open", "running", "paused", "done", "failed"]


@dataclass
class Node:
    """One stage of the graph."""

    key: str
    needs: frozenset[str]
    """Keys of the stages whose results it reads."""
    seconds: float
    """Expected duration."""
    owners: set[str]
    """Names of the runs or trials that asked for it: it is withdrawn with the last of them."""
    state: State = "open"
    slot: str = ""
    """The slot that runs it."""
    failures: int = 0
    """Number of times that a slot was lost while it ran the stage."""
    users: set[str] = field(default_factory=set)
    """Keys of the stages that read its results."""


class StageGraph:
    """Stages with the stages that they read; each is run once, by the slot that takes it.

    A stage is ready when all that it needs and that was added has been done; what was never added counts as done. A
    stage that fails takes those that need it with it, and no others.
    """

    def __init__(self, max_failures: int = 0) -> None:
        """`max_failures` is the number of times that a stage may lose its slot and be run again."""
        self._max_failures = max_failures
        self._nodes: dict[str, Node] = {}

    def add(self, key: str, *, needs: Iterable[str] = (), seconds: float = 0.0, owner: str = "") -> State:
        """Add a stage, or another owner of one that is there, and return its state.

        A stage that failed or was withdrawn before is added anew.
        """
        node = self._nodes.get(key)
        if node is None or node.state == "failed":
            node = Node(key, frozenset(needs), seconds, set())
            self._nodes[key] = node
            for need in node.needs & self._nodes.keys():
                self._nodes[need].users.add(key)
        node.owners.add(owner)
        return node.state

    def take(self, slot: str) -> str | None:
        """Give the slot the ready stage with the longest way to the end, by expected seconds; None where none is
        ready.
        """
        ready = [node for node in self._nodes.values() if self._is_ready(node)]
        if not ready:
            return None
        # The first added of equals.
        node = max(ready, key=lambda one: self._way(one.key))
        node.state, node.slot = "running", slot
        return node.key

    def done(self, key: str) -> None:
        """Mark a stage as done."""
        if (node := self._nodes.get(key)) is not None:
            node.state, node.slot = "done", ""

    def fail(self, key: str) -> tuple[str, ...]:
        """Mark a stage as failed for good, with those that need it; return the keys of all of them."""
        node = self._nodes.get(key)
        if node is None or node.state in ("done", "failed"):
            return ()
        node.state, node.slot = "failed", ""
        return (key, *(other for user in sorted(node.users) for other in self.fail(user)))

    def lose(self, slot: str) -> tuple[str | None, tuple[str, ...]]:
        """Take back the stage that a lost slot was running.

        Returns its key (None where it ran nothing), and the keys that fail for good, because the stage was lost more
        often than allowed.
        """
        node = next((one for one in self._nodes.values() if one.state == "running" and one.slot == slot), None)
        if node is None:
            return None, ()
        node.failures += 1
        node.state, node.slot = "open", ""
        return node.key, self.fail(node.key) if node.failures > self._max_failures else ()

    def withdraw(self, owner: str) -> tuple[str, ...]:
        """Remove an owner, and the stages that nobody else asked for; return those of them that are running."""
        for node in list(self._nodes.values()):
            node.owners.discard(owner)
        running = []
        for node in reversed(list(self._nodes.values())):  # those that need others come after them
            if node.owners or node.state in ("done", "failed"):
                continue
            if node.state == "running":
                running.append(node.key)
            else:
                self._remove(node)
        return tuple(reversed(running))

    def reopen(self, key: str) -> None:
        """Let a stage that was given up while it ran wait again."""
        if (node := self._nodes.get(key)) is not None and node.state == "running":
            node.state, node.slot = "open", ""

    def pause(self, key: str) -> None:
        """Take a running stage back; it is given to no slot until it is resumed."""
        if (node := self._nodes.get(key)) is not None and node.state == "running":
            node.state, node.slot = "paused", ""

    def resume(self, key: str) -> None:
        """Let a paused stage wait for a slot again."""
        if (node := self._nodes.get(key)) is not None and node.state == "paused":
            node.state = "open"

    @property
    def has_ready(self) -> bool:
        """Whether a stage waits for a slot and nothing else."""
        return any(map(self._is_ready, self._nodes.values()))

    def drop(self, key: str) -> None:
        """Remove a stage that was withdrawn while it ran."""
        if (node := self._nodes.get(key)) is not None:
            self._remove(node)

    def state(self, key: str) -> State | None:
        """Return the state of a stage; None where it is not in the graph."""
        return None if (node := self._nodes.get(key)) is None else node.state

    def failures(self, key: str) -> int:
        """Return how often a stage lost its slot."""
        return 0 if (node := self._nodes.get(key)) is None else node.failures

    @property
    def unfinished(self) -> int:
        """Number of stages that are neither done nor failed."""
        return sum(node.state in ("open", "running", "paused") for node in self._nodes.values())

    def _is_ready(self, node: Node) -> bool:
        return node.state == "open" and all(self.state(need) in (None, "done") for need in node.needs)

    def _way(self, key: str) -> float:
        """Return the expected seconds of a stage and of the longest chain of stages that waits for it."""
        node = self._nodes[key]
        return node.seconds + max((self._way(user) for user in node.users if user in self._nodes), default=0.0)

    def _remove(self, node: Node) -> None:
        del self._nodes[node.key]
        for need in node.needs:
            if need in self._nodes:
                self._nodes[need].users.discard(node.key)
