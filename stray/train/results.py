"""The folder of a finished stage: weights, panel, settings, curves. Loaded without Ray by later stages and by `stray
embed`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from typing import Any

import numpy as np
import torch

from stray import __version__, storage

DONE = "done.json"
"""Written last: where it stands, the folder is whole."""


def digest(*parts: Any) -> str:
    """A short digest of settings (dataclasses, arrays, plain values): the key under which a result is found again."""
    blake = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            blake.update(np.ascontiguousarray(part).tobytes())
        elif dataclasses.is_dataclass(part) and not isinstance(part, type):
            blake.update(json.dumps([type(part).__name__, dataclasses.asdict(part)], sort_keys=True).encode())
        else:
            blake.update(json.dumps(part, sort_keys=True).encode())
        blake.update(b"\0")
    return blake.hexdigest()


class ResultFolder:
    """A folder at a path or URI whose files appear before its mark of completion."""

    def __init__(self, path: str) -> None:
        self.path = storage.absolute(path)

    def is_done(self) -> bool:
        """Whether everything in it was written."""
        return storage.exists(storage.join(self.path, DONE))

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the folder as whole."""
        self.write_json(DONE, {"stray": __version__, **facts})

    def facts(self) -> dict[str, Any]:
        """What `finish` was given."""
        return self.read_json(DONE)

    def write_json(self, name: str, tree: Any) -> None:
        """Write `tree` as JSON."""
        storage.write_bytes(storage.join(self.path, name), json.dumps(tree, indent=1).encode())

    def read_json(self, name: str) -> Any:
        """Inverse of `write_json`."""
        return json.loads(storage.read_bytes(storage.join(self.path, name)))

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write an array as .npy."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        storage.write_bytes(storage.join(self.path, name), buffer.getvalue())

    def read_array(self, name: str) -> np.ndarray:
        """Inverse of `write_array`."""
        return np.load(io.BytesIO(storage.read_bytes(storage.join(self.path, name))), allow_pickle=False)

    def write_weights(self, name: str, state: dict[str, Any]) -> None:
        """Write a state_dict."""
        buffer = io.BytesIO()
        torch.save({key: value.cpu() for key, value in state.items()}, buffer)
        storage.write_bytes(storage.join(self.path, name), buffer.getvalue())

    def read_weights(self, name: str) -> dict[str, Any]:
        """Inverse of `write_weights`, on the CPU."""
        return torch.load(
            io.BytesIO(storage.read_bytes(storage.join(self.path, name))), weights_only=True, map_location="cpu"
        )
