"""Console output: results on stdout, progress and problems on stderr; live on a terminal, plain lines elsewhere.

Names of patients, files and classes come from strangers. The two consoles here read no markup and let no control
character through, so whatever is printed goes through them.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.segment import Segment
from rich.text import Text

from stray.errors import InputError, NotFiniteError, NotKeptError, without_secrets

PLAIN_WIDTH = 140
"""Columns of tables where there is no terminal to ask."""

PLAIN_INTERVAL_S = 10.0
"""Shortest time between two plain lines of one task."""


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str, *, colours: bool = False) -> str:
    """Return `text` with control characters written as escapes: `\\x1b`, `\\u202e`. Newlines and tabs stay.

    Besides the control characters, what changes the direction of text, joins or ends lines in Unicode's way, and halves
    of surrogate pairs, which no stream can encode. `colours` keeps the sequences that only set colours. Secrets in
    addresses are cut.
    """
    text = without_secrets(text)
    if text.isprintable():
        return text
    if colours:
        kept = _COLOUR.findall(text)
        parts = [visible(part) for part in _COLOUR.split(text)]
        return "".join(part + colour for part, colour in zip(parts, [*kept, ""], strict=True))
    return "".join(_escaped(char) if unicodedata.category(char) in _UNSAFE else char for char in text)


_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _escaped(char: str) -> str:
    # A zero-width joiner is part of how some scripts are written.
    return char if char in "\n\t\u200d" else char.encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """Return `text` as `visible` does, with newlines written as `\\n` too."""
    return visible(text).replace("\n", "\\n")


def _block(text: str, indent: int) -> str:
    """Indent all lines but the first: a newline in a name must not look like a new message."""
    return text.rstrip("\n").replace("\n", "\n" + " " * indent)


class SafeConsole(Console):
    """Console that reads no markup and writes control characters as escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, "markup": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape before the width is measured: tables stay aligned."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape what came as `Text`; the console's own control segments pass."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return SafeConsole(stderr=stderr, width=wide)


stdout = _console(stderr=False)
"""Results: what a pipe should receive."""
stderr = _console(stderr=True)
"""Progress, notes and problems."""


def plain() -> bool:
    """Return whether progress is lines of text rather than a live display."""
    return not stderr.is_terminal or os.environ.get("TERM") == "dumb"


def say(text: str) -> None:
    """Print a note to the person who waits; not markup."""
    stderr.print(_block(text, 4), soft_wrap=True)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody expected, as Python does, through the console (for `sys.excepthook`)."""
    stderr.print("".join(traceback.format_exception(kind, error, trace)).rstrip(), soft_wrap=True)


class LogHandler(logging.Handler):
    """Warnings of stray's own modules as lines of the console."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        say(record.getMessage())


def cut_secrets_from_logs() -> None:
    """Cut secrets from every record that this process logs, of libraries too, with the exceptions in it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "cuts_secrets", False):
        return

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = make(*args, **options)
        if "://" in (text := _message(record)):
            record.msg, record.args = without_secrets(text), ()
        if record.exc_info and record.exc_info[1] is not None:
            # What stands here a formatter takes as it is.
            record.exc_text = without_secrets("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        return record

    factory.cuts_secrets = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # the handler says that the arguments do not fit
        return ""


def print_problems(error: InputError) -> None:
    """Print every problem, each with its remedy under it."""
    count = len(error.problems)
    noun = "problem" if count == 1 else "problems"
    where = "in the training" if isinstance(error, NotFiniteError | NotKeptError) else "with the input"
    stderr.print(Text(f"stray: {count} {noun} {where}", style="bold red"), soft_wrap=True)
    for problem in error.problems:
        place, what = (one_line(problem.place), "bold"), _block(problem.what, 8)
        stderr.print(Text.assemble("  ", place, ": ", what), soft_wrap=True)
        if problem.remedy:
            stderr.print(Text.assemble("      ", (_block(problem.remedy, 8), "green")), soft_wrap=True)


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
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", style="dim", markup=False),
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
        """Add a task; `total` is what it counts to, None where nobody knows. A known key starts anew."""
        with self._lock:
            old = self._tasks.get(key)
            task = self._tasks[key] = _Task(label, total, self._clock(), printed=self._clock())
            if not self._live:
                self._line(task, "started")
            elif old and old.row is not None:
                task.row = old.row
                self._live.reset(task.row, description=one_line(label), total=total, note="")  # type: ignore[arg-type]
            else:
                task.row = self._live.add_task(one_line(label), total=total, note="")

    def update(self, key: str, done: float | None = None, note: str | None = None, *, advance: float = 0.0) -> None:
        """Set the progress of a task: `done` in all, or `advance` further; `note` is shown beside it."""
        with self._lock:
            task = self._tasks[key]
            task.done = (task.done if done is None else done) + advance
            task.note = task.note if note is None else note
            if self._live and task.row is not None:
                self._live.update(task.row, completed=task.done, note=one_line(task.note))  # type: ignore[arg-type]
            elif self._clock() - task.printed >= PLAIN_INTERVAL_S:
                task.printed = self._clock()
                self._line(task, self._count(task))

    def finish(self, key: str, note: str | None = None) -> None:
        """Mark a task as done."""
        with self._lock:
            task = self._tasks[key]
            task.done = task.done if task.total is None else task.total
            task.note = task.note if note is None else note
            if self._live and task.row is not None:
                total = task.total if task.total is not None else max(task.done, 1)
                changes = {"completed": total, "total": total, "note": one_line(task.note)}
                self._live.update(task.row, **changes)  # type: ignore[arg-type]
                self._live.stop_task(task.row)  # type: ignore[arg-type]
            elif not self._live:
                self._line(task, f"done in {self._clock() - task.started:.0f} s")

    def say(self, text: str) -> None:
        """Print a line that stays, above the live display or among the plain lines."""
        if self._live:
            self._live.console.print(_block(text, 4), soft_wrap=True)
        else:
            _print_line(text)

    @staticmethod
    def _count(task: _Task) -> str:
        return f"{task.done:g}/{task.total:g}" if task.total is not None else f"{task.done:g}"

    @staticmethod
    def _line(task: _Task, state: str) -> None:
        _print_line(one_line("  ".join(part for part in (task.label, state, task.note) if part)))


def _print_line(text: str) -> None:
    stderr.print(f"{time.strftime('%H:%M:%S')}  {_block(text, 4)}", soft_wrap=True)
