"""stray: Ray-distributed training of pathology image encoders under the guidance of spatial transcriptomics.

`import stray` is light: the functions below are imported with what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stray.api.cohorts import ingest
    from stray.api.experiments import SearchResult, TrainResult, compare, search, train
    from stray.api.model import Model, load_model

__version__ = "0.1.0"
__all__ = ["Model", "SearchResult", "TrainResult", "__version__", "compare", "ingest", "load_model", "search", "train"]

_HOMES = {
    "stray.api.cohorts": ("ingest",),
    "stray.api.experiments": ("SearchResult", "TrainResult", "compare", "search", "train"),
    "stray.api.model": ("Model", "load_model"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'stray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
