"""The config classes: frozen, keyword-only, documented, and valid as they come."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import pytest

import stray.config
from stray.config import Recipe
from stray.recipe.schema import field_docs, settings

CLASSES = [
    value
    for name in stray.config.__all__
    if inspect.isclass(value := getattr(stray.config, name)) and dataclasses.is_dataclass(value)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_config_class_is_frozen_and_keyword_only(cls: type) -> None:
    parameters = cls.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(cls))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_says_what_it_is(cls: type) -> None:
    hints = typing.get_type_hints(cls)
    # A `kind` of one word names its class and has nothing more to say.
    told = {name for name, hint in hints.items() if len(typing.get_args(hint)) == 1 and name == "kind"}
    docs = field_docs(cls)
    silent = [field.name for field in dataclasses.fields(cls) if field.name not in told and not docs.get(field.name)]
    assert not silent
    assert all(doc.endswith(".") for doc in docs.values())


def test_every_config_class_is_reachable_from_the_recipe() -> None:
    seen: set[type] = set()

    def visit(cls: type) -> None:
        seen.add(cls)
        for setting in settings(cls).values():
            for node in (setting.node, getattr(setting.node, "item", None), getattr(setting.node, "value", None)):
                for member in getattr(node, "members", {}).values():
                    visit(member)

    visit(Recipe)
    assert seen >= set(CLASSES)


def test_a_frozen_recipe_refuses_assignment() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().name = "other"  # type: ignore[misc]
