"""Messages for a step that is not finite: the spots and sections at fault, and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from stray.cohort.dataset import SpotTable
from stray.errors import InputError, NotFiniteError, Problem
from stray.training.epoch import NonFiniteStep

PlacesOf = Callable[[str | None, int, int], np.ndarray]
"""Places among a stage's rows of the global batch that a term (None: the loss) of an epoch and step is over."""
SpotsAt = Callable[[np.ndarray], SpotTable]
"""Facts about the spots at some places among a stage's rows."""

SECTIONS_SHOWN, SPOTS_SHOWN = 5, 3
"""Sections that a message names, and spots in each: the rest is counted, so that it fits on a screen."""


@contextmanager
def naming_spots(prefix: str, places_of: PlacesOf, spots_at: SpotsAt) -> Iterator[None]:
    """Turn a NonFiniteStep within the context into a NotFiniteError that names the spots and sections at fault."""
    try:
        yield
    except NonFiniteStep as error:
        raise _named(error, prefix, places_of(error.term, error.epoch, error.step), spots_at) from None


def _named(error: NonFiniteStep, prefix: str, places: np.ndarray, spots_at: SpotsAt) -> NotFiniteError:
    """Return the user's error. `places` are those of the whole batch that the term is over."""
    remedy = f"lower {prefix}.optim.lr or set {prefix}.optim.clip_norm"
    cause = "each spot's terms are finite, but the gradient over the batch is not; the batch is"
    if error.positions is not None and len(error.positions) == len(places):
        cause = f"{error.term} is not finite at any of {len(places)} spots, so no single spot is at fault:"
    elif error.positions is not None:
        cause = f"{error.term} is not finite at {len(error.positions)} of {len(places)} spots:"
        remedy = f"check these spots in the data; if they are correct, {remedy}"
        places = places[error.positions]
    place = f"{prefix} epoch {error.epoch + 1}, step {error.step + 1} of {error.steps}"
    numbers = f"loss {error.loss}, gradient norm {error.gradient_norm}"
    problem = Problem(place, f"{numbers}; {cause} {sections(places, spots_at)}", remedy)
    return NotFiniteError(problem, *error.last_checkpoint)


def sections(places: np.ndarray, spots_at: SpotsAt) -> str:
    """Return sections and some of their spots, for a message."""
    try:
        spots = spots_at(np.sort(places))
    except (InputError, OSError) as error:
        return f"{len(places)} spots whose sections cannot be read ({error})"
    parts = []
    names = list(dict.fromkeys(spots.section))
    for section in names[:SECTIONS_SHOWN]:
        ids = spots.spot_id[spots.section == section]
        shown = ", ".join(ids[:SPOTS_SHOWN]) + (", ..." if len(ids) > SPOTS_SHOWN else "")
        parts.append(f"{len(ids)} of section {section} ({shown})")
    if len(names) > SECTIONS_SHOWN:
        parts.append(f"and more of {len(names) - SECTIONS_SHOWN} other sections")
    return ", ".join(parts)
