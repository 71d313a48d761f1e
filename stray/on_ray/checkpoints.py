"""Checkpoints of a stage that runs, in a folder of their own: each whole or not there at all.

They belong to the stage, not to the workers that wrote them: whichever slot runs it next goes on from the newest. Ray
Train's own checkpoints belong to one run of its workers, and its list of them does not survive a full disk.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import torch
from pyarrow import fs

from stray import storage

STATE = "state.pt"
PREFIX = "checkpoint_"


def write(filesystem: fs.FileSystem, run: str, state: Mapping[str, Any]) -> str:
    """Write a new checkpoint into the folder `run` and return its folder. Raises OSError when it cannot be written:
    nothing of it is left then.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    # The order of the names is that of their making, on whatever node.
    folder = f"{run}/{PREFIX}{datetime.now(UTC):%Y-%m-%d_%H-%M-%S.%f}"
    try:
        storage.write_at(filesystem, f"{folder}/{STATE}", buffer.getbuffer())
    except OSError:
        with suppress(OSError):
            filesystem.delete_dir(folder)
        raise
    return folder


def newest(filesystem: fs.FileSystem, run: str) -> str | None:
    """Return the folder of the newest whole checkpoint in the folder `run`; None where there is none."""
    return max((folder for folder in _folders(filesystem, run) if _is_whole(filesystem, folder)), default=None)


def keep_newest(filesystem: fs.FileSystem, run: str, count: int = 2) -> None:
    """Delete all but the newest `count` whole checkpoints in the folder `run`, and what was left half-written."""
    folders = sorted(_folders(filesystem, run))
    kept = [folder for folder in folders if _is_whole(filesystem, folder)][-count:]
    for folder in folders:
        if folder not in kept:
            filesystem.delete_dir(folder)


def _folders(filesystem: fs.FileSystem, run: str) -> list[str]:
    found = filesystem.get_file_info(fs.FileSelector(run, allow_not_found=True))
    folders = [one.base_name for one in found if one.type == fs.FileType.Directory]
    return [f"{run}/{name}" for name in folders if name.startswith(PREFIX)]


def _is_whole(filesystem: fs.FileSystem, folder: str) -> bool:
    # It is moved to its name once it is written.
    return filesystem.get_file_info(f"{folder}/{STATE}").type == fs.FileType.File
