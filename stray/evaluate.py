"""Frozen embeddings and a fold become named scores: the linear probe, kNN and the majority class on patients never
seen.

Shapes: N embedded spots, D features, K classes. Everything fitted sees training patients only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stray.config.evaluation import EvalConfig
from stray.errors import InputError, Problem
from stray.metrics import probe as linear
from stray.metrics.bootstrap import Interval, auc_interval, score_intervals, tissue_blocks
from stray.metrics.knn import knn_predict, majority_code
from stray.metrics.labels import Labelled, Spots, select, training_labels, usable
from stray.metrics.naming import flat_metrics
from stray.metrics.probe import Probe
from stray.metrics.scores import Scores, confusion_matrix, score, summarise

CLASSIFIERS = ("probe", "knn", "majority")
"""Classifiers; each has a column of that name in the table of predictions."""
FACTS = b"stray.evaluation"
"""Key of the JSON facts in the metadata of the table of predictions."""
PROBABILITY = "probability/"
"""Prefix of the columns that hold the probe's class probabilities."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, table and probe of a fold's embeddings."""

    table: pa.Table
    """A row an embedded spot of the test patients: spot_id, patient, section, x_um, y_um, label, label_source (null
    where nobody labelled it), scored, weak, the predictions `probe`, `knn`, `majority`, and `probability/CLASS` of
    the probe. Its schema's metadata holds `facts` under the key `FACTS`."""
    metrics: dict[str, float]
    """Flat names: `eval/SOURCE/CLASSIFIER/SCORE`, per class `eval/SOURCE/CLASSIFIER/SCORE/CLASS`; only finite
    values."""
    scores: dict[tuple[str, str], Scores]
    """By (label source, classifier)."""
    intervals: dict[tuple[str, str, str], Interval]
    """By (label source, classifier, score or `auc/CLASS`); empty where the tissue has too few blocks."""
    probe: Probe
    """The fitted probe."""
    missing: dict[str, tuple[str, ...]]
    """By label source: classes that are scored though no training label had them."""
    weak: tuple[str, ...]
    """Scored label sources that are not trusted: their scores are not truth and are never pooled with others."""

    @property
    def facts(self) -> dict:
        """Facts that the table alone does not hold, as they stand in its metadata."""
        return json.loads(self.table.schema.metadata[FACTS])

    @property
    def headline(self) -> str:
        """The probe's balanced accuracy on each label source, in a line for the person who waits."""
        parts = []
        for source in dict.fromkeys(source for source, _ in self.scores):
            weak = " (weak labels)" if source in self.weak else ""
            score = self.metrics.get(f"eval/{source}/probe/balanced_accuracy", float("nan"))
            parts.append(f"{score:.3f} on {source}{weak}")
        return "balanced accuracy " + ", ".join(parts)

    def write(self, path: str | os.PathLike[str]) -> str:
        """Write the table of predictions as Parquet to a local path, and return it."""
        pq.write_table(self.table, os.fspath(path), compression="zstd")
        return os.fspath(path)


def fit_probe(
    features_ND: NDArray[np.floating],
    rows: NDArray[np.integer],
    spots: Spots,
    patients: Iterable[str],
    config: EvalConfig,
    seed: int = 0,
) -> Probe:
    """Fit the linear probe on the labels of `patients`. `features_ND[i]` is the embedding of the global row `rows[i]`.

    Raises InputError when none of the patients has a label that may train, ValueError for embeddings that do not fit
    `rows`.
    """
    rows = _checked(features_ND, rows)
    patients = tuple(patients)
    trains = select(training_labels(rows, spots, patients, config), rows, spots, config)
    if len(trains.index_N) == 0:
        raise InputError(_nothing_trains(patients, config))
    return _fitted(features_ND, trains, config, seed)


