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
    """Sources that are truth. Scores on any other are marked weak. A patient with trusted labels trains a probe on
    those alone.
    """


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Frozen image embeddings, a linear probe and kNN, patients never seen."""

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
    """Classes that neither train nor score, in any case: words for spots without a class."""
    probe_c: tuple[Annotated[float, Field(gt=0)], ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Inverse regularisation strengths of the logistic probe; chosen by leaving out training patients in turn."""
    knn_k: Annotated[int, Field(ge=1)] = 15
    """Neighbours that vote (cosine distance)."""
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Resamples of the tissue behind an interval; 0 for none."""
    bootstrap_block_um: Annotated[float, Field(gt=0)] = 1000.0
    """Side of the square tissue blocks that are resampled: neighbouring spots are not independent."""

    @property
    def excluded(self) -> frozenset[str]:
        """`exclude_classes` for comparison with a case-folded label."""
        return frozenset(name.casefold() for name in self.exclude_classes)
