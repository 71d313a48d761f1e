"""Write the reference pages that are read from the code: settings and command line."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path

from stray.cli import VERBS
from stray.recipe.describe import type_name
from stray.recipe.files import inline
from stray.recipe.schema import ROOT, Group, Named, Node, Sequence, settings


def write(folder: Path) -> None:
    """Write `settings.md` and `command-line.md` into `folder`; files that already hold the text are left alone."""
    for name, lines in {"settings.md": _settings_page(), "command-line.md": _command_page()}.items():
        text = "\n".join(lines) + "\n"
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _settings_page() -> Iterator[str]:
    yield "# Settings of a recipe"
    yield ""
    yield "Every setting, read from the configuration classes of this version. Write one as `--set PATH=VALUE`,"
    yield "in a recipe file, in a method's `set` or in the search space. `NAME` stands for a name of your choice,"
    yield "`0` for a place in a list."
    yield from _group(ROOT, "")


def _group(node: Group, path: str) -> Iterator[str]:
    for kind, cls in node.members.items():
        title = f"`{path or 'recipe'}`" + (f", `kind: {kind}`" if kind else "")
        yield from ["", f"## {title}", "", " ".join((cls.__doc__ or "").split()), ""]
        below: list[tuple[Group, str]] = []
        rows = []
        for name, setting in settings(cls).items():
            place = f"{path}.{name}".lstrip(".")
            group = _inner(setting.node, place)
            if group is not None:
                below.append(group)
                rows.append((name, f"group, see `{group[1]}`", "", setting.doc))
            else:
                default = "required" if setting.default is dataclasses.MISSING else f"`{inline(setting.default)}`"
                rows.append((name, type_name(setting.hint), default, setting.doc))
        yield "| setting | type | default | meaning |"
        yield "| --- | --- | --- | --- |"
        yield from (f"| `{name}` | {_cell(kind)} | {_cell(value)} | {_cell(doc)} |" for name, kind, value, doc in rows)
        for group, place in below:
            yield from _group(group, place)


def _inner(node: Node, place: str) -> tuple[Group, str] | None:
    """The group of settings at or below a place, with its path."""
    if isinstance(node, Group):
        return node, place
    if isinstance(node, Sequence):
        return _inner(node.item, f"{place}.0")
    if isinstance(node, Named) and not node.dotted:
        return _inner(node.value, f"{place}.NAME")
    return None


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _command_page() -> Iterator[str]:
    yield "# Command line"
    yield ""
    yield "`stray VERB --help` prints the same."
    yield "Exit codes: 0 done, 2 the input is at fault, 130 interrupted, 143 terminated."
    yield ""
    yield "Every verb also takes `--quiet` (warnings and problems only), `--verbose` (messages of every level) and"
    yield "`--log-file FILE` (appends all that is printed on stderr, with times). `stray --version` prints the"
    yield "versions that a report of a fault needs."
    for verb in (verb for verbs in VERBS.values() for verb in verbs):
        module = importlib.import_module(f"stray.cli.{verb}")
        parser = argparse.ArgumentParser(
            prog=f"stray {verb}",
            description=module.__doc__,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        )
        module.configure(parser)
        yield from ["", f"## stray {verb}", "", "```text", parser.format_help().rstrip(), "```"]
