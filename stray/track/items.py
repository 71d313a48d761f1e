"""Items that a tracking store is asked to log: plain data, which a file keeps as JSON until the store has taken it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from stray.track.tracker import RunStatus

Point = tuple[str, int | None, float]
"""Name, step and value of a metric; a value without a step is logged where it differs from the last one."""


@dataclass(frozen=True, kw_only=True)
class _RunItem:
    __pydantic_config__ = ConfigDict(extra="forbid")

    run: str
    """Name of the run within the spool; its `OpenRun` stands before all its other items."""


@dataclass(frozen=True, kw_only=True)
class OpenRun(_RunItem):
    """Open a run, or go on with the one that has the same key."""

    kind: Literal["run"] = "run"
    name: str
    tags: dict[str, str]
    parent: str | None = None
    """Name within the spool of the run that it is nested under."""
    known: bool = False
    """Whether the store was asked before: the status of the run stays."""


@dataclass(frozen=True, kw_only=True)
class LogParams(_RunItem):
    """Log parameters; a name keeps its first value."""

    kind: Literal["params"] = "params"
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LogMetrics(_RunItem):
    """Log the points that the run does not have yet."""

    kind: Literal["metrics"] = "metrics"
    points: tuple[Point, ...]
    time: int
    """Milliseconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class SetTags(_RunItem):
    """Set tags; a name takes its last value."""

    kind: Literal["tags"] = "tags"
    values: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LogArtifact(_RunItem):
    """Log a file or a folder, and remove the copy at `path`."""

    kind: Literal["artifact"] = "artifact"
    path: str
    folder: str
    """Folder of the run that it goes into; empty for the top."""


@dataclass(frozen=True, kw_only=True)
class LogModel(_RunItem):
    """Log the MLflow model at `path`, and remove this copy."""

    kind: Literal["model"] = "model"
    path: str
    name: str


@dataclass(frozen=True, kw_only=True)
class CloseRun(_RunItem):
    """End a run."""

    kind: Literal["close"] = "close"
    status: RunStatus
    time: int
    """Milliseconds since 1970."""


Item = OpenRun | LogParams | LogMetrics | SetTags | LogArtifact | LogModel | CloseRun

_ITEM: TypeAdapter[Item] = TypeAdapter(Annotated[Item, Field(discriminator="kind")])


def encode(item: Item) -> str:
    """Return an item as one line of JSON."""
    return json.dumps(asdict(item))


def decode(line: str) -> Item:
    """Return the item that a line of JSON holds. Raises ValueError, which says what is wrong with it."""
    try:
        return _ITEM.validate_json(line)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"])
        raise ValueError(f"{place}: {found['msg']}" if place else found["msg"]) from None
