"""Progress of a command on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from stray.cli import console
from stray.cli.safe import block, one_line

PLAIN_INTERVAL_S = 10.0
"""Shortest time in seconds between two plain lines of one task."""


def _cut(ratio: int) -> Column:
    """Return a column that takes a fixed fraction of the width and cuts longer text."""
    return Column(ratio=ratio, no_wrap=True, overflow="ellipsis")


@dataclass
class _Task:
    label: str
    total: float | None
    started: float
    done: float = 0.0
    note: str = ""
    printed: float = 0.0
    row: TaskID | None = None
    running: bool = True


class ConsoleProgress:
    """Tasks that advance, by name. Safe to call from several threads.

    On a terminal a live display, whose clock runs between tasks as well; elsewhere a line when a task starts and ends,
    and one every ten seconds between.

        with ConsoleProgress() as progress:
            progress.start("gene/A", "gene stage, fold A", total=40)
            progress.update("gene/A", 12, "ELBO -812.4")
            progress.finish("gene/A")
    """

    def __init__(self, *, live: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, _Task] = {}
        self._live: RichProgress | None = None
        self._between: TaskID | None = None
        """Row shown while no task runs: the last note, and the time since."""
        if live if live is not None else not (console.plain() or console.quiet()):
            self._live = RichProgress(
                # On a narrow terminal the title and the note are cut, never the numbers.
                TextColumn("{task.description}", markup=False, table_column=_cut(3)),
                BarColumn(bar_width=12),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TextColumn("left", style="dim"),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=_cut(2)),
                console=console.stderr,
                # Output of Ray and other libraries would corrupt the display if it bypassed it.
                redirect_stdout=False,
                redirect_stderr=True,
                expand=True,
            )

    def __enter__(self) -> ConsoleProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            with self._lock:
                self._show_between()
            self._live.stop()

    def start(self, key: str, label: str, total: float | None = None) -> None:
        """Add a task; `total` is what it counts to, None where that is unknown. A known key starts anew."""
        with self._lock:
            old = self._tasks.get(key)
            task = self._tasks[key] = _Task(label, total, self._clock(), printed=self._clock())
            self._line(task, "started")
            if not self._live:
                return
            if old and old.row is not None:
                task.row = old.row
                self._live.reset(task.row, description=one_line(label), total=total, note="")
            else:
                task.row = self._live.add_task(one_line(label), total=total, note="")
            self._show_between()

    def update(self, key: str, done: float | None = None, note: str | None = None, *, advance: float = 0.0) -> None:
        """Set the progress of a task: `done` in all, or `advance` further; `note` is shown beside it."""
        with self._lock:
            task = self._tasks[key]
            task.done = (task.done if done is None else done) + advance
            task.note = task.note if note is None else note
            if self._live and task.row is not None:
                self._live.update(task.row, completed=task.done, note=one_line(task.note))
            if self._clock() - task.printed >= PLAIN_INTERVAL_S:
                task.printed = self._clock()
                self._line(task, self._count(task))

    def finish(self, key: str, note: str | None = None) -> None:
        """Mark a task as done."""
        with self._lock:
            task = self._tasks[key]
            task.done = task.done if task.total is None else task.total
            task.note = task.note if note is None else note
            task.running = False
            if self._live and task.row is not None:
                # A line that stays above the display, which would outgrow the screen with a row for each stage.
                self._live.remove_task(task.row)
                task.row = None
                self._show_between("working ...")
            done = f"done in {self._clock() - task.started:.0f} s"
            self._line(task, done)
            if self._live:
                words = "  ".join(part for part in (task.label, done, task.note) if part)
                self._live.console.print(Text(one_line(words), style="dim"), no_wrap=True, overflow="ellipsis")

    def say(self, text: str) -> None:
        """Print a permanent line, above the live display or among the plain lines."""
        console.transcript.info(text)
        if self._live:
            self._live.console.print(block(text, 4), soft_wrap=True)
            with self._lock:
                self._show_between(one_line(text))
        else:
            _print_line(text)

    def _show_between(self, text: str | None = None) -> None:
        """Show `text` below the tasks, with a clock, where no task runs; else take the row away."""
        if self._live is None:
            return
        if self._between is not None:
            self._live.remove_task(self._between)
            self._between = None
        if text is not None and not any(task.running for task in self._tasks.values()):
            self._between = self._live.add_task(text, total=None, note="")

    @staticmethod
    def _count(task: _Task) -> str:
        return f"{task.done:g}/{task.total:g}" if task.total is not None else f"{task.done:g}"

    def _line(self, task: _Task, state: str) -> None:
        text = one_line("  ".join(part for part in (task.label, state, task.note) if part))
        console.transcript.info(text)
        if not self._live:
            _print_line(text)


def _print_line(text: str) -> None:
    if not console.quiet():
        console.stderr.print(f"{time.strftime('%H:%M:%S')}  {block(text, 4)}", soft_wrap=True)
