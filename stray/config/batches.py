"""Sampling of the contrastive stage's mini-batches, which decides the negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class BatchesConfig:
    """Sampling of mini-batches; an epoch has the same number of steps in each way."""

    sampling: Literal["uniform", "patients", "classes"] = "uniform"
    """Every spot once an epoch; every patient equally often; or every class equally often, by the labels of training
    patients (spots without one come in their share of the cohort). Who has fewer spots than that comes with
    repetition, all its spots before one comes again.
    """
    patients_per_batch: Annotated[int, Field(ge=1)] | None = None
    """Patients that a batch is drawn from, equal parts of it each; 1: negatives are of one's own patient alone; null:
    of whichever patients come. With `sampling: uniform` a patient comes in proportion to its spots.
    """

    @property
    def plain(self) -> bool:
        """Whether batches are uniform draws over all spots."""
        return self.sampling == "uniform" and self.patients_per_batch is None
