"""Recipes: YAML and dotted overrides <-> `stray.config.Recipe`, with every problem at once.

One grammar of dotted paths serves `--set contrastive.optim.lr=3e-4`, the search space and MLflow's parameters:

- setting `x.kind` to another kind replaces everything under `x` by that kind's defaults;
- a name of the user's choice (a method, a distribution) set to null is removed;
- a member of a list is reached by its number (`ingest.sources.0.seed=1`).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from stray.config import Recipe
from stray.errors import InputError, Problem, raise_if_any, without_secrets
from stray.recipe.decode import decode, merge, read
from stray.recipe.files import dump, parse, read_recipe, shipped_recipes
from stray.recipe.paths import assign_all, flatten, unflatten
from stray.recipe.schema import Tree, plain

__all__ = [
    "apply",
    "decode",
    "dump_yaml",
    "flatten",
    "for_method",
    "load_recipe",
    "parse_overrides",
    "shipped_recipes",
    "unflatten",
]


def load_recipe(recipe: str | None, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe, with overrides.

    Args:
        recipe: Path or URI of a YAML file, the name of a shipped recipe, or None for the defaults.
        overrides: Texts `a.b=value`, the values read as YAML.

    Raises:
        InputError: With every problem of the file and of the overrides together.
    """
    changes, problems = parse_overrides(overrides)
    tree: Any = {}
    try:
        tree = read_recipe(recipe) if recipe is not None else {}
    except InputError as error:
        problems += error.problems
    if isinstance(tree, dict):
        problems += assign_all(tree, changes)
    decoded, more = read(tree)
    raise_if_any(problems + more)
    assert decoded is not None
    return decoded


def parse_overrides(overrides: Sequence[str]) -> tuple[Tree, list[Problem]]:
    """Parse `a.b=value` texts to dotted path and value, values read as YAML; also return the problems of those that
    cannot be read.
    """
    changes: Tree = {}
    problems: list[Problem] = []
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not path or not all(path.split(".")):
            problems.append(Problem(f"--set {text}", "is not a.b=value", "write a dotted path, `=` and a value"))
            continue
        try:
            changes[path] = parse(value, f"--set {text}")
        except InputError as error:
            problems += error.problems
    return changes, problems


def apply(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return `recipe` with dotted `changes`. Raises InputError with every problem at once."""
    tree = copy.deepcopy(plain(recipe))
    problems = assign_all(tree, changes)
    decoded, more = read(tree)
    raise_if_any(problems + more)
    assert decoded is not None
    return decoded


def for_method(recipe: Recipe, name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return `recipe` with the `set` of the method `name` applied, and dotted `changes` over it.

    Without changes, the method of a loaded recipe is not decoded again: `recipe.resolved` holds it. The settings of
    the other methods are not checked against this one.

    Raises InputError when there is no such method, or when its settings do not fit the recipe.
    """
    if name not in recipe.methods:
        near = difflib.get_close_matches(name, recipe.methods, n=1)
        remedy = f"did you mean `{near[0]}`?" if near else f"methods: {', '.join(recipe.methods)}"
        raise InputError(Problem("methods", f"no method {name!r}", remedy))
    if not changes and name in recipe.resolved:
        return recipe.resolved[name]
    decoded, problems = merge(plain(recipe), {**recipe.methods[name].set, **(changes or {})})
    raise_if_any(problems)
    assert decoded is not None
    return decoded


def dump_yaml(recipe: Recipe) -> str:
    """Return the whole recipe as YAML without the secrets in its addresses; apart from these, `load_recipe` of it gives
    an equal recipe.
    """
    return without_secrets(dump(plain(recipe)))
