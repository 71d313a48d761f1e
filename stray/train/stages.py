"""The stages of a cell, each from its settings and its rows to a folder of results. A stage that is done is not done
again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import torch

from stray import storage
from stray.cohort.panel import Panel
from stray.collective import gather_rows
from stray.config import ContrastiveConfig, GeneConfig, TorchvisionConfig
from stray.models.image_encoder import ImageEncoder
from stray.noise import torch_generator
from stray.track.tracker import Tracker
from stray.train.blocks import Counts, Patches
from stray.train.contrastive_task import ContrastiveTask, embed
from stray.train.gene_task import GeneTask
from stray.train.loop import fit
from stray.train.results import ResultFolder, digest
from stray.train.worker import Worker


class StageData(Protocol):
    """The data of a fold as a worker reaches it."""

    def patches(self, rows: np.ndarray) -> Patches:
        """Patches of the global rows."""
        ...

    def counts(self, panel: Panel, rows: np.ndarray) -> Counts:
        """Counts over `panel` of the global rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class GeneStage:
    """Trains the gene encoder on `rows` and codes them."""

    config: GeneConfig
    rows: np.ndarray
    """Global rows of the training patients' spots with counts."""
    batch: np.ndarray
    """The batch (patient or section) of each."""
    dataset: str
    """Digest of the dataset."""
    seed: int
    root: str
    """Folder of all stages' results."""

    @property
    def key(self) -> str:
        """Everything that the result is a function of; the panel is a function of it too."""
        return "gene-" + digest(self.config, self.rows, self.batch.tolist(), self.dataset, self.seed)

    @property
    def folder(self) -> ResultFolder:
        """Holds weights.pt, panel.json, codes.npy of rows.npy, history.json."""
        return ResultFolder(storage.join(self.root, self.key))

    @property
    def panel_key(self) -> str:
        """Everything that the panel is a function of."""
        return "panel-" + digest(self.config.panel, self.rows, self.dataset)

    @property
    def panel_path(self) -> str:
        """The file of the panel, which is fitted before the stage."""
        return storage.join(self.root, f"{self.panel_key}.json")

    def panel(self) -> Panel:
        """The fitted panel."""
        return Panel.from_json(storage.read_bytes(self.panel_path).decode())


@dataclass(frozen=True, kw_only=True)
class ImageStage:
    """Trains an image encoder against gene codes or counts (or leaves it untrained) and embeds `embed_rows`."""

    config: ContrastiveConfig
    train: bool
    """False: the encoder stays as it was initialised."""
    gene: GeneStage
    """Whose codes the frozen tower takes, or whose panel the MLP tower sees."""
    rows: np.ndarray
    """Global rows of the training patients' spots with picture and counts."""
    embed_rows: np.ndarray
    """Global rows of every spot with a picture."""
    root: str
    """Folder of all stages' results."""

    @property
    def needs_counts(self) -> bool:
        """Whether the counts over the panel must be placed."""
        return self.train and not self.needs_codes

    @property
    def needs_codes(self) -> bool:
        """Whether the gene stage must come first."""
        return self.train and self.config.gene_tower.kind == "frozen"

    @property
    def key(self) -> str:
        """Everything that the result is a function of."""
        if not self.train:
            return "image-" + digest(self.config.image, self.gene.seed, self.gene.dataset, self.embed_rows)
        genes = self.gene.key if self.needs_codes else [self.gene.panel_key, self.gene.seed]
        return "image-" + digest(self.config, genes, self.rows, self.embed_rows)

    @property
    def folder(self) -> ResultFolder:
        """Holds encoder.pt, features.npy of rows.npy, history.json."""
        return ResultFolder(storage.join(self.root, self.key))


Stage = GeneStage | ImageStage


def run_stage(stage: Stage, data: StageData, worker: Worker, tracker: Tracker, *, checkpoint_every: int = 1) -> None:
    """Run `stage` to its end and keep its results; every worker calls it. Returns at once when it was done before."""
    if _agree(stage.folder.is_done(), worker):
        return
    if isinstance(stage, GeneStage):
        _run_gene(stage, data, worker, tracker, checkpoint_every)
    else:
        _run_image(stage, data, worker, tracker, checkpoint_every)


