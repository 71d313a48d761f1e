"""Resources of the cluster, and how a training's workers share them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from stray.config import RunConfig
from stray.errors import InputError, Problem, raise_if_any


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


@dataclass(frozen=True)
class WorkerPlan:
    """Workers of one training. The driver needs no CPU of its own."""

    workers: int
    """Number of workers."""
    cpus_per_worker: float
    """CPUs that each reserves."""
    use_gpu: bool
    """Whether each holds a GPU."""

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """Resources of a worker in the form of Ray's `ScalingConfig`."""
        return {"CPU": self.cpus_per_worker, **({"GPU": 1.0} if self.use_gpu else {})}


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


def plan_workers(run: RunConfig) -> WorkerPlan:
    """Return the workers that `run` asks for, on this cluster. Raises InputError where the cluster could never hold
    them.
    """
    return layout(run, resources().nodes)


def layout(run: RunConfig, nodes: Sequence[Node]) -> WorkerPlan:
    """Return the workers that `run` asks for, on `nodes`. Raises InputError where the nodes could never hold them.

    A request that the cluster cannot hold would otherwise wait for ever.
    """
    gpus = sum(math.floor(node.gpus) for node in nodes)
    use_gpu = gpus > 0 if run.gpu == "auto" else bool(run.gpu)
    hosts = [node for node in nodes if node.cpus > 0 and (node.gpus >= 1 or not use_gpu)]
    problems: list[Problem] = []
    if use_gpu and gpus == 0:
        raise InputError(Problem("run.gpu", "true, but the cluster has no GPU", "set run.gpu to auto or false"))
    if not hosts:
        raise InputError(Problem("run", "no node of the cluster has a CPU for workers", "add a node with CPUs"))
    automatic = gpus if use_gpu else len(hosts)
    workers = automatic if run.workers == "auto" else run.workers
    if use_gpu and workers > gpus:
        what = f"{workers} workers with a GPU each, but the cluster has {gpus}"
        problems.append(Problem("run.workers", what, f"at most {gpus} workers, or run.gpu=false"))
    raise_if_any(problems)
    share = _largest_share(workers, hosts, use_gpu)
    cpus = share if run.cpus_per_worker == "auto" else run.cpus_per_worker
    if _room(cpus, hosts, use_gpu) < workers:
        have = " + ".join(f"{node.cpus:g}" for node in hosts)
        what = f"{workers} workers of {cpus:g} CPUs do not fit on nodes of {have} CPUs"
        raise InputError(Problem("run.cpus_per_worker", what, f"fewer workers, or at most {share:g} CPUs each"))
    return WorkerPlan(workers, cpus, use_gpu)


def _room(cpus: float, nodes: Sequence[Node], use_gpu: bool) -> int:
    """Return how many workers of `cpus` CPUs the nodes hold."""
    # Fractions such as 2/3 must not lose a worker to rounding.
    rooms = [(math.floor(node.cpus / cpus + 1e-9), math.floor(node.gpus)) for node in nodes]
    return sum(min(by_cpu, by_gpu) if use_gpu else by_cpu for by_cpu, by_gpu in rooms)


def _largest_share(workers: int, nodes: Sequence[Node], use_gpu: bool) -> float:
    """Return the most CPUs that each of `workers` can have: whole ones, or a fraction where workers outnumber CPUs."""
    shares = {node.cpus / count for node in nodes for count in range(1, workers + 1)}
    candidates = sorted({math.floor(share) if share >= 1 else share for share in shares}, reverse=True)
    # With every worker's share of the smallest node they all fit, so there is always an answer.
    return next(share for share in candidates if _room(share, nodes, use_gpu) >= workers)
