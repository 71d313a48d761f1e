"""A recipe as commented YAML: every setting with its meaning, its type and its default."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import DataclassSchema, TaggedUnionSchema

from stray.config import Recipe
from stray.recipe.files import dump, inline
from stray.recipe.schema import (
    ADAPTER,
    ROOT,
    Group,
    Leaf,
    Named,
    Node,
    Sequence,
    Setting,
    defaults,
    node_of,
    plain,
    settings,
)


def describe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML that `load_recipe` takes; comments give each setting's meaning, type and
    default.
    """
    return "\n".join(_group(plain(recipe), ROOT, defaults(Recipe), "")) + "\n"


class _JsonSchema(GenerateJsonSchema):
    """Pydantic's schema with the settings' documentation, and without settings that are unknown."""

    def dataclass_schema(self, schema: DataclassSchema) -> dict[str, Any]:
        tree = super().dataclass_schema(schema)
        tree |= {"additionalProperties": False, "description": _one_line(schema["cls"])}
        for name, setting in settings(schema["cls"]).items():
            if setting.doc:
                tree["properties"][name]["description"] = setting.doc
        return tree

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> dict[str, Any]:
        tree = super().tagged_union_schema(schema)
        # A group without `kind` fits several classes: it keeps the kind that it changes.
        return {"anyOf": tree["oneOf"]}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, by which an editor completes and checks them."""
    schema = ADAPTER.json_schema(schema_generator=_JsonSchema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "title": "stray recipe"}


def _group(tree: dict[str, Any], node: Group, base: Any, indent: str) -> Iterator[str]:
    cls = node.member(tree.get("kind"))
    assert cls is not None
    for name, setting in settings(cls).items():
        # A place may have defaults of its own: the two stages' optimisers differ.
        same = isinstance(base, dict) and node.member(base.get("kind")) is cls
        placed = dataclasses.replace(setting, default=base[name]) if same else setting
        yield from _setting(placed, tree[name], indent, node)
    for kind, member in node.members.items():
        if member is cls:
            continue
        yield f"{indent}# With `kind: {kind}` instead: {_one_line(member)}"
        for name, setting in settings(member).items():
            if name != "kind":
                yield f"{indent}#   {name}: {_facts(setting)}. {setting.doc}"


def _setting(setting: Setting, value: Any, indent: str, owner: Group) -> Iterator[str]:
    inside = f"{indent}  "
    node = setting.node
    if setting.name == "kind" and len(owner.members) > 1:
        yield f"{indent}# One of {', '.join(owner.members)}."
    elif setting.doc:
        facts = f" ({_facts(setting)})" if isinstance(node, Leaf | Sequence) else ""
        yield f"{indent}# {setting.doc}{facts}"
    if isinstance(node, Group) and isinstance(value, dict):
        yield f"{indent}{setting.name}:"
        yield from _group(value, node, setting.default, inside)
    elif isinstance(node, Named) and not node.dotted and isinstance(node.value, Group):
        yield f"{indent}{setting.name}:"
        for key, item in value.items():
            yield f"{inside}{inline(key)}:"
            yield from _group(item, node.value, None, f"{inside}  ")
    else:
        yield from (f"{indent}{line}" for line in dump({setting.name: value}).splitlines())
        yield from _offers(node, inside)


def _offers(node: Node, indent: str) -> Iterator[str]:
    """Return the kinds that may stand in a list or under free names."""
    item = node.item if isinstance(node, Sequence) else node.value if isinstance(node, Named) else None
    if not isinstance(item, Group):
        return
    for kind, cls in item.members.items():
        title = f"{{kind: {kind}, ...}}" if kind else "{...}"
        yield f"{indent}# {title}: {_one_line(cls)}"
        for name, setting in settings(cls).items():
            if name != "kind":
                yield f"{indent}#   {name}: {_facts(setting)}. {setting.doc}"


def _one_line(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def _facts(setting: Setting) -> str:
    given = "no default" if setting.default is dataclasses.MISSING else f"default {inline(setting.default)}"
    return f"{type_name(setting.hint)}; {given}"


def type_name(hint: Any) -> str:
    """Return a type in words: `whole number >= 1, or auto`."""
    node = node_of(hint)
    if isinstance(node, Sequence):
        return f"list of: {type_name(node.item.hint)}" if isinstance(node.item, Leaf) else "list"
    return _words(TypeAdapter(hint).json_schema())


_NAMES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true/false",
    "string": "text",
    "null": "null",
    "object": "group",
    "array": "list",
}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return ", or ".join(_words(part) for part in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    name = _NAMES.get(schema.get("type", "object"), "group")
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([name, " and ".join(bounds)]).strip()
