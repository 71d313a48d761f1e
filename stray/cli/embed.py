"""Code the pictures of a dataset with a trained image encoder.

  stray embed stray-runs/her2st/models/clip_scvi-seed0 /data/new_section --out features.parquet

The dataset may have pictures only. Its patches must have the size that the encoder was trained on; the error says
which.
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stray import storage
from stray.cli.console import Progress, say
from stray.cohort.dataset import PairedDataset

HELP = "code the pictures of a dataset with a trained encoder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray embed`."""
    add_model(parser)
    parser.add_argument("--out", metavar="FILE", default="features.parquet", help="Parquet file (default: %(default)s)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL and DATASET."""
    parser.add_argument("model", metavar="MODEL", help="folder that `stray train RECIPE --folds none` named")
    parser.add_argument("dataset", metavar="DATASET", help="paired dataset with pictures, made by `stray ingest`")


def run(args: argparse.Namespace) -> int:
    """Write a row a pictured spot: spot_id, patient, section, x_um, y_um, features."""
    dataset, rows, features_ND = coded(args)
    spots = dataset.spots().take(rows)
    features = pa.FixedSizeListArray.from_arrays(pa.array(features_ND.ravel()), features_ND.shape[1])
    write_table(pa.table({**place_columns(spots), "features": features}), args.out)
    say(f"{args.out}: {len(rows):,} spots, {features_ND.shape[1]} features each")
    return 0


def coded(args: argparse.Namespace) -> tuple[PairedDataset, np.ndarray, np.ndarray]:
    """The dataset, the global rows of its pictured spots, and their features."""
    from stray.on_ray import embed, session

    dataset = PairedDataset.open(args.dataset)
    with session.session(), Progress() as progress:
        progress.start("embed", "coding pictures", total=int(dataset.spots().has_image.sum()))
        model = storage.absolute(args.model)
        rows, features_ND = embed.embed(model, dataset, on_progress=lambda done: progress.update("embed", done))
        progress.finish("embed")
    return dataset, rows, features_ND


def place_columns(spots) -> dict[str, pa.Array]:
    """Where each spot is."""
    text = {name: pa.array(getattr(spots, name), pa.string()) for name in ("spot_id", "patient", "section")}
    return text | {name: pa.array(getattr(spots, name)) for name in ("x_um", "y_um")}


def write_table(table: pa.Table, out: str) -> None:
    """Write the whole file or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(out, sink.getvalue().to_pybytes())
