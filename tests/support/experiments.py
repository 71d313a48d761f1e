"""A small experiment with a known truth, evaluated and tracked as a real one is: for the tests of what reads it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig, LabelSourcesConfig
from stray.evaluate import Evaluation, evaluate
from stray.report.figures import confusion_figure
from stray.track.mlflow import MlflowStore, MlflowTracker

CLASSES = ("adipose", "connective", "immune", "invasive cancer")


@dataclass(frozen=True)
class Table:
    """Just the arrays of a spot table that evaluation asks for."""

    spot_id: NDArray
    patient: NDArray
    section: NDArray
    x_um: NDArray
    y_um: NDArray
    label: NDArray
    label_source: NDArray


def spots(patients: Sequence[str] = ("A", "B", "C"), per_patient: int = 240, seed: int = 0) -> Table:
    """Two sections a patient, classes in stripes of tissue, every fifth spot without a label."""
    rng = np.random.default_rng(seed)
    n = per_patient * len(patients)
    patient = np.repeat(np.array(patients, dtype=object), per_patient)
    half = np.tile(np.repeat(["1", "2"], per_patient // 2), len(patients))
    x, y = rng.uniform(0, 6000, n), rng.uniform(0, 6000, n)
    stripe = np.minimum((x + rng.normal(0, 300, n)).clip(0) // 1500, 3).astype(int)
    label = np.array(CLASSES, dtype=object)[stripe]
    label[::5] = None
    source = np.array([None if name is None else "annotated" for name in label], dtype=object)
    names = np.array([f"s{index}" for index in range(n)], dtype=object)
    return Table(names, patient, np.char.add(patient.astype(str), half), x, y, label, source)


def features(table: Table, signal: float, seed: int = 0, size: int = 24) -> NDArray[np.float32]:
    """Embeddings in which the class shows with strength `signal`, under noise and a shift of each patient."""
    rng = np.random.default_rng(seed)
    codes = np.array([CLASSES.index(name) if name is not None else rng.integers(4) for name in table.label])
    patients = np.unique(table.patient.astype(str), return_inverse=True)[1]
    centres = rng.normal(size=(4, size))
    shifts = rng.normal(size=(patients.max() + 1, size))
    noise = rng.normal(size=(len(codes), size))
    return (signal * centres[codes] + 0.5 * shifts[patients] + noise).astype(np.float32)


def evaluation(table: Table, embedding: NDArray, held_out: str, config: EvalConfig | None = None) -> Evaluation:
    """One fold."""
    train = sorted(set(table.patient) - {held_out})
    rows = np.arange(len(table.spot_id))
    return evaluate(embedding, rows, table, train_patients=train, test_patients=[held_out], config=config or fast())


def fast(**changes: object) -> EvalConfig:
    """Settings of which a fold takes a fraction of a second."""
    sources = LabelSourcesConfig(train=("annotated", "transferred"), score=("annotated", "transferred"))
    return EvalConfig(**{"label_sources": sources, "bootstrap": 100, "probe_c": (1e-3, 1e-1), **changes})  # type: ignore[arg-type]


def log_cell(
    store: MlflowStore,
    parent: MlflowTracker,
    method: str,
    fold: str,
    seed: int,
    result: Evaluation,
    digest: str = "d1",
    chosen: tuple[dict[str, str], dict[str, float]] = ({}, {}),
) -> MlflowTracker:
    """Log a cell as an experiment does; `chosen` are the tags and scores of a method that chooses among others."""
    more_tags, scores = chosen
    tags = {
        "stray.kind": "cell",
        "stray.method": method,
        "stray.fold": fold,
        "stray.seed": str(seed),
        "stray.dataset": digest,
        "stray.version": "0.1.0",
        **more_tags,
    }
    run = store.run(f"{method} {fold} {seed}", parent, tags)
    with tempfile.TemporaryDirectory() as folder:
        run.artifact(result.write(Path(folder) / "predictions.parquet"))
        truth, guess = (result.table.column(name).to_pylist() for name in ("label", "probe"))
        run.artifact(confusion_figure(truth, guess, Path(folder) / "confusion.png", f"{method}, fold {fold}"))
    run.metrics({**result.metrics, **scores})
    for epoch in range(1, 9):
        run.metrics({"contrastive/loss": 3.0 / epoch + 0.1 * (ord(fold[0]) % 7)}, epoch)
    run.close()
    return run
