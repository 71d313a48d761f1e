"""Stages: their settings, the rows that they read, and the folder of their results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from stray import storage
from stray.cohort.panel import Panel
from stray.config import ContrastiveConfig, GeneConfig, ScanviConfig, ScviConfig, TrainableNoneConfig
from stray.config.gene import without_classes
from stray.data.streaming import Stream
from stray.stages.judge import Judge
from stray.stages.results import ResultFolder, result_key

STEPS = "steps.json"
"""[step, loss] of the steps whose loss a stage logged, in its folder."""
CODES_FIGURE = "codes.png"
"""Figure of the spots before and after a gene stage, in its folder."""


@dataclass(frozen=True)
class Work:
    """Amount of computation of a stage, by which its time is estimated."""

    config: GeneConfig | ContrastiveConfig | None = None
    """Settings of the stage's model."""
    spots: int = 0
    """Spots that train, or are fitted in one pass where `epochs` is 0."""
    epochs: int = 0
    """Passes over them at most."""
    embedded: int = 0
    """Patches that pass through the image encoder without a gradient."""

    def __str__(self) -> str:
        if not self.spots:
            return "embedding only" if self.embedded else "-"
        return f"{self.spots:,} spots" + (f" x {self.epochs} epochs" if self.epochs else "")


@dataclass(frozen=True, kw_only=True)
class GeneStage:
    """Trains the gene encoder on `rows` and codes them."""

    prefix: ClassVar[str] = "gene"
    """Prefix of the names of its metrics and of the paths of its settings."""
    needs_counts: ClassVar[bool] = True
    """Whether counts over the panel must be placed."""
    needs_patches: ClassVar[bool] = False
    """Whether patches must be placed."""

    config: GeneConfig
    rows: np.ndarray
    """Global rows of the training patients' spots with counts."""
    batch: np.ndarray
    """The batch of each, by `gene.batch_key`: its patient, its section, or a column of the sections."""
    label: np.ndarray
    """The class of each, empty where it is not known or may not train. scANVI learns from it; for other models it is
    only watched how far apart the codes keep the classes. Objects, like the batch: a class of a million spots is then
    one string in every worker.
    """
    dataset: str
    """Digest of the dataset."""
    seed: int
    root: str
    """Folder of all stages' results."""

    @property
    def epochs(self) -> int:
        """Epochs at most; 0 where nothing is trained step by step."""
        return self.config.epochs if isinstance(self.config.model, ScviConfig) else 0

    @property
    def title(self) -> str:
        """Name of the stage beside those of its methods."""
        return f"gene stage, {self.config.model.kind}"

    @property
    def work(self) -> Work:
        """Amount of its computation."""
        return Work(self.config, len(self.rows), self.epochs)

    @property
    def gene(self) -> GeneStage:
        """The gene stage whose panel it sees: itself."""
        return self

    @property
    def inputs(self) -> tuple[GeneStage, ...]:
        """Stages whose results it reads: the scVI stage whose weights scANVI starts from."""
        return () if self.start is None else (self.start,)

    @property
    def learns_labels(self) -> bool:
        """Whether the labels go into the model."""
        return isinstance(self.config.model, ScanviConfig)

    @cached_property
    def key(self) -> str:
        """Everything that the codes are a function of; the panel is a function of it too.

        Labels that are only watched are left out: a stage that is done keeps the curves and the figure of the labels
        that it ran with.
        """
        labels = [self.label.tolist()] if self.learns_labels else []
        return "gene-" + result_key(self.config, self.panel_key, self.batch.tolist(), self.seed, *labels)

    @property
    def start(self) -> GeneStage | None:
        """The scVI stage whose weights this one starts from; any method that trains the same scVI shares it."""
        model = self.config.model
        if not isinstance(model, ScanviConfig) or model.scvi_epochs == 0:
            return None
        config = replace(self.config, model=without_classes(model), epochs=model.scvi_epochs)
        return replace(self, config=config)

    @property
    def folder(self) -> ResultFolder:
        """Holds weights.pt, panel.json, codes.npy of rows.npy, codes.png, history.json; scANVI's also
        probabilities.npy.
        """
        return ResultFolder(storage.join(self.root, self.key))

    @cached_property
    def panel_key(self) -> str:
        """Everything that the panel is a function of."""
        listed = [self._listed] if self.config.panel.kind == "file" else []
        return "panel-" + result_key(self.config.panel, self.rows, self.dataset, *listed)

    @property
    def _listed(self) -> str:
        """The list of genes itself: a changed file is another panel. A missing one is reported when it is fitted."""
        path = self.config.panel.path
        return storage.read_bytes(path).decode(errors="replace") if path and storage.exists(path) else ""

    @property
    def panel_path(self) -> str:
        """The file of the panel, which is fitted before the stage."""
        return storage.join(self.root, f"{self.panel_key}.json")

    def panel(self) -> Panel:
        """Return the fitted panel. Raises ValueError when its file is damaged, and OSError when there is none."""
        return Panel.from_json(storage.read_bytes(self.panel_path).decode())

    def panel_damage(self) -> str | None:
        """Return the fault of the panel's file; None where it is whole, or not there."""
        try:
            self.panel()
        except FileNotFoundError:
            return None
        except ValueError as error:
            return f"cannot be read ({error})"
        return None


