"""Make a paired dataset: sections with counts, pictures and labels become one folder of Parquet files.

HER2ST, two sections of it from other files, and labels for what the pathologist left out:
  stray ingest /data/her2st_64 --her2st ~/her2st --h5ad ~/her2st_A/A1.h5ad --h5ad ~/her2st_A/A2.h5ad \\
      --prefer h5ad:A1,A2 --labels transferred=~/transferred.csv --patch-um 204 --patch-px 64

A cohort with known truth, for a first try:
  stray ingest /tmp/synthetic --synthetic seed=1,patients=4

What a recipe says in its `ingest` section:
  stray ingest /data/cohort --recipe my_cohort.yaml

A patch is a crop of --patch-um micrometres around a spot, resampled to --patch-px pixels, whatever the scanner's
resolution. Where two sources hold a section, --prefer says which gives it. A label table is a CSV file with the columns
section, spot and label; it fills labels that are still empty, and its name is kept beside each label. A section table
is a CSV file with the column section and any others (slide, scanner, kit), which a batch effect may belong to; of an
.h5ad file, columns of text that are constant over a section become such columns by themselves.
Run again after a failure, or with another section added: sections that stand and have not changed are kept.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from stray import storage
from stray.api.cohorts import ingest_config
from stray.cli.arguments import add_wait, connecting, patient
from stray.cli.console import plain, say
from stray.cli.progress import ConsoleProgress
from stray.config import IngestConfig
from stray.config.ingest import SyntheticSourceConfig
from stray.errors import InputError, Problem, raise_if_any
from stray.recipe import apply, load_recipe
from stray.recipe.files import parse

HELP = "make a paired dataset from sections of HER2ST, .h5ad files or a synthetic cohort"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray ingest`."""
    parser.add_argument("out", metavar="OUT", help="path or URI of the dataset folder: a new one, or one to continue")
    keys = [field.name for field in fields(SyntheticSourceConfig) if field.name != "kind"]
    sources = parser.add_argument_group("sources, of which there may be several")
    sources.add_argument("--her2st", metavar="PATH", action="append", default=[], help="HER2ST's repository")
    sources.add_argument(
        "--h5ad",
        metavar="PATH",
        action="append",
        default=[],
        help="an AnnData file as scanpy and squidpy write it, or a folder of such files",
    )
    sources.add_argument(
        "--synthetic",
        metavar="KEY=VALUE,...",
        nargs="?",
        const="",
        help=f"a generated cohort; keys: {', '.join(keys)}",
    )
    sources.add_argument("--recipe", metavar="RECIPE", help="take the `ingest` section of this recipe; flags add to it")
    choices = parser.add_argument_group("what is made of them")
    choices.add_argument(
        "--prefer",
        metavar="SOURCE:S1,S2",
        action="append",
        default=[],
        help="take these sections from the source of this kind or path",
    )
    choices.add_argument(
        "--labels", metavar="NAME=CSV", action="append", default=[], help="a label table (section, spot, label)"
    )
    choices.add_argument(
        "--sections", metavar="CSV", help="section metadata: a table with the column `section` and any further columns"
    )
    choices.add_argument(
        "--duplicate-genes",
        choices=["refuse", "sum"],
        help="when a section names a gene twice: refuse it (default), or sum the copies",
    )
    choices.add_argument(
        "--off-tissue",
        choices=["drop", "keep"],
        help="what to do with spots whose obs column in_tissue is 0 (default: drop)",
    )
    choices.add_argument("--patch-um", metavar="N", type=float, help="side of a patch in micrometres (default: 112)")
    choices.add_argument("--patch-px", metavar="N", type=int, help="side of a patch in pixels (default: 64)")
    choices.add_argument("--patch-encoding", choices=["png", "jpeg"], help="png is lossless (default), jpeg is smaller")
    parser.add_argument(
        "--workers", metavar="N", type=int, help="CPUs for the local Ray cluster (default: all of this machine)"
    )
    add_wait(parser)


