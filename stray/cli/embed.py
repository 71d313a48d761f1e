"""Embed a dataset with a trained encoder: its pictures with an image encoder, its counts with a gene encoder.

  stray embed stray-runs/her2st/models/clip_scvi-seed0-KEY /data/new_section --out coded.h5ad
  stray embed stray-runs/her2st/gene-0123456789abcdef /data/new_section --out codes.parquet

MODEL is the folder of a model that `stray train --folds none` named (the dataset may have pictures only, and its
patches must have the size that the encoder was trained on; the error says which), or of a gene stage (genes of its
panel that the dataset lacks count as zeros, up to half of the panel).

The suffix of --out chooses the format: .parquet and .csv hold a row a spot; .h5ad holds the embedding in
obsm["X_stray"], classes in obs, and the source's own obs_names, to be joined to the AnnData that was ingested.
It runs in this process, or on the cluster of RAY_ADDRESS.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from stray import storage
from stray.cli.arguments import add_wait, patient
from stray.cli.console import say
from stray.cli.progress import ConsoleProgress
from stray.cohort.coded import SUFFIXES, Coded, check_suffix, write_coded
from stray.cohort.dataset import PairedDataset

if TYPE_CHECKING:
    from stray.stages.contrastive.exported import TrainedModel

HELP = "embed the pictures or the counts of a dataset with a trained encoder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray embed`."""
    add_model(parser)
    add_out(parser, "features.parquet")


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    """Declare `--out`."""
    formats = ", ".join(SUFFIXES)
    parser.add_argument(
        "--out", metavar="FILE", default=default, help=f"output file, as {formats} (default: %(default)s)"
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL and DATASET."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model folder that `stray train RECIPE --folds none` printed (`stray embed` also takes a gene stage's)",
    )
    parser.add_argument("dataset", metavar="DATASET", help="paired dataset with pictures, made by `stray ingest`")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import and run the callable that MODEL names as its encoder (image.kind: callable)",
    )
    add_wait(parser)


def run(args: argparse.Namespace) -> int:
    """Write a row a spot: what it is and where, its features or codes, and its class where the model knows any."""
    check_suffix(args.out)
    with ConsoleProgress() as progress:
        progress.say(loading(args))
        from stray.stages.results import ResultFolder

        dataset = PairedDataset.open(args.dataset)
        genes = ResultFolder(args.model).kind() == "gene"
        if genes:
            coded = code_genes(args, dataset, progress)
        else:
            coded = code_pictures(args, load_image_encoder(args), dataset, progress)
    write_coded(coded, dataset, args.out)
    n, dim = coded.embedding_ND.shape
    what = f"codes of {dim} dimensions" if genes else f"{dim} features each"
    say(f"{args.out}: {n:,} spots, {what}")
    return 0


def loading(args: argparse.Namespace) -> str:
    """Return the first line that is printed: the imports behind the encoder take several seconds."""
    return f"loading {args.model} ..."


def load_image_encoder(args: argparse.Namespace) -> TrainedModel:
    """Load MODEL. Raises InputError as `stray.stages.contrastive.exported.load` does."""
    from stray.stages.contrastive.exported import load

    return load(storage.absolute(args.model), trust_code=args.trust_code)


def code_pictures(
    args: argparse.Namespace, model: TrainedModel, dataset: PairedDataset, progress: ConsoleProgress
) -> Coded:
    """Embed the pictured spots with the given model, on the cluster of RAY_ADDRESS if set, else in this process."""
    from stray.api import coding

    path = storage.absolute(args.model)
    with patient(args, progress):
        progress.start("embed", "coding pictures", total=int(dataset.spots().has_image.sum()))
        coded = coding.code_pictures(
            model, path, dataset, trust_code=args.trust_code, on_progress=lambda done: progress.update("embed", done)
        )
        progress.finish("embed")
    return coded


def code_genes(args: argparse.Namespace, dataset: PairedDataset, progress: ConsoleProgress) -> Coded:
    """Embed the spots with counts, and print the genes of the panel that the dataset lacks."""
    from stray.api import coding

    with patient(args, progress):
        progress.start("embed", "coding counts", total=int(dataset.spots().has_counts.sum()))
        coded, missing = coding.code_genes(
            storage.absolute(args.model), dataset, on_progress=lambda done: progress.update("embed", done)
        )
        progress.finish("embed")
    if missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        progress.say(f"{len(missing)} genes of the panel are not in the dataset and count as zeros: {shown}")
    return coded
