"""Whether every node sees the paths of a recipe: on a cluster of several, one that some node does not is refused.

Checked by reading a file, not by the path's form: a folder under `/mnt` may be the same everywhere.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stray import storage
from stray.columns import MANIFEST
from stray.config import Recipe
from stray.errors import Problem, raise_if_any
from stray.on_ray.resources import Node, resources

ANSWER_S = 60.0
"""Seconds that a node may take to read a small file: one whose mount hangs would never answer."""


def check_paths_visible(recipe: Recipe) -> None:
    """Raise InputError naming each local path of `recipe` that some node does not see, and those nodes.

    Looks at `dataset` where it exists here, and at `output`, which is made. On one node there is nothing to check.
    """
    nodes = resources().nodes
    if len(nodes) < 2:
        return
    problems: list[Problem] = []
    manifest = storage.join(recipe.dataset, MANIFEST)
    if recipe.dataset and storage.is_local(recipe.dataset) and storage.exists(manifest):
        problems += _judge("dataset", recipe.dataset, _blind(manifest, storage.read_bytes(manifest), nodes))
    if storage.is_local(recipe.output):
        # A folder of the same name may be another disk elsewhere: what counts is a file that was just written.
        probe, content = storage.join(recipe.output, f".visible-{uuid.uuid4().hex}"), os.urandom(16)
        storage.write_bytes(probe, content)
        try:
            problems += _judge("output", recipe.output, _blind(probe, content, nodes))
        finally:
            filesystem, inner = storage.resolve(probe)
            filesystem.delete_file(inner)
    raise_if_any(problems)


def _judge(place: str, path: str, blind: Sequence[Node]) -> list[Problem]:
    if not blind:
        return []
    hosts = ", ".join(node.host for node in blind)
    remedy = "put it on storage that every node mounts at this path, or give a URI (s3://, gs://)"
    return [Problem(place, f"{path} is not visible on {len(blind)} of the cluster's nodes ({hosts})", remedy)]


def _blind(path: str, content: bytes, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that do not read `content` at `path`."""
    absolute = storage.absolute(path)
    reads = ray.remote(_reads)
    places = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes]
    tasks = [reads.options(num_cpus=0, scheduling_strategy=place).remote(absolute, content) for place in places]
    done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=ANSWER_S)
    return [node for node, task in zip(nodes, tasks, strict=True) if task not in done or not _answer(task)]


def _answer(task: ray.ObjectRef) -> bool:
    try:
        return ray.get(task)
    except RayError:  # the node was lost meanwhile
        return False


def _reads(path: str, content: bytes) -> bool:
    try:
        return storage.read_bytes(path) == content
    except OSError:
        return False
