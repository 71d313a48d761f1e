"""The shape of the configuration, read from the dataclasses of `stray.config`: groups, mappings, lists and values.

A *tree* is what YAML gives (dicts, lists, scalars); a *node* says what a tree may hold at one place.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from stray.config import MethodConfig, Recipe, SearchConfig

Tree = dict[str, Any]

DOTTED_FIELDS = frozenset({(MethodConfig, "set"), (SearchConfig, "set"), (SearchConfig, "space")})
"""Mappings whose keys are themselves dotted recipe paths."""

ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value without settings below it."""

    hint: Any
    """Its type."""


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A list."""

    item: Node
    """Node of each member."""


@dataclasses.dataclass(frozen=True)
class Named:
    """Names of the user's choice, each with a value of one shape."""

    value: Node
    """Node of each value."""
    dotted: bool
    """Whether the names are dotted recipe paths."""


@dataclasses.dataclass(frozen=True)
class Group:
    """A dataclass, or several between which `kind` decides."""

    members: types.MappingProxyType[str, type]
    """`kind` to dataclass; the only key is empty where there is nothing to decide."""

    def member(self, kind: Any) -> type | None:
        """Return the dataclass that `kind` names, the only one where there is just one, else None."""
        if len(self.members) == 1:
            return next(iter(self.members.values()))
        return self.members.get(kind) if isinstance(kind, str) else None


Node = Leaf | Sequence | Named | Group


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a config class."""

    name: str
    """Its name."""
    node: Node
    """Node of its values."""
    hint: Any
    """Its type as written, constraints included."""
    doc: str
    """The docstring under the field, on one line; empty where there is none."""
    default: Any
    """The default as a tree; `dataclasses.MISSING` where the field must be given."""


def fields(cls: Any) -> list[dataclasses.Field[Any]]:
    """Return the fields of a config class that a recipe may set."""
    return [field for field in dataclasses.fields(cls) if field.init]


@functools.cache
def settings(cls: type) -> dict[str, Setting]:
    """Return the fields of one config class, in order."""
    hints, docs = get_type_hints(cls, include_extras=True), field_docs(cls)
    found = {}
    for field in fields(cls):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is not dataclasses.MISSING:
            default = plain(default)
        hint = hints[field.name]
        found[field.name] = Setting(
            name=field.name,
            node=node_of(hint, dotted=(cls, field.name) in DOTTED_FIELDS),
            hint=hint,
            doc=docs.get(field.name, ""),
            default=default,
        )
    return found


def node_of(hint: Any, *, dotted: bool = False) -> Node:
    """Return the node of a type hint."""
    bare = _bare(hint)
    if dataclasses.is_dataclass(bare) and isinstance(bare, type):
        return Group(types.MappingProxyType({"": bare}))
    args = get_args(bare)
    # A group that may be absent is a group: its settings are checked where it is given.
    members = [_bare(arg) for arg in args if arg is not types.NoneType]
    if len(members) == 1 and types.NoneType in args:
        return node_of(members[0], dotted=dotted) if dataclasses.is_dataclass(members[0]) else Leaf(hint)
    if get_origin(bare) in (Union, types.UnionType) and all(map(dataclasses.is_dataclass, members)):
        kinds = {get_args(get_type_hints(member)["kind"])[0]: member for member in members}
        return Group(types.MappingProxyType(kinds))
    if get_origin(bare) is tuple:
        return Sequence(node_of(args[0]))
    if get_origin(bare) is dict:
        return Named(node_of(args[1]), dotted)
    return Leaf(hint)


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


@functools.cache
def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types that a leaf accepts, unions and constraints unwrapped; literals as they are."""
    bare = _bare(hint)
    if get_origin(bare) in (Union, types.UnionType):
        return tuple(kind for arg in get_args(bare) for kind in alternatives(arg))
    return (bare,)


def literals(hint: Any) -> list[str]:
    """Return the words that a leaf accepts."""
    return [str(word) for kind in alternatives(hint) if get_origin(kind) is Literal for word in get_args(kind)]


def plain(value: Any) -> Any:
    """Return a configuration object as a tree: dataclasses and mappings as dicts, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def defaults(cls: type) -> Tree:
    """Return the values of an object of `cls` when nothing is given; fields without a default are left out."""
    found = {name: setting.default for name, setting in settings(cls).items()}
    return {name: plain(value) for name, value in found.items() if value is not dataclasses.MISSING}


ROOT = Group(types.MappingProxyType({"": Recipe}))


@functools.cache
def valid_paths() -> tuple[str, ...]:
    """Return every dotted path that a recipe may have; names of the user's choice and list places as `NAME` and `0`."""
    return tuple(dict.fromkeys(_paths(ROOT, "")))


def _paths(node: Node, place: str) -> Iterator[str]:
    if place:
        yield place
    if isinstance(node, Group):
        for cls in node.members.values():
            for name, setting in settings(cls).items():
                yield from _paths(setting.node, f"{place}.{name}".lstrip("."))
    elif isinstance(node, Named):
        yield from _paths(node.value, f"{place}.NAME")
    elif isinstance(node, Sequence) and isinstance(node.item, Group):
        yield from _paths(node.item, f"{place}.0")


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field of `cls`, inherited ones included, by name."""
    # Pydantic's `use_attribute_docstrings` leaves out the fields that a dataclass inherits.
    inherited = [field_docs(base) for base in cls.__bases__ if dataclasses.is_dataclass(base)]
    found = {name: doc for docs in inherited for name, doc in docs.items()}
    source = ast.parse(inspect.getsource(typing.cast("types.ModuleType", inspect.getmodule(cls))))
    body = next(item.body for item in source.body if isinstance(item, ast.ClassDef) and item.name == cls.__name__)
    for field, text in itertools.pairwise(body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            found[field.target.id] = " ".join(text.value.value.split())
    return found
