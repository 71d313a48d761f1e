"""Classify the spots of a dataset from their pictures, with a trained encoder and its probe.

  stray predict stray-runs/her2st/models/clip_scvi-seed0-KEY /data/new_section --out classes.parquet

The dataset may have pictures only.
"""

from __future__ import annotations

import argparse
from collections import Counter

import pyarrow as pa
from rich.table import Table

from stray import storage
from stray.cli.console import say, stdout
from stray.cli.embed import add_model, coded, place_columns, write_table
from stray.errors import InputError, Problem

HELP = "classify the spots of a dataset from their pictures"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray predict`."""
    add_model(parser)
    parser.add_argument("--out", metavar="FILE", default="classes.parquet", help="Parquet file (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write a row a pictured spot: spot_id, patient, section, x_um, y_um, class, and a probability a class."""
    from stray.train.model_folder import load

    probe = load(storage.absolute(args.model), trust_code=args.trust_code).probe
    if probe is None:
        remedy = "train it on a dataset with labels, or use `stray embed`"
        raise InputError(Problem(args.model, "the model has no probe: none of its training spots had a label", remedy))
    dataset, rows, features_ND = coded(args)
    probability_NK = probe.probabilities(features_ND)
    names = probe.predict(features_ND)
    columns = place_columns(dataset.spots().take(rows)) | {"class": pa.array(names, pa.string())}
    columns |= {f"probability/{name}": pa.array(probability_NK[:, k]) for k, name in enumerate(probe.classes)}
    write_table(pa.table(columns), args.out)
    table = Table(title="Predicted classes", title_justify="left")
    table.add_column("class")
    table.add_column("spots", justify="right")
    for name, count in Counter(names.tolist()).most_common():
        table.add_row(name, f"{count:,}")
    stdout.print(table)
    say(f"{args.out}: {len(rows):,} spots")
    return 0
