"""Recipes as YAML: reading, writing, and finding them by path or by the name of a shipped one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

import stray
from stray import storage
from stray.errors import InputError, Problem

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `1e-4` is a number; `no`, `on`, `1:30` and dates are text. Refuses repeated names."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"{name!r} stands here a second time", problem_mark=key.start_mark)
            seen.add(name)
        # Names of patients and methods may look like numbers; names are text all the same.
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


class _Dumper(yaml.SafeDumper):
    """Quotes whatever this loader or a YAML 1.1 reader would not take as text."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", re.compile(r"[-+]?[0-9]+"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _fullmatch = re.compile(f"^(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _fullmatch, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _fullmatch, _first)
# PyYAML's own constructor reads 0123 as octal.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def parse(text: str, place: str) -> Any:
    """Return the tree in `text`. Raises InputError naming `place` and the line when it is not YAML."""
    try:
        # _Loader is a SafeLoader: it builds nothing but dicts, lists and scalars.
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{place}, line {mark.line + 1}, column {mark.column + 1}" if mark else place
        what = "; ".join(part for part in (error.context, error.problem) if part)
        raise InputError(Problem(where, f"not YAML: {what}", "check the indentation and the colons there")) from None
    except yaml.YAMLError as error:
        raise InputError(Problem(place, f"not YAML: {error}", "save it as UTF-8 text")) from None


def dump(tree: Any) -> str:
    """Return `tree` as YAML that `parse` reads back as it was."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def inline(value: Any) -> str:
    """Return `value` on one line, as `--set` takes it."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**9)
    return text.removesuffix("...\n").strip()


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the recipes that come with stray, by name."""
    package = Path(stray.__file__).parent
    # In a wheel they travel inside the package; a checkout keeps them beside the jobs.
    folder = next((path for path in (package / "recipes", package.parent / "jobs" / "recipes") if path.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def read_recipe(name: str) -> Any:
    """Read the tree in the recipe at a path or URI, or in the shipped recipe of that name. Raises InputError."""
    shipped = shipped_recipes()
    place = str(shipped[name]) if name in shipped and not Path(name).is_file() else name
    try:
        text = storage.read_bytes(place).decode("utf-8")
    except (OSError, ValueError) as error:
        if storage_missing(place):
            raise InputError(Problem(name, "no such recipe", _where(name, list(shipped)))) from None
        raise InputError(Problem(name, f"cannot be read: {error}", "give a YAML file in UTF-8")) from None
    tree = parse(text, place)
    return {} if tree is None else tree


def storage_missing(place: str) -> bool:
    """Return whether `place` is missing or cannot be read."""
    try:
        return not storage.exists(place)
    except (OSError, ValueError):
        return True


def _where(name: str, shipped: Sequence[str]) -> str:
    path = Path(name)
    beside = [str(file) for file in path.parent.glob("*.y*ml")] if "://" not in name and path.parent.is_dir() else []
    near = difflib.get_close_matches(name, [*beside, *shipped], n=3, cutoff=0.6)
    stems = {Path(file).stem: file for file in beside} | {stem: stem for stem in shipped}
    near += [stems[stem] for stem in difflib.get_close_matches(path.stem, list(stems), n=2) if stems[stem] not in near]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}give the path of a YAML file, or a shipped recipe: {', '.join(shipped)}"
