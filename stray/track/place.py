"""Which MLflow store a recipe logs to."""

from __future__ import annotations

import os

from stray import storage
from stray.config import Recipe


def tracking_uri(recipe: Recipe) -> str:
    """The recipe's store; else that of MLFLOW_TRACKING_URI; else a SQLite file beside the results.

    Where the results lie in a bucket, which no SQLite file can live in, the file is in the working directory.
    """
    given = recipe.track.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    home = storage.absolute(recipe.output) if storage.is_local(recipe.output) else os.getcwd()
    return f"sqlite:///{home}/mlflow.db"


def experiment_name(recipe: Recipe) -> str:
    """The MLflow experiment of a recipe."""
    return recipe.track.experiment or recipe.name
