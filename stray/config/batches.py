"""Sampling of the contrastive stage's mini-batches, which decides the negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class BatchesConfig:
    """Sampling of mini-batches; an epoch has the same number of steps in each way."""

    sampling: Literal["uniform", "patients", "classes"] = "uniform"
    """uniform: every spot once per epoch. patients: every patient equally often. classes: every class equally often,
    by the labels of training patients; unlabelled spots in proportion to their number. A patient or class with too few
    spots is repeated: all its spots are drawn before one is drawn again.
    """
    patients_per_batch: Annotated[int, Field(ge=1)] | None = None
    """Patients per mini-batch, with equally many spots of each. 1: all negatives come from the same patient. null: no
    restriction. With `sampling: uniform` a patient is drawn in proportion to its spots.
    """

    @property
    def plain(self) -> bool:
        """Whether batches are uniform draws over all spots."""
        return self.sampling == "uniform" and self.patients_per_batch is None
