"""Decoding of a tree to a `Recipe`: defaults filled in, every problem found at once, each with its dotted place."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

from pydantic import ValidationError

from stray.config import Recipe
from stray.errors import Problem, raise_if_any
from stray.recipe.checks import contradictions
from stray.recipe.messages import explain, inside, show
from stray.recipe.paths import assign_all, suggest
from stray.recipe.schema import (
    ADAPTER,
    ROOT,
    Group,
    Leaf,
    Named,
    Node,
    Sequence,
    Tree,
    alternatives,
    defaults,
    literals,
    settings,
    valid_paths,
)
from stray.recipe.space import owners, paths_of, place_in_space, value_problems

METHOD_ROOTS = ("gene", "contrastive")
"""Groups that methods and searches may change; all else is shared, so that cells can be compared."""


def decode(tree: Tree) -> Recipe:
    """Return the recipe that `tree` describes. Raises InputError with every problem at once."""
    recipe, problems = read(tree)
    raise_if_any(problems)
    assert recipe is not None
    return recipe


def read(tree: Any) -> tuple[Recipe | None, list[Problem]]:
    """Return the recipe that `tree` describes, and its problems.

    Refused values are replaced by their defaults; the recipe is None where that does not make it valid.
    """
    if not isinstance(tree, dict):
        return None, [Problem("recipe", f"expected settings, found {show(tree)}", "write `name: value` lines")]
    recipe, problems, bad, complete = _decode(tree)
    if recipe is None:
        return None, problems
    found = [(paths, problem) for paths, problem in contradictions(recipe) if not _touches(paths, bad)]
    problems += [problem for _, problem in found]
    resolved, more = _resolve_methods(recipe, complete, problems, bad)
    object.__setattr__(recipe, "resolved", resolved)
    problems += more
    problems += _space_problems(recipe, complete, bad)
    return recipe, problems


def merge(tree: Tree, changes: Tree) -> tuple[Recipe | None, list[Problem]]:
    """Return a complete `tree` with dotted `changes`: values and contradictions are checked, methods and search are
    not.
    """
    tree = copy.deepcopy(tree)
    problems = assign_all(tree, changes)
    recipe, more, bad, _ = _decode(tree)
    problems += more
    if recipe is not None:
        problems += [problem for paths, problem in contradictions(recipe) if not _touches(paths, bad)]
    return recipe, problems


def _decode(tree: Tree) -> tuple[Recipe | None, list[Problem], list[str], Tree]:
    """Return the recipe, its problems, their places, and the complete tree; faulty values are replaced by their
    defaults.
    """
    problems: list[Problem] = []
    complete = _walk(fill(tree, ROOT, defaults(Recipe)), ROOT, "", problems)
    bad = [problem.place for problem in problems]
    # Each round puts defaults where pydantic refused a value, so that contradictions elsewhere are still found.
    for _ in range(4):
        try:
            return ADAPTER.validate_json(json.dumps(complete, default=str), strict=True), problems, bad, complete
        except ValidationError as error:
            for place, problem in explain(error, complete).items():
                if problem.place not in bad:  # a value that was refused is missing in the next round
                    problems.append(problem)
                    bad.append(problem.place)
                _drop(complete, place)
            complete = fill(complete, ROOT, defaults(Recipe))
    return None, problems, bad, {}


def _walk(tree: Any, node: Node, place: str, problems: list[Problem]) -> Any:
    """Return a copy of `tree` without unknown settings and infinite numbers (both reported), and with `1e-4` as a
    number.
    """
    if isinstance(node, Group) and isinstance(tree, dict):
        # Without a `kind`, which pydantic will ask for, any member's settings may be meant.
        cls = node.member(tree.get("kind"))
        members = [cls] if cls else list(node.members.values())
        known = {name: setting.node for member in members for name, setting in settings(member).items()}
        out = {}
        for key, value in tree.items():
            path = f"{place}.{key}".lstrip(".")
            if key in known:
                out[key] = _walk(value, known[key], path, problems)
            else:
                problems.append(_unknown(path, value, node, tree.get("kind")))
        return out
    if isinstance(node, Named) and isinstance(tree, dict):
        return {key: _walk(value, node.value, f"{place}.{key}", problems) for key, value in tree.items()}
    if isinstance(node, Sequence) and isinstance(tree, list | tuple):
        return [_walk(value, node.item, f"{place}.{index}", problems) for index, value in enumerate(tree)]
    if isinstance(node, Leaf):
        return _number(tree, node, place, problems)
    return tree


def _unknown(path: str, value: Any, node: Group, kind: Any) -> Problem:
    name = path.rpartition(".")[2]
    cls = node.member(kind)
    siblings = list(settings(cls)) if cls else [name for member in node.members.values() for name in settings(member)]
    others = [other for other, member in node.members.items() if name in settings(member)]
    if others:
        what = f"`kind: {kind}` has no such setting (value {show(value)})"
        return Problem(path, what, f"set `{path.rpartition('.')[0]}.kind` to {' or '.join(others)}, or remove it")
    return Problem(path, f"unknown setting (value {show(value)})", suggest(path, siblings))


def _number(value: Any, node: Leaf, place: str, problems: list[Problem]) -> Any:
    kinds = alternatives(node.hint)
    if isinstance(value, str) and float in kinds and str not in kinds and value not in literals(node.hint):
        # PyYAML reads 1e-4 (without a point) as text.
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(place, f"expected a finite number, found {value}", "give a finite number"))
        return 1.0
    return value


def fill(tree: Any, node: Node, default: Any) -> Any:
    """Return `tree` laid over `default`, so that a group given in part keeps the defaults of its place, not of its
    class.
    """
    if isinstance(node, Group) and isinstance(tree, dict):
        default_kind = default.get("kind") if isinstance(default, dict) else None
        cls = node.member(tree.get("kind", default_kind))
        if cls is None:
            return tree
        base = default if isinstance(default, dict) and node.member(default_kind) is cls else defaults(cls)
        known = settings(cls)
        return {
            **copy.deepcopy(base),
            **{k: fill(v, known[k].node, base.get(k)) if k in known else v for k, v in tree.items()},
        }
    if isinstance(node, Named) and isinstance(tree, dict):
        return {key: fill(value, node.value, None) for key, value in tree.items()}
    if isinstance(node, Sequence) and isinstance(tree, list):
        return [fill(value, node.item, None) for value in tree]
    return tree


def _resolve_methods(
    recipe: Recipe, tree: Tree, known: list[Problem], bad: list[str]
) -> tuple[dict[str, Recipe], list[Problem]]:
    """Apply each method's `set` by itself; return the recipe of each method, and what its `set` breaks."""
    seen = {(problem.place, problem.what) for problem in known}
    resolved: dict[str, Recipe] = {}
    found: list[Problem] = []
    for name, method in recipe.methods.items():
        if f"methods.{name}" in bad:
            continue
        changes, foreign = _split(dict(method.set), f"methods.{name}.set")
        own, problems = merge(tree, changes)
        if own is not None:
            resolved[name] = own
        found += foreign
        found += [
            Problem(f"methods.{name}.set.{problem.place}", problem.what, problem.remedy)
            for problem in problems
            if (problem.place, problem.what) not in seen and not _touches((problem.place,), bad)
        ]
    return resolved, found


