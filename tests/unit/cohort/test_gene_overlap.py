"""What is said of sections that measured few genes: by `stray inspect`, and before their codes are scored."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from stray.cli import main
from stray.cohort.build import build_dataset
from stray.cohort.dataset import PairedDataset
from stray.cohort.genes import gene_overlap
from stray.cohort.panel import fit_panel
from stray.cohort.split import Fold
from stray.config import Recipe
from stray.errors import InputError
from stray.experiment.cells import Cell, Train, cell
from stray.on_ray.panels import panel_notes
from stray.recipe import load_recipe
from tests.support.tiny import config_of, make_h5ad

GENES = ("ACTB", "CD3E", "MKI67", "TP53")
FEW = ("ACTB", "b", "c", "d")
NONE = ("v", "w", "x", "y")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PairedDataset:
    folder = tmp_path_factory.mktemp("overlap")
    named = {"A1": GENES, "B1": GENES, "C1": GENES, "D1": FEW, "E1": NONE}
    for section, genes in named.items():
        make_h5ad(section, section[0], genes=genes).write_h5ad(folder / f"{section}.h5ad")
    build_dataset(config_of(*sorted(folder.glob("*.h5ad"))), str(folder / "out"))
    return PairedDataset.open(str(folder / "out"))


def test_the_card_shows_the_share_of_common_genes(dataset: PairedDataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", dataset.path]) == 0
    shown = capsys.readouterr().out
    assert "shared genes" in shown
    found = dict(re.findall(r"^\s*([A-E]1)\s.* (\d+%)", shown, flags=re.MULTILINE))
    assert found == {"A1": "100%", "B1": "100%", "C1": "100%", "D1": "25%", "E1": "0%"}


def test_the_manifest_tells_what_the_ingest_told(dataset: PairedDataset) -> None:
    shares = gene_overlap(np.asarray(dataset.genes["n_sections"]), dataset.manifest.genes_measured())
    assert shares == {"A1": 1.0, "B1": 1.0, "C1": 1.0, "D1": 0.25, "E1": 0.0}


def prepared(dataset: PairedDataset, recipe: Recipe, held_out: str, train: Train, root: Path) -> Cell:
    fold = Fold(held_out, (held_out,), ("A", "B", "C"))
    made = cell(recipe, dataset, fold, 0, str(root), method="m", train=train)
    panel = fit_panel(dataset, fold.train, made.scored.gene.config.panel)
    Path(made.scored.gene.panel_path).write_text(panel.to_json())
    return made


def test_held_out_sections_whose_codes_are_scored_are_checked_and_others_are_not(
    dataset: PairedDataset, tmp_path: Path
) -> None:
    recipe = load_recipe("smoke", [f"dataset={dataset.path}", "gene.panel.kind=all"])
    coded = {name: prepared(dataset, recipe, name, "gene", tmp_path) for name in "DE"}
    pictured = [prepared(dataset, recipe, name, "contrastive", tmp_path) for name in "DE"]
    assert panel_notes(dataset, pictured) == ()
    (note,) = panel_notes(dataset, [coded["D"], coded["D"], *pictured])
    assert note.startswith("held out D: gene panel: section D1 of patient D measured 25% of the panel's 4 genes")
    with pytest.raises(InputError, match="section E1 of patient E measured 0%") as caught:
        panel_notes(dataset, [*coded.values()])
    assert len(caught.value.problems) == 1
