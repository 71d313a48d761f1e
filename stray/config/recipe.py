"""The root of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from stray.config.contrastive import ContrastiveConfig
from stray.config.evaluation import EvalConfig
from stray.config.gene import GeneConfig
from stray.config.ingest import IngestConfig
from stray.config.run import RunConfig, TrackConfig
from stray.config.search import SearchConfig


@dataclass(frozen=True, kw_only=True)
class FoldsConfig:
    """Patients held out."""

    kind: Literal["leave_one_out", "none"] = "leave_one_out"
    """leave_one_out: hold out each patient with scored pictures in turn. none: train on all patients."""
    held_out: tuple[str, ...] = ()
    """Only these patients are held out, each in a fold of its own; empty: every patient that can be scored."""
    inner: Annotated[int, Field(ge=1)] = 2
    """Number of inner validation patients on which a method with `choose` selects: the labelled training patients that
    follow the held-out one in the cyclic order of names.
    """


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """A named variant of the recipe."""

    train: Literal["contrastive", "gene", "nothing"] = "contrastive"
    """contrastive: both stages. gene: the gene stage alone; its codes are scored. nothing: score the image encoder
    as it is, random or pretrained.
    """
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of the recipe under `gene` and `contrastive`."""
    choose: tuple[str, ...] = ()
    """Other methods of the recipe, among which this one selects in each fold: the one whose probe has the best balanced
    accuracy on the inner validation patients, when trained without them.
    """


def _default_methods() -> dict[str, MethodConfig]:
    return {
        "untrained": MethodConfig(train="nothing"),
        "clip_mlp": MethodConfig(set={"contrastive.gene_tower.kind": "mlp"}),
        "clip_scvi": MethodConfig(),
    }


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment: a dataset, methods, folds, seeds, and everything that they need."""

    name: str = "stray"
    """Name of the MLflow experiment and of the folder of results."""
    dataset: str = ""
    """Path or URI of the paired dataset."""
    output: str = "stray-runs"
    """Path or URI of checkpoints and results; on several nodes, one that all nodes can read and write."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Seeds; every method runs once per fold and seed."""
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    """Patients held out."""
    methods: Annotated[dict[str, MethodConfig], Field(min_length=1)] = field(default_factory=_default_methods)
    """The methods that are compared."""
    gene: GeneConfig = field(default_factory=GeneConfig)
    """The gene stage."""
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    """The contrastive stage."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """The hyperparameter search."""
    run: RunConfig = field(default_factory=RunConfig)
    """Workers."""
    track: TrackConfig = field(default_factory=TrackConfig)
    """MLflow."""
    ingest: IngestConfig = field(default_factory=IngestConfig)
    """Ingest of the dataset, where the recipe makes it (the demo does)."""
    resolved: SkipJsonSchema[dict[str, Recipe]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Recipe of each method, its `set` applied. Not a setting: decoding fills it in and `for_method` reads it."""

    @property
    def tuned(self) -> str:
        """The method that a search tunes: the named one, or the last that is not itself a choice."""
        own = [name for name, method in self.methods.items() if not method.choose]
        return self.search.method or (own or list(self.methods))[-1]
