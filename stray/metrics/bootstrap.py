"""Bootstrap intervals over square blocks of tissue, since neighbouring spots are not independent.

Shapes: N spots, B blocks, K classes, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stray.metrics.scores import summarise

LEVEL = 0.95
"""Coverage of the intervals (percentile method)."""
MIN_BLOCKS = 5
"""Fewest blocks for which an interval is given: the spread over fewer says little about other tissue."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval over resampled tissue blocks."""

    low: float
    high: float
    n_blocks: int


def tissue_blocks(
    section_N: NDArray, x_um_N: NDArray[np.floating], y_um_N: NDArray[np.floating], block_um: float
) -> NDArray[np.int64]:
    """Return the block number of each spot; blocks are squares laid from each section's own corner.

    Args:
        section_N: Section of each spot.
        x_um_N: Position to the right in the section, in micrometres.
        y_um_N: Position downwards in the section, in micrometres.
        block_um: Side of a block in micrometres.

    Returns:
        Numbers (N,) from 0 to B - 1.
    """
    if len(section_N) == 0:
        return np.empty(0, dtype=np.int64)
    _, section_code = np.unique(np.asarray(section_N, dtype=str), return_inverse=True)
    corners = np.full((section_code.max() + 1, 2), np.inf)
    position = np.stack([x_um_N, y_um_N], axis=1).astype(np.float64)
    np.minimum.at(corners, section_code, position)
    square = np.floor((position - corners[section_code]) / block_um).astype(np.int64)
    _, blocks = np.unique(np.column_stack([section_code, square]), axis=0, return_inverse=True)
    return blocks.reshape(-1).astype(np.int64)


def resampled_counts(n_blocks: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return how often each block is drawn, (R, B): B draws with replacement per resample."""
    return rng.multinomial(n_blocks, np.full(n_blocks, 1.0 / n_blocks), size=resamples)


def score_intervals(
    truth_N: NDArray[np.integer],
    prediction_N: NDArray[np.integer],
    block_N: NDArray[np.integer],
    known_K: NDArray[np.bool_],
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, Interval]:
    """Return the interval of each summary score.

    The scores of a resample are over the classes in it: a class that occurs in one block only is absent from about a
    third of the resamples.

    Args:
        truth_N: Class codes of the labels.
        prediction_N: Class codes of the predictions.
        block_N: Block of each spot, see `tissue_blocks`.
        known_K: Whether the training labels had the class.
        resamples: Number of resamples R.
        rng: Generator that draws the blocks.

    Returns:
        Intervals by the names of `SUMMARIES`; empty with fewer than `MIN_BLOCKS` blocks or without resamples.
    """
    blocks, block_N = np.unique(block_N, return_inverse=True)
    if len(blocks) < MIN_BLOCKS or resamples == 0:
        return {}
    n_classes = len(known_K)
    confusion_BKK = np.zeros((len(blocks), n_classes, n_classes))
    np.add.at(confusion_BKK, (block_N, truth_N, prediction_N), 1)
    counts_RB = resampled_counts(len(blocks), resamples, rng)
    confusion_RKK = np.tensordot(counts_RB.astype(np.float64), confusion_BKK, axes=1)
    return {name: _interval(values_R, len(blocks)) for name, values_R in summarise(confusion_RKK, known_K).items()}


def auc_interval(
    positive_N: NDArray[np.bool_],
    score_N: NDArray[np.floating],
    block_N: NDArray[np.integer],
    resamples: int,
    rng: np.random.Generator,
) -> Interval | None:
    """Return the interval of the area under the ROC curve.

    Args:
        positive_N: Whether the spot is of the class.
        score_N: Score of the spot for the class.
        block_N: Block of each spot, see `tissue_blocks`.
        resamples: Number of resamples R.
        rng: Generator that draws the blocks.

    Returns:
        The interval; None with fewer than `MIN_BLOCKS` blocks, without resamples, or where all spots are positive or
        none is.
    """
    blocks, block_N = np.unique(block_N, return_inverse=True)
    if len(blocks) < MIN_BLOCKS or resamples == 0 or positive_N.all() or not positive_N.any():
        return None
    _, level_N = np.unique(score_N, return_inverse=True)
    counts_RB = resampled_counts(len(blocks), resamples, rng)
    areas = np.empty(resamples)
    for index, count_B in enumerate(counts_RB):
        weight_N = count_B[block_N].astype(np.float64)
        positive = np.bincount(level_N, weights=weight_N * positive_N)
        negative = np.bincount(level_N, weights=weight_N * ~positive_N)
        below = np.cumsum(negative) - negative
        pairs = positive.sum() * negative.sum()
        areas[index] = (positive * (below + 0.5 * negative)).sum() / pairs if pairs else np.nan
    return _interval(areas, len(blocks))


def _interval(values_R: NDArray[np.floating], n_blocks: int) -> Interval:
    tail = 50.0 * (1.0 - LEVEL)
    finite = values_R[np.isfinite(values_R)]
    if finite.size == 0:
        return Interval(float("nan"), float("nan"), n_blocks)
    low, high = np.percentile(finite, [tail, 100.0 - tail])
    return Interval(float(low), float(high), n_blocks)
