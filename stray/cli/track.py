"""Send what an MLflow store has not taken: a server was away, or a command was killed.

stray track replay stray-runs/mlflow-unsent                           all that is kept there, each to its own store
stray track replay mlflow-unsent --uri http://USER:PASSWORD@HOST      to this store: it moved, or asks for a password

The same `stray train` or `stray search` does this by itself when it is run again. Nothing is logged twice.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from stray.errors import InputError, Problem, raise_if_any, without_secrets

HELP = "send what an MLflow store has not taken"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray track`."""
    parser.add_argument("action", choices=["replay"], help="replay: send what is kept")
    parser.add_argument("folder", metavar="FOLDER", help="a folder `mlflow-unsent`, or one of the folders in it")
    parser.add_argument(
        "--uri",
        metavar="URI",
        help="send to this MLflow store; MLFLOW_TRACKING_URI where it is the kept address with a password, else that",
    )
    parser.add_argument("--experiment", metavar="NAME", help="log to this experiment, not to that of the command")


def run(args: argparse.Namespace) -> int:
    """Send everything, and say how much; 1 where something is left. Raises InputError."""
    from stray.cli.console import say
    from stray.track.mlflow import MlflowStore
    from stray.track.spool import Leftover, leftovers

    folder = Path(args.folder)
    if not folder.is_dir():
        raise InputError(Problem(args.folder, "there is no such folder", "give the one that the command named"))
    found, problems = leftovers(folder)
    raise_if_any(problems)
    groups: dict[tuple[str, str, Path], list[Leftover]] = {}
    for left in found:
        where = (args.uri or _known(left.store), args.experiment or left.experiment, left.path.parent)
        groups.setdefault(where, []).append(left)
    code = 0
    for (uri, experiment, home), lefts in groups.items():
        # What is left again stays beside what it was.
        with MlflowStore(uri, experiment, unsent_folder=str(home)) as store:
            count = store.adopted + sum(store.adopt(left) for left in lefts if left.path.exists())
            unsent = store.close()
        if unsent is None:
            say(f"{count} tracked items sent to {uri}, experiment {experiment}")
        else:
            code = 1
            say(f"{uri}, experiment {experiment} did not take everything; what is left is kept in {unsent.parent}")
    if not found:
        say(f"nothing is unsent in {folder}")
    return code


def _known(store: str) -> str:
    """Return the store's address, with the user's password where MLFLOW_TRACKING_URI has it."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if without_secrets(given) == store else store
