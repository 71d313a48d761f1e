"""Console output: results on stdout, progress and problems on stderr; live on a terminal, plain lines elsewhere.

Names of patients, files and classes come from strangers. The two consoles here read no markup and let no control
character through, so whatever is printed goes through them.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from stray.cli.safe import SafeConsole, block, one_line
from stray.errors import CheckpointWriteError, InputError, NotFiniteError, Problem, without_secrets

PLAIN_WIDTH = 140
"""Width of tables in columns where stdout is no terminal."""

PLAIN_INTERVAL_S = 10.0
"""Shortest time in seconds between two plain lines of one task."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH
    return SafeConsole(stderr=stderr, width=wide)


stdout = _console(stderr=False)
"""Console of the results, on stdout."""
stderr = _console(stderr=True)
"""Console of progress, notes and problems, on stderr."""


def plain() -> bool:
    """Return whether progress is lines of text rather than a live display."""
    return not stderr.is_terminal or os.environ.get("TERM") == "dumb"


_transcript = logging.getLogger("stray.console")
"""Logger of everything printed on stderr, for `--log-file`."""
_transcript.setLevel(logging.INFO)
_transcript.propagate = False
_transcript.addHandler(logging.NullHandler())
_quiet = False


@contextmanager
def shown(*, quiet: bool = False, verbose: bool = False, log_file: str | None = None) -> Iterator[None]:
    """Set how much a command prints on stderr, while it runs.

    Args:
        quiet: Warnings and problems only; no progress and no notes.
        verbose: Messages of stray's modules of every level.
        log_file: Appends everything there, with times, whatever is printed.

    Raises:
        InputError: The file cannot be written.
    """
    global _quiet
    logger = logging.getLogger("stray")
    if not any(isinstance(handler, LogHandler) for handler in logger.handlers):
        logger.addHandler(LogHandler())
    before, _quiet = (_quiet, logger.level), quiet
    handler = None if log_file is None else _log_handler(log_file)
    logger.setLevel(logging.DEBUG if verbose or handler is not None else logging.WARNING)
    for own in logger.handlers:
        if isinstance(own, LogHandler):
            own.setLevel(logging.DEBUG if verbose else logging.WARNING)
    # Warnings of libraries reach the root logger alone.
    loggers = [] if handler is None else [logging.getLogger(), _transcript]
    for one in loggers:
        one.addHandler(handler)  # type: ignore[arg-type]
    try:
        yield
    except InputError as error:
        _transcript.error(str(error))
        raise
    except Exception as error:
        _transcript.error("".join(traceback.format_exception(error)).rstrip())
        raise
    finally:
        for one in loggers:
            one.removeHandler(handler)  # type: ignore[arg-type]
        if handler is not None:
            handler.close()
        _quiet, level = before
        logger.setLevel(level)


def _log_handler(path: str) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(Problem("--log-file", f"{path} cannot be written: {error}", "name another file")) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: record.name.partition(".")[0] == "stray" or record.levelno >= logging.WARNING)
    return handler


def say(text: str) -> None:
    """Print a note for the user, as plain text without markup."""
    _transcript.info(text)
    if not _quiet:
        stderr.print(block(text, 4), soft_wrap=True)


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an unexpected error through the console (for `sys.excepthook`)."""
    stderr.print("".join(traceback.format_exception(kind, error, trace)).rstrip(), soft_wrap=True)


class LogHandler(logging.Handler):
    """Log handler that prints the warnings of stray's modules on the console."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        stderr.print(block(record.getMessage(), 4), soft_wrap=True)


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
            # A formatter uses this text unchanged.
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
    where = "in the training" if isinstance(error, NotFiniteError | CheckpointWriteError) else "with the input"
    stderr.print(Text(f"stray: {count} {noun} {where}", style="bold red"), soft_wrap=True)
    for problem in error.problems:
        place, what = (one_line(problem.place), "bold"), block(problem.what, 8)
        stderr.print(Text.assemble("  ", place, ": ", what), soft_wrap=True)
        if problem.remedy:
            stderr.print(Text.assemble("      ", (block(problem.remedy, 8), "green")), soft_wrap=True)


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
    row: int | None = None


class ConsoleProgress:
    """Tasks that advance, by name. Safe to call from several threads.

    On a terminal a live display; elsewhere a line when a task starts and ends, and one every ten seconds between.

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
        if live if live is not None else not (plain() or _quiet):
            self._live = RichProgress(
                # On a narrow terminal the title and the note are cut, never the numbers.
                TextColumn("{task.description}", markup=False, table_column=_cut(3)),
                BarColumn(bar_width=12),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                TimeElapsedColumn(table_column=Column(no_wrap=True)),
                TextColumn("left", style="dim"),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[note]}", style="dim", markup=False, table_column=_cut(2)),
                console=stderr,
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
            self._live.stop()

    def start(self, key: str, label: str, total: float | None = None) -> None:
        """Add a task; `total` is what it counts to, None where nobody knows. A known key starts anew."""
        with self._lock:
            old = self._tasks.get(key)
            task = self._tasks[key] = _Task(label, total, self._clock(), printed=self._clock())
            self._line(task, "started")
            if not self._live:
                return
            if old and old.row is not None:
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
            if self._clock() - task.printed >= PLAIN_INTERVAL_S:
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
            self._line(task, f"done in {self._clock() - task.started:.0f} s")

    def say(self, text: str) -> None:
        """Print a permanent line, above the live display or among the plain lines."""
        _transcript.info(text)
        if self._live:
            self._live.console.print(block(text, 4), soft_wrap=True)
        else:
            _print_line(text)

    @staticmethod
    def _count(task: _Task) -> str:
        return f"{task.done:g}/{task.total:g}" if task.total is not None else f"{task.done:g}"

    def _line(self, task: _Task, state: str) -> None:
        text = one_line("  ".join(part for part in (task.label, state, task.note) if part))
        _transcript.info(text)
        if not self._live:
            _print_line(text)


def _print_line(text: str) -> None:
    if not _quiet:
        stderr.print(f"{time.strftime('%H:%M:%S')}  {block(text, 4)}", soft_wrap=True)
