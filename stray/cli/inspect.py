"""Show what a paired dataset holds: sections, patients, classes, dropped spots with the reason.

  stray inspect /data/her2st_64                      the card
  stray inspect /data/her2st_64 --verify             compare every file with its checksum first
  stray inspect /data/her2st_64 --pictures look/     also write a contact sheet of patches, and every section with its
                                                     spots coloured by class, as PNG

A dataset of another contract version, without a manifest, or with files that were changed is refused with exit code 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stray.cli import dataset_card, dataset_pictures
from stray.cli.console import stdout
from stray.cli.progress import ConsoleProgress
from stray.cohort.dataset import PairedDataset

HELP = "show the contents of a dataset; verify its checksums, draw its sections"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray inspect`."""
    parser.add_argument("dataset", metavar="DATASET", help="path or URI of a paired dataset")
    parser.add_argument("--verify", action="store_true", help="compare the SHA-256 of every file with the manifest")
    parser.add_argument("--pictures", metavar="DIR", help="write a contact sheet and one PNG per section to DIR")


def run(args: argparse.Namespace) -> int:
    """Print the card. Raises InputError with every problem at once."""
    dataset = PairedDataset.open(args.dataset)
    if args.verify:
        dataset.verify()
    for part in dataset_card.card(dataset, verified=args.verify):
        stdout.print(part)
    if args.pictures is not None:
        folder = Path(args.pictures).expanduser().resolve()
        with ConsoleProgress() as progress:
            progress.start("pictures", "pictures", total=len(dataset.manifest.sections) + 1)
            written = 0
            for path in dataset_pictures.write_pictures(dataset, folder):
                written += 1
                progress.update("pictures", written, path.name)
            progress.finish("pictures", f"{written} files in {folder}")
    return 0
