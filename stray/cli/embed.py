"""Code a dataset with a trained encoder: its pictures with an image encoder, its counts with a gene encoder.

  stray embed stray-runs/her2st/models/clip_scvi-seed0-KEY /data/new_section --out features.parquet
  stray embed stray-runs/her2st/gene-0123456789abcdef /data/new_section --out codes.parquet

MODEL is the folder of a model that `stray train --folds none` named (the dataset may have pictures only, and its
patches must have the size that the encoder was trained on; the error says which), or of a gene stage (genes of its
panel that the dataset lacks count as zeros, up to half of the panel).
"""

from __future__ import annotations

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stray import storage
from stray.cli.arguments import add_wait, patient
from stray.cli.console import Progress, say
from stray.cohort.dataset import PairedDataset

HELP = "code the pictures or the counts of a dataset with a trained encoder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray embed`."""
    add_model(parser)
    parser.add_argument("--out", metavar="FILE", default="features.parquet", help="Parquet file (default: %(default)s)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL and DATASET."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="folder that `stray train RECIPE --folds none` named (`stray embed` also takes a gene stage's)",
    )
    parser.add_argument("dataset", metavar="DATASET", help="paired dataset with pictures, made by `stray ingest`")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import and run the callable that MODEL names as its encoder (image.kind: callable)",
    )
    add_wait(parser)


def run(args: argparse.Namespace) -> int:
    """Write a row a spot: spot_id, patient, section, x_um, y_um, and features or codes."""
    from stray.train.results import ResultFolder

    if ResultFolder(args.model).kind() == "gene":
        return _code_genes(args)
    dataset, rows, features_ND = coded(args)
    write_table(pa.table({**place_columns(dataset.spots().take(rows)), "features": _lists(features_ND)}), args.out)
    say(f"{args.out}: {len(rows):,} spots, {features_ND.shape[1]} features each")
    return 0


def _code_genes(args: argparse.Namespace) -> int:
    from stray.on_ray import embed, session
    from stray.train.gene_folder import load_gene_encoder

    dataset, model = PairedDataset.open(args.dataset), storage.absolute(args.model)
    with session.session(), Progress() as progress, patient(args, progress):
        progress.start("embed", "coding counts", total=int(dataset.spots().has_counts.sum()))
        rows, found, missing = embed.code_genes(model, dataset, on_progress=lambda done: progress.update("embed", done))
        progress.finish("embed")
    columns = place_columns(dataset.spots().take(rows)) | {"codes": _lists(found["codes"])}
    for k, name in enumerate(load_gene_encoder(model).classes):
        columns[f"probability/{name}"] = pa.array(found["probabilities"][:, k])
    write_table(pa.table(columns), args.out)
    if missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        say(f"{len(missing)} genes of the panel are not in the dataset and count as zeros: {shown}")
    say(f"{args.out}: {len(rows):,} spots, codes of {found['codes'].shape[1]} dimensions")
    return 0


def _lists(values_ND: np.ndarray) -> pa.Array:
    """Return one fixed-size list per row."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values_ND.ravel()), values_ND.shape[1])


def coded(args: argparse.Namespace) -> tuple[PairedDataset, np.ndarray, np.ndarray]:
    """Return the dataset, the global rows of its pictured spots, and their features."""
    from stray.on_ray import embed, session

    dataset = PairedDataset.open(args.dataset)
    with session.session(), Progress() as progress, patient(args, progress):
        progress.start("embed", "coding pictures", total=int(dataset.spots().has_image.sum()))
        model = storage.absolute(args.model)
        rows, features_ND = embed.embed(
            model, dataset, trust_code=args.trust_code, on_progress=lambda done: progress.update("embed", done)
        )
        progress.finish("embed")
    return dataset, rows, features_ND


def place_columns(spots) -> dict[str, pa.Array]:
    """Return the columns that identify each spot and its position."""
    text = {name: pa.array(getattr(spots, name), pa.string()) for name in ("spot_id", "patient", "section")}
    return text | {name: pa.array(getattr(spots, name)) for name in ("x_um", "y_um")}


def write_table(table: pa.Table, out: str) -> None:
    """Write the whole file or nothing."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(out, sink.getvalue().to_pybytes())
