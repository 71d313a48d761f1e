"""Tags by which runs are found, and records of runs as they are read back."""

from __future__ import annotations

from dataclasses import dataclass

METHOD, FOLD, SEED, KIND = "stray.method", "stray.fold", "stray.seed", "stray.kind"
"""Tags that place a run in an experiment."""
DATASET, VERSION, JOB, KEY = "stray.dataset", "stray.version", "stray.job", "stray.key"
"""Tags that say what a run was made from, and which run it is: a run with the same key is resumed."""
PARENT = "mlflow.parentRunId"
"""Tag of MLflow: id of the run that a run is nested under."""
WARNING = "stray.warning."
"""Prefix of the tags that hold warnings; the subject follows."""
ERROR, STATE = "stray.error", "stray.state"
"""Tags that say why a run failed, and what a trial ended as: complete, pruned or failed. A run that is resumed loses
them.
"""
BEST = "stray.best"
"""Tag of a search: its best trial so far, with its settings."""
EXPERIMENT, SEARCH, TRIAL = "experiment", "search", "trial"
"""Values of `stray.kind` for the runs that others are nested under, and for a trial of a search."""
CELL = "cell"
"""Value of `stray.kind` for a run that evaluated one method on one fold with one seed."""
INNER_CELL = "inner"
"""Value of `stray.kind` for a run that judged one method on the inner validation patients of a fold."""
CHOSEN, JUDGES = "stray.chosen", "stray.inner"
"""Tags of a cell whose method was chosen: which one it is, and the inner validation patients (`B+C`)."""
CHOICE = "choice/"
"""Prefix of the metrics of such a cell: the score of each method that it was chosen among."""
PREDICTIONS = "predictions.parquet"
"""Artifact of a cell: its table of predictions."""


@dataclass(frozen=True)
class RunRecord:
    """A run as its store knows it."""

    run_id: str
    name: str
    status: str
    """RUNNING, FINISHED, FAILED or KILLED."""
    start_time: int
    """Milliseconds since 1970."""
    end_time: int | None
    """The same; None while it runs."""
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]
    """Last value of each metric."""

    @property
    def parent(self) -> str | None:
        """Id of the run that it is nested under."""
        return self.tags.get(PARENT)
