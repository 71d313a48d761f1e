"""Folds: which patients train and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stray.cohort.dataset import SpotTable
from stray.config import EvalConfig, FoldsConfig
from stray.errors import InputError, Problem


@dataclass(frozen=True)
class Fold:
    """Patients held out, and those that everything fitted may see."""

    name: str
    held_out: tuple[str, ...]
    train: tuple[str, ...]
    inside: Fold | None = None
    """The fold that this one is inside of: all its patients are training patients of that one."""


def patients(spots: SpotTable) -> tuple[str, ...]:
    """Return the patients of the cohort, sorted."""
    return tuple(sorted(set(spots.patient.tolist())))


def scorable_patients(spots: SpotTable, config: EvalConfig, *, pictured: bool = True) -> tuple[str, ...]:
    """Return patients with at least one spot whose label can be scored and that has a picture (or counts, if not
    `pictured`).
    """
    sources, excluded = set(config.label_sources.score), config.excluded
    present = spots.has_image if pictured else spots.has_counts
    chosen = [
        bool(there) and label is not None and label.casefold() not in excluded and source in sources
        for there, label, source in zip(present, spots.label, spots.label_source, strict=True)
    ]
    return tuple(sorted(set(spots.patient[chosen].tolist())))


def folds(spots: SpotTable, config: FoldsConfig, evaluation: EvalConfig, *, pictured: bool = True) -> tuple[Fold, ...]:
    """Return the folds of an experiment; one without held-out patients for `none`. `pictured`: whether pictures are
    scored, or gene codes alone.

    Raises InputError when a named patient does not exist or has nothing to score, or when no patient can be scored.
    """
    everyone = patients(spots)
    if config.kind == "none":
        return (Fold("none", (), everyone),)
    scorable = scorable_patients(spots, evaluation, pictured=pictured)
    held_out = config.held_out or scorable
    kind = "pictured spot" if pictured else "spot with counts"
    _check(held_out, everyone, scorable, evaluation.label_sources.score, kind)
    return tuple(Fold(p, (p,), tuple(q for q in everyone if q != p)) for p in held_out)


def inner_fold(fold: Fold, labelled: Sequence[str], size: int) -> Fold:
    """Return the fold inside `fold` by which its settings are chosen.

    Held out together are the next `size` of the `labelled` training patients after the one that `fold` holds out, in
    the cyclic order of their names, so that over all folds each patient validates equally often. Raises InputError
    when none of the labelled would be left to train.
    """
    others = sorted(set(labelled) & set(fold.train))
    if len(others) <= size:
        what = (
            f"with {'+'.join(fold.held_out) or 'nobody'} held out, {len(others)} training patients have labels "
            f"({', '.join(others) or 'none'}): with {size} as inner validation none is left to train the probe"
        )
        raise InputError(Problem("folds.inner", what, "lower it, or take out the methods with `choose`"))
    last = max(fold.held_out, default="")
    validation = tuple(sorted(others, key=lambda patient: (patient <= last, patient))[:size])
    return Fold(fold.name, validation, tuple(p for p in fold.train if p not in validation), fold)


def _check(
    held_out: Sequence[str], everyone: Sequence[str], scorable: Sequence[str], sources: Sequence[str], kind: str
) -> None:
    problems = []
    for patient in held_out:
        if patient not in everyone:
            what, remedy = f"no patient {patient!r} in the dataset", f"one of {', '.join(everyone)}"
            problems.append(Problem("folds.held_out", what, remedy))
        elif patient not in scorable:
            what = f"patient {patient!r} has no {kind} with a label from {', '.join(sources)}"
            remedy = f"hold out one of {', '.join(scorable) or 'none: the dataset has no such labels'}"
            problems.append(Problem("folds.held_out", what, f"{remedy}, or widen eval.label_sources.score"))
    if not held_out:
        what = f"no patient has a {kind} with a label from {', '.join(sources)}"
        problems.append(
            Problem("folds", what, "add a label table at ingest, widen eval.label_sources.score, or use --folds none")
        )
    if len(everyone) < 2:
        problems.append(Problem("folds", f"the dataset has one patient ({everyone[0]})", "hold out none: --folds none"))
    if problems:
        raise InputError(problems)