def probe_balanced_accuracy(
    features_ND: NDArray[np.floating],
    rows: NDArray[np.integer],
    spots: Spots,
    train_patients: Iterable[str],
    validation_patients: Iterable[str],
    config: EvalConfig,
    seed: int = 0,
) -> float:
    """Return the balanced accuracy on inner validation patients, the mean over them: what a search maximises.

    Their labels are taken as for training (trusted ones where the patient has any), and classes that the training
    patients lack are left out: no choice of hyperparameters could find them. nan when no validation patient has a
    label that counts.
    """
    rows = _checked(features_ND, rows)
    fitted = fit_probe(features_ND, rows, spots, train_patients, config, seed)
    code_of = {name: code for code, name in enumerate(fitted.classes)}
    known_K = np.ones(len(fitted.classes), dtype=bool)
    scores = []
    for patient in sorted(set(validation_patients)):
        held = select(training_labels(rows, spots, [patient], config), rows, spots, config)
        known_N = np.isin(held.label_N.astype(str), fitted.classes)
        if not known_N.any():
            continue
        truth = np.array([code_of[name] for name in held.label_N[known_N]])
        prediction = fitted.probabilities(features_ND[held.index_N[known_N]]).argmax(axis=1)
        scores.append(float(summarise(confusion_matrix(truth, prediction, len(known_K)), known_K)["balanced_accuracy"]))
    return float(np.mean(scores)) if scores else float("nan")


def evaluate(
    features_ND: NDArray[np.floating],
    rows: NDArray[np.integer],
    spots: Spots,
    *,
    train_patients: Sequence[str],
    test_patients: Sequence[str],
    config: EvalConfig,
    seed: int = 0,
) -> Evaluation:
    """Fit on `train_patients`, score on `test_patients`. `features_ND[i]` is the embedding of the global row `rows[i]`.

    Each source of `config.label_sources.score` that the test patients have is scored by itself. `seed` draws the
    bootstrap and, with one training patient, the inner folds. Raises InputError when nothing can train or nothing
    can be scored, and ValueError when a patient is on both sides or the embeddings do not fit `rows`.
    """
    rows = _checked(features_ND, rows)
    if both := sorted(set(train_patients) & set(test_patients)):
        raise ValueError(f"patients {both} are both trained on and tested on")
    trains = select(training_labels(rows, spots, train_patients, config), rows, spots, config)
    test_N = np.flatnonzero(np.isin(np.asarray(spots.patient)[rows].astype(str), list(test_patients)))
    label_N, source_N = np.asarray(spots.label)[rows[test_N]], np.asarray(spots.label_source)[rows[test_N]]
    usable_N = usable(rows[test_N], spots, config)
    scored_of = {source: usable_N & (source_N == source) for source in config.label_sources.score}
    scored_of = {source: mask for source, mask in scored_of.items() if mask.any()}
    problems = [] if len(trains.index_N) else [_nothing_trains(train_patients, config)]
    if not scored_of:
        problems.append(_nothing_scored(test_patients, config))
    if problems:
        raise InputError(problems)

    fitted = _fitted(features_ND, trains, config, seed)
    scored_N = np.logical_or.reduce(list(scored_of.values()))
    classes = tuple(sorted(set(fitted.classes) | {str(name) for name in label_N[scored_N]}))
    code_of = {name: code for code, name in enumerate(classes)}
    known_K = np.isin(classes, fitted.classes)
    train_code = np.array([code_of[name] for name in trains.label_N])
    test_features = features_ND[test_N]
    probability_NK = np.zeros((len(test_N), len(classes)))
    probability_NK[:, known_K] = fitted.probabilities(test_features)
    predictions = {
        "probe": probability_NK.argmax(axis=1),
        "knn": knn_predict(features_ND[trains.index_N], train_code, test_features, config.knn_k, len(classes)),
        "majority": np.full(len(test_N), majority_code(train_code, len(classes))),
    }
    section, x_um, y_um = (np.asarray(array)[rows[test_N]] for array in (spots.section, spots.x_um, spots.y_um))
    block_N = tissue_blocks(section, x_um, y_um, config.bootstrap_block_um)

    scores, intervals, missing = {}, {}, {}
    for source, mask in scored_of.items():
        truth = np.array([code_of[name] for name in label_N[mask]])
        missing[source] = tuple(
            name for code, name in enumerate(classes) if not known_K[code] and (truth == code).any()
        )
        for classifier in CLASSIFIERS:
            probability = probability_NK[mask] if classifier == "probe" else None
            prediction = predictions[classifier][mask]
            scores[source, classifier] = score(truth, prediction, classes, known_K, probability)
            if classifier != "majority":
                rng = np.random.default_rng([seed, len(intervals)])
                found = score_intervals(truth, prediction, block_N[mask], known_K, config.bootstrap, rng)
                intervals |= {(source, classifier, name): interval for name, interval in found.items()}
        for name in scores[source, "probe"].per_class:
            code = code_of[name]
            if known_K[code]:
                rng = np.random.default_rng([seed, len(intervals)])
                area = auc_interval(truth == code, probability_NK[mask, code], block_N[mask], config.bootstrap, rng)
                if area is not None:
                    intervals[source, "probe", f"auc/{name}"] = area

    weak = tuple(source for source in scored_of if source not in config.label_sources.trusted)
    facts = {
        "train_patients": sorted(train_patients),
        "test_patients": sorted(test_patients),
        "known_classes": list(fitted.classes),
        "missing_classes": {source: list(names) for source, names in missing.items()},
        "sources": list(scored_of),
        "weak": list(weak),
        "probe_c": fitted.c,
        "intervals": [[*key, asdict(interval)] for key, interval in intervals.items()],
    }
    columns = {
        "spot_id": pa.array(np.asarray(spots.spot_id)[rows[test_N]], pa.string()),
        "patient": pa.array(np.asarray(spots.patient)[rows[test_N]], pa.string()),
        "section": pa.array(section, pa.string()),
        "x_um": pa.array(x_um, pa.float64()),
        "y_um": pa.array(y_um, pa.float64()),
        "label": pa.array(label_N, pa.string()),
        "label_source": pa.array(source_N, pa.string()),
        "scored": pa.array(scored_N),
        "weak": pa.array(scored_N & np.isin(source_N.astype(str), weak)),
    }
    names = np.array(classes, dtype=object)
    columns |= {classifier: pa.array(names[predictions[classifier]], pa.string()) for classifier in CLASSIFIERS}
    columns |= {PROBABILITY + name: pa.array(probability_NK[:, code_of[name]], pa.float32()) for name in fitted.classes}
    table = pa.table(columns).replace_schema_metadata({FACTS: json.dumps(facts)})
    metrics = flat_metrics(scores, intervals, missing, weak) | {
        "eval/probe_c": fitted.c,
        "eval/n_train": float(len(trains.index_N)),
    }
    if np.isfinite(fitted.inner_score):
        metrics["eval/probe_inner_balanced_accuracy"] = fitted.inner_score
    return Evaluation(table, metrics, scores, intervals, fitted, missing, weak)


def _checked(features_ND: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.int64]:
    if features_ND.ndim != 2 or len(features_ND) != len(rows):
        raise ValueError(f"embeddings of shape {features_ND.shape} do not fit {len(rows)} rows")
    if not np.isfinite(features_ND).all():
        raise ValueError("embeddings hold nan or infinity: the encoder has diverged")
    return np.asarray(rows, dtype=np.int64)


def _fitted(features_ND: NDArray[np.floating], trains: Labelled, config: EvalConfig, seed: int) -> Probe:
    return linear.fit(
        features_ND[trains.index_N], trains.label_N, trains.patient_N, trains.block_N, config.probe_c, seed
    )


def _nothing_trains(patients: Iterable[str], config: EvalConfig) -> Problem:
    return Problem(
        "eval.label_sources.train",
        f"no spot of the training patients {', '.join(sorted(patients)) or '(none)'} with a picture has a label of "
        f"{', '.join(config.label_sources.train)} whose class is not excluded",
        "name a label source that these patients have (`stray inspect` lists them), or hold out fewer patients",
    )


def _nothing_scored(patients: Iterable[str], config: EvalConfig) -> Problem:
    return Problem(
        "eval.label_sources.score",
        f"no spot of the test patients {', '.join(sorted(patients)) or '(none)'} with a picture has a label of "
        f"{', '.join(config.label_sources.score)} whose class is not excluded",
        "score a label source that these patients have (scores on untrusted ones are marked weak), or hold out others",
    )
