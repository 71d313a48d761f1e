"""Resources of the cluster, and how a training's workers share them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch

from stray.config import RunConfig
from stray.errors import InputError, Problem
from stray.recipe.files import parse


@dataclass(frozen=True)
class Node:
    """One living node of the cluster."""

    cpus: float
    """Number of CPUs."""
    gpus: float
    """Number of GPUs."""
    node_id: str = ""
    """Ray's id of the node."""
    host: str = ""
    """Address, for messages."""


@dataclass(frozen=True)
class Resources:
    """Resources of the cluster in all, busy or not."""

    nodes: tuple[Node, ...]
    """Living nodes."""

    @property
    def cpus(self) -> float:
        """CPUs of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)


NODES = 256
"""Nodes of a type that are counted where an autoscaler may add any number."""
RESERVED = 0.95
"""Part of its CPUs that a slot requests from Ray. The rest is for tasks that read the dataset while all slots work:
these would otherwise wait for the slots, which wait for them.
"""
READING_CPUS = 0.04
"""CPUs that such a task requests: one fits beside a slot of one CPU."""


@dataclass(frozen=True)
class SlotPlan:
    """Slots of the worker pool: each is a group of workers that trains one stage at a time. The driver needs no CPU."""

    slots: int
    """Number of slots at most."""
    workers: int
    """Workers of each."""
    cpus_per_worker: float
    """CPUs that each worker computes with."""
    gpus_per_worker: float = 0.0
    """GPUs that each worker holds, or the part of one."""

    @property
    def use_gpu(self) -> bool:
        """Whether the workers compute on GPUs."""
        return self.gpus_per_worker > 0

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """Resources of a worker in the form of Ray's `ScalingConfig`."""
        found = {"CPU": round(RESERVED * self.cpus_per_worker, 4)}
        return {**found, "GPU": self.gpus_per_worker} if self.use_gpu else found

    def __str__(self) -> str:
        workers = f" of {self.workers} workers" if self.workers > 1 else ""
        each = f"{self.cpus_per_worker:.3g} CPU" + ("s" if self.cpus_per_worker != 1 else "")
        if self.use_gpu:
            each += f" and {self.gpus_per_worker:g} GPU" + ("s" if self.gpus_per_worker != 1 else "")
        slots = f"{self.slots} slot" + ("s" if self.slots != 1 else "")
        return f"{slots}{workers}, {each} {'a worker' if workers else 'each'}"


def resources() -> Resources:
    """Return the living nodes of the cluster that this process is connected to."""
    return Resources(
        tuple(
            Node(
                cpus=node["Resources"].get("CPU", 0.0),
                gpus=node["Resources"].get("GPU", 0.0),
                node_id=node["NodeID"],
                host=node["NodeManagerAddress"],
            )
            for node in ray.nodes()
            if node["Alive"]
        )
    )


def this_machine() -> Node:
    """Return this machine as the node of a local cluster."""
    return Node(cpus=len(os.sched_getaffinity(0)), gpus=torch.cuda.device_count())


def plan_slots(run: RunConfig, width: int | None = None) -> SlotPlan:
    """Return the slots that `run` asks for, on this cluster as it is and as an autoscaler may make it; see `layout`."""
    return layout(run, possible_nodes(), width)


def possible_nodes() -> tuple[Node, ...]:
    """Return the nodes of the cluster, with those that its autoscaler may add: at most `NODES` of each type."""
    found: list[Node] = []
    types = set()
    for name, kind in node_types().items():
        given = kind.get("resources") or {}
        node = Node(cpus=float(given.get("CPU", 0)), gpus=float(given.get("GPU", 0)), host=name)
        types.add((node.cpus, node.gpus))
        found += [node] * min(NODES, int(kind.get("max_workers", NODES)))
    # The nodes that an autoscaler has added are among those that it may add.
    return (*found, *(node for node in resources().nodes if (node.cpus, node.gpus) not in types))


