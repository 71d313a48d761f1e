"""The ingest on a cluster: one Ray task a section, as many at once as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import ray

from stray.cohort.build import build_dataset, check_output
from stray.cohort.manifest import Manifest
from stray.cohort.sources import SectionTask
from stray.cohort.write import SectionOutcome, run_task
from stray.config import IngestConfig, Recipe
from stray.on_ray import session
from stray.on_ray.visibility import check_paths_visible
from stray.on_ray.waiting import Need, patiently, running

SECTION_MEMORY_BYTES = 1024**3
"""Memory that a task reserves: 9,270 x 9,910 pixels take 0.7 GB at the peak, of which the decoded picture is 0.28."""
_TASKS_PER_CPU = 2


def ingest(config: IngestConfig, out: str, *, on_event: Callable[[dict], None] | None = None) -> Manifest:
    """Build the paired dataset of `config` at `out` (path or URI) and return its manifest.

    Connects to Ray if the process has not. Run again after a failure or a kill it keeps the sections that stand.
    `on_event` is called with the events of `stray.cohort.build.build_dataset`.

    Raises InputError with the problems of all sections.
    """
    check_output(out)
    session.start()
    check_paths_visible(Recipe(output=out))
    return build_dataset(config, out, run_tasks=_run_on_cluster, on_event=on_event)


def _run_on_cluster(tasks: Sequence[SectionTask], out: str) -> Iterator[SectionOutcome]:
    """Yield outcomes as they come. Only so many tasks are submitted that the scheduler stays busy: a cohort may be
    large.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    # On a node with less memory than a task reserves, request all of it: a larger request would wait for ever.
    memory = min(SECTION_MEMORY_BYTES, max((node.get("memory", 0) for node in nodes), default=0))
    submit = _section.options(memory=memory)
    most = max(1, int(sum(node.get("CPU", 0) for node in nodes))) * _TASKS_PER_CPU
    waiting, submitted = list(reversed(tasks)), []
    need = Need("reading sections", {"CPU": 1, "memory": memory})
    try:
        while waiting or submitted:
            while waiting and len(submitted) < most:
                submitted.append(submit.remote(waiting.pop(), out))
            finished, submitted = patiently(partial(ray.wait, submitted, num_returns=1), need)
            yield from ray.get(finished)
    finally:
        for reference in submitted:
            ray.cancel(reference)


@ray.remote(num_cpus=1)
def _section(task: SectionTask, out: str) -> SectionOutcome:
    with running():
        return run_task(task, out)
