"""Quality of the codes of two implementations of one gene stage: the ELBO of held-out spots, and a linear probe.

Both implementations leave the same folder, with weights of stray's module, so both are judged by the same lines here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from jobs.benchmarks.quality import scvi_tools
from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.split import folds
from stray.config import Recipe, RunConfig
from stray.data.blocks import Counts
from stray.data.local import LocalData
from stray.errors import InputError, Problem, raise_if_any
from stray.evaluate import evaluate
from stray.experiment.cells import Cell, cell
from stray.noise import Noise
from stray.recipe import for_method
from stray.stages.gene.run import CHUNK
from stray.stages.gene.task import GeneTask
from stray.stages.results import ResultFolder, digest
from stray.stages.run import run_stage
from stray.stages.spec import GeneStage, upstream
from stray.track.tracker import NullTracker
from stray.training.worker import LocalWorker

Side = Literal["stray", "scvi-tools"]
SIDES: tuple[Side, ...] = ("stray", "scvi-tools")
"""The implementations."""
DRAWS = 10
"""Draws of z behind an ELBO: the standard error of the mean over a thousand spots is then far below 0.1%."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One implementation of one method on one fold with one seed."""

    side: Side
    method: str
    fold: str
    seed: int
    n_genes: int
    """Genes of the panel."""
    n_trained: int
    """Spots that trained."""
    n_held_out: int
    """Spots of training patients on which the ELBO is."""
    elbo: float
    """Per held-out spot, in nats: the mean over `DRAWS` draws of z, the same for both implementations."""
    elbo_error: float
    """Standard error of that mean over the draws."""
    own_elbo: float | None
    """The same spots' ELBO as scvi-tools tells it, one draw; None for stray."""
    classes: tuple[str, ...]
    """Classes of the confusion matrix."""
    confusion: tuple[tuple[int, ...], ...]
    """Labelled spots of the patients held out, by the probe: row the truth, column the prediction."""
    scores: dict[str, float]
    """The probe's summary scores on these patients (`metrics.scores.SUMMARIES`)."""
    seconds: float
    """Seconds of training, on one thread; of scANVI without the scVI before it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The methods of one implementation on one fold with one seed, one after the other: they share stages."""

    side: Side
    cells: tuple[Cell, ...]
    dataset: str
    root: str

    @property
    def title(self) -> str:
        """Title in progress and logs."""
        first = self.cells[0]
        return f"{self.side}, held out {first.fold.name}, seed {first.seed}"

    def path(self, one: Cell) -> str:
        """Return the file of a cell's result."""
        key = digest(one.scored.gene.key, one.recipe.eval, DRAWS, root_of("", self.side))
        name = f"{self.side}-{one.method}-{one.fold.name}-seed{one.seed}-{key}.json"
        return storage.join(self.root, "results", name)

    def done(self) -> list[Result] | None:
        """Return the results where all are there."""
        paths = [self.path(one) for one in self.cells]
        if not all(storage.exists(path) for path in paths):
            return None
        return [_decoded(json.loads(storage.read_bytes(path))) for path in paths]

    def run(self) -> list[Result]:
        """Train and score what is not done."""
        dataset = PairedDataset.open(self.dataset)
        for one in self.cells:
            if not storage.exists(self.path(one)):
                for stage in upstream(one.scored):
                    train(self.side, stage, dataset, self.root)
                result = score(self.side, one, dataset, self.root)
                storage.write_bytes(self.path(one), json.dumps(asdict(result), indent=1).encode())
        found = self.done()
        assert found is not None
        return found


def jobs(recipe: Recipe, dataset: PairedDataset, methods: Sequence[str], root: str) -> list[Job]:
    """Return the jobs to run, seed by seed, the implementations of a fold beside each other.

    `methods` are names of the recipe's; none: every one that trains a gene stage which both implementations can. Raises
    InputError when there is none, a named one cannot be compared, or the recipe holds out nobody.
    """
    chosen = {name: for_method(recipe, name) for name in methods} or {
        name: adapted
        for name, method in recipe.methods.items()
        if method.train == "gene" and not scvi_tools.problems((adapted := for_method(recipe, name)).gene)
    }
    found = [problem for name, one in chosen.items() for problem in scvi_tools.problems(one.gene, f"{name}: gene")]
    raise_if_any(found + _unfit(recipe))
    if not chosen:
        what = "no method of the recipe trains scVI or scANVI alone (train: gene) with settings that scvi-tools has"
        raise InputError(Problem("methods", what, "take the recipe her2st_gene"))
    # The bootstrap is not looked at here and takes longer than the probe.
    adapted = {name: replace(one, eval=replace(one.eval, bootstrap=0)) for name, one in chosen.items()}
    listed = []
    held_out = folds(dataset.spots(), recipe.folds, recipe.eval, pictured=False)
    for seed in recipe.seeds:
        for fold in held_out:
            cells = tuple(
                cell(one, dataset, fold, seed, root_of(root, "stray"), method=name, train="gene")
                for name, one in adapted.items()
            )
            listed += [Job(side=side, cells=cells, dataset=dataset.path, root=root) for side in SIDES]
    return listed


