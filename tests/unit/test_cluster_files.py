"""The files under cluster/: what can be known about them without a cloud, a Kubernetes or a Slurm."""

from __future__ import annotations

import copy
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import stray
from stray.recipe import shipped_recipes

CLUSTER = Path(__file__).resolve().parent.parent.parent / "cluster"
MANIFESTS = sorted((CLUSTER / "kuberay").glob("*.yaml"))


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"] if manifest["kind"] == "RayCluster" else manifest["spec"]["rayClusterSpec"]


def test_rays_launcher_takes_the_aws_file() -> None:
    config = load(CLUSTER / "aws.yaml")
    validate_config(config | {"cluster_synced_files": []})
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert prepared["docker"]["image"] == config["docker"]["image"]


def test_rays_launcher_refuses_a_wrong_key() -> None:
    config = load(CLUSTER / "aws.yaml")
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(config | {"idle_timeout": 3}))


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_a_manifest_is_one_resource_of_kuberay(file: Path) -> None:
    manifest = load(file)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert manifest["kind"] in ("RayCluster", "RayJob")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", manifest["metadata"]["name"])


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_a_manifest_runs_the_ray_of_this_environment_behind_a_token(file: Path) -> None:
    spec = cluster_spec(load(file))
    assert spec["rayVersion"] == ray.__version__ == version("ray")
    assert spec["authOptions"] == {"mode": "token", "secretName": "stray-ray-token"}


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_every_pod_has_resources_and_mounts_what_it_names(file: Path) -> None:
    spec = cluster_spec(load(file))
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"].endswith(f"/stray:{stray.__version__}")
        # Ray reads a node's size from the limits; requests below them let Kubernetes overbook it.
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert "/dev/shm" in {mount["mountPath"] for mount in mounts}


def test_the_job_runs_a_verb_on_a_shipped_recipe() -> None:
    words = load(CLUSTER / "kuberay" / "rayjob.yaml")["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "stray", "train"]
    assert words[4] in shipped_recipes()


@pytest.mark.parametrize(
    "file",
    [CLUSTER / "local.sh", CLUSTER / "slurm.sbatch", CLUSTER / "mlflow" / "serve.sh"],
    ids=lambda file: file.name,
)
def test_a_script_is_bash(file: Path) -> None:
    subprocess.run(["bash", "-n", str(file)], check=True, capture_output=True)
    assert "set -euo pipefail" in file.read_text(encoding="utf-8")


def test_local_scripts_end_what_they_started_by_its_id() -> None:
    text = (CLUSTER / "local.sh").read_text(encoding="utf-8")
    code = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in code if re.search(r"\bray stop\b|pkill|killall", line)]


def test_unknown_arguments_are_answered_with_how_to() -> None:
    for script in ("local.sh", "mlflow/serve.sh"):
        done = subprocess.run([str(CLUSTER / script), "--nonsense"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"cluster/{script}" in done.stdout + done.stderr
