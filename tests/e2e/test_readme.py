"""The README's block for a cohort of one's own, as it stands, on a cohort that is not HER2ST.

Every line goes to a shell, and nothing of it is replaced: MLflow's store is the SQLite file that the commands make by
themselves, and Ray is one that `stray train` starts on this machine. Between the lines the recipe, which the README
calls "a recipe to edit", is given one epoch of each stage, so that the test ends in about two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from stray.cohort.readers.synthetic import SyntheticReader
from stray.config import SyntheticSourceConfig
from stray.track.mlflow_reader import MlflowReader

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
DRAWN = SyntheticSourceConfig(seed=11, patients=3, sections_per_patient=1, spots_per_section=24, genes=120)


def block() -> list[str]:
    """The lines of the block."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Your own cohort\n", 1)[1].split("```sh\n")[1]
    return text.partition("```")[0].strip().splitlines()


def write_cohort(folder: Path) -> None:
    """`sections/` and `labels.csv`: three patients as AnnData, of whom the table has labels for two."""
    (folder / "sections").mkdir()
    reader, rows = SyntheticReader(DRAWN), []
    for number, patient in enumerate(("Quince", "Rowan", "Sorrel"), start=1):
        section = reader.read(f"P{number}S1")
        assert section.image is not None
        assert section.genes is not None
        assert section.labels is not None
        name = f"{patient}-left"
        obs = pd.DataFrame({"patient": patient, "section": name}, index=pd.Index(section.spots))
        data = ad.AnnData(X=section.counts, obs=obs, var=pd.DataFrame(index=pd.Index(section.genes.symbols)))
        data.obsm["spatial"] = section.xy_px
        data.uns["spatial"] = {
            name: {
                "images": {"hires": np.asarray(section.image.load())},
                "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 30.0},
                "metadata": {"microns_per_pixel": section.microns_per_pixel},
            }
        }
        data.write_h5ad(folder / "sections" / f"{name}.h5ad")
        if patient != "Sorrel":
            rows += [(name, spot, label) for spot, label in zip(section.spots, section.labels, strict=True)]
    pd.DataFrame(rows, columns=["section", "spot", "label"]).dropna().to_csv(folder / "labels.csv", index=False)


def test_the_block_works_as_it_stands(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    program = tmp_path / "bin" / "stray"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stray "$@"\n')
    program.chmod(0o755)
    # Imports come from this tree, wherever the working directory is.
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    lines, said = block(), ""
    assert [line.split()[1] for line in lines] == ["ingest", "config", "train", "compare"]
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        said = done.stdout
        recipe = tmp_path / "mine.yaml"
        if line.startswith("stray config new"):
            tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
            tree["gene"]["epochs"] = tree["contrastive"]["epochs"] = 1
            recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")

    methods, patients = ("untrained", "clip_mlp", "clip_scvi"), ("Quince", "Rowan")
    (store,) = tmp_path.rglob("mlflow.db")
    runs = MlflowReader(f"sqlite:///{store}", "DATASET").runs({"stray.kind": "cell"})
    assert {run.status for run in runs} == {"FINISHED"}
    found = sorted((run.tags["stray.method"], run.tags["stray.fold"]) for run in runs)
    assert found == sorted((method, patient) for method in methods for patient in patients)
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    for method in methods:
        assert method in said
        assert method in page
    assert "HER2" not in page
