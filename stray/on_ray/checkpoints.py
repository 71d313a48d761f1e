"""The checkpoints of a run on its storage: each whole or not there at all, and found again where Ray's list of them is
lost.

Ray Train copies a checkpoint into its place and writes its list over the old one: a full disk leaves a part of the one,
and of the other nothing, without which Ray refuses to go on from any.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import torch
from pyarrow import fs

from stray import storage

STATE = "state.pt"
PREFIX = "checkpoint_"
LIST = "checkpoint_manager_snapshot.json"
"""Ray's name for its list of a run's checkpoints."""


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


def tidy(run: str) -> None:
    """Remove a list of Ray's that cannot be used, and checkpoints that no run would continue from.

    What stays are the checkpoints of the list, or the newest whole one where there is no list. No worker may be at
    work on the run.
    """
    filesystem, inner = storage.resolve(run)
    listed = _listed(filesystem, inner)
    if listed is None:
        with suppress(FileNotFoundError):
            filesystem.delete_file(f"{inner}/{LIST}")
        listed = {newest(filesystem, inner)}
    for folder in _folders(filesystem, inner):
        if folder not in listed:
            filesystem.delete_dir(folder)


def _listed(filesystem: fs.FileSystem, run: str) -> set[str | None] | None:
    """Return the folders of Ray's list; None where there is no list, or one that Ray could not read or whose
    checkpoints are not all there.
    """
    if filesystem.get_file_info(f"{run}/{LIST}").type == fs.FileType.NotFound:
        return None
    try:
        with filesystem.open_input_stream(f"{run}/{LIST}") as stream:
            tree = json.loads(stream.read())
        entries = [*tree["checkpoint_results"], tree["latest_checkpoint_result"]]
        folders = {f"{run}/{entry['checkpoint_dir_name']}" for entry in entries if entry is not None}
    except (ValueError, KeyError, TypeError):
        return None
    return {*folders} if folders and all(_is_whole(filesystem, folder) for folder in folders) else None


def _folders(filesystem: fs.FileSystem, run: str) -> list[str]:
    found = filesystem.get_file_info(fs.FileSelector(run, allow_not_found=True))
    folders = [one.base_name for one in found if one.type == fs.FileType.Directory]
    return [f"{run}/{name}" for name in folders if name.startswith(PREFIX)]


def _is_whole(filesystem: fs.FileSystem, folder: str) -> bool:
    # It is moved to its name once it is written.
    return filesystem.get_file_info(f"{folder}/{STATE}").type == fs.FileType.File
