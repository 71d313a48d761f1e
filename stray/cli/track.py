"""Send tracked items that an MLflow store has not received: a server was away, or a command was killed.

stray track replay stray-runs/mlflow-unsent                           all that is kept there, each to its own store
stray track replay mlflow-unsent --uri http://USER:PASSWORD@HOST      to this store: it moved, or asks for a password

The same `stray train` or `stray search` does this by itself when it is run again. Nothing is logged twice.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from stray.errors import InputError, Problem, raise_if_any, without_secrets

HELP = "send tracked items that an MLflow store has not received"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray track`."""
    parser.add_argument("action", choices=["replay"], help="replay: send the items that are kept on disk")
    parser.add_argument("folder", metavar="FOLDER", help="a folder `mlflow-unsent`, or one of the folders in it")
    parser.add_argument(
        "--uri",
        metavar="URI",
        help="send to this MLflow store (default: the kept one, with the password in MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--experiment", metavar="NAME", help="log to this experiment instead of the command's")


def run(args: argparse.Namespace) -> int:
    """Send everything and print the number of items; return 1 if some could not be sent. Raises InputError."""
    from stray.cli.console import say
    from stray.track.mlflow import MlflowStore
    from stray.track.spool import Leftover, leftovers

    folder = Path(args.folder)
    if not folder.is_dir():
        raise InputError(Problem(args.folder, "there is no such folder", "give the folder that the command printed"))
    found, problems = leftovers(folder)
    raise_if_any(problems)
    groups: dict[tuple[str, str, Path], list[Leftover]] = {}
    for left in found:
        where = (args.uri or _known(left.store), args.experiment or left.experiment, left.path.parent)
        groups.setdefault(where, []).append(left)
    code = 0
    for (uri, experiment, home), lefts in groups.items():
        # Items that fail again are kept in the same parent folder.
        with MlflowStore(uri, experiment, unsent_folder=str(home)) as store:
            count = store.adopted + sum(store.adopt(left) for left in lefts if left.path.exists())
            unsent = store.close()
        if unsent is None:
            say(f"{count} tracked items sent to {uri}, experiment {experiment}")
        else:
            code = 1
            say(f"{uri}, experiment {experiment} did not receive everything; the rest is kept in {unsent.parent}")
    if not found:
        say(f"nothing is unsent in {folder}")
    return code


def _known(store: str) -> str:
    """Return the store's address, with the user's password if MLFLOW_TRACKING_URI contains it."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if without_secrets(given) == store else store
