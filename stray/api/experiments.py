"""Train, search and compare the methods of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stray.config import Recipe
from stray.errors import InputError, Problem
from stray.recipe import apply, load_recipe

if TYPE_CHECKING:
    import pandas as pd

    from stray.cohort.dataset import PairedDataset
    from stray.on_ray.progress import Progress
    from stray.report.tables import Comparison


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of `stray.train`."""

    uri: str
    """The MLflow store."""
    experiment: str
    """Name of the MLflow experiment."""
    models: tuple[str, ...]
    """Folders of the models trained on all patients, for `load_model`; empty unless `folds` is "none"."""

    @property
    def comparison(self) -> Comparison:
        """The methods of the experiment, compared. Raises InputError where no run was scored."""
        return compare(self.uri, self.experiment)

    @property
    def table(self) -> pd.DataFrame:
        """A row for each label source, method, held-out patient (fold) and seed, with its scores."""
        return scores_table(self.comparison)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of `stray.search`."""

    table: pd.DataFrame
    """A row for each trial, best first: `trial` (its number), `name`, the settings by their dotted paths (nan where a
    parameter was not drawn), `score` (the mean balanced accuracy on the inner validation patients; nan unless the trial
    is complete) and `sd` over its trainings, `state` (complete, pruned or failed), `judged` (the last epoch at which it
    was judged), `error`, and where the device hours are an objective `hours` and `front` (on the Pareto front).
    """
    recipe: Recipe
    """The recipe with the best settings, for `train`."""
    path: str
    """File of that recipe."""
    uri: str
    """The MLflow store."""
    final: Comparison | None = None
    """The best settings against the recipe's own on the patients of `search.held_out`; None where nobody was held out,
    `search.final` is off, or the recipe's own settings were the best.
    """


def train(
    recipe: str | Recipe,
    *,
    dataset: PairedDataset | str | None = None,
    set: Mapping[str, Any] | None = None,
    methods: Sequence[str] = (),
    folds: str | Sequence[str] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train and score every method of a recipe on patients that it has not seen.

    Ended and called again it goes on where it stopped.

    Args:
        recipe: Path or URI of a recipe, the name of a shipped one, or a `Recipe`.
        dataset: The paired dataset, or its path; None: the recipe's.
        set: Settings by dotted path, such as `{"contrastive.optim.lr": 3e-4}`.
        methods: Only these methods; none: all.
        folds: "all" (each patient in turn), "none" (train on all patients), or the patients to hold out.
        progress: Shows the progress of every stage.
    """
    return run_experiment(choose(recipe_with(recipe, dataset, set), methods, folds), progress=progress)


def run_experiment(recipe: Recipe, *, score_only: bool = False, progress: Progress | None = None) -> TrainResult:
    """Train and score the cells of a recipe that are not done, or only score trained ones again."""
    _check_patches(recipe)
    from stray.on_ray import experiment, session

    with session.session():
        outcome = experiment.run(recipe, progress=progress, train=not score_only)
    return TrainResult(uri=outcome.uri, experiment=outcome.experiment, models=outcome.models)


def search(
    recipe: str | Recipe,
    *,
    dataset: PairedDataset | str | None = None,
    set: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search the hyperparameters of `search.space`; the arguments are those of `train`."""
    resolved = recipe_with(recipe, dataset, set)
    _check_patches(resolved, searched=True)
    import pandas as pd

    from stray.on_ray import search as ray_search
    from stray.on_ray import session
    from stray.on_ray.progress import NullProgress
    from stray.on_ray.search_final import compare_with_recipe

    with session.session():
        found = ray_search.search(resolved, progress=progress)
        final = compare_with_recipe(resolved, found, progress or NullProgress())
    trials = [
        {
            "trial": trial.number,
            "name": trial.name,
            **trial.settings,
            "score": trial.score,
            "sd": trial.sd,
            "state": trial.state,
            "judged": trial.judged,
            "error": trial.error,
            "hours": trial.hours,
            "front": trial.front,
        }
        for trial in found.trials
    ]
    table = pd.DataFrame(trials)
    return SearchResult(table=table, recipe=found.recipe, path=found.path, uri=found.uri, final=final)


def compare(
    uri: str, experiment: str | None = None, *, metric: str = "balanced_accuracy", baseline: str | None = None
) -> Comparison:
    """Compare the methods of an MLflow experiment; None: the one that was changed last."""
    from stray.comparison import read_comparison

    return read_comparison(uri, experiment, metric, baseline)


def scores_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each label source, method, fold and seed of a comparison, with its scores."""
    import pandas as pd

    rows = [
        {
            "source": source.source,
            "method": row.method,
            "fold": fold,
            "seed": seed,
            **{name: cells[fold, seed] for name, cells in row.by_score.items() if (fold, seed) in cells},
            comparison.metric: score,
        }
        for source in comparison.sources
        for row in source.rows
        for (fold, seed), score in row.cells.items()
    ]
    return pd.DataFrame(rows)


def recipe_with(
    recipe: str | Recipe, dataset: PairedDataset | str | None = None, set: Mapping[str, Any] | None = None
) -> Recipe:
    """Return a recipe with a dataset and settings. Raises InputError with every problem, and without a dataset."""
    found = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    changes = dict(set or {})
    if dataset is not None:
        changes["dataset"] = dataset if isinstance(dataset, str) else dataset.path
    found = apply(found, changes) if changes else found
    require_dataset(found)
    return found


def require_dataset(recipe: Recipe) -> None:
    """Raise InputError when the recipe names no dataset."""
    if not recipe.dataset:
        remedy = "give it: --set dataset=PATH (`stray ingest PATH ...` makes one)"
        raise InputError(Problem("dataset", "is not set in the recipe", remedy))


def choose(recipe: Recipe, methods: Sequence[str] = (), folds: str | Sequence[str] | None = None) -> Recipe:
    """Return the recipe with only these methods and folds, see `train`. Raises InputError naming unknown methods."""
    unknown = [name for name in methods if name not in recipe.methods]
    if unknown:
        remedy = f"one of {', '.join(recipe.methods)}"
        raise InputError(Problem("--method", f"the recipe has no method {name!r}", remedy) for name in unknown)
    changes: dict[str, object] = {}
    if methods:
        # A method that chooses is nothing without those that it chooses among.
        kept = {*methods, *(other for name in methods for other in recipe.methods[name].choose)}
        dropped = [name for name in recipe.methods if name not in kept]
        changes |= dict.fromkeys([f"methods.{name}" for name in dropped])
        if recipe.search.method in dropped:
            changes["search.method"] = None
    if folds == "none":
        changes |= {"folds.kind": "none"}
    elif folds is not None:
        names = [] if folds == "all" else folds.split(",") if isinstance(folds, str) else list(folds)
        changes |= {"folds.kind": "leave_one_out", "folds.held_out": [name for name in names if name]}
    return apply(recipe, changes) if changes else recipe


def _check_patches(recipe: Recipe, *, searched: bool = False) -> None:
    """Raise InputError when there is no dataset, or an image encoder cannot code its patches."""
    from stray.cohort.dataset import PairedDataset
    from stray.stages.contrastive.patch_size import check_patch_size

    check_patch_size(recipe, PairedDataset.open(recipe.dataset).manifest.patch.size_px, searched=searched)