def run(args: argparse.Namespace) -> int:
    """Make the dataset and print its contents. Raises InputError with every problem at once."""
    config, waiting = config_from(args), load_recipe(args.recipe).run
    if args.workers is not None and args.workers < 1:
        raise InputError(Problem("--workers", f"is {args.workers}", "give 1 or more"))
    with ConsoleProgress() as progress:
        progress.say(connecting())
        with patient(args, progress, waiting):
            made = ingest_config(
                config, args.out, workers=args.workers, on_event=lambda event: show_event(progress, event)
            )
    manifest = made.manifest
    paired = sum(section.n_spots for section in manifest.sections if section.has_image and section.has_counts)
    say(
        f"{storage.absolute(args.out)}: {manifest.n_spots:,} spots of {len(manifest.sections)} sections and "
        f"{len(manifest.patients)} patients, {paired:,} with picture and counts, {manifest.n_genes:,} genes"
    )
    say(f"show the dataset: stray inspect {args.out}")
    return 0


def config_from(args: argparse.Namespace) -> IngestConfig:
    """Return the ingest that the command line describes: the recipe's, changed by the flags."""
    problems: list[Problem] = []
    sources: list[dict[str, Any]] = [
        {"kind": kind, "path": path} for kind in ("her2st", "h5ad") for path in getattr(args, kind)
    ]
    if args.synthetic is not None:
        sources.append({"kind": "synthetic", **_pairs(args.synthetic, problems)})
    labels = []
    for entry in args.labels:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            problems.append(Problem("--labels", f"{entry!r} is not NAME=CSV", "write --labels transferred=labels.csv"))
        labels.append({"name": name, "path": path})
    prefer = []
    for entry in args.prefer:
        key, _, sections = entry.rpartition(":")
        prefer += [f"{key}:{section}" if key else section for section in sections.split(",")]
    raise_if_any(problems)
    recipe = load_recipe(args.recipe)
    changes: dict[str, Any] = {}
    for place, added in {"sources": sources, "labels": labels, "prefer": prefer}.items():
        if added:
            changes[f"ingest.{place}"] = [*_as_tree(getattr(recipe.ingest, place)), *added]
    for place, value in {"size_um": args.patch_um, "size_px": args.patch_px, "encoding": args.patch_encoding}.items():
        if value is not None:
            changes[f"ingest.patch.{place}"] = value
    if args.duplicate_genes is not None:
        changes["ingest.duplicate_genes"] = args.duplicate_genes
    if args.off_tissue is not None:
        changes["ingest.off_tissue"] = args.off_tissue
    if args.sections is not None:
        changes["ingest.sections"] = args.sections
    return apply(recipe, changes).ingest


def _pairs(text: str, problems: list[Problem]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for entry in filter(None, text.split(",")):
        key, equals, value = entry.partition("=")
        if not equals:
            problems.append(
                Problem("--synthetic", f"{entry!r} is not KEY=VALUE", "write --synthetic seed=1,patients=4")
            )
        try:
            pairs[key.strip()] = parse(value, f"--synthetic {entry}")
        except InputError as error:
            problems += error.problems
    return pairs


def _as_tree(values: tuple[Any, ...]) -> list[Any]:
    return [asdict(value) if is_dataclass(value) and not isinstance(value, type) else value for value in values]


def show_event(progress: ConsoleProgress, event: dict[str, Any]) -> None:
    """Show an event of the ingest, in the live display or as a line."""
    from stray.cohort.plausible import WARNING
    from stray.cohort.section import plural

    match event["event"]:
        case "plan":
            for warning in event["warnings"]:
                progress.say(f"note: {warning}")
            progress.start("ingest", "sections", total=event["sections"])
        case "section":
            name, state = event["section"], event["state"]
            what = plural(event["spots"], "spot") if state != "failed" else "failed"
            facts = [
                what,
                "with picture" if event["has_image"] else "",
                f"{event['dropped']} dropped" if event["dropped"] else "",
            ]
            facts += ["kept as it stands" if state == "kept" else f"{event['seconds']:.1f} s"]
            line = f"section {name} ({event['done']}/{event['total']}): {', '.join(fact for fact in facts if fact)}"
            if plain() or state == "failed":
                progress.say(line)
            if not plain():
                progress.update("ingest", event["done"], f"{name}: {what}")
            for warning in event["warnings"]:
                kind = "warning" if warning.startswith(WARNING) else "note"
                progress.say(f"{kind}: section {name}: {warning.removeprefix(WARNING)}")
        case "done":
            for warning in event["warnings"]:
                progress.say(f"note: {warning}")
            progress.finish("ingest", "")
