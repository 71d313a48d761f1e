"""Usage of the cluster, from its control service (GCS) alone: the dashboard may be unreachable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.core.generated import gcs_pb2 as _gcs_pb2

from stray.on_ray.private import state

GIB = 1024**3
gcs_pb2: Any = _gcs_pb2  # its classes are created at import
_SHOWN = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GiB of memory"}


@dataclass(frozen=True)
class NodeUse:
    """A living node."""

    host: str
    total: Mapping[str, float]
    free: Mapping[str, float]


@dataclass(frozen=True)
class Usage:
    """Resources of the cluster and their holders."""

    nodes: tuple[NodeUse, ...]
    own: Mapping[str, float] = field(default_factory=dict)
    """Resources held by this job."""
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Resources held by other jobs, by job."""
    gone: tuple[str, ...] = ()
    """Hosts of nodes that were lost."""

    def total(self) -> dict[str, float]:
        """Return the resources of all nodes."""
        return _sum(node.total for node in self.nodes)

    def free(self) -> dict[str, float]:
        """Return the free resources."""
        return _sum(node.free for node in self.nodes)


def amounts(found: Mapping[str, float], names: Iterable[str] | None = None, *, zeros: bool = True) -> str:
    """Return resources for people: `2 CPUs, 1 GPU`; those of `names`, in their order."""
    parts = []
    for name in found if names is None else names:
        amount = found.get(name, 0.0) / (GIB if name == "memory" else 1)
        if zeros or amount > 1e-3:
            unit = _SHOWN.get(name, name)
            parts.append(f"{amount:.3g} {unit[:-1] if amount == 1 and unit.endswith('s') else unit}")
    return ", ".join(parts)


def job_id() -> str:
    """Return Ray's id of the job that this process is of."""
    return ray.get_runtime_context().get_job_id()


def read_usage() -> Usage:
    """Return the resources of every node and their holders."""
    free, nodes = state.available_resources_per_node(), ray.nodes()
    living = [node for node in nodes if node["Alive"]]
    held = _held()
    own = held.pop(job_id(), {})
    uses = tuple(NodeUse(n["NodeManagerAddress"], n["Resources"], free.get(n["NodeID"], {})) for n in living)
    usage = Usage(uses, own, gone=tuple(sorted({n["NodeManagerAddress"] for n in nodes if not n["Alive"]})))
    jobs = {job["JobID"]: job for job in state.jobs()}
    others: dict[str, dict[str, float]] = {_title(job, jobs): found for job, found in held.items()}
    # Ray lists no tasks: they hold what is neither free nor held by an actor or placement group.
    known, free_in_all = _sum([own, *held.values()]), usage.free()
    tasks = {name: amount - free_in_all.get(name, 0) - known.get(name, 0) for name, amount in usage.total().items()}
    if any(tasks.get(name, 0) > 1e-3 for name in _SHOWN):
        living_jobs = [job for job, entry in jobs.items() if not entry["IsDead"] and job != job_id()]
        who = "tasks of " + (", ".join(_title(job, jobs) for job in living_jobs) if living_jobs else "this command")
        others[who] = {name: tasks.get(name, 0.0) for name in _SHOWN}
    return Usage(uses, own, others, usage.gone)


def _held() -> dict[str, dict[str, float]]:
    """Return the resources held by each job: of placement groups, and of actors outside of them."""
    accessor: Any = state.state._connect_and_get_accessor()
    held: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for entry in accessor.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(entry)
        if group.state == gcs_pb2.PlacementGroupTableData.REMOVED:
            continue
        for bundle in group.bundles:
            if bundle.node_id:
                for name, amount in bundle.unit_resources.items():
                    held[group.creator_job_id.hex()][name] += amount
    for entry in accessor.get_actor_table(None, "ALIVE"):
        actor = gcs_pb2.ActorTableData.FromString(entry)
        if not actor.placement_group_id:
            for name, amount in actor.required_resources.items():
                held[actor.job_id.hex()][name] += amount
    return held


def _title(job: str, jobs: Mapping[str, Any]) -> str:
    entry = jobs.get(job)
    if entry is None:
        return f"job {job}"
    return f"job {job} (`{entry['Entrypoint'] or '?'}`, process {entry['DriverPid']} on {entry['DriverIPAddress']})"


def _sum(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for part in parts:
        for name, amount in part.items():
            found[name] += amount
    return found
