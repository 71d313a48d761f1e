"""Epochs at which running trials are judged, and at which a scheduler may stop them."""

from __future__ import annotations

from stray.config import (
    AshaSchedulerConfig,
    ChoiceConfig,
    HyperbandSchedulerConfig,
    MedianSchedulerConfig,
    NoSchedulerConfig,
    Recipe,
    SearchConfig,
    SimplexConfig,
)
from stray.recipe import for_method

EPOCHS = "contrastive.epochs"
SHARE = 9
"""Judgements per training by default: with a reduction factor of 3, rungs at a ninth and a third of the epochs."""


def most_epochs(recipe: Recipe) -> int:
    """Return the largest number of contrastive epochs that a trial of the search can have."""
    dist = recipe.search.space.get(EPOCHS)
    if dist is None or isinstance(dist, SimplexConfig):
        return for_method(recipe, recipe.tuned, recipe.search.set).contrastive.epochs
    return int(max(dist.values) if isinstance(dist, ChoiceConfig) else dist.high)


def judge_every(search: SearchConfig, most: int) -> int:
    """Return the epochs between two judgements of a trial, where trials have `most` epochs at most."""
    return search.judge_every or max(1, round(most / SHARE))


def judged_epochs(search: SearchConfig, most: int, epochs: int) -> tuple[int, ...]:
    """Return the epochs after which a trial of `epochs` epochs is judged; its last is not among them, since a finished
    trial is scored. Empty without a scheduler, and with several objectives.
    """
    if isinstance(search.scheduler, NoSchedulerConfig) or len(search.objectives) > 1:
        return ()
    every = judge_every(search, most)
    return tuple(range(every, epochs, every))


def first_rung(search: SearchConfig, most: int) -> int:
    """Return the first epoch at which a trial may be stopped: a multiple of `judge_every`."""
    every, scheduler = judge_every(search, most), search.scheduler
    grace = scheduler.grace_epochs if isinstance(scheduler, AshaSchedulerConfig | MedianSchedulerConfig) else None
    return every * max(1, -(-(grace or 1) // every))


def gates(search: SearchConfig, most: int, epochs: int) -> tuple[int, ...]:
    """Return the judged epochs at which the scheduler decides on a trial: there the trainings of its inner folds wait
    for each other, where another stage can use the slot.
    """
    judged, first = judged_epochs(search, most, epochs), first_rung(search, most)
    match search.scheduler:
        case AshaSchedulerConfig(reduction_factor=factor) | HyperbandSchedulerConfig(reduction_factor=factor):
            found, rung = [], float(first)
            while rung < epochs:
                if at := next((epoch for epoch in judged if epoch >= rung), None):
                    found.append(at)
                rung *= factor
            return tuple(dict.fromkeys(found))
        case _:
            return tuple(epoch for epoch in judged if epoch >= first)
