"""Protocol that training and evaluation log through, and two implementations without a server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
"""Status with which a run ended."""


@runtime_checkable
class Tracker(Protocol):
    """One run. No member blocks on a server or raises because one is away."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the settings of the run: dotted recipe paths and their values. A name keeps its first value."""
        ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log measured values by name (`gene/...`, `contrastive/...`, `eval/...`), at a step of the run's own count."""
        ...

    def artifact(self, path_local: str | os.PathLike[str], folder: str = "") -> None:
        """Log a file, or a folder with all that it holds, under `folder` of the run. It may be deleted once this
        returns.

        Raises FileNotFoundError when it is absent.
        """
        ...

    def warn(self, subject: str, text: str) -> None:
        """Show a warning and keep it with the run under its subject (a word without spaces); a later warning of the
        same subject replaces it.
        """
        ...

    def close(self, status: RunStatus = "FINISHED") -> None:
        """End the run. Nothing may be logged after it."""
        ...


class NullTracker:
    """Tracker that discards everything."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Discard `values`."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Discard `values`."""

    def artifact(self, path_local: str | os.PathLike[str], folder: str = "") -> None:
        """Discard the file."""

    def warn(self, subject: str, text: str) -> None:
        """Discard the warning."""

    def close(self, status: RunStatus = "FINISHED") -> None:
        """Do nothing."""


@dataclass
class MemoryTracker:
    """Tracker that keeps everything in memory, for tests and notebooks."""

    logged_params: dict[str, Any] = field(default_factory=dict)
    """Every parameter."""
    history: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    """Every call of `metrics`: (step, values)."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Place in the run -> local path that was given."""
    warnings: dict[str, str] = field(default_factory=dict)
    """Subject -> text of every warning."""
    status: RunStatus | None = None
    """Status with which the run ended; None while it is open."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Keep `values`; a name keeps its first value."""
        self.logged_params = {**values, **self.logged_params}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Keep `values`."""
        self.history.append((step, dict(values)))

    def artifact(self, path_local: str | os.PathLike[str], folder: str = "") -> None:
        """Keep the path. Raises FileNotFoundError when there is nothing."""
        path = os.fspath(path_local)
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        self.artifacts["/".join(part for part in (folder, os.path.basename(path.rstrip("/"))) if part)] = path

    def warn(self, subject: str, text: str) -> None:
        """Keep the warning."""
        self.warnings[subject] = text

    def close(self, status: RunStatus = "FINISHED") -> None:
        """Keep the status."""
        self.status = status

    def series(self, name: str) -> list[tuple[int | None, float]]:
        """Return (step, value) of one metric, in the order in which they were logged."""
        return [(step, values[name]) for step, values in self.history if name in values]
