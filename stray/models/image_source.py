"""Origin of an image encoder: bytes of weights and code of callables, as one digest for the keys of results.

Nothing is imported or called here: code is read as text, and distributions are asked for their versions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torchvision

from stray.config import CallableConfig, ImageConfig

_INSTALLED = tuple({os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")})


def image_source(config: ImageConfig) -> str:
    """Return a digest of the weights file, of files that `options` names, and of the code behind `factory`.

    What is not there adds nothing: building the encoder reports it.
    """
    found = hashlib.sha256()
    for part in _parts(config):
        found.update(part.encode() + b"\0")
    return found.hexdigest()[:16]


def _parts(config: ImageConfig) -> Iterator[str]:
    if isinstance(config, CallableConfig):
        yield from _code(config.factory.partition(":")[0].partition(".")[0])
        for text in _texts(asdict(config)):
            yield from _content(text)
    elif config.weights == "DEFAULT":
        yield _default(config.name)
    else:
        yield from _content(config.weights)


def _default(name: str) -> str:
    """Return the address of the weights that torchvision downloads, which holds a part of their hash."""
    try:
        weights: Any = torchvision.models.get_model_weights(name)
    except ValueError:  # no such network
        return ""
    return str(weights.DEFAULT.url)


def _texts(tree: Any) -> Iterator[str]:
    """Yield every text in a tree of settings."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _texts(value)


def _content(path: str) -> Iterator[str]:
    """Yield the digest of a file, or of all files of a folder."""
    if "\0" in path or len(path) > 4096 or not path.strip():
        return
    try:
        place = Path(path)
        files = [place] if place.is_file() else _listed(place) if place.is_dir() and place.is_absolute() else []
        for file in files:
            status = file.stat()
            yield _file_digest(str(file.resolve()), status.st_mtime_ns, status.st_size)
    except OSError:
        return


def _listed(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


@lru_cache(maxsize=4096)
def _file_digest(path: str, changed: int, size: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _code(top: str) -> Iterator[str]:
    """Yield the version of each installed package, and the text of each other module, that a module imports.

    Modules of one's own count with their text. An installed distribution counts with its version, and what it imports
    is its own affair.
    """
    seen, queue = {top}, [top]
    while queue:
        name = queue.pop(0)
        files = _own_files(name)
        if files is None:
            yield from (f"{dist}=={importlib.metadata.version(dist)}" for dist in _distributions().get(name, ()))
            continue
        for file in files:
            text = file.read_bytes()
            yield f"{name}/{file.name}:{hashlib.sha256(text).hexdigest()}"
            for used in sorted(_imported(text) - seen):
                seen.add(used)
                queue.append(used)


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _own_files(name: str) -> list[Path] | None:
    """Return the Python files of a top-level module or package that is not installed; None of one that is, or is not
    there.
    """
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    places = folders or ([spec.origin] if spec.origin else [])
    if any(os.path.realpath(place).startswith(_INSTALLED) for place in places):
        return None
    if folders:
        return sorted({file for folder in folders for file in Path(folder).rglob("*.py")})
    return [Path(place) for place in places if place.endswith(tuple(importlib.machinery.SOURCE_SUFFIXES))]


def _imported(text: bytes) -> set[str]:
    """Return the top-level modules that Python code imports; none where the code is not Python."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}
