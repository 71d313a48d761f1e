"""Classify the spots of a dataset from their pictures, with a trained encoder and its probe.

  stray predict stray-runs/her2st/models/clip_scvi-seed0-KEY /data/new_section --out classes.csv
  stray predict stray-runs/her2st/models/clip_scvi-seed0-KEY /data/new_section --out coded.h5ad

The dataset may have pictures only. The suffix of --out chooses the format, see `stray embed --help`.
"""

from __future__ import annotations

import argparse
from collections import Counter

from rich.table import Table

from stray.cli.console import say, stdout
from stray.cli.embed import add_model, add_out, code_pictures, load_image_encoder, loading
from stray.cli.progress import ConsoleProgress
from stray.cohort.coded import check_suffix, write_coded
from stray.cohort.dataset import PairedDataset
from stray.errors import InputError, Problem

HELP = "classify the spots of a dataset by their pictures"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray predict`."""
    add_model(parser)
    add_out(parser, "classes.parquet")


def run(args: argparse.Namespace) -> int:
    """Write a row a pictured spot: what it is and where, its class, and a probability a class."""
    check_suffix(args.out)
    with ConsoleProgress() as progress:
        progress.say(loading(args))
        model = load_image_encoder(args)
        if model.probe is None:
            what = "the model has no probe: none of its training spots had a label"
            raise InputError(Problem(args.model, what, "train it on a dataset with labels, or use `stray embed`"))
        dataset = PairedDataset.open(args.dataset)
        coded = code_pictures(args, model, dataset, progress)
    write_coded(coded, dataset, args.out, embedding=False)
    table = Table(title="Predicted classes", title_justify="left")
    table.add_column("class")
    table.add_column("spots", justify="right")
    for name, count in Counter(coded.predicted.tolist()).most_common():
        table.add_row(name, f"{count:,}")
    stdout.print(table)
    say(f"{args.out}: {len(coded.rows):,} spots")
    return 0
