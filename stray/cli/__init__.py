"""Command line: `stray VERB ...`. A verb is a module here with `HELP`, `configure(parser)` and `run(args)`.

Only the verb that is asked for is imported: `stray --help` loads neither torch nor ray.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.metadata
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import stray
from stray.on_ray.ending import INTERRUPTED, end_now, end_on_interrupt, end_on_sigterm, leaving
from stray.on_ray.interruptible import THREAD

VERBS: dict[str, tuple[str, ...]] = {
    "See it work": ("demo",),
    "Data": ("ingest", "inspect"),
    "Recipe": ("config",),
    "Train and use": ("train", "embed", "predict"),
    "Judge": ("evaluate", "search", "compare", "track"),
    "On a cluster": ("submit",),
    "Your shell": ("completion",),
}
"""Verbs in the order of a typical workflow."""

_INTRO = """\
stray trains image encoders for pathology under the guidance of spatial transcriptomics, on a Ray cluster or on this
machine. A cohort of tissue sections becomes a paired dataset (ingest), a recipe defines the comparison (config), every
method is trained and scored on patients that it has not seen (train), and the results are one table (compare)."""

_EXAMPLE = """\
For example:
  stray demo                                               a full run on a synthetic cohort, in minutes
  stray config smoke --set contrastive.optim.lr=3e-4       print a recipe with one setting changed
  stray train her2st --set dataset=/data/her2st            train a recipe on a dataset
`stray VERB --help` describes a verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit code: 0 done, 1 an error of stray, 2 the input is at fault, 130
    interrupted, 143 ended by SIGTERM.

    Without `argv` the process is this program; see `program`.
    """
    return program(sys.argv[1:]) if argv is None else _piped(_main, list(argv))


def program(words: Sequence[str]) -> int:
    """Run one command line as the whole of this process: it ends in bounded time on Ctrl-C, and at once on a second
    one; an error keeps its traceback.
    """
    end_on_interrupt()
    try:
        code = _piped(_main, list(words))
    except Exception as error:
        from stray.cli.console import show_traceback

        show_traceback(type(error), error, error.__traceback__)
        code = 1
    if leaving.is_set() or any(thread.name == THREAD for thread in threading.enumerate()):
        end_now(code)
    return code


def run_command(module: str, name: str, argv: Sequence[str]) -> int:
    """Run the command line of the program `name` as if it were a verb, and return its exit code as `main` does.

    `module` is imported; it has `configure(parser)` and `run(args)`.
    """
    return _piped(lambda words: _run(module, name, words), list(argv))


def _piped(run: Callable[[list[str]], int], words: list[str]) -> int:
    try:
        code = run(words)
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
        print(_versions())
        return 0
    verb = words[0]
    if verb not in _helps():
        near = difflib.get_close_matches(verb, _helps(), n=1)
        hint = f"did you mean `stray {near[0]}`?" if near else f"verbs: {', '.join(_helps())}"
        print(f"stray: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    return _run(f"stray.cli.{verb}", f"stray {verb}", words[1:])


def _run(name: str, prog: str, words: list[str]) -> int:
    from stray.cli import console
    from stray.cli.safe import visible
    from stray.errors import input_fault

    class Parser(argparse.ArgumentParser):
        def _print_message(self, message: str, file: Any = None) -> None:
            super()._print_message(visible(message), file)

    console.cut_secrets_from_logs()
    previous = end_on_sigterm()
    try:
        module = importlib.import_module(name)
        parser = Parser(
            prog=prog,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(parser)
        add_output(parser)
        args = parser.parse_args(words)
        with console.shown(quiet=args.quiet, verbose=args.verbose, log_file=args.log_file):
            return module.run(args)
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if leaving.is_set():  # what was interrupted may fail as it unwinds
            return _interrupted()
        if (fault := input_fault(error)) is None:
            raise
        console.print_problems(fault)
        return 2
    except SystemExit as stop:
        # argparse ends this way, and so does SIGTERM.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        if previous is not None and not leaving.is_set():
            signal.signal(signal.SIGTERM, previous)


def _interrupted() -> int:
    print("stray: interrupted", file=sys.stderr)
    return INTERRUPTED


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare the output options (`--quiet`, `--verbose`, `--log-file`) that every verb takes."""
    output = parser.add_argument_group("what is printed on stderr")
    amount = output.add_mutually_exclusive_group()
    amount.add_argument("--quiet", action="store_true", help="warnings and problems only, no progress")
    amount.add_argument("--verbose", action="store_true", help="messages of every level")
    output.add_argument("--log-file", metavar="FILE", help="also append these messages to FILE, with timestamps")


def _versions() -> str:
    """Return the versions to state in a bug report."""
    lines = [f"stray {stray.__version__}", f"python {platform.python_version()}"]
    for name in ("ray", "torch", "torchvision", "mlflow", "optuna", "anndata", "scanpy", "pyarrow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name} {importlib.metadata.version(name)}")
    return "\n".join(lines)


def _helps() -> dict[str, str]:
    """Return the line of help of each verb, read without importing the verb."""
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
        lines += ["", f"{group}:", *(f"  {verb:<12}{helps[verb]}" for verb in shown)] if shown else []
    return "\n".join([*lines, "", _EXAMPLE])
