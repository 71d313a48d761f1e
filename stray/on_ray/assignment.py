"""Messages between drivers, slots and the queue of stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stray.on_ray.data import Placed
from stray.stages.spec import Stage

LOST = "lost its workers"
Verdict = Literal["go on", "stop", "pause"]
"""Answer to a stage after an epoch."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One stage, with the data that it reads and the runs that it reports to."""

    stage: Stage
    placed: Placed
    targets: tuple[str, ...] = ()
    """Keys of the MLflow runs that its metrics go to."""
    title: str
    """Title in the progress display."""
    seconds: float = 0.0
    """Expected duration."""
    gates: tuple[int, ...] = ()
    """Epochs at which its slot is given to a stage that waits, until the stage is permitted to go on."""
    key: str = field(init=False)
    """Key of the stage."""
    needs: tuple[str, ...] = field(init=False)
    """Keys of the stages that it reads."""

    def __post_init__(self) -> None:
        # Digests of arrays: the queue must not spend its time on them.
        object.__setattr__(self, "key", self.stage.key)
        object.__setattr__(self, "needs", tuple(other.key for other in self.stage.inputs))


@dataclass(frozen=True)
class Ended:
    """End of a stage."""

    key: str
    error: Exception | None = None
    """Why it failed; None where it is done."""
    seconds: float = 0.0
    """Time that the slot ran it, where it is done."""
    waited_s: float = 0.0
    """Time before that in which the slot was free, from its last stage or its start on."""


@dataclass(frozen=True)
class Standing:
    """State of the queue."""

    ended: tuple[Ended, ...]
    """Stages that ended since the last question."""
    unfinished: int
    """Number of stages that are waiting, running or paused."""
    joined: int
    """Number of slots whose workers are there, or were once."""
    barren: int = 0
    """Number of worker groups, one after the other, that were lost before they took a stage."""
    reason: str = ""
    """Reason of the last such loss."""
