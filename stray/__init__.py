"""stray: Ray-distributed training of pathology image encoders under the guidance of spatial transcriptomics.

`import stray` is light: the functions below are imported with what they need when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stray.api import Model, SearchResult, TrainResult, compare, ingest, load_model, search, train

__version__ = "0.1.0"
__all__ = ["Model", "SearchResult", "TrainResult", "__version__", "compare", "ingest", "load_model", "search", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stray' has no attribute {name!r}")
    from stray import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
