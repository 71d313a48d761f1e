"""Which gene stages a cell still needs, with the panel that they see."""

from __future__ import annotations

from pathlib import Path

import pytest

from stray.cohort.dataset import PairedDataset
from stray.experiment.cells import Cell, Group
from stray.on_ray.existing import Existing
from stray.on_ray.experiment import _see_counts
from stray.recipe import apply
from stray.stages.results import ResultFolder
from stray.stages.spec import Stage
from tests.support.small_cohort import small_cell, small_recipe


@pytest.fixture
def cell(folder: Path, dataset: PairedDataset, tmp_path: Path) -> Cell:
    """A cell whose scANVI starts from a scVI stage, with nothing done."""
    changed = apply(small_recipe(folder), {"gene.model": {"kind": "scanvi", "scvi_epochs": 1}})
    return small_cell(changed, dataset, root=str(tmp_path))


def stages(cell: Cell) -> dict[str, Stage]:
    assert cell.scored.gene.start is not None
    return {"start": cell.scored.gene.start, "gene": cell.scored.gene, "image": cell.scored}


def finish(folder: ResultFolder, *, damaged: bool = False) -> None:
    folder.write_json("history.json", [])
    folder.finish({"kind": "x"})
    if damaged:
        Path(folder.path, "history.json").unlink()


@pytest.mark.parametrize(
    ("done", "damaged", "pending"),
    [
        ("", "", "start gene image"),
        ("start", "", "gene image"),
        ("start gene", "", "image"),
        ("gene", "", "image"),  # the finished gene stage needs its start no more
        ("image", "", ""),  # what was deleted is not made anew for its curves
        ("start gene image", "", ""),
        ("gene image", "start", "start"),
        ("gene", "start", "start image"),
        ("image", "gene", "start gene"),
        ("start image", "gene", "gene"),
        ("image", "start", "start"),
        ("start gene", "image", "image"),
    ],
)
def test_what_is_pending_is_trained_with_all_that_it_starts_from_and_sees_its_panel(
    cell: Cell, done: str, damaged: str, pending: str
) -> None:
    named = stages(cell)
    for name, stage in named.items():
        if name in (done + " " + damaged).split():
            finish(stage.folder, damaged=name in damaged.split())
    group = Group((cell,))
    assert [stage.key for stage in group.stages()] == [named[name].key for name in pending.split()]
    state = Existing()
    state.see(group)
    # Something trains wherever anything is pending, though every scored stage is done.
    assert state.width == min(1, len(pending.split()))
    needs_panel = {"start", "gene"} & set(pending.split())
    assert _see_counts(group) == (cell,) * bool(needs_panel)


def test_trials_share_the_gene_stages_also_where_the_settings_before_the_trials_are_done(cell: Cell) -> None:
    finish(cell.scored.folder)
    assert cell.pending_genes() == ()
    named = stages(cell)
    assert [gene.key for gene in cell.pending_genes(anyway=True)] == [named["start"].key, named["gene"].key]
