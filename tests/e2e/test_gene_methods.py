"""Gene encoders as methods: trained, scored on the codes of a patient not seen, and used on another dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stray.cli import main
from stray.cohort.build import build_dataset
from stray.on_ray.session import SessionInfo
from stray.recipe import load_recipe
from stray.track.mlflow_reader import MlflowReader

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(900)]

RECIPE = """
name: genes
dataset: {folder}/dataset
output: {folder}/runs
folds: {{held_out: [P1]}}
methods:
  log_counts: {{train: gene, set: {{gene.model.kind: log_counts}}}}
  pca: {{train: gene, set: {{gene.model.kind: pca}}}}
  scanvi: {{train: gene, set: {{gene.model: {{kind: scanvi, scvi_epochs: 1}}}}}}
gene: {{panel: {{n_genes: 60}}, epochs: 2, batch_size: 32}}
eval: {{bootstrap: 50}}
"""


@pytest.fixture(scope="module")
def folder(ray_session: SessionInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genes")
    build_dataset(load_recipe("smoke").ingest, f"{folder}/dataset")
    (folder / "genes.yaml").write_text(RECIPE.format(folder=folder))
    assert main(["train", str(folder / "genes.yaml")]) == 0
    return folder


def gene_folder(folder: Path, kind: str) -> Path:
    configs = (folder / "runs" / "genes").glob("gene-*/config.json")
    found = [path.parent for path in configs if f'"kind": "{kind}"' in path.read_text()]
    assert len(found) == 1
    return found[0]


def test_every_gene_method_is_a_cell_with_scores_and_figures_and_scanvi_with_those_of_both_models(folder: Path) -> None:
    runs = MlflowReader(f"sqlite:///{folder}/runs/mlflow.db", "genes").runs({"stray.kind": "cell"})
    assert {run.tags["stray.method"] for run in runs} == {"log_counts", "pca", "scanvi"}
    for run in runs:
        assert 0 <= run.metrics["eval/annotated/probe/balanced_accuracy"] <= 1
    scanvi = next(run for run in runs if run.tags["stray.method"] == "scanvi")
    assert {"gene/label_accuracy", "gene/batch_silhouette", "gene/class_knn_purity"} <= set(scanvi.metrics)
    kinds = {"log_counts": {"log_counts"}, "pca": {"pca"}, "scanvi": {"scvi", "scanvi"}}
    for run in runs:
        figures = {path.name for path in folder.rglob(f"{run.run_id}/**/codes_*.png")}
        assert figures == {f"codes_{kind}.png" for kind in kinds[run.tags["stray.method"]]}


def test_codes_of_a_dataset_that_lacks_a_few_genes_say_which_and_one_that_lacks_most_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = gene_folder(folder, "scanvi"), folder / "codes.parquet"
    assert main(["embed", str(model), f"{folder}/dataset", "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert len(table) == 120
    probability = np.stack([table[n].to_numpy() for n in table.column_names if n.startswith("probability/")])
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-5)
    rows = np.load(model / "rows.npy")
    codes = np.array(table["codes"].to_pylist())
    np.testing.assert_allclose(codes[rows], np.load(model / "codes.npy"), rtol=1e-4, atol=1e-5)
    for genes, code in ((110, 0), (50, 2)):
        small = f"{folder}/cohort-{genes}"
        build_dataset(load_recipe("smoke", [f"ingest.sources.0.genes={genes}"]).ingest, small)
        capsys.readouterr()
        assert main(["embed", str(model), small, "--out", str(out)]) == code
        said = capsys.readouterr().err
        assert ("count as zeros" in said) if code == 0 else ("genes are not measured" in said)
