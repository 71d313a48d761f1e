"""The Python interface: `stray.ingest`, `stray.train`, `stray.search`, `stray.compare`, `stray.load_model`.

    import stray

    cohort = stray.ingest("cohort/", h5ad="sections/", labels={"pathologist": "labels.csv"})
    result = stray.train("her2st", dataset=cohort, set={"seeds": [0, 1]})
    result.table
    model = stray.load_model(result.models[0])
    model.annotate(adata)

Each function starts Ray where it needs it, or uses the cluster that the process is connected to; `compare` and
`load_model` never do. All raise `stray.errors.InputError` with every problem of what they were given.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stray import storage
from stray.cohort.build import build_dataset
from stray.cohort.coded import Coded
from stray.cohort.dataset import PairedDataset
from stray.config import Recipe
from stray.config.ingest import H5adSourceConfig, IngestConfig
from stray.errors import InputError, Problem
from stray.recipe import apply, load_recipe

if TYPE_CHECKING:
    from anndata import AnnData

    from stray.on_ray.watch import Watch
    from stray.report.tables import Comparison
    from stray.train.model_folder import TrainedModel

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
OnProgress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What `stray.train` leaves."""

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
    """What `stray.search` leaves."""

    table: pd.DataFrame
    """The trials, best first: `trial`, the settings by their dotted paths, and `score`, the balanced accuracy on the
    inner validation patients (nan where the trial failed)."""
    recipe: Recipe
    """The recipe with the best settings, for `train`."""
    path: str
    """Where that recipe was written."""
    uri: str
    """The MLflow store."""


class Model:
    """A trained image encoder with its probe. Made by `load_model`."""

    def __init__(self, trained: TrainedModel, path: str) -> None:
        self._trained = trained
        self.path = path

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes that it tells apart; empty where no training spot had a label."""
        return () if self._trained.probe is None else self._trained.probe.classes

    @property
    def patch_um(self) -> float:
        """Side of the patches that it was trained on, in micrometres."""
        return self._trained.patch.size_um

    @property
    def patch_px(self) -> int:
        """The same in pixels, P."""
        return self._trained.patch.size_px

    def __repr__(self) -> str:
        facts = self._trained.facts
        return (
            f"<stray model {facts.get('method')} of seed {facts.get('seed')}, patches of {self.patch_um:g} um at "
            f"{self.patch_px} px, classes: {', '.join(self.classes) or 'none'}>"
        )

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Return the features (n, D) float32 of RGB patches, uint8 (n, P, P, 3).

        Raises ValueError when they have another shape or type.
        """
        shape = (self.patch_px, self.patch_px, 3)
        if patches.ndim != 4 or patches.shape[1:] != shape or patches.dtype != np.uint8:
            raise ValueError(f"patches are {patches.dtype} {patches.shape}; uint8 (n, *{shape}) is expected")
        return self._trained.features(patches)

    def probabilities(self, patches: np.ndarray) -> pd.DataFrame:
        """Return class probabilities, a row a patch and a column a class, of patches as `encode` takes them.

        Raises InputError where the model has no probe.
        """
        if self._trained.probe is None:
            raise InputError(Problem(self.path, "the model has no probe", "train it on a dataset with labels"))
        return pd.DataFrame(self._trained.probe.probabilities(self.encode(patches)), columns=pd.Index(self.classes))

    def embed(self, dataset: PairedDataset | str) -> AnnData:
        """Code the pictured spots of a paired dataset, see `stray.cohort.coded.as_anndata`.

        Raises InputError when there is no dataset, it has no pictures, or patches of another size.
        """
        from stray.cohort.coded import as_anndata
        from stray.train.coding import embed

        opened = PairedDataset.open(dataset) if isinstance(dataset, str) else dataset
        return as_anndata(embed(self._trained, opened), opened)

    def annotate(self, adata: AnnData) -> AnnData:
        """Code the spots of an AnnData from its picture, in place; return it.

        The picture, its scale and the spots' positions are found as `stray ingest` finds them: `obsm["spatial"]`,
        `uns["spatial"]`, and a picture that `uns` names. Counts are not needed. Adds `obsm["X_stray"]` (n, D) float32
        and, where the model has classes, `obs["stray_class"]` and `obs["stray_probability"]`. A spot without a patch
        (its centre lies outside the picture) gets nan.

        Raises InputError when the picture or its scale cannot be found, or `obs_names` are not unique.
        """
        from stray.train.coding import embed

        if not adata.obs_names.is_unique:
            raise InputError(Problem("adata.obs_names", "are not unique", "call adata.obs_names_make_unique() first"))
        with tempfile.TemporaryDirectory(prefix="stray-annotate-") as folder:
            dataset = _dataset_of(adata, self._trained, Path(folder))
            coded = embed(self._trained, dataset)
            place = adata.obs_names.get_indexer(pd.Index(dataset.spot_names()[coded.rows]))
        assert (place >= 0).all()
        features_ND = np.full((adata.n_obs, coded.embedding_ND.shape[1]), np.nan, dtype=np.float32)
        features_ND[place] = coded.embedding_ND
        adata.obsm["X_stray"] = features_ND
        if coded.probability_NK is not None:
            names, best = np.full(adata.n_obs, None, dtype=object), np.full(adata.n_obs, np.nan)
            names[place], best[place] = coded.predicted, coded.probability_NK.max(axis=1)
            adata.obs["stray_class"] = pd.Categorical(names, categories=list(coded.classes))
            adata.obs["stray_probability"] = best
        if absent := adata.n_obs - len(place):
            logger.warning("%d of %d spots have no patch: their features are nan", absent, adata.n_obs)
        return adata


