"""Every setting of stray: frozen, keyword-only dataclasses, a line of documentation under each field.

Decoding (YAML, dotted overrides, error messages) is `stray.recipe`'s work; these classes only say what exists.
"""

from stray.config.batches import BatchesConfig
from stray.config.contrastive import (
    AugmentConfig,
    ContrastiveConfig,
    FrozenTowerConfig,
    GeneTowerConfig,
    MlpTowerConfig,
    ProjectionConfig,
    TunedTowerConfig,
)
from stray.config.evaluation import EvalConfig, LabelSourcesConfig
from stray.config.gene import (
    GeneConfig,
    GeneModelConfig,
    LogCountsConfig,
    PanelConfig,
    PcaConfig,
    ScanviConfig,
    ScviConfig,
)
from stray.config.image import (
    CallableConfig,
    ImageConfig,
    TorchvisionConfig,
    TrainableAdaptersConfig,
    TrainableAllConfig,
    TrainableConfig,
    TrainableLastStageConfig,
    TrainableNoneConfig,
)
from stray.config.ingest import (
    H5adSourceConfig,
    Her2stSourceConfig,
    IngestConfig,
    LabelTableConfig,
    PatchConfig,
    SourceConfig,
    SyntheticSourceConfig,
)
from stray.config.losses import (
    ClipLossConfig,
    ExpressionLossConfig,
    GuidedLossConfig,
    LossesConfig,
    SiglipLossConfig,
    SmoothedLossConfig,
)
from stray.config.optim import ContrastiveOptimConfig, OptimConfig
from stray.config.recipe import FoldsConfig, MethodConfig, Recipe
from stray.config.run import RunConfig, TrackConfig
from stray.config.samplers import (
    CmaesSamplerConfig,
    GpSamplerConfig,
    Nsga2SamplerConfig,
    QmcSamplerConfig,
    RandomSamplerConfig,
    SamplerConfig,
    TpeSamplerConfig,
)
from stray.config.schedulers import (
    AshaSchedulerConfig,
    HyperbandSchedulerConfig,
    MedianSchedulerConfig,
    NoSchedulerConfig,
    SchedulerConfig,
)
from stray.config.search import SearchConfig
from stray.config.search_space import (
    ChoiceConfig,
    DistributionConfig,
    IntUniformConfig,
    LogUniformConfig,
    QuantizedUniformConfig,
    SimplexConfig,
    UniformConfig,
    WhenConfig,
)

__all__ = [
    "AshaSchedulerConfig",
    "AugmentConfig",
    "BatchesConfig",
    "CallableConfig",
    "ChoiceConfig",
    "ClipLossConfig",
    "CmaesSamplerConfig",
    "ContrastiveConfig",
    "ContrastiveOptimConfig",
    "DistributionConfig",
    "EvalConfig",
    "ExpressionLossConfig",
    "FoldsConfig",
    "FrozenTowerConfig",
    "GeneConfig",
    "GeneModelConfig",
    "GeneTowerConfig",
    "GpSamplerConfig",
    "GuidedLossConfig",
    "H5adSourceConfig",
    "Her2stSourceConfig",
    "HyperbandSchedulerConfig",
    "ImageConfig",
    "IngestConfig",
    "IntUniformConfig",
    "LabelSourcesConfig",
    "LabelTableConfig",
    "LogCountsConfig",
    "LogUniformConfig",
    "LossesConfig",
    "MedianSchedulerConfig",
    "MethodConfig",
    "MlpTowerConfig",
    "NoSchedulerConfig",
    "Nsga2SamplerConfig",
    "OptimConfig",
    "PanelConfig",
    "PatchConfig",
    "PcaConfig",
    "ProjectionConfig",
    "QmcSamplerConfig",
    "QuantizedUniformConfig",
    "RandomSamplerConfig",
    "Recipe",
    "RunConfig",
    "SamplerConfig",
    "ScanviConfig",
    "SchedulerConfig",
    "ScviConfig",
    "SearchConfig",
    "SiglipLossConfig",
    "SimplexConfig",
    "SmoothedLossConfig",
    "SourceConfig",
    "SyntheticSourceConfig",
    "TorchvisionConfig",
    "TpeSamplerConfig",
    "TrackConfig",
    "TrainableAdaptersConfig",
    "TrainableAllConfig",
    "TrainableConfig",
    "TrainableLastStageConfig",
    "TrainableNoneConfig",
    "TunedTowerConfig",
    "UniformConfig",
    "WhenConfig",
]
