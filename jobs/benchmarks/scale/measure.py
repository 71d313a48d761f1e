"""The gene stage on synthetic cohorts of growing size: does a spot of a million cost what a spot of some thousands
does?
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobs.benchmarks.fit import fit_alone
from jobs.benchmarks.scale.memory import PeakMemory
from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import Fold, patients
from stray.config import IngestConfig, Recipe, SyntheticSourceConfig
from stray.experiment.cells import cell
from stray.on_ray.data import Placed, place_counts
from stray.on_ray.events import Event, Metrics
from stray.on_ray.ingest import ingest
from stray.on_ray.panels import fit_panels
from stray.on_ray.progress import Progress
from stray.on_ray.tracking import describe
from stray.recipe import apply

SECTION_SPOTS = 5000
"""Spots of a section, as on a Visium slide; a patient has two sections, so a larger cohort has more patients."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One size of cohort."""

    spots: int
    """Spots of the cohort; nine tenths of them train, on the others the ELBO is measured."""
    patients: int
    genes: int
    """Genes of the panel: all that the cohort has."""
    ingest_s: float
    """Drawing the counts and writing the paired dataset, in seconds."""
    disk_bytes: int
    """Size of the paired dataset."""
    place_s: float
    """Fitting the panel and placing the counts in the object store, in seconds."""
    train_s: float
    """The gene stage with the start of its workers, validation, coding and figure, in seconds."""
    spots_per_second: tuple[float, ...]
    """Speed of each epoch, through Ray Data and Ray Train, without validation."""
    ingest_peak_bytes: int
    """As `PeakMemory` counts."""
    train_peak_bytes: int
    """The same from the panel to the end."""

    @property
    def seconds_per_spot(self) -> float:
        """Seconds per spot of the last epoch."""
        return 1.0 / self.spots_per_second[-1]


def ratios(found: Sequence[Scale]) -> list[float]:
    """Return the seconds per spot over those of the smallest cohort."""
    smallest = min(found, key=lambda scale: scale.spots)
    return [scale.seconds_per_spot / smallest.seconds_per_spot for scale in found]


def cohort(spots: int, genes: int) -> SyntheticSourceConfig:
    """Return a synthetic cohort without pictures of at least two patients and about `spots` spots."""
    sections = max(4, 2 * round(spots / (2 * SECTION_SPOTS)))
    return SyntheticSourceConfig(
        patients=sections // 2,
        sections_per_patient=2,
        spots_per_section=max(16, round(spots / sections)),
        genes=genes,
        images=False,
    )


def measure(
    recipe: Recipe, *, spots: int, genes: int, epochs: int, folder: str, cpus: int, progress: Progress
) -> Scale:
    """Draw and ingest a cohort below `folder`, which should be fresh, and train the recipe's gene stage on it with one
    worker of `cpus` CPUs.
    """
    source, out = cohort(spots, genes), storage.join(folder, "dataset")
    title = f"{spots:,} spots"
    with PeakMemory() as ingest_memory:
        started = time.perf_counter()
        progress.start(title, f"{title}: ingest")
        ingest(IngestConfig(sources=(source,)), out, on_event=lambda event: _tell(progress, title, event))
        progress.finish(title)
        ingest_s = time.perf_counter() - started
    panel_of_all = {"kind": "all", "min_sections_share": 0.0}
    changes = {"dataset": out, "gene.panel": panel_of_all, "gene.epochs": epochs, "run.checkpoint_every": epochs}
    recipe = apply(recipe, changes)
    with PeakMemory() as train_memory:
        started = time.perf_counter()
        dataset = PairedDataset.open(out)
        fold = Fold("none", (), patients(dataset.spots()))
        one = cell(recipe, dataset, fold, recipe.seeds[0], folder, method="scale", train="gene")
        stage = one.scored.gene
        progress.start(f"{title} placed", f"{title}: panel, counts to the object store")
        fit_panels(dataset, [one], progress.say)
        panel = stage.panel()
        placed = Placed(dataset).with_counts(panel.key, place_counts(dataset, panel, fold.train))
        progress.finish(f"{title} placed")
        place_s = time.perf_counter() - started
        fit_alone([stage], placed, recipe, folder, cpus, on_event=_show_rate(progress, title))
        train_s = time.perf_counter() - started - place_s
    history = stage.folder.read_json("history.json")
    return Scale(
        spots=len(dataset),
        patients=len(fold.train),
        genes=len(panel),
        ingest_s=ingest_s,
        disk_bytes=sum(file.bytes for file in (dataset.manifest.genes, *dataset.manifest.files)),
        place_s=place_s,
        train_s=train_s,
        spots_per_second=tuple(epoch["spots_per_second"] for epoch in history),
        ingest_peak_bytes=ingest_memory.peak_bytes,
        train_peak_bytes=train_memory.peak_bytes,
    )


def _tell(progress: Progress, title: str, event: dict) -> None:
    if event["event"] == "section" and (event["done"] % 20 == 0 or event["done"] == event["total"]):
        progress.say(f"{title}: {event['done']} of {event['total']} sections")


def _show_rate(progress: Progress, title: str) -> Callable[[Event], None]:
    def show(event: Event) -> None:
        match event.content:
            case Metrics(values, step) if "gene/learning_rate" in values:
                progress.say(f"{title}: epoch {step}  {describe(values)}")

    return show