def ingest(
    out: str | os.PathLike[str],
    *,
    h5ad: Paths = (),
    her2st: Paths = (),
    synthetic: Mapping[str, Any] | None = None,
    labels: Mapping[str, str | os.PathLike[str]] | None = None,
    sections: str | os.PathLike[str] | None = None,
    patch_um: float | None = None,
    patch_px: int | None = None,
    set: Mapping[str, Any] | None = None,
    on_event: Callable[[dict], None] | None = None,
) -> PairedDataset:
    """Make a paired dataset at `out` (path or URI) from tissue sections, and open it.

    Args:
        out: Folder of the dataset. What stands there already, made from the same inputs, is kept.
        h5ad: Files or folders of AnnData.
        her2st: Folders in the layout of HER2ST.
        synthetic: Settings of a synthetic cohort (`ingest.sources` of kind synthetic), such as `{"seed": 1}`.
        labels: Name of a label source to its table (section, spot, label).
        sections: Table of what else is known of sections (patient, ...).
        patch_um: Side of a patch in micrometres.
        patch_px: Side of a patch in pixels.
        set: Other settings below `ingest`, by dotted path, such as `{"off_tissue": "keep"}`.
        on_event: Told of the plan, each section and the end.
    """
    sources: list[dict[str, Any]] = [
        {"kind": kind, "path": os.fspath(path)}
        for kind, paths in (("h5ad", h5ad), ("her2st", her2st))
        for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)
    ]
    sources += [] if synthetic is None else [{"kind": "synthetic", **synthetic}]
    changes: dict[str, Any] = {
        "sources": sources,
        "labels": [{"name": name, "path": os.fspath(path)} for name, path in (labels or {}).items()],
        "sections": None if sections is None else os.fspath(sections),
        "patch.size_um": patch_um,
        "patch.size_px": patch_px,
    }
    given = {f"ingest.{name}": value for name, value in changes.items() if value is not None}
    given |= {f"ingest.{name}": value for name, value in (set or {}).items()}
    return ingest_config(apply(load_recipe(None), given).ingest, os.fspath(out), on_event=on_event)


def ingest_config(
    config: IngestConfig,
    out: str,
    *,
    workers: int | None = None,
    on_event: Callable[[dict], None] | None = None,
) -> PairedDataset:
    """Make a paired dataset as `config` says, with `workers` CPUs where Ray is started for it."""
    from stray.on_ray import ingest as ray_ingest
    from stray.on_ray import session

    with session.session(num_cpus=workers):
        ray_ingest.ingest(config, out, on_event=on_event)
    return PairedDataset.open(out)


def train(
    recipe: str | Recipe,
    *,
    dataset: PairedDataset | str | None = None,
    set: Mapping[str, Any] | None = None,
    methods: Sequence[str] = (),
    folds: str | Sequence[str] | None = None,
    watch: Watch | None = None,
) -> TrainResult:
    """Train and score every method of a recipe on patients that it has not seen.

    Ended and called again it goes on where it stopped.

    Args:
        recipe: Path or URI of a recipe, the name of a shipped one, or a `Recipe`.
        dataset: The paired dataset, or its path; None: the recipe's.
        set: Settings by dotted path, such as `{"contrastive.optim.lr": 3e-4}`.
        methods: Only these methods; none: all.
        folds: "all" (each patient in turn), "none" (train on all patients), or the patients to hold out.
        watch: Told of the progress.
    """
    return run_experiment(choose(recipe_with(recipe, dataset, set), methods, folds), watch=watch)


def run_experiment(recipe: Recipe, *, score_only: bool = False, watch: Watch | None = None) -> TrainResult:
    """Train and score what is left of a recipe, or only score again what is trained."""
    from stray.on_ray import experiment, session

    with session.session():
        outcome = experiment.run(recipe, watch=watch, train=not score_only)
    return TrainResult(uri=outcome.uri, experiment=outcome.experiment, models=outcome.models)


