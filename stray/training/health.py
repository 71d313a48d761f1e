"""Detection of stalled training, epoch by epoch: losses at their chance level, collapsed embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from stray.config import OptimConfig

PATIENCE = 3
"""Number of epochs after the warm-up before a warning is given."""
AT_CHANCE = 0.01
"""A loss is stuck at chance unless it lies below its chance level by this fraction of it, or fell by as much. Losses
begin above chance, because initial codes vary without being aligned, and a falling loss is learning.
"""
COLLAPSED = 0.05
"""Codes with a smaller spread count as collapsed to one point; codes that fill the space have a spread of 1."""
EPOCHS_AT_CHANCE = "epochs_at_chance"
"""Metric: the number of epochs for which some loss has been at chance."""

Epoch = Mapping[str, float]
"""The metrics of an epoch, by name."""


def epochs_at_chance(history: Sequence[Epoch], optim: OptimConfig, epochs: int) -> dict[str, float]:
    """Return the metric `EPOCHS_AT_CHANCE`: the last epochs in a row after the warm-up in which one and the same loss
    was stuck at chance, of the loss that was it longest; {} where no loss has a chance level.
    """
    counts = [_in_a_row(_stuck(history, name), optim, epochs) for name in _losses(history)]
    return {EPOCHS_AT_CHANCE: float(max(counts))} if counts else {}


def warnings(prefix: str, history: Sequence[Epoch], optim: OptimConfig, epochs: int) -> Iterator[tuple[str, str]]:
    """Yield (subject, text) of each warning due after the last epoch of `history`, once per run of affected epochs.

    `epochs` is how many the training has in all, of which `optim.warmup_share` are the warm-up.
    """
    for name in _losses(history):
        if _in_a_row(_stuck(history, name), optim, epochs) == PATIENCE:
            last = history[-1]
            yield (
                name,
                f"{prefix}/{name} has been at its chance level for {PATIENCE} epochs ({last[name]:.3f}, chance "
                f"{last[_chance(name)]:.3f}): matching pairs are not being learned. Usual reasons: a learning "
                f"rate that is too high or too low (try {prefix}.optim.lr={optim.lr / 10:g} and {optim.lr * 3:g}), "
                f"codes that have collapsed ({prefix}/image_spread near 0), a temperature at which all spots look "
                "alike, or pictures that do not belong to the spots of the counts (check them: `stray "
                "inspect DATASET --pictures FOLDER`)",
            )
    for name in ("image", "gene"):
        spread = f"{name}_spread"
        if _in_a_row([epoch.get(spread, 1.0) < COLLAPSED for epoch in history], optim, epochs) == PATIENCE:
            yield (
                f"{name}_codes",
                f"the {name} codes have collapsed to nearly one point for {PATIENCE} epochs ({prefix}/{spread} "
                f"{history[-1][spread]:.3f}; 1 is an evenly filled sphere). Usual reasons: a learning rate that is too "
                f"high (try {prefix}.optim.lr={optim.lr / 10:g}), a weight decay that is too high "
                f"({prefix}.optim.weight_decay), or counts or pictures that are all alike",
            )


def _losses(history: Sequence[Epoch]) -> list[str]:
    """Return the losses that have a chance level."""
    names = history[-1] if history else {}
    return sorted(name for name in names if name.startswith("loss_") and _chance(name) in names)


def _chance(loss: str) -> str:
    return loss.replace("loss_", "chance_", 1)


def _stuck(history: Sequence[Epoch], loss: str) -> list[bool]:
    """Return for each epoch whether the loss was at or above chance and no lower than before."""
    found, lowest = [], -math.inf
    for epoch in history:
        value, level = epoch[loss], epoch[_chance(loss)]
        margin = AT_CHANCE * abs(level)
        found.append(value >= level - margin and value >= lowest - margin)
        lowest = min(lowest, value) if len(found) > 1 else value
    return found


def _in_a_row(holds: Sequence[bool], optim: OptimConfig, epochs: int) -> int:
    """Count the last epochs in a row, those of the warm-up left out, for which something holds."""
    after = holds[math.ceil(optim.warmup_share * epochs) :]
    return next((count for count, held in enumerate(reversed(after)) if not held), len(after))
