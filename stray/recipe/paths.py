"""Dotted paths: reading and writing a tree by them, and suggestions for a wrong one."""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from stray.config import Recipe
from stray.errors import Problem
from stray.recipe.schema import ROOT, Group, Leaf, Named, Node, Sequence, Tree, plain, settings, valid_paths


def flatten(recipe: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """Return the value at each dotted path of a recipe or of a tree of one.

    Values are scalars, lists, and the two dicts whose own keys are dotted paths (`methods.NAME.set`, `search.space`).
    """
    flat: dict[str, Any] = {}
    _flatten(plain(recipe), ROOT, "", flat)
    return flat


def _flatten(tree: Any, node: Node, place: str, flat: dict[str, Any]) -> None:
    children: dict[str, Node] = {}
    if isinstance(node, Group) and isinstance(tree, dict):
        cls = node.member(tree.get("kind"))
        children = {name: setting.node for name, setting in settings(cls).items()} if cls else {}
    elif isinstance(node, Named) and not node.dotted and isinstance(tree, dict):
        children = dict.fromkeys(tree, node.value)
    if not children:
        flat[place] = tree
        return
    for key, value in tree.items():
        _flatten(value, children.get(key, Leaf(Any)), f"{place}.{key}".lstrip("."), flat)


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """Return the tree whose `flatten` is `flat`."""
    tree: Tree = {}
    for path, value in flat.items():
        *groups, name = path.split(".")
        here = tree
        for group in groups:
            here = here.setdefault(group, {})
        here[name] = copy.deepcopy(value)
    return tree


def assign_all(tree: Tree, changes: Mapping[str, Any]) -> list[Problem]:
    """Write `changes` (dotted path to value) into `tree`, in place; returns the problems of paths that lead nowhere.

    A `kind` comes before the settings beside it, whatever the order given: it may replace them. Names that the
    recipe does not know are written too: the decoder refuses them with a suggestion.
    """
    kinds = [change for change in changes.items() if change[0].endswith(".kind")]
    kinds.sort(key=lambda change: change[0].count("."))
    others = [change for change in changes.items() if not change[0].endswith(".kind")]
    found = [assign(tree, path, value) for path, value in kinds + others]
    return [problem for problem in found if problem]


def assign(tree: Tree, path: str, value: Any) -> Problem | None:
    """Write one value into `tree`, in place. Another `kind` replaces the whole group; null removes a user's name."""
    here: Any = tree
    node: Node = ROOT
    key: Any
    base: Any = plain(Recipe())
    parts = path.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        place = ".".join(parts[:depth]) or path
        if isinstance(node, Named) and node.dotted:
            return _assign_dotted(here, node, parts[depth:], value)
        if isinstance(node, Sequence):
            if not (isinstance(here, list) and part.isdecimal() and int(part) < len(here)):
                what = f"`{place}` is a list without a member {part!r}"
                return Problem(path, what, f"give the whole list: {place}=[...]")
            key, child, default = int(part), node.item, None
        elif isinstance(here, dict) and isinstance(node, Group | Named):
            found = _child(node, here, base, part)
            if found is None:
                here[".".join(parts[depth:])] = value
                return None
            key, (child, default) = part, found
        else:
            return Problem(path, f"`{place}` is a value and has nothing below it", f"set it as a whole: {place}=VALUE")
        if isinstance(child, Leaf) and not last:
            place = ".".join(parts[: depth + 1])
            return Problem(path, f"`{place}` is a value and has nothing below it", f"set it as a whole: {place}=VALUE")
        if last:
            _write(here, node, key, value, base)
            return None
        if isinstance(here, dict) and key not in here:
            # Names of the user's choice replace the default ones as a whole, so the default ones are written out first.
            here[key] = copy.deepcopy(default) if isinstance(child, Named | Sequence) and default is not None else {}
        here, node, base = here[key], child, default
    return None


def _child(node: Group | Named, here: Tree, base: Any, name: str) -> tuple[Node, Any] | None:
    """Return the node and the default tree of what stands under `name`; None where no such setting exists."""
    if isinstance(node, Named):
        return node.value, None
    default_kind = base.get("kind") if isinstance(base, dict) else None
    kind = here.get("kind", default_kind)
    cls = node.member(kind)
    setting = settings(cls).get(name) if cls else None
    if setting is None:
        return None
    inherited = isinstance(base, dict) and kind == default_kind and name in base
    default = base[name] if inherited else setting.default
    return setting.node, None if default is dataclasses.MISSING else default


def _write(here: Any, node: Node, key: Any, value: Any, base: Any) -> None:
    if isinstance(node, Group) and key == "kind":
        old = here.get("kind", base.get("kind") if isinstance(base, dict) else None)
        if old != value:
            here.clear()
    if isinstance(node, Named) and value is None:
        here.pop(key, None)
    else:
        here[key] = copy.deepcopy(value)


def _assign_dotted(here: Tree, node: Named, parts: list[str], value: Any) -> Problem | None:
    """Assign below a key that holds dots; the end of `parts` may be a setting of the group after it, or of a group
    inside that one.
    """
    whole = ".".join(parts)
    for size in (len(parts) - 1, len(parts) - 2):
        entry, inside = here.get(".".join(parts[: max(size, 0)])), parts[size:-1]
        if whole in here or not isinstance(node.value, Group) or not isinstance(entry, dict):
            continue
        if not inside:
            _write(entry, node.value, parts[-1], value, entry)
            return None
        child = _child(node.value, entry, entry, inside[0])
        if child is not None and isinstance(child[0], Group):
            entry[inside[0]] = entry.get(inside[0]) or {}
            _write(entry[inside[0]], child[0], parts[-1], value, None)
            return None
    _write(here, node, whole, value, None)
    return None


RENAMED = {"trains": "trainable", "rate_share": "lr_multiplier"}
"""Settings of earlier versions, with their present names."""


def suggest(path: str, siblings: list[str]) -> str:
    """Return a remedy for an unknown setting: similar names beside it, else the same name elsewhere, else similar
    paths.
    """
    place, _, name = path.rpartition(".")
    matches = difflib.get_close_matches(name, siblings, n=2, cutoff=0.7)
    matches = [RENAMED[name]] if RENAMED.get(name) in siblings else matches
    near = [f"{place}.{match}".lstrip(".") for match in matches]
    inside = [known for known in valid_paths() if known.rpartition(".")[2] == name and known.startswith(f"{place}.")]
    elsewhere = [known for known in valid_paths() if known.rpartition(".")[2] == name]
    elsewhere.sort(key=lambda known: -difflib.SequenceMatcher(None, known, path).ratio())
    alike = difflib.get_close_matches(path, valid_paths(), n=2, cutoff=0.8)
    found = list(dict.fromkeys(near + inside + elsewhere))[:3] or alike
    if found:
        return "did you mean " + " or ".join(f"`{known}`" for known in found) + "?"
    return f"settings there: {', '.join(siblings)}" if siblings else "remove it"
