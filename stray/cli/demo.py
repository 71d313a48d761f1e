"""Run the whole workflow of stray on a cohort with known truth, in minutes.

A synthetic cohort of 6 patients is drawn and ingested; three methods train on it through Ray Train and are scored on
two patients whom no step has seen; a search of 4 trials runs through Ray Tune; MLflow has all of it, and a page
compares the methods. Ctrl-C ends it; the same command goes on where it stopped.

  stray demo
  stray demo --seed 1 --out /tmp/another
"""

from __future__ import annotations

import argparse
import contextlib
import time

from rich.text import Text

from stray import storage
from stray.cli.arguments import add_overrides, connecting
from stray.cli.console import say, stdout
from stray.cli.progress import ConsoleProgress
from stray.recipe import load_recipe

HELP = "run the whole workflow on a synthetic cohort, in minutes"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `stray demo`."""
    parser.add_argument("--out", metavar="FOLDER", default="stray-demo", help="output folder (default: ./%(default)s)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the cohort (default: %(default)s)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo; print the comparison and the locations of all outputs last."""
    started = time.monotonic()
    out = storage.absolute(args.out)
    # A cohort of another seed is another dataset and must not overwrite the first.
    dataset = storage.join(out, f"cohort-{args.seed}")
    overrides = [
        f"ingest.sources.0.seed={args.seed}",
        f"dataset={dataset}",
        f"output={out}/runs",
        f"name=demo-{args.seed}",
    ]
    recipe = load_recipe("demo", [*overrides, *args.set])
    with ConsoleProgress() as progress, contextlib.ExitStack() as stack:
        progress.say(connecting())
        # The imports take several seconds.
        from stray.api.cohorts import ingest_config
        from stray.api.experiments import run_experiment, search
        from stray.cli.compare import compare, show
        from stray.cli.ingest import show_event
        from stray.cli.search import show_trials
        from stray.stages.contrastive.patch_size import check_patch_size

        check_patch_size(recipe, recipe.ingest.patch.size_px)
        from stray.on_ray import session
        from stray.on_ray.waiting import patience

        stack.enter_context(session.session())
        stack.enter_context(patience(recipe.run.wait_minutes, progress.say))
        progress.say("1/4  generate a cohort and ingest it as a paired dataset")
        ingest_config(recipe.ingest, recipe.dataset, on_event=lambda event: show_event(progress, event))
        progress.say("2/4  three methods train on patients P1-P4 and one more, and are scored on the one left out")
        outcome = run_experiment(recipe, progress=progress)
        progress.say(f"3/4  search {recipe.search.trials} trials, without the held-out patients")
        found = search(recipe, progress=progress)
        progress.say("4/4  compare the methods")
    page = storage.join(out, f"comparison-{args.seed}.html")
    show(compare(outcome.uri, outcome.experiment, page), stdout)
    show_trials(found.table)
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    served = f"{outcome.uri}   (mlflow ui --backend-store-uri {outcome.uri})"
    for name, place in {"Page:": page, "MLflow:": served, "Best recipe:": found.path}.items():
        stdout.print(Text.assemble((f"{name:<13}", "bold"), place), soft_wrap=True)
    say(f"{minutes} min {seconds} s")
    return 0