def _agree(done: bool, worker: Worker) -> bool:
    """What rank 0 found: the workers must not differ on whether there is a stage to run."""
    found = torch.tensor([float(done and worker.rank == 0)], device=worker.device)
    return bool(worker.all_reduce(found) > 0)


def _run_gene(stage: GeneStage, data: StageData, worker: Worker, tracker: Tracker, checkpoint_every: int) -> None:
    panel = stage.panel()
    counts = data.counts(panel, stage.rows)
    task = GeneTask(stage.config, counts, stage.batch, seed=stage.seed, device=worker.device)
    state = fit(
        task,
        stage.config.optim,
        worker=worker,
        tracker=tracker,
        prefix="gene",
        seed=stage.seed,
        checkpoint_every=checkpoint_every,
    )
    task.finish()
    codes_NZ = gather_rows(task.codes(counts).to(worker.device), len(counts)).cpu()
    if worker.rank == 0:
        folder = stage.folder
        folder.write_weights("weights.pt", task.module.state_dict())
        storage.write_bytes(storage.join(folder.path, "panel.json"), panel.to_json().encode())
        folder.write_json(
            "config.json", {"gene": asdict(stage.config), "batches": task.names.tolist(), "seed": stage.seed}
        )
        folder.write_json("history.json", state.history)
        folder.write_array("rows.npy", stage.rows)
        folder.write_array("codes.npy", codes_NZ.numpy())
        folder.finish({"kind": "gene", "dataset": stage.dataset})
    worker.all_reduce(torch.zeros(1, device=worker.device))  # nobody reads the folder before it is whole


def _run_image(stage: ImageStage, data: StageData, worker: Worker, tracker: Tracker, checkpoint_every: int) -> None:
    history: list[dict[str, float]] = []
    if stage.train:
        genes = _codes(stage) if stage.needs_codes else data.counts(stage.gene.panel(), stage.rows)
        task = ContrastiveTask(
            stage.config, data.patches(stage.rows), genes, seed=stage.gene.seed, device=worker.device
        )
        history = fit(
            task,
            stage.config.optim,
            worker=worker,
            tracker=tracker,
            prefix="contrastive",
            seed=stage.gene.seed,
            checkpoint_every=checkpoint_every,
        ).history
        encoder = task.module.image_encoder
    else:
        encoder = untrained(stage.config.image, stage.gene.seed).to(worker.device)
        encoder = encoder.to(memory_format=torch.channels_last)
    local_nD = embed(encoder, data.patches(stage.embed_rows), worker.device)
    features_ND = gather_rows(local_nD.to(worker.device), len(stage.embed_rows)).cpu()
    if worker.rank == 0:
        folder = stage.folder
        folder.write_weights("encoder.pt", encoder.state_dict())
        folder.write_json(
            "config.json", {"contrastive": asdict(stage.config), "seed": stage.gene.seed, "trained": stage.train}
        )
        folder.write_json("history.json", history)
        folder.write_array("rows.npy", stage.embed_rows)
        folder.write_array("features.npy", features_ND.numpy())
        folder.finish({"kind": "image", "dataset": stage.gene.dataset})
    worker.all_reduce(torch.zeros(1, device=worker.device))


def _codes(stage: ImageStage) -> torch.Tensor:
    """Frozen gene codes (N, Z) of the stage's rows, as the gene stage left them."""
    folder = stage.gene.folder
    held = folder.read_array("rows.npy")
    place = np.searchsorted(held, stage.rows)
    return torch.from_numpy(folder.read_array("codes.npy")[place])


def untrained(config: TorchvisionConfig, seed: int) -> ImageEncoder:
    """The image encoder as the contrastive stage would start it, but for the draw of its random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_generator(seed, "untrained", "init").initial_seed())
        return ImageEncoder(config)