def node_types() -> dict[str, Any]:
    """Return the types of nodes that the autoscaler of this cluster may add, by name, as its configuration has them;
    none where no autoscaler of the cluster runs on this machine, which is the head where a job runs.
    """
    address = f"--gcs-address={ray.get_runtime_context().gcs_address}"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        paths = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
        if paths and address in words:
            with contextlib.suppress(OSError, ValueError, InputError):
                return parse(Path(paths[0]).read_text("utf-8"), paths[0]).get("available_node_types") or {}
    return {}


def layout(run: RunConfig, nodes: Sequence[Node], width: int | None = None) -> SlotPlan:
    """Return the slots that `run` asks for, on `nodes`.

    Args:
        run: The settings.
        nodes: Nodes that there are or may be.
        width: Number of stages that can run at the same time; `run.slots: auto` makes no more slots. None: unbounded.

    Raises:
        InputError: The nodes could never hold them: such a request would wait for ever.
    """
    use_gpu = any(node.gpus > 0 for node in nodes) if run.gpu == "auto" else bool(run.gpu)
    gpus = run.gpus_per_worker if use_gpu else 0.0
    if use_gpu and not any(node.gpus > 0 for node in nodes):
        raise InputError(Problem("run.gpu", "true, but the cluster has no GPU", "set run.gpu to auto or false"))
    hosts = [node for node in nodes if node.cpus > 0 and (node.gpus > 0 or not use_gpu)]
    if not hosts:
        raise InputError(Problem("run", "no node of the cluster has a CPU for workers", "add a node with CPUs"))
    asked = run.workers * (1 if run.slots == "auto" else run.slots)
    who = f"{run.workers} workers" + ("" if run.slots == "auto" else f" in each of {run.slots} slots")
    place = "run.workers" if run.slots == "auto" else "run.slots"
    if use_gpu and asked > (most := _room(hosts, gpus=gpus)):
        what = f"{who}, with {gpus:g} GPU each, but the cluster has room for {most} workers"
        raise InputError(Problem(place, what, f"at most {most} workers in all, or run.gpu=false"))
    if run.cpus_per_worker != "auto" and asked > _room(hosts, cpus=run.cpus_per_worker, gpus=gpus):
        have = " + ".join(f"{node.cpus:g}" for node in hosts)
        what = f"{who}, of {run.cpus_per_worker:g} CPUs each, do not fit on nodes of {have} CPUs"
        remedy = f"fewer workers, or at most {_largest_share(asked, hosts, gpus):g} CPUs each"
        raise InputError(Problem("run.cpus_per_worker", what, remedy))
    if run.slots != "auto":
        slots = run.slots
    else:
        cpus = 1.0 if run.cpus_per_worker == "auto" else run.cpus_per_worker
        # A GPU is shared by as many workers as it may, whatever CPUs are left to each.
        room = (
            _room(hosts, gpus=gpus) if use_gpu and run.cpus_per_worker == "auto" else _room(hosts, cpus=cpus, gpus=gpus)
        )
        slots = max(1, room // run.workers)
        slots = slots if width is None else max(1, min(slots, width))
    share = _largest_share(slots * run.workers, hosts, gpus)
    return SlotPlan(slots, run.workers, share if run.cpus_per_worker == "auto" else run.cpus_per_worker, gpus)


def _room(nodes: Sequence[Node], *, cpus: float = 0.0, gpus: float = 0.0) -> int:
    """Return how many workers of so many CPUs and GPUs the nodes hold."""
    # Fractions such as 2/3 must not lose a worker to rounding.
    pairs = [[(node.cpus, cpus), (node.gpus, gpus)] for node in nodes]
    return sum(min(math.floor(have / each + 1e-9) for have, each in pair if each > 0) for pair in pairs)


def _largest_share(workers: int, nodes: Sequence[Node], gpus: float) -> float:
    """Return the most CPUs that each of `workers` can have: whole ones, or a fraction where workers outnumber CPUs."""
    shares = {node.cpus / count for node in nodes for count in range(1, workers + 1)}
    candidates = sorted({math.floor(share) if share >= 1 else share for share in shares}, reverse=True)
    return next((share for share in candidates if _room(nodes, cpus=share, gpus=gpus) >= workers), 0.0)