def search(
    recipe: str | Recipe,
    *,
    dataset: PairedDataset | str | None = None,
    set: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
) -> SearchResult:
    """Search the hyperparameters of `search.space`; the arguments are those of `train`."""
    from stray.on_ray import search as ray_search
    from stray.on_ray import session

    resolved = recipe_with(recipe, dataset, set)
    with session.session():
        found = ray_search.search(resolved, watch=watch)
    trials = [{"trial": trial.name, **trial.settings, "score": trial.score} for trial in found.trials]
    return SearchResult(table=pd.DataFrame(trials), recipe=found.recipe, path=found.path, uri=found.uri)


def compare(
    uri: str, experiment: str | None = None, *, metric: str = "balanced_accuracy", baseline: str | None = None
) -> Comparison:
    """Compare the methods of an MLflow experiment; None: the one that was changed last."""
    from stray.comparison import read_comparison

    return read_comparison(uri, experiment, metric, baseline)


def load_model(path: str | os.PathLike[str], *, trust_code: bool = False) -> Model:
    """Load a model that `train(..., folds="none")` left, on the CPU.

    Raises InputError when there is none, it is not whole, or its encoder is made by a callable that the folder names
    and `trust_code` is false.
    """
    from stray.train.model_folder import load

    place = storage.absolute(path)
    return Model(load(place, trust_code=trust_code), place)


def scores_table(comparison: Comparison) -> pd.DataFrame:
    """Return a row for each label source, method, fold and seed of a comparison, with its scores."""
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
        changes["dataset"] = dataset.path if isinstance(dataset, PairedDataset) else dataset
    found = apply(found, changes) if changes else found
    require_dataset(found)
    return found


def require_dataset(recipe: Recipe) -> None:
    """Raise InputError when the recipe names no dataset."""
    if not recipe.dataset:
        remedy = "give it: --set dataset=PATH (`stray ingest PATH ...` makes one)"
        raise InputError(Problem("dataset", "the recipe names none", remedy))


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


def code_pictures(
    model: TrainedModel,
    path: str,
    dataset: PairedDataset,
    *,
    trust_code: bool = False,
    on_progress: OnProgress | None = None,
) -> Coded:
    """Code the pictured spots: on the cluster of RAY_ADDRESS where one is named, else in this process."""
    from stray.train.coding import embed

    if not _on_cluster():
        return embed(model, dataset, on_progress)
    from stray.on_ray import embed as ray_embed
    from stray.on_ray import session

    with session.session():
        return ray_embed.embed(path, dataset, trust_code=trust_code, on_progress=on_progress)


def code_genes(
    path: str, dataset: PairedDataset, *, on_progress: OnProgress | None = None
) -> tuple[Coded, tuple[str, ...]]:
    """Code the spots with counts by the gene stage at `path`, as `code_pictures`; also return the genes of its panel
    that the dataset lacks.
    """
    from stray.train.coding import GeneInput, embed_genes
    from stray.train.gene_folder import load_gene_encoder

    if not _on_cluster():
        encoder = load_gene_encoder(path)
        return embed_genes(encoder, dataset, on_progress), GeneInput(encoder, dataset).missing
    from stray.on_ray import embed as ray_embed
    from stray.on_ray import session

    with session.session():
        return ray_embed.embed_genes(path, dataset, on_progress=on_progress)


def _on_cluster() -> bool:
    """Whether a cluster is named (a submitted job's is), or this machine has several GPUs."""
    from stray.train.coding import gpus

    return os.environ.get("RAY_ADDRESS", "") not in ("", "local") or gpus() > 1


def _dataset_of(adata: AnnData, model: TrainedModel, folder: Path) -> PairedDataset:
    """The spots and pictures of an AnnData as a paired dataset with the model's patches, without counts."""
    import anndata

    if "spatial" not in adata.obsm:
        remedy = "give the spots' centres in pixels of the picture in full resolution"
        raise InputError(Problem('adata.obsm["spatial"]', "is missing", remedy))
    known = [name for name in ("section", "library_id") if name in adata.obs]
    obs = adata.obs[known].copy()
    obs["patient"] = "unknown-patient"
    uns = {"spatial": adata.uns["spatial"]} if "spatial" in adata.uns else {}
    slim = anndata.AnnData(obs=obs, uns=uns)
    slim.obsm["spatial"] = np.asarray(adata.obsm["spatial"])
    slim.write_h5ad(folder / "adata.h5ad")
    config = IngestConfig(
        sources=(H5adSourceConfig(path=str(folder / "adata.h5ad")),), patch=model.patch, off_tissue="keep"
    )

    def tell(event: dict) -> None:
        for warning in event.get("warnings", ()) if event["event"] == "section" else ():
            logger.warning("%s", warning)

    build_dataset(config, str(folder / "dataset"), on_event=tell)
    return PairedDataset.open(str(folder / "dataset"))
