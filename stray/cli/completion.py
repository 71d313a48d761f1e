"""Print the completion of `stray` for a shell.

bash:  stray completion bash > ~/.local/share/bash-completion/completions/stray
zsh:   stray completion zsh > ~/.zfunc/_stray      (a folder of $fpath)
tcsh:  stray completion tcsh > ~/.stray.csh; source ~/.stray.csh
"""

from __future__ import annotations

import argparse
import importlib
import sys

import shtab

from stray.recipe import shipped_recipes

HELP = "print a completion script for a shell"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray completion`."""
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="shell to write the script for")


def run(args: argparse.Namespace) -> int:
    """Print a script on stdout."""
    sys.stdout.write(shtab.complete(_whole(), args.shell) + "\n")
    return 0


def _whole() -> argparse.ArgumentParser:
    """Return one parser of all verbs."""
    from stray.cli import VERBS, add_output

    whole = argparse.ArgumentParser(prog="stray")
    whole.add_argument("--version", action="store_true")
    verbs = whole.add_subparsers(dest="verb")
    for name in (verb for group in VERBS.values() for verb in group):
        module = importlib.import_module(f"stray.cli.{name}")
        parser = verbs.add_parser(name, help=module.HELP)
        module.configure(parser)
        add_output(parser)
        for action in parser._actions:
            if action.dest == "recipe":
                action.choices = list(shipped_recipes())
            elif action.nargs != 0 and action.choices is None:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole
