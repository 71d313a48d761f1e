"""Table of predictions on test patients, as MLflow keeps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from stray.evaluate.predict import CLASSIFIERS, Held, Predictions
from stray.evaluate.score import Scored
from stray.metrics.labels import Spots
from stray.metrics.probe import Probe

FACTS = b"stray.evaluation"
"""Key of the JSON facts in the metadata of the table of predictions."""
PROBABILITY = "probability/"
"""Prefix of the columns that hold the probe's class probabilities."""


def facts_of(
    held: Held,
    scored: Scored,
    fitted: Probe,
    weak: Sequence[str],
    train_patients: Sequence[str],
    test_patients: Sequence[str],
) -> dict:
    """Return the facts that the table's columns do not hold."""
    return {
        "train_patients": sorted(train_patients),
        "test_patients": sorted(test_patients),
        "known_classes": list(fitted.classes),
        "missing_classes": {source: list(names) for source, names in scored.missing.items()},
        "sources": list(held.scored_of),
        "weak": list(weak),
        "probe_c": fitted.c,
        "intervals": [[*key, asdict(interval)] for key, interval in scored.intervals.items()],
    }


def table_of(held: Held, predictions: Predictions, spots: Spots, weak: Sequence[str], facts: dict) -> pa.Table:
    """Return a row for each embedded spot of the test patients, see `Evaluation.table`."""
    columns = {
        name: pa.array(np.asarray(values)[held.rows_T], kind)
        for name, values, kind in (
            ("spot_id", spots.spot_id, pa.string()),
            ("patient", spots.patient, pa.string()),
            ("section", spots.section, pa.string()),
            ("x_um", spots.x_um, pa.float64()),
            ("y_um", spots.y_um, pa.float64()),
        )
    }
    columns |= {
        "label": pa.array(held.label_T, pa.string()),
        "label_source": pa.array(held.source_T, pa.string()),
        "scored": pa.array(held.scored_T),
        "weak": pa.array(held.scored_T & np.isin(held.source_T.astype(str), weak)),
    }
    names = np.array(predictions.classes, dtype=object)
    columns |= {one: pa.array(names[predictions.code_T[one]], pa.string()) for one in CLASSIFIERS}
    for code in np.flatnonzero(predictions.known_K):
        name = PROBABILITY + predictions.classes[code]
        columns[name] = pa.array(predictions.probability_TK[:, code], pa.float32())
    return pa.table(columns).replace_schema_metadata({FACTS: json.dumps(facts)})
