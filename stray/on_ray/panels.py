"""Panels are fitted in tasks of the cluster, once for each set of training patients, and kept beside the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ray

from stray import storage
from stray.cohort.dataset import PairedDataset
from stray.cohort.panel import check_coverage, fit_panel
from stray.config import PanelConfig
from stray.errors import InputError, Problem, raise_if_any
from stray.experiment.cells import Cell, fold_title
from stray.on_ray.failures import input_error
from stray.on_ray.resources import READING_CPUS
from stray.on_ray.waiting import Need, patiently, running


def fit_panels(dataset: PairedDataset, cells: Sequence[Cell], say: Callable[[str], None] | None = None) -> None:
    """Fit the panels of `cells` on their training patients, all at once; those that stand whole are kept. `say` is told
    what the user must know of them.

    Raises InputError when a panel cannot be fitted, and where a section whose codes would be scored measured under a
    tenth of it.
    """
    missing = {
        cell.scored.gene.panel_path: cell
        for cell in cells
        if not storage.exists(cell.scored.gene.panel_path) or cell.scored.gene.panel_damage() is not None
    }
    tasks = [
        _fit.remote(dataset, cell.fold.train, cell.scored.gene.config.panel, cell.scored.gene.panel_path)
        for cell in missing.values()
    ]
    try:
        patiently(lambda: ray.get(tasks), Need("fitting gene panels", {"CPU": READING_CPUS}))
    except Exception as error:
        raise input_error(error) or error from None
    for note in panel_notes(dataset, cells):
        if say is not None:
            say(note)


def panel_notes(dataset: PairedDataset, cells: Sequence[Cell]) -> tuple[str, ...]:
    """Return the notes on fitted panels, each once: their notes, and the held-out sections that measured
    little of them and whose codes are scored.

    Raises InputError where such a section measured under a tenth of its panel.
    """
    notes: dict[str, None] = {}
    problems: dict[Problem, None] = {}
    for cell in cells:
        panel = cell.scored.gene.panel()
        found = panel.notes
        if cell.scored.codes_held_out:
            try:
                found += check_coverage(dataset, panel, cell.fold.held_out)
            except InputError as error:
                problems |= dict.fromkeys(error.problems)
        notes |= {f"{fold_title(cell.fold)}: gene panel: {note}": None for note in found}
    raise_if_any(list(problems))
    return tuple(notes)


@ray.remote(num_cpus=READING_CPUS)
def _fit(dataset: PairedDataset, patients: tuple[str, ...], config: PanelConfig, path: str) -> None:
    with running():
        storage.write_bytes(path, fit_panel(dataset, patients, config).to_json().encode())
