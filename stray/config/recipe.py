"""The root of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

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
    """Each patient with scored pictures held out in turn, or none (train on all, to use the encoder elsewhere)."""
    held_out: tuple[str, ...] = ()
    """Only these patients are held out, each in a fold of its own; empty: every patient that can be scored."""
    inner: Annotated[int, Field(ge=1)] = 2
    """Inner validation patients of a fold, by whom a method with `choose` chooses: the next labelled training patients
    after the held-out one, in the cyclic order of their names.
    """


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """A named variant of the recipe."""

    train: Literal["contrastive", "gene", "nothing"] = "contrastive"
    """Both stages; the gene stage alone, whose codes are scored; or none (the image encoder as it is: random, or with
    its pretrained weights).
    """
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted overrides of the recipe under `gene` and `contrastive`."""
    choose: tuple[str, ...] = ()
    """Other methods of the recipe. In each fold this method is that one of them which scores best on the inner
    validation patients (balanced accuracy of the probe) when it is trained without them.
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
    """Names the MLflow experiment and the folder of results."""
    dataset: str = ""
    """Path or URI of the paired dataset."""
    output: str = "stray-runs"
    """Path or URI under which checkpoints and results are kept; on a cluster of several nodes, one that all see."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Seeds; every method and fold is run once with each."""
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

    @property
    def tuned(self) -> str:
        """The method that a search tunes: the named one, or the last that is not itself a choice."""
        own = [name for name, method in self.methods.items() if not method.choose]
        return self.search.method or (own or list(self.methods))[-1]
