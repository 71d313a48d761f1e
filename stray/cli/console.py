"""Console output: results on stdout, notes and problems on stderr.

Names of patients, files and classes come from strangers. The two consoles here read no markup and let no control
character through, so whatever is printed goes through them.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

from stray.cli.safe import SafeConsole, block, one_line
from stray.errors import CheckpointWriteError, InputError, NotFiniteError, Problem, without_secrets

PLAIN_WIDTH = 140
"""Width of tables in columns where stdout is no terminal."""


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


def quiet() -> bool:
    """Return whether only warnings and problems are printed on stderr."""
    return _quiet


transcript = logging.getLogger("stray.console")
"""Logger of everything printed on stderr, for `--log-file`."""
transcript.setLevel(logging.INFO)
transcript.propagate = False
transcript.addHandler(logging.NullHandler())
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
    loggers = [] if handler is None else [logging.getLogger(), transcript]
    for one in loggers:
        one.addHandler(handler)  # type: ignore[arg-type]
    try:
        yield
    except InputError as error:
        transcript.error(str(error))
        raise
    except Exception as error:
        transcript.error("".join(traceback.format_exception(error)).rstrip())
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
    transcript.info(text)
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
