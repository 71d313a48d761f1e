"""Speed of stages as it was when they were trained, kept beside the results so that a plan need not time them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from stray import storage
from stray.training.results import digest

RATE = "spots_per_second"
"""Metric of every epoch."""


def _place(config: Any, root: str) -> str:
    return storage.join(root, "rates", f"{digest(config)}.json")


def keep_rate(config: Any, root: str, history: Sequence[Mapping[str, float]]) -> None:
    """Keep the median speed of the epochs after the first, in which threads and kernels warm up."""
    rates = [epoch[RATE] for epoch in history if RATE in epoch]
    if rates:
        text = json.dumps({RATE: statistics.median(rates[1:] or rates)})
        storage.write_bytes(_place(config, root), text.encode())


def measured_rate(config: Any, root: str) -> float | None:
    """Return the spots/s of training with `config` below `root`; None where nothing, or nothing whole, was kept."""
    try:
        rate = float(json.loads(storage.read_bytes(_place(config, root)))[RATE])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rate if rate > 0 else None