def train(side: Side, stage: GeneStage, dataset: PairedDataset, root: str) -> None:
    """Train `stage` on one thread and keep its folder; nothing where it is done. Its panel is fitted already."""
    torch.set_num_threads(1)
    if side == "scvi-tools":
        scvi_tools.run_stage(stage, LocalData(dataset), root_of(root, side))
    else:
        # A checkpoint an epoch would be a copy of the weights that nobody keeps.
        run_stage(stage, LocalData(dataset), LocalWorker(), NullTracker(), RunConfig(checkpoint_every=stage.epochs))


def score(side: Side, one: Cell, dataset: PairedDataset, root: str) -> Result:
    """Judge what `train` left of a cell's stage."""
    stage, data, spots = one.scored.gene, LocalData(dataset), dataset.spots()
    folder = stage.folder if side == "stray" else scvi_tools.folder_of(stage, root_of(root, side))
    panel = stage.panel()
    counts = data.counts(panel, stage.rows)
    task = scvi_tools.task_of(stage, counts)
    task.module.load_state_dict(folder.read_weights("weights.pt"))
    elbo_D = held_out_elbo(task, counts, np.searchsorted(task.names, stage.batch))
    rows = np.flatnonzero(spots.has_counts & np.array([label is not None for label in spots.label]))
    evaluation = evaluate(
        codes(task, data.counts(panel, rows)),
        rows,
        spots,
        train_patients=one.fold.train,
        test_patients=one.fold.held_out,
        config=one.recipe.eval,
        seed=one.seed,
    )
    scores = evaluation.scores[one.recipe.eval.label_sources.score[0], "probe"]
    return Result(
        side=side,
        method=one.method,
        fold=one.fold.name,
        seed=one.seed,
        n_genes=len(panel),
        n_trained=len(task.trains),
        n_held_out=len(task.held_out),
        elbo=float(elbo_D.mean()),
        elbo_error=float(elbo_D.std(ddof=1) / np.sqrt(len(elbo_D))),
        own_elbo=folder.facts().get("elbo"),
        classes=scores.classes,
        confusion=tuple(tuple(row) for row in scores.confusion_KK.tolist()),
        scores=scores.summary,
        seconds=_seconds(side, folder, len(task.trains)),
    )


@torch.no_grad()
def held_out_elbo(task: GeneTask, counts: Counts, batch_N: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """Return the mean ELBO per held-out spot (nats) of the task's module, (draws,), each with its own draw of z.

    The draws are keyed by their number and the spots, so that every module is judged with the same ones.
    """
    task.module.eval()
    sums = np.zeros(draws)
    for draw in range(draws):
        for start in range(0, len(task.held_out), CHUNK):
            chunk = task.held_out[start : start + CHUNK]
            noise = Noise(0, draw, start, len(chunk), slice(None))
            terms = task.module.loss(counts.entries(chunk), torch.from_numpy(batch_N[chunk]), noise)
            sums[draw] += float(terms.elbo_n.double().sum())
    return sums / len(task.held_out)


@torch.no_grad()
def codes(task: GeneTask, counts: Counts) -> np.ndarray:
    """Return gene codes (N, Z) of all of `counts`: posterior means of the task's module."""
    task.module.eval()
    chunks = [np.arange(i, min(i + CHUNK, len(counts))) for i in range(0, len(counts), CHUNK)]
    return torch.cat([task.module.encode(counts.entries(chunk)) for chunk in chunks]).numpy()


def root_of(root: str, side: Side) -> str:
    """Return the folder of an implementation's stages; another version of scvi-tools is another implementation."""
    return storage.join(root, f"{side}-{scvi_tools.version()}" if side == "scvi-tools" else side)


def _seconds(side: Side, folder: ResultFolder, spots: int) -> float:
    """Return the seconds of training alone: of stray the epochs without their validation, which scvi-tools does not
    do.
    """
    if side == "scvi-tools":
        return folder.facts()["seconds"]
    return sum(spots / epoch["spots_per_second"] for epoch in folder.read_json("history.json"))


def _decoded(tree: dict[str, Any]) -> Result:
    lists = {"classes": tuple(tree["classes"]), "confusion": tuple(tuple(row) for row in tree["confusion"])}
    return Result(**{**tree, **lists})


def _unfit(recipe: Recipe) -> list[Problem]:
    """Return why the recipe's folds or labels cannot be compared on. Scores of several label sources are never pooled,
    and those of weak ones are no truth.
    """
    found, sources = [], recipe.eval.label_sources
    if recipe.folds.kind == "none":
        found.append(Problem("folds.kind", "holds out nobody to be scored on", "take leave_one_out"))
    if len(sources.score) != 1 or sources.score[0] not in sources.trusted:
        what = f"is {', '.join(sources.score)}; the comparison takes one trusted source"
        found.append(Problem("eval.label_sources.score", what, f"name one of {', '.join(sources.trusted)}"))
    if recipe.gene.validation_share == 0:
        found.append(Problem("gene.validation_share", "0 holds out no spot for the ELBO", "take 0.1"))
    return found
