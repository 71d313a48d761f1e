"""Figures and table of a search, as artifacts of its run."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path

from stray.config import IntUniformConfig, LogUniformConfig, Recipe
from stray.experiment.study import SearchStudy
from stray.on_ray.tracking import log_bytes
from stray.recipe.space import owners, short_names
from stray.report.search_figures import TrialPoint, search_figures
from stray.report.style import save_png
from stray.track.mlflow import MlflowTracker


def log_search(run: MlflowTracker, recipe: Recipe, study: SearchStudy) -> None:
    """Log the figures of a search below `figures/search`, and its trials as `trials.json`."""
    space = recipe.search.space
    short = short_names(list(owners(space)))
    trials, front = study.trials(), study.front()
    points = [
        TrialPoint(
            number=trial.number,
            settings={short.get(path, path): value for path, value in trial.settings.items()},
            score=trial.values[0] if trial.values else math.nan,
            state=trial.state,
            curve=trial.curve,
            hours=trial.values[1] if len(trial.values) > 1 else math.nan,
            front=trial.number in front,
        )
        for trial in trials
    ]
    logarithmic = {
        short[path]
        for path, dist in space.items()
        if isinstance(dist, LogUniformConfig) or (isinstance(dist, IntUniformConfig) and dist.log)
    }
    importances = {short.get(name, name): share for name, share in study.importances().items()}
    with tempfile.TemporaryDirectory() as temporary:
        for name, figure in search_figures(points, logarithmic, importances).items():
            run.artifact(save_png(figure, Path(temporary) / f"{name}.png"), "figures/search")
    log_bytes(run, "trials.json", json.dumps([asdict(trial) for trial in trials], indent=1).encode(), "")