def _split(changes: Tree, place: str) -> tuple[Tree, list[Problem]]:
    """Split settings into those that methods and searches may change, and a problem for each of the rest."""
    allowed = {path: value for path, value in changes.items() if path.partition(".")[0] in METHOD_ROOTS}
    foreign = [_foreign(path, f"{place}.{path}") for path in changes.keys() - allowed.keys()]
    return allowed, sorted(foreign, key=lambda problem: problem.place)


def _foreign(path: str, place: str) -> Problem:
    """Return the problem of a setting that methods and searches may not change."""
    hint, roots = suggest(path, list(METHOD_ROOTS)), " and ".join(f"`{root}`" for root in METHOD_ROOTS)
    remedy = hint if path not in valid_paths() and "did you" in hint else f"only settings under {roots}"
    return Problem(place, f"only settings under {roots} may change here", remedy)


def _space_problems(recipe: Recipe, tree: Tree, bad: list[str]) -> list[Problem]:
    """Try the ends of every distribution on the tuned method: a search must not propose what the recipe refuses."""
    space = {name: dist for name, dist in recipe.search.space.items() if not _touches((f"search.space.{name}",), bad)}
    foreign = {path: _foreign(path, place_in_space(path, space)) for path in owners(space)
               if path.partition(".")[0] not in METHOD_ROOTS}  # fmt: skip
    method = recipe.methods.get(recipe.tuned)
    base = {**(method.set if method else {}), **recipe.search.set}
    tried = {name: dist for name, dist in space.items() if not foreign.keys() & set(paths_of(name, dist))}
    return list(foreign.values()) + value_problems(tried, lambda changes: merge(tree, {**base, **changes}))


def _drop(tree: Any, place: tuple[str | int, ...]) -> None:
    """Take the value at `place` out: a list as a whole, or members would move; the group where a value is missing."""
    owner, key = tree, None
    for step in place:
        if not inside(tree, step):
            break
        owner, key, tree = tree, step, tree[step]
        if isinstance(tree, list):
            break
    if key is not None:
        del owner[key]


def _touches(paths: tuple[str, ...], bad: list[str]) -> bool:
    """Return whether any of `paths` stands on a value that was refused."""
    pairs = [(f"{path}.", f"{place}.") for path in paths for place in bad]
    return any(path.startswith(place) or place.startswith(path) for path, place in pairs)
