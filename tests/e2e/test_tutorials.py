"""The tutorials: their blocks of commands and Python run in order, on a small cohort, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

from tests.support.tiny import counts_of, make_h5ad

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
CLASSES = ("tumour", "stroma")


def script(page: str) -> Iterator[str]:
    """Its `sh` and `python` blocks as one shell script, which ends at the first that fails."""
    yield "set -euo pipefail"
    text = (TUTORIALS / page).read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield block if language == "sh" else f"python - <<'PYTHON'\n{block}PYTHON"


def run(page: str, folder: Path) -> str:
    bin_folder = os.path.dirname(sys.executable)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-c", "\n".join(script(page))],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients P1 to P3 with a section of 24 spots and 40 genes each; labels in a table; a section of P4."""
    made = tmp_path_factory.mktemp("tutorial")
    (made / "sections").mkdir()
    rows = []
    genes = [f"GENE{number}" for number in range(40)]
    for seed in range(4):
        patient, section = f"P{seed + 1}", f"P{seed + 1}S1"
        data = make_h5ad(section, patient, seed=seed, genes=genes)
        data.X = counts_of(seed, data.n_obs, data.n_vars)
        data.obs["label"] = pd.Categorical([None] * data.n_obs)
        if patient == "P4":
            data.write_h5ad(made / "new_section.h5ad")
            break
        data.write_h5ad(made / "sections" / f"{section}.h5ad")
        rows += [(section, name, CLASSES[place % 2]) for place, name in enumerate(data.obs_names)]
    pd.DataFrame(rows, columns=["section", "spot", "label"]).to_csv(made / "labels.csv", index=False)
    return made


def test_a_cohort_becomes_a_comparison_and_its_encoder_codes_a_new_section_in_scanpy(folder: Path) -> None:
    out = run("train-on-your-cohort.md", folder)
    assert "clip_scvi" in out
    assert (folder / "trial.html").is_file()
    assert list((folder / "card").glob("*.png"))
    run("encoder-in-scanpy.md", folder)
    data = ad.read_h5ad(folder / "new_section.stray.h5ad")
    assert data.n_obs == 24
    assert data.obsm["X_stray"].shape == (24, 512)
    assert set(data.obs["stray_class"]) <= set(CLASSES)
