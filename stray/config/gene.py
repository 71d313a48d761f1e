"""The gene stage: panel, model, training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from stray.config.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class PanelConfig:
    """Genes that a model sees; fitted on the fold's training patients only."""

    kind: Literal["hvg", "svg", "union", "mean", "all", "file"] = "hvg"
    """Highly variable genes (seurat_v3, patient as batch), spatially variable genes (Moran's I within sections), the
    best of either, highest mean, all genes, or a list from `path`.
    """
    n_genes: Annotated[int, Field(ge=2)] = 1000
    """Size of a panel that is chosen by rank; smaller where the cohort has fewer genes."""
    path: str = ""
    """Text file with one gene symbol per line, for `kind: file`."""
    min_sections_share: Annotated[float, Field(ge=0, le=1)] = 0.9
    """A gene must have been measured in at least this share of the training sections."""
    exclude: tuple[str, ...] = (r"(?i)MT-", r"(?i)RP[SL](\d+[AXLY]*\d*|A|P\d)$")
    """Regular expressions; genes whose symbol matches one from its start are left out. By default mitochondrial and
    ribosomal genes, whose counts depend on how the tissue was handled.
    """


@dataclass(frozen=True, kw_only=True)
class ScviConfig:
    """scVI (Lopez et al. 2018), as in scvi-tools; the encoder never sees the batch."""

    kind: Literal["scvi"] = "scvi"
    likelihood: Literal["nb", "zinb"] = "zinb"
    """Negative binomial, or zero-inflated negative binomial."""
    dispersion: Literal["gene", "gene-batch"] = "gene"
    """Inverse dispersion per gene, or per gene and batch."""
    library: Literal["observed", "learned"] = "observed"
    """The spot's count total over the panel, or a latent with a log-normal prior for each batch."""
    batch_correction: bool = True
    """Whether the decoder receives the batch. False: batch effects stay in the codes (a baseline)."""
    inject: Literal["all", "first"] = "all"
    """Decoder layers that receive the batch."""
    norm: Literal["batch", "layer"] = "batch"
    """Normalisation in the hidden layers, over the global batch or over the features of a spot."""
    n_latent: Annotated[int, Field(ge=1)] = 10
    """Dimensions of the gene code."""
    n_hidden: Annotated[int, Field(ge=1)] = 128
    """Width of the hidden layers."""
    n_layers: Annotated[int, Field(ge=1)] = 1
    """Hidden layers of the encoder, and of the decoder."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout in the encoder."""
    kl_warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the epochs over which the weight of the KL term rises from 0 to `kl_weight`, epoch by epoch."""
    kl_warmup_steps: Annotated[int, Field(ge=1)] | None = None
    """Number of steps of the warm-up, instead of `kl_warmup_share`."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the KL term after its warm-up."""


@dataclass(frozen=True, kw_only=True)
class ScanviConfig(ScviConfig):
    """scANVI (Xu et al. 2021): scVI with classes, known for some spots. Labels of training patients only, by the rules
    of `eval.label_sources` and `eval.exclude_classes`.
    """

    kind: Literal["scanvi"] = "scanvi"  # pyright: ignore[reportIncompatibleVariableOverride]
    classification_weight: Annotated[float, Field(ge=0)] = 50.0
    """Weight of the cross-entropy on labelled spots."""
    linear_classifier: bool = False
    """Whether the classifier on the codes is linear, rather than as deep as the encoder."""
    balanced: bool = False
    """Whether labelled spots are drawn with equal class frequencies, rather than in turn."""
    scvi_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs of scVI, without classes, from which scANVI starts; 0: from scratch."""


@dataclass(frozen=True, kw_only=True)
class PcaConfig:
    """Principal components of log-normalised counts (scikit-learn, incremental): no batch correction at all."""

    kind: Literal["pca"] = "pca"
    n_latent: Annotated[int, Field(ge=1)] = 10
    """Components."""
    target_sum: Annotated[float, Field(gt=0)] = 1e4
    """Counts of a spot are scaled to this total before log1p."""


@dataclass(frozen=True, kw_only=True)
class LogCountsConfig:
    """Log-normalised counts of the panel without an encoder (a baseline)."""

    kind: Literal["log_counts"] = "log_counts"
    target_sum: Annotated[float, Field(gt=0)] = 1e4
    """Counts of a spot are scaled to this total before log1p."""


GeneModelConfig = Annotated[ScviConfig | ScanviConfig | PcaConfig | LogCountsConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class GeneConfig:
    """The gene stage trains a batch-agnostic gene encoder by variational inference."""

    panel: PanelConfig = field(default_factory=PanelConfig)
    """The genes."""
    model: GeneModelConfig = field(default_factory=ScviConfig)
    """The model."""
    batch_key: Annotated[str, Field(min_length=1)] = "patient"
    """Unit of a batch effect: patient, section, source (the reader that a section came from), or any column of the
    dataset's sections (a slide, a scanner, a kit), which `stray inspect` lists.
    """
    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training spots."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Spots in a global batch, whatever the number of workers."""
    min_count: Annotated[int, Field(ge=0)] = 0
    """Spots with fewer counts over the panel do not train."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training patients' spots, stratified by batch, held out to monitor the ELBO."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Epochs without a better held-out ELBO, after the KL warm-up, before the stage stops; null: run all epochs."""
    keep: Literal["last", "best"] = "last"
    """Weights of the last epoch, or of the best held-out ELBO after the KL warm-up."""
    precision: Literal["fp32", "mixed"] = "mixed"
    """Matrix products in float32, or with factors rounded to bf16 or TF32 where the hardware multiplies them faster.
    Sums and the likelihood are float32 in both.
    """
    compile: bool = False
    """Whether to compile the model and its likelihood with torch.compile: half a minute at the start, faster steps
    afterwards. On a CPU it needs a C++ compiler.
    """
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-3, eps=0.01, weight_decay=1e-6))
    """The optimiser; scvi-tools' values by default."""

    @property
    def watches_held_out(self) -> tuple[str, ...]:
        """The settings that need the ELBO on held-out spots, by their dotted paths."""
        watching = {
            "gene.patience": self.patience is not None,
            "gene.keep": self.keep == "best",
            "gene.optim.schedule": self.optim.schedule == "plateau",
        }
        return tuple(place for place, watches in watching.items() if watches)


def without_classes(config: ScanviConfig) -> ScviConfig:
    """Return the scVI that a scANVI of these settings holds."""
    shared = {name: getattr(config, name) for name in ScviConfig.__dataclass_fields__ if name != "kind"}
    return ScviConfig(**shared)
