"""README and documentation: every command parses, every recipe resolves, every link leads somewhere."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stray.cli import VERBS
from stray.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"settings.md", "command-line.md"}
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "cluster/README.md")
    if page.name not in GENERATED and "_build" not in page.parts
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[str]:
    yield from (text for name, text in FENCE.findall(page.read_text(encoding="utf-8")) if name in languages)


def commands(page: Path) -> Iterator[list[str]]:
    """The `stray` commands of a page's blocks of shell commands, from the verb on."""
    for text in blocks(page, "", "sh", "console"):
        text = re.sub(r"\$\([^)]*\)", "FOLDER", text.replace("\\\n", " "))
        for line in re.sub(r"[][]|\.{3}", "", text).splitlines():  # brackets of optional words
            for command in re.split(r"&&|\|", line.removeprefix("$ ")):
                words = shlex.split(command, comments=True)
                if words and words[0].rsplit("/")[-1] == "stray":
                    yield words[1 : words.index(">") if ">" in words else None]


def parser(verb: str) -> argparse.ArgumentParser:
    module = importlib.import_module(f"stray.cli.{verb}")
    made = argparse.ArgumentParser(prog=f"stray {verb}", exit_on_error=False)
    module.configure(made)
    return made


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_is_one_that_stray_takes(page: Path) -> None:
    verbs = {verb for group in VERBS.values() for verb in group}
    for words in commands(page):
        assert words[0] in verbs, words
        try:
            parser(words[0]).parse_args(words[1:])
        except (argparse.ArgumentError, SystemExit) as error:
            pytest.fail(f"stray {shlex.join(words)}: {error}")
        if words[0] == "submit" and (sent := words[words.index("--") + 1 :])[0] in verbs:
            parser(sent[0]).parse_args(sent[1:])


def test_commands_are_found() -> None:
    found = [words[0] for page in PAGES for words in commands(page)]
    assert {"ingest", "train", "compare", "search", "config", "embed", "submit", "track"} <= set(found)


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "yaml"))], ids=relative)
def test_every_recipe_resolves(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({"name": "docs", **yaml.safe_load(text)}), encoding="utf-8")
        assert load_recipe(str(file))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target and Path(target).name not in GENERATED | {"imports.svg"}:
            assert (page.parent / target).exists(), f"{relative(page)}: {target}"


def test_the_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert 120 <= len(lines) <= 160
    head = [line for line in lines[:40] if line.startswith("python -m venv .venv")]
    assert [line.rsplit("/", 1)[-1] for line in head] == ["stray demo", "pytest"]
