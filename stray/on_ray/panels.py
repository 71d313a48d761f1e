"""Panels are fitted in tasks of the cluster, once for each set of training patients, and kept beside the results."""

from __future__ import annotations

from collections.abc import Iterable

import ray

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import fit_panel
from stray.config import PanelConfig
from stray.on_ray.failures import input_error
from stray.on_ray.waiting import Need, patiently, running
from stray.train.stages import GeneStage


def fit_panels(dataset: PairedDataset, wanted: Iterable[tuple[GeneStage, tuple[str, ...]]]) -> None:
    """Fit the panels of gene stages on their training patients, all at once; those that stand whole are kept.

    Raises InputError when a panel cannot be fitted.
    """
    missing = {
        stage.panel_key: (stage, patients)
        for stage, patients in wanted
        if not storage.exists(stage.panel_path) or stage.panel_damage() is not None
    }
    tasks = [
        _fit.remote(dataset, patients, stage.config.panel, stage.panel_path) for stage, patients in missing.values()
    ]
    try:
        patiently(lambda: ray.get(tasks), Need("fitting gene panels", {"CPU": 1}))
    except Exception as error:
        raise input_error(error) or error from None


@ray.remote(num_cpus=1)
def _fit(dataset: PairedDataset, patients: tuple[str, ...], config: PanelConfig, path: str) -> None:
    with running():
        storage.write_bytes(path, fit_panel(dataset, patients, config).to_json().encode())