@dataclass(frozen=True, kw_only=True)
class ImageStage:
    """Trains an image encoder against gene codes or counts (or leaves it untrained) and embeds `embed_rows`."""

    prefix: ClassVar[str] = "contrastive"
    """Prefix of the names of its metrics and of the paths of its settings."""
    needs_patches: ClassVar[bool] = True
    """Whether patches must be placed."""
    codes_held_out: ClassVar[bool] = False
    """Whether counts of held-out patients are coded."""
    title: ClassVar[str] = ""
    """Name of the stage beside those of its methods; empty, because the methods name it."""

    config: ContrastiveConfig
    train: bool
    """False: the encoder stays as it was initialised."""
    gene: GeneStage
    """Whose codes the frozen tower takes, whose encoder is tuned, or whose panel the MLP tower sees."""
    rows: np.ndarray
    """Global rows of the training patients' spots with picture and counts."""
    label: np.ndarray | None = None
    """The class of each, empty where it is not known; only where a loss is guided by classes, or batches are balanced
    over them.
    """
    patient: np.ndarray | None = None
    """The patient of each; only where batches are drawn by patients or classes. A function of the rows, so no part of
    the key.
    """
    section: np.ndarray | None = None
    """The section of each; only where some spots are held out."""
    stream: Stream | None = None
    """Stream of the spots, where their patches fit no memory: it decides which of them form a batch."""
    embed_rows: np.ndarray
    """Global rows of every spot with a picture."""
    judge: Judge | None = None
    """Spots on which it is judged while it trains. No part of the key: the result does not depend on them."""
    source: str = ""
    """Digest of what the image settings name: the bytes of weights, the code of a callable (`image_source`)."""
    root: str
    """Folder of all stages' results."""

    @property
    def epochs(self) -> int:
        """Epochs; 0 where nothing is trained."""
        return self.config.epochs if self.train else 0

    @property
    def work(self) -> Work:
        """Amount of its computation; views of a frozen encoder's patches are embedded once."""
        if not self.train:
            return Work(self.config, embedded=len(self.embed_rows))
        embedded = len(self.embed_rows)
        if isinstance(self.config.trainable, TrainableNoneConfig):
            embedded += len(self.rows) * max(1, self.config.trainable.cached_views)
        return Work(self.config, len(self.rows), self.epochs, embedded)

    @property
    def needs_counts(self) -> bool:
        """Whether counts over the panel must be placed."""
        return self.train and (self.config.gene_tower.kind != "frozen" or self.config.losses.expression.weight > 0)

    @property
    def inputs(self) -> tuple[GeneStage, ...]:
        """Stages whose results it reads: the gene stage, unless the tower learns from counts or nothing is trained."""
        reads = self.train and self.config.gene_tower.kind in ("frozen", "tuned")
        return (self.gene,) if reads else ()

    def at(self, places: np.ndarray) -> ImageStage:
        """Return the same stage on some of its rows, to be trained or watched; its results have no folder of their
        own.
        """
        of = [values if values is None else values[places] for values in (self.label, self.patient, self.section)]
        stream = None if self.stream is None else self.stream.at(places)
        return replace(self, rows=self.rows[places], label=of[0], patient=of[1], section=of[2], stream=stream)

    @cached_property
    def key(self) -> str:
        """Everything that the result is a function of."""
        if not self.train:
            return "image-" + result_key(
                self.config.image, self.source, self.gene.seed, self.gene.dataset, self.embed_rows
            )
        genes = self.gene.key if self.inputs else [self.gene.panel_key, self.gene.seed]
        labels = [] if self.label is None else [self.label.tolist()]
        stream = [] if self.stream is None else [self.stream.key]
        return "image-" + result_key(self.config, self.source, genes, self.rows, self.embed_rows, *labels, *stream)

    @property
    def folder(self) -> ResultFolder:
        """Holds encoder.pt, features.npy of rows.npy, history.json."""
        return ResultFolder(storage.join(self.root, self.key))


@dataclass(frozen=True, kw_only=True)
class CodesStage:
    """Codes `embed_rows` with a gene stage's encoder, so that the codes themselves are scored."""

    gene: GeneStage
    """Whose encoder codes; it has seen training patients only."""
    embed_rows: np.ndarray
    """Global rows of every spot with counts that is scored or trains a probe."""
    root: str
    """Folder of all stages' results."""

    prefix: ClassVar[str] = ""
    """It has no metrics and no settings of its own."""
    epochs: ClassVar[int] = 0
    """Nothing is trained."""
    needs_counts: ClassVar[bool] = True
    """Whether counts over the panel must be placed."""
    needs_patches: ClassVar[bool] = False
    """Whether patches must be placed."""
    codes_held_out: ClassVar[bool] = True
    """Whether counts of held-out patients are coded."""
    title: ClassVar[str] = ""
    """Name of the stage beside those of its methods; empty, because the methods name it."""
    work: ClassVar[Work] = Work()
    """Coding takes no time worth an estimate."""

    @property
    def inputs(self) -> tuple[GeneStage, ...]:
        """Stages whose results it reads."""
        return (self.gene,)

    @cached_property
    def key(self) -> str:
        """Everything that the result is a function of."""
        return "codes-" + result_key(self.gene.key, self.embed_rows)

    @property
    def folder(self) -> ResultFolder:
        """Holds features.npy of rows.npy, history.json."""
        return ResultFolder(storage.join(self.root, self.key))


Stage = GeneStage | ImageStage | CodesStage


def upstream(stage: Stage) -> tuple[GeneStage, ...]:
    """Return the stages that a stage's results depend on, each after those that it reads itself."""
    return tuple(one for gene in stage.inputs for one in (*upstream(gene), gene))
