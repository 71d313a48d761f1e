"""Selection of spots with a usable label: for training a probe, and for scoring.

Shapes: N embedded spots, a part of the dataset's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig
from stray.metrics.bootstrap import tissue_blocks


class Spots(Protocol):
    """The arrays of the dataset's spot table that evaluation needs, one entry a spot, in global row order."""

    @property
    def spot_id(self) -> NDArray: ...
    @property
    def patient(self) -> NDArray: ...
    @property
    def section(self) -> NDArray: ...
    @property
    def x_um(self) -> NDArray: ...
    @property
    def y_um(self) -> NDArray: ...
    @property
    def label(self) -> NDArray: ...
    @property
    def label_source(self) -> NDArray: ...


@dataclass(frozen=True)
class Labelled:
    """Embedded spots with a usable label, and the facts about them that the probe needs."""

    index_N: NDArray[np.int64]
    """Positions among the embedded spots."""
    label_N: NDArray
    """Class names; object (str)."""
    patient_N: NDArray
    """Patients; object (str)."""
    block_N: NDArray[np.int64]
    """Tissue blocks, see `stray.metrics.bootstrap.tissue_blocks`."""


def usable(rows: NDArray[np.integer], spots: Spots, config: EvalConfig) -> NDArray[np.bool_]:
    """Return a mask (N,) of the global rows `rows` that have a label of a class that is not excluded."""
    excluded = config.excluded
    return np.array(
        [isinstance(name, str) and name.casefold() not in excluded for name in np.asarray(spots.label)[rows]],
        dtype=bool,
    )


def training_labels(
    rows: NDArray[np.integer], spots: Spots, patients: Iterable[str], config: EvalConfig
) -> NDArray[np.bool_]:
    """Return a mask (N,) of the embedded spots whose label may train a probe.

    A label may train if its patient is one of `patients`, its source is in `label_sources.train` and its class is not
    excluded. A patient who has trusted labels trains on those alone: weak labels are for patients who have no other.
    """
    sources = config.label_sources
    patient_N, source_N = np.asarray(spots.patient)[rows], np.asarray(spots.label_source)[rows]
    usable_N = usable(rows, spots, config) & np.isin(source_N.astype(str), sources.train)
    trusted_N = usable_N & np.isin(source_N.astype(str), sources.trusted)
    trains_N = np.zeros(len(rows), dtype=bool)
    for patient in sorted(set(patients)):
        own_N = patient_N == patient
        trusted_own_N = trusted_N & own_N
        trains_N |= trusted_own_N if trusted_own_N.any() else usable_N & own_N
    return trains_N


def select(mask_N: NDArray[np.bool_], rows: NDArray[np.integer], spots: Spots, config: EvalConfig) -> Labelled:
    """Return the embedded spots under the mask (N,) over `rows`."""
    index_N = np.flatnonzero(mask_N)
    picked = rows[index_N]
    section, x_um, y_um = (np.asarray(array)[picked] for array in (spots.section, spots.x_um, spots.y_um))
    blocks = tissue_blocks(section, x_um, y_um, config.bootstrap_block_um)
    return Labelled(index_N, np.asarray(spots.label)[picked], np.asarray(spots.patient)[picked], blocks)
