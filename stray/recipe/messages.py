"""Messages of pydantic in the words of the recipe: one problem per place."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stray.errors import Problem
from stray.recipe.schema import Tree


def explain(error: ValidationError, tree: Tree) -> dict[tuple[str | int, ...], Problem]:
    """Return one problem per place; pydantic reports each member of a union separately."""
    grouped: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail.get("ctx", {}).get("actual_length") != len(detail["input"]):
            continue  # Its members were refused, which is said already.
        grouped.setdefault(_place(detail, tree), []).append(detail)
    return {place: _problem(place, details, tree) for place, details in grouped.items()}


def _place(detail: ErrorDetails, tree: Any) -> tuple[str | int, ...]:
    """Return the place in the tree that pydantic means: its location also names union members, which are no place."""
    place: list[str | int] = []
    for step in detail["loc"]:
        if inside(tree, step):
            tree = tree[step]
            place.append(step)
    if detail["type"] == "missing":
        place.append(detail["loc"][-1])
    return tuple(place)


def _problem(place: tuple[str | int, ...], details: list[ErrorDetails], tree: Any) -> Problem:
    path = ".".join(map(str, place))
    kind, value = details[0]["type"], details[0]["input"]
    if kind == "missing":
        remedy = f"add `{place[-1]}` under `{path.rpartition('.')[0]}`"
        return Problem(path, "must be given, there is no default", remedy)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = details[0].get("ctx", {}).get("expected_tags", "")
        if kind == "union_tag_not_found":
            return Problem(path, "`kind` must be given, there is no default", "add `kind`")
        return Problem(f"{path}.kind", f"expected one of {expected}, found {show(value.get('kind'))}", "")
    texts = " or ".join(dict.fromkeys(_message(detail) for detail in details))
    return Problem(path, f"{texts.replace(' or expected ', ' or ')}, found {show(value)}", _remedy(value, details))


_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a group of settings",
    "dataclass_type": "a group of settings",
    "none_required": "null",
}


def _message(detail: ErrorDetails) -> str:
    words = _WORDS.get(detail["type"])
    if words:
        return f"expected {words}"
    if detail["type"] == "too_short":
        return f"expected at least {detail.get('ctx', {}).get('min_length')} of them"
    message = detail["msg"].replace("Input should be a valid", "expected a").replace("Input should be", "expected")
    return message[0].lower() + message[1:]


def _remedy(value: Any, details: list[ErrorDetails]) -> str:
    kinds = {detail["type"] for detail in details}
    if "tuple_type" in kinds:
        return f"write a list: [{value}]" if not isinstance(value, dict) else "write a list"
    if "string_type" in kinds and isinstance(value, int | float):
        return f"write it in quotes: '{value}'"
    if isinstance(value, float) and value.is_integer() and kinds & {"int_type", "int_from_float"}:
        return f"write {int(value)}"
    if isinstance(value, bool) and kinds & {"int_type", "float_type"}:
        return "give a number"
    return ""


def inside(tree: Any, step: str | int) -> bool:
    """Return whether `tree` has a member `step`."""
    return step in tree if isinstance(tree, dict) else isinstance(tree, list) and isinstance(step, int)


def show(value: Any) -> str:
    """Return a value as it would be written in YAML's flow style, cut to a line."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
