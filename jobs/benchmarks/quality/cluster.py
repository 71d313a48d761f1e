"""The comparison of quality with scvi-tools, spread over the cluster: a task with one CPU for each fold, seed and
implementation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import ray

from jobs.benchmarks.quality import scvi_tools
from jobs.benchmarks.quality.quality import Job, Result, jobs
from jobs.benchmarks.quality.summary import Quality, summary
from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.lease import lease
from stray.on_ray.failures import input_error
from stray.on_ray.panels import fit_panels
from stray.on_ray.progress import NullProgress, Progress


def compare_quality(
    recipe: Recipe, *, methods: Sequence[str] = (), workers: int, progress: Progress | None = None
) -> Quality:
    """Train and score `methods` of `recipe` (none: all that can be compared) with stray and with scvi-tools, on the
    same folds, seeds, panels and spots; `workers` of them at a time.

    What is done already is not done again: its files lie under `recipe.output`. Raises InputError where scvi-tools is
    not installed, or does not do what a method's settings ask for.
    """
    scvi_tools.require()
    with lease(results_folder(recipe), "jobs/benchmark.py quality", "wait until it has ended, or give another output"):
        return _compare(recipe, methods, workers, progress or NullProgress())


def _compare(recipe: Recipe, methods: Sequence[str], workers: int, progress: Progress) -> Quality:
    dataset, root = PairedDataset.open(recipe.dataset), results_folder(recipe)
    listed = jobs(recipe, dataset, methods, root)
    found = [job.done() for job in listed]
    waiting = [i for i, results in enumerate(found) if results is None]
    if waiting:
        progress.say(f"{len(waiting)} of {len(listed)} are to be done; results go to {root}")
        fit_panels(dataset, [one for i in waiting for one in listed[i].cells], progress.say)
    progress.start("jobs", "folds, seeds and implementations", total=len(listed))
    progress.update("jobs", done=len(listed) - len(waiting))
    for i, results in _run(listed, waiting, workers, progress):
        found[i] = results
    progress.finish("jobs")
    return summary([result for results in found for result in results or ()])


def results_folder(recipe: Recipe) -> str:
    """Return the folder of panels, weights and results."""
    return storage.join(storage.absolute(recipe.output), recipe.name, "quality")


def _run(
    listed: Sequence[Job], waiting: Sequence[int], workers: int, progress: Progress
) -> Iterator[tuple[int, list[Result]]]:
    """Run the jobs at the places `waiting`: in their order and `workers` at a time, so that what was interrupted has
    whole pairs.
    """
    left, running, started = list(waiting), {}, {}
    took: dict[str, list[float]] = {}
    while left or running:
        while left and len(running) < workers:
            place = left.pop(0)
            running[_run_job.remote(listed[place])] = place
            started[place] = time.monotonic()
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        place = running.pop(done)
        job = listed[place]
        try:
            results = ray.get(done)
        except Exception as error:
            raise input_error(error) or error from None
        took.setdefault(job.side, []).append(time.monotonic() - started[place])
        for one in results:
            accuracy = f"balanced accuracy {one.scores['balanced_accuracy']:.3f}"
            progress.say(
                f"{job.title}: {one.method}, ELBO {one.elbo:.1f} a held-out spot, {accuracy}, {one.seconds:.0f} s"
            )
        ahead = (
            sum(_expected(listed[i], took) for i in left)
            + sum(_expected(listed[i], took) for i in running.values()) / 2
        )
        done_so_far = len(listed) - len(left) - len(running)
        progress.update("jobs", done=done_so_far, note=f"about {ahead / workers / 60:.0f} min left")
        yield place, results


def _expected(job: Job, took: Mapping[str, Sequence[float]]) -> float:
    """Return the expected seconds, by what jobs of the same implementation took, or any while none of them is done."""
    own = took.get(job.side) or [seconds for some in took.values() for seconds in some]
    return sum(own) / len(own)


@ray.remote(num_cpus=1)
def _run_job(job: Job) -> list[Result]:
    return job.run()
