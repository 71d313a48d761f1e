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
from stray.config.search import (
    ChoiceConfig,
    DistributionConfig,
    IntUniformConfig,
    LogUniformConfig,
    SearchConfig,
    UniformConfig,
)

__all__ = [
    "AugmentConfig",
    "BatchesConfig",
    "CallableConfig",
    "ChoiceConfig",
    "ClipLossConfig",
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
    "GuidedLossConfig",
    "H5adSourceConfig",
    "Her2stSourceConfig",
    "ImageConfig",
    "IngestConfig",
    "IntUniformConfig",
    "LabelSourcesConfig",
    "LabelTableConfig",
    "LogCountsConfig",
    "LogUniformConfig",
    "LossesConfig",
    "MethodConfig",
    "MlpTowerConfig",
    "OptimConfig",
    "PanelConfig",
    "PatchConfig",
    "PcaConfig",
    "ProjectionConfig",
    "Recipe",
    "RunConfig",
    "ScanviConfig",
    "ScviConfig",
    "SearchConfig",
    "SiglipLossConfig",
    "SmoothedLossConfig",
    "SourceConfig",
    "SyntheticSourceConfig",
    "TorchvisionConfig",
    "TrackConfig",
    "TrainableAdaptersConfig",
    "TrainableAllConfig",
    "TrainableConfig",
    "TrainableLastStageConfig",
    "TrainableNoneConfig",
    "TunedTowerConfig",
    "UniformConfig",
]
