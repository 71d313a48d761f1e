"""Batches of batch effects: a patient, a section, or any other column of the sections."""

from __future__ import annotations

import difflib

import numpy as np

from stray.cohort.dataset import PairedDataset
from stray.cohort.manifest import SectionEntry
from stray.columns import PATIENT, SECTION, SECTION_FACTS
from stray.errors import InputError, Problem

_PLACE = "gene.batch_key"
_SHOWN = 8


def batch_names(dataset: PairedDataset, key: str) -> np.ndarray:
    """Return the batch of every spot of the dataset by `key`: object (N,), None where its section has no counts and no
    value.

    Raises InputError where no section has a column `key`, naming those that there are, and where sections with counts
    lack it.
    """
    spots = dataset.spots()
    if key == PATIENT:
        return spots.patient
    if key == SECTION:
        return spots.section
    sections = dataset.manifest.sections
    value_of = {section.name: _value(section, key) for section in sections}
    if not any(value_of.values()):
        names = (*SECTION_FACTS, *dataset.manifest.columns)
        near = difflib.get_close_matches(key, names, n=1)
        listed = f"the columns are {', '.join(names)}"
        remedy = f"did you mean `{near[0]}`? {listed}" if near else f"{listed}; `stray ingest --sections` adds more"
        raise InputError(Problem(_PLACE, f"no section of the dataset has a column {key!r}", remedy))
    without = [section.name for section in sections if section.has_counts and value_of[section.name] is None]
    if without:
        more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
        what = (
            f"the column {key!r} has no value for section{'s' * (len(without) > 1)} {', '.join(without[:_SHOWN])}{more}"
        )
        raise InputError(Problem(_PLACE, what, "fill it with `stray ingest --sections`, or take another column"))
    # The rows of a section follow each other, in the manifest's order.
    values = np.array([value_of[section.name] for section in sections], dtype=object)
    return np.repeat(values, [section.n_spots for section in sections])


def _value(section: SectionEntry, key: str) -> str | None:
    return section.source if key == "source" else section.columns.get(key)
