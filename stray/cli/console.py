"""What a person sees: results on stdout, progress and problems on stderr; live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from stray.errors import InputError, NotFiniteError, NotKeptError

PLAIN_WIDTH = 140
"""Columns of tables where there is no terminal to ask."""

PLAIN_INTERVAL_S = 10.0
"""Shortest time between two plain lines of one task."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(stderr=stderr, highlight=False, emoji=False, width=wide)


stdout = _console(stderr=False)
"""Results: what a pipe should receive."""
stderr = _console(stderr=True)
"""Progress, notes and problems."""


def plain() -> bool:
    """Whether progress is lines of text rather than a live display."""
    return not stderr.is_terminal or os.environ.get("TERM") == "dumb"


def say(text: str) -> None:
    """A note to the person who waits; not markup."""
    stderr.print(escape(text), soft_wrap=True)


def print_problems(error: InputError) -> None:
    """Every problem, each with its remedy under it."""
    count = len(error.problems)
    noun = "problem" if count == 1 else "problems"
    where = "in the training" if isinstance(error, NotFiniteError | NotKeptError) else "with the input"
    stderr.print(f"[bold red]stray: {count} {noun} {where}[/]", soft_wrap=True)
    for problem in error.problems:
        stderr.print(f"  [bold]{escape(problem.place)}[/]: {escape(problem.what)}", soft_wrap=True)
        if problem.remedy:
            stderr.print(f"      [green]{escape(problem.remedy)}[/]", soft_wrap=True)


@dataclass
class _Task:
    label: str
    total: float | None
    started: float
    done: float = 0.0
    note: str = ""
    printed: float = 0.0
    row: int | None = None


class Progress:
    """Tasks that advance, by name. Safe to call from several threads.

    On a terminal a live display; elsewhere a line when a task starts and ends, and one every ten seconds between.

        with Progress() as progress:
            progress.start("gene/A", "gene stage, fold A", total=40)
            progress.update("gene/A", 12, "ELBO -812.4")
            progress.finish("gene/A")
    """

    def __init__(self, *, live: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}
        self._live: RichProgress | None = None
        if live if live is not None else not plain():
            self._live = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=stderr,
                # Ray's and others' prints would tear the display if they bypassed it.
                redirect_stdout=False,
                redirect_stderr=True,
            )

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def start(self, key: str, label: str, total: float | None = None) -> None:
        """A new task; `total` is what it counts to, None where nobody knows. A known key starts anew."""
        with self._lock:
            old = self._tasks.get(key)
            task = self._tasks[key] = _Task(label, total, self._clock(), printed=self._clock())
            if not self._live:
                self._line(task, "started")
            elif old and old.row is not None:
                task.row = old.row
                self._live.reset(task.row, description=escape(label), total=total, note="")  # type: ignore[arg-type]
            else:
                task.row = self._live.add_task(escape(label), total=total, note="")

    def update(self, key: str, done: float | None = None, note: str | None = None, *, advance: float = 0.0) -> None:
        """How far a task is: `done` in all, or `advance` further; `note` is what a person wants to read beside it."""
        with self._lock:
            task = self._tasks[key]
            task.done = (task.done if done is None else done) + advance
            task.note = task.note if note is None else note
            if self._live and task.row is not None:
                self._live.update(task.row, completed=task.done, note=escape(task.note))  # type: ignore[arg-type]
            elif self._clock() - task.printed >= PLAIN_INTERVAL_S:
                task.printed = self._clock()
                self._line(task, self._count(task))

    def finish(self, key: str, note: str | None = None) -> None:
        """The task is done."""
        with self._lock:
            task = self._tasks[key]
            task.done = task.done if task.total is None else task.total
            task.note = task.note if note is None else note
            if self._live and task.row is not None:
                total = task.total if task.total is not None else max(task.done, 1)
                changes = {"completed": total, "total": total, "note": escape(task.note)}
                self._live.update(task.row, **changes)  # type: ignore[arg-type]
                self._live.stop_task(task.row)  # type: ignore[arg-type]
            elif not self._live:
                self._line(task, f"done in {self._clock() - task.started:.0f} s")

    def say(self, text: str) -> None:
        """A line that stays, above the live display or among the plain lines."""
        if self._live:
            self._live.console.print(escape(text), soft_wrap=True)
        else:
            _print_line(text)

    @staticmethod
    def _count(task: _Task) -> str:
        return f"{task.done:g}/{task.total:g}" if task.total is not None else f"{task.done:g}"

    @staticmethod
    def _line(task: _Task, state: str) -> None:
        _print_line("  ".join(part for part in (task.label, state, task.note) if part))


def _print_line(text: str) -> None:
    stderr.print(f"{time.strftime('%H:%M:%S')}  {escape(text)}", soft_wrap=True)
