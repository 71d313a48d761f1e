"""Output of `python jobs/benchmark.py contrastive`: the contrastive stage fed in three ways, and loading alone."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

from jobs.benchmarks.common import all_cpus, ray_session, with_dataset
from stray.cli.arguments import recipe_from
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress

if TYPE_CHECKING:
    from jobs.benchmarks.contrastive.results import ImageSpeed, Loaded, Trained


def run(args: argparse.Namespace) -> int:
    """Print both tables; `--json` keeps the numbers. Raises InputError for what is at fault in the input."""
    recipe = recipe_from(args)
    from jobs.benchmarks.contrastive import compare
    from stray import storage
    from stray.on_ray.waiting import patience

    workers = args.workers or 1
    loading_cpus = args.cpus or all_cpus()
    # Ray's own processes need a core: where the threads of a step have all of them, each wake-up halts the step.
    cpus = args.cpus or max(loading_cpus - 1, min(workers, loading_cpus))
    with (
        tempfile.TemporaryDirectory() as folder,
        ray_session(loading_cpus),
        ConsoleProgress() as progress,
        patience(recipe.run.wait_minutes, progress.say),
    ):
        recipe = with_dataset(recipe, folder, progress)
        found = compare.measure(
            recipe,
            root=f"{folder}/results",
            workers=workers,
            cpus=cpus,
            loading_cpus=loading_cpus,
            rounds=args.rounds,
            epochs=max(1, args.epochs),
            progress=progress,
        )
    if args.json:
        storage.write_bytes(args.json, json.dumps(asdict(found), indent=1).encode())
    stdout.print(_training(found))
    say(
        "ratios: of the spots/s in the same round, median over rounds with their range; waiting: of the time, for data;"
    )
    say("DataLoader: over the encoded patches in memory, the faster of decoding in its process and in worker processes")
    say(f"reading the patches through Ray Data took {found.place_s:.1f} s, once for all rounds: {found.residence}")
    stdout.print(_loading(found))
    say("cold Parquet: files that are not in the system's cache, read and decoded; of the DataLoader with the start of")
    say("its processes; the decoder alone: every patch decoded and thrown away; the faster of threads and processes")
    return 0


def _training(found: ImageSpeed) -> Table:
    from jobs.benchmarks.contrastive.compare import LOADERS, MEMORY, STRAY
    from jobs.benchmarks.contrastive.results import faster, ratio

    of: dict[str, Trained] = {one.name: one for one in found.trained}
    loader: Trained = faster(LOADERS, found.trained)
    shape = (
        f"{found.spots:,} spots of {found.patch_px} px, {found.encoder}, batches of {found.batch_size}; "
        f"{_count(found.workers, 'worker')} of {_count(found.threads, 'thread')}, {_count(found.rounds, 'round')} of "
        f"{_count(found.epochs, 'epoch')} after the first"
    )
    measured = (
        "spots/s",
        "slowest to fastest round",
        "ratio of stray to it",
        "waiting for data",
        "first epoch, spots/s",
    )
    table = _table(shape, "the same step on", *measured)
    for one in (of[MEMORY], of[STRAY], loader):
        title = f"{STRAY}, {found.residence} through Ray" if one.name == STRAY else one.name
        to = "" if one.name == STRAY else _range(ratio(of[STRAY], one))
        rates = f"{min(one.rates):,.0f} to {max(one.rates):,.0f}"
        waiting = f"{median(one.waiting):.1%}"
        first = f"{median(one.first):,.0f}"
        table.add_row(title, f"{one.spots_per_second:,.0f}", rates, to, waiting, first)
    return table


def _loading(found: ImageSpeed) -> Table:
    from jobs.benchmarks.contrastive.compare import COLD, COLD_LOADERS, DECODERS, LOADERS, RESIDENT
    from jobs.benchmarks.contrastive.results import faster, ratio

    limit: Loaded = faster(DECODERS, found.loaded)
    loader: Loaded = faster(LOADERS, found.loaded)
    cold: Loaded = faster(COLD_LOADERS, found.loaded)
    measured = ("patches/s", "slowest to fastest round", "share of the decoder's", "ratio to the DataLoader")
    table = _table(f"Loading alone, {_count(found.loading_threads, 'thread')}", "patches from", *measured)
    for one in found.loaded:
        if one.name in (*LOADERS, *COLD_LOADERS, *DECODERS) and one not in (limit, loader, cold):
            continue
        rates = f"{min(one.rates):,.0f} to {max(one.rates):,.0f}"
        # What is decoded already has no decoder above it.
        share = "" if RESIDENT.get(one.name) == "decoded" else f"{ratio(one, limit)[0]:.0%}"
        table.add_row(
            one.name,
            f"{one.patches_per_second:,.0f}",
            rates,
            share,
            _range(ratio(one, cold if one.name in (COLD, *COLD_LOADERS) else loader)),
        )
    return table


def _table(title: str, name: str, *measured: str) -> Table:
    """Return a table without rows: a column of names, and columns of numbers."""
    table = Table(title=title, title_justify="left")
    table.add_column(name)
    for column in measured:
        table.add_column(column, justify="right")
    return table


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _range(found: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*found)
