"""Make a paired dataset from tissue sections."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stray.config.ingest import IngestConfig
from stray.recipe import apply, load_recipe

if TYPE_CHECKING:
    from stray.cohort.dataset import PairedDataset

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def ingest(
    out: str | os.PathLike[str],
    *,
    h5ad: Paths = (),
    her2st: Paths = (),
    synthetic: Mapping[str, Any] | None = None,
    labels: Mapping[str, str | os.PathLike[str]] | None = None,
    sections: str | os.PathLike[str] | None = None,
    patch_um: float | None = None,
    patch_px: int | None = None,
    set: Mapping[str, Any] | None = None,
    on_event: Callable[[dict], None] | None = None,
) -> PairedDataset:
    """Make a paired dataset at `out` (path or URI) from tissue sections, and open it.

    Args:
        out: Folder of the dataset. What stands there already, made from the same inputs, is kept.
        h5ad: Files or folders of AnnData.
        her2st: Folders in the layout of HER2ST.
        synthetic: Settings of a synthetic cohort (`ingest.sources` of kind synthetic), such as `{"seed": 1}`.
        labels: Name of a label source to its table (section, spot, label).
        sections: Table of what else is known of sections (patient, ...).
        patch_um: Side of a patch in micrometres.
        patch_px: Side of a patch in pixels.
        set: Other settings below `ingest`, by dotted path, such as `{"off_tissue": "keep"}`.
        on_event: Told of the plan, each section and the end.
    """
    sources: list[dict[str, Any]] = [
        {"kind": kind, "path": os.fspath(path)}
        for kind, paths in (("h5ad", h5ad), ("her2st", her2st))
        for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)
    ]
    sources += [] if synthetic is None else [{"kind": "synthetic", **synthetic}]
    changes: dict[str, Any] = {
        "sources": sources,
        "labels": [{"name": name, "path": os.fspath(path)} for name, path in (labels or {}).items()],
        "sections": None if sections is None else os.fspath(sections),
        "patch.size_um": patch_um,
        "patch.size_px": patch_px,
    }
    given = {f"ingest.{name}": value for name, value in changes.items() if value is not None}
    given |= {f"ingest.{name}": value for name, value in (set or {}).items()}
    return ingest_config(apply(load_recipe(None), given).ingest, os.fspath(out), on_event=on_event)


def ingest_config(
    config: IngestConfig,
    out: str,
    *,
    workers: int | None = None,
    on_event: Callable[[dict], None] | None = None,
) -> PairedDataset:
    """Make a paired dataset as `config` says, with `workers` CPUs where Ray is started for it."""
    from stray.cohort.dataset import PairedDataset
    from stray.on_ray import ingest as ray_ingest
    from stray.on_ray import session

    with session.session(num_cpus=workers):
        ray_ingest.ingest(config, out, on_event=on_event)
    return PairedDataset.open(out)
