"""Placement of what stages read: patches once, counts for each gene panel as long as a stage needs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stray.cohort.dataset import PairedDataset
from stray.config import RunConfig
from stray.experiment.cells import Cell
from stray.on_ray.data import Placed, place_counts, place_patches
from stray.on_ray.progress import Progress
from stray.stages.spec import Stage

Refs = tuple[Any, ...]
"""References to blocks in the object store, which keep them there."""


class Placer:
    """Places the dataset in the object store as stages come to need it."""

    def __init__(self, dataset: PairedDataset, run: RunConfig, progress: Progress) -> None:
        self._dataset, self._run, self._progress = dataset, run, progress
        self._patches: Placed | None = None

    def counts(self, cells: Sequence[Cell]) -> dict[str, Refs]:
        """Place the counts that the cells' stages read, and return them by panel."""
        panels, patients = {}, defaultdict(set)
        for cell in cells:
            panel = cell.scored.gene.panel()
            panels[panel.key] = panel
            # Codes are scored on the held-out patients too; what trains takes its own rows of what lies there. A fold
            # and the one inside it may come to the same genes.
            patients[panel.key].update(
                (*cell.fold.train, *cell.fold.held_out) if cell.scored.codes_held_out else cell.fold.train
            )
        return {key: place_counts(self._dataset, panel, tuple(sorted(patients[key]))) for key, panel in panels.items()}

    def patches(self) -> Placed:
        """Place the patches, unless they are placed."""
        if self._patches is None:
            self._progress.start("place", "patches to the object store")
            self._patches = place_patches(self._dataset, self._run)
            self._progress.finish("place")
        return self._patches

    def placed(self, stage: Stage, counts: Mapping[str, Refs]) -> Placed:
        """Return the data that one stage reads: patches and those of `counts`."""
        found = self.patches() if stage.needs_patches else Placed(self._dataset, run=self._run)
        if stage.needs_counts:
            key = stage.gene.panel().key
            found = found.with_counts(key, counts[key])
        return found
