"""The command line: `stray VERB ...`. A verb is a module here with `HELP`, `configure(parser)` and `run(args)`.

Only the verb that is asked for is imported: `stray --help` loads neither torch nor ray.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import stray

VERBS: dict[str, tuple[str, ...]] = {
    "See it work": ("demo",),
    "Data": ("ingest", "inspect"),
    "Recipe": ("config",),
    "Train and use": ("train", "embed", "predict"),
    "Judge": ("evaluate", "search", "compare"),
    "On a cluster": ("submit", "benchmark"),
}
"""The verbs in the order of work."""

_INTRO = """\
stray trains image encoders for pathology under the guidance of spatial transcriptomics, on a Ray cluster or on this
machine. A cohort of tissue sections becomes a paired dataset (ingest), a recipe says what is compared (config), every
method is trained and scored on patients that it has not seen (train), and the results are one table (compare)."""

_EXAMPLE = """\
For example:
  stray demo                                               all of it on a synthetic cohort, in minutes
  stray config smoke --set contrastive.optim.lr=3e-4       what a recipe says, with a change
  stray train her2st --set dataset=/data/her2st            a recipe on a dataset
`stray VERB --help` tells more."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code: 0 done, 2 the input is at fault, 130 interrupted.

    Errors that are not the input's fault keep their traceback.
    """
    if argv is None:  # as a program
        sys.excepthook = _show_traceback
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader went away (`stray config smoke | head`); Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"stray {stray.__version__}")
        return 0
    verb = words[0]
    if verb not in _helps():
        near = difflib.get_close_matches(verb, _helps(), n=1)
        hint = f"did you mean `stray {near[0]}`?" if near else f"verbs: {', '.join(_helps())}"
        print(f"stray: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    return _run(verb, words[1:])


def _run(verb: str, words: list[str]) -> int:
    from stray.cli import console
    from stray.errors import InputError

    class Parser(argparse.ArgumentParser):
        def _print_message(self, message: str, file: Any = None) -> None:
            super()._print_message(console.visible(message), file)

    logger = logging.getLogger("stray")
    if not any(isinstance(handler, console.LogHandler) for handler in logger.handlers):
        logger.addHandler(console.LogHandler(logging.WARNING))
    module = importlib.import_module(f"stray.cli.{verb}")
    parser = Parser(
        prog=f"stray {verb}",
        description=module.__doc__ or module.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    previous = _end_politely_on_sigterm()
    try:
        return module.run(parser.parse_args(words))
    except InputError as error:
        console.print_problems(error)
        return 2
    except KeyboardInterrupt:
        print("stray: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:
        # argparse ends this way, and so does SIGTERM.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from stray.cli.console import show_traceback

    show_traceback(kind, error, trace)


def _end_politely_on_sigterm() -> signal.Handlers | None:
    """`kill` and `ray job stop` unwind the stack as Ctrl-C does, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    return signal.SIG_DFL


def _helps() -> dict[str, str]:
    """Verb to its line of help, read without importing the verb."""
    found = {}
    for verb in (verb for verbs in VERBS.values() for verb in verbs):
        file = Path(__file__).with_name(f"{verb}.py")
        if not file.is_file():
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HELP":
                found[verb] = ast.literal_eval(node.value)
    return found


def _help() -> str:
    helps = _helps()
    lines = ["usage: stray VERB [options]", "", _INTRO]
    for group, verbs in VERBS.items():
        shown = [verb for verb in verbs if verb in helps]
        lines += ["", f"{group}:", *(f"  {verb:<10}{helps[verb]}" for verb in shown)] if shown else []
    return "\n".join([*lines, "", _EXAMPLE])
