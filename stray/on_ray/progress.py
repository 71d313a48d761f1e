"""Protocol of a progress display: the command line has one, a notebook none."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Tasks that advance, by key. Called from several threads."""

    def start(self, key: str, label: str, total: float | None = None) -> None:
        """Add a task that counts to `total`."""
        ...

    def update(self, key: str, done: float | None = None, note: str | None = None) -> None:
        """Set the progress of a task, and the note beside it."""
        ...

    def finish(self, key: str, note: str | None = None) -> None:
        """Mark a task as done."""
        ...

    def say(self, text: str) -> None:
        """Show a line that stays."""
        ...


class NullProgress:
    """Shows nothing."""

    def start(self, key: str, label: str, total: float | None = None) -> None:
        """Ignore it."""

    def update(self, key: str, done: float | None = None, note: str | None = None) -> None:
        """Ignore it."""

    def finish(self, key: str, note: str | None = None) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""
