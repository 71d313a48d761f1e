"""Score trained methods again, with other label sources, other classes or another probe. Nothing is
trained.

stray evaluate her2st --set dataset=/data/her2st_64 --set eval.knn_k=5
"""

from __future__ import annotations

import argparse

from stray.cli.arguments import add_recipe
from stray.cli.train import add_choice, chosen, report

HELP = "score trained methods again, with other evaluation settings"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray evaluate`."""
    add_recipe(parser)
    add_choice(parser)


def run(args: argparse.Namespace) -> int:
    """Score every cell. Raises InputError naming the cells that are not trained."""
    return report(chosen(args), score_only=True)
