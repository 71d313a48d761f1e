"""Label sources, and the scoring of embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from stray.columns import ANNOTATED


@dataclass(frozen=True, kw_only=True)
class LabelSourcesConfig:
    """Label sources that may train a probe, and those that are scored."""

    train: tuple[str, ...] = (ANNOTATED,)
    """Sources whose labels may train a probe."""
    score: tuple[str, ...] = (ANNOTATED,)
    """Sources whose labels are scored; each source is scored by itself, never pooled with another."""
    trusted: tuple[str, ...] = (ANNOTATED,)
    """Sources that count as ground truth. Scores on other sources are marked weak. Where a patient has trusted labels,
    only those train a probe.
    """


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Linear probe and kNN on frozen embeddings, scored on held-out patients."""

    label_sources: LabelSourcesConfig = field(default_factory=LabelSourcesConfig)
    """Which labels train and which are scored."""
    exclude_classes: tuple[str, ...] = (
        "undetermined",
        "unknown",
        "unlabeled",
        "unlabelled",
        "unannotated",
        "unassigned",
    )
    """Labels that mean "no class", compared without regard to case: such spots neither train nor score."""
    probe_c: tuple[Annotated[float, Field(gt=0)], ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Inverse regularisation strengths of the logistic probe; chosen by leaving out training patients in turn."""
    knn_k: Annotated[int, Field(ge=1)] = 15
    """Number of neighbours (cosine distance)."""
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Bootstrap resamples per confidence interval; 0: no intervals."""
    bootstrap_block_um: Annotated[float, Field(gt=0)] = 1000.0
    """Side of the square tissue blocks that are resampled: neighbouring spots are not independent."""

    @property
    def excluded(self) -> frozenset[str]:
        """`exclude_classes` for comparison with a case-folded label."""
        return frozenset(name.casefold() for name in self.exclude_classes)
