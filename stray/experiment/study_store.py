"""Stores of studies, and the results of earlier searches."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from stray import storage
from stray.config import Recipe
from stray.errors import InputError, Problem, without_secrets
from stray.metrics.naming import INNER
from stray.recipe import flatten, for_method, load_recipe
from stray.recipe.files import parse
from stray.track import records
from stray.track.place import local_folder, sqlite_file, sqlite_uri, tracking_uri

FILE = "search.db"
"""Default file of the studies of a recipe."""
SETTINGS = "settings"
"""User attribute of a trial: its settings by recipe path."""
MLFLOW = "mlflow:"
"""Prefix of the name of an MLflow experiment."""
LOCK_S = 60
"""Seconds to wait for another process (a dashboard) that writes to a SQLite file."""


def study_storage(recipe: Recipe) -> str:
    """Return the store of the recipe's studies: `search.storage`, else a SQLite file beside the results, or beside
    MLflow's SQLite file where the results lie in a bucket.

    Raises InputError where there is no such place.
    """
    given = recipe.search.storage
    if given is not None:
        return given if "://" in given else storage.absolute(given)
    home = local_folder(recipe.output)
    if home is not None:
        return sqlite_uri(os.path.join(home, recipe.name, FILE))
    beside = sqlite_file(tracking_uri(recipe))
    if beside is None:
        what = f"no study can be kept in a bucket ({recipe.output})"
        remedy = (
            "give a file on a disk that stays, --set search.storage=sqlite:////PATH/search.db, or a database server"
        )
        raise InputError(Problem("search.storage", what, remedy))
    return sqlite_uri(beside.parent / f"{recipe.name}-{FILE}")


def exists(address: str) -> bool:
    """Return whether there is a store; a server counts as one."""
    file = sqlite_file(address) if "://" in address else address
    return file is None or os.path.exists(file)


def open_storage(address: str, place: str = "search.storage") -> BaseStorage:
    """Open a store of studies: an address as SQLAlchemy takes it, or the path of a journal file. Files that are absent
    are created.

    Raises InputError, naming `place`, where it cannot be opened.
    """
    file = sqlite_file(address) if "://" in address else None
    try:
        if "://" not in address:
            os.makedirs(os.path.dirname(address) or ".", exist_ok=True)
            return JournalStorage(JournalFileBackend(address))
        if file is None:
            return RDBStorage(address)
        file.parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(sqlite_uri(file), engine_kwargs={"connect_args": {"timeout": LOCK_S}})
    except (optuna.exceptions.OptunaError, SQLAlchemyError, OSError, ImportError, ValueError, RuntimeError) as error:
        what = f"{address} cannot be opened: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        remedy = "give sqlite:///PATH/search.db, the path of a journal file, or a database whose driver is installed"
        raise InputError(Problem(place, what, remedy)) from None


def best_settings(text: str, place: str, recipe: Recipe) -> Mapping[str, Any]:
    """Return the settings that an earlier search found: those of the tuned method in a best.yaml, of the best trial of
    the study `STORAGE#NAME`, or of the best trial of an experiment `mlflow:NAME` in the tracking store of `recipe`.

    Raises InputError, naming `place`, where there is no such search.
    """
    if text.startswith(MLFLOW):
        return _best_run(tracking_uri(recipe), text.removeprefix(MLFLOW), place)
    address, mark, name = text.rpartition("#")
    if not mark:
        earlier = load_recipe(text)
        return flatten(for_method(earlier, earlier.tuned))
    if not exists(address):
        what = f"there is no store of studies at {address}"
        raise InputError(Problem(place, what, "give STORAGE#NAME, or the path of a best.yaml"))
    store = open_storage(address, place)
    names = optuna.get_all_study_names(store)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        remedy = f"did you mean {address}#{near[0]}?" if near else f"studies there: {', '.join(names) or 'none'}"
        raise InputError(Problem(place, f"there is no study {name!r} in {without_secrets(address)}", remedy))
    study = optuna.load_study(study_name=name, storage=store)
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if not complete:
        what, remedy = f"the study {name!r} has no complete trial", "remove it, or continue that search"
        raise InputError(Problem(place, what, remedy))
    best = max(study.best_trials, key=lambda trial: trial.values[0])  # of the Pareto front that with the best score
    return best.user_attrs.get(SETTINGS, best.params)


def _best_run(uri: str, experiment: str, place: str) -> dict[str, Any]:
    """Return the settings of the trial with the best score among the runs of an experiment."""
    from stray.track.mlflow_reader import MlflowReader

    runs = MlflowReader(uri, experiment).runs({records.KIND: records.TRIAL})
    scored = [run for run in runs if math.isfinite(run.metrics.get(INNER, math.nan))]
    if not scored:
        what = f"the experiment {experiment!r} in {without_secrets(uri)} has no complete trial of a search"
        raise InputError(Problem(place, what, "remove it, or name the experiment of a search"))
    best, start = max(scored, key=lambda run: run.metrics[INNER]), "search."
    known = {run_path for run_path in best.params if f"{start}{run_path}" in best.params}
    return {path: parse(best.params[f"{start}{path}"], place) for path in sorted(known)}
