"""The mechanical part of the wording rules: docstrings open directly, those of functions with an imperative verb."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RIDDLES = re.compile(r"(Of|What|Where|How)\b")
_VERBS = """
Add Answer Append Apply Ask Assign Augment Begin Block Blur Bring Build Call Change Check Choose Clamp Clear Close
Code Collect Compare Compute Connect Convert Copy Correct Count Create Crop Cut Declare Decode Delete Deliver Describe
Discard Do Draw Drop Embed Encode End Ensure Escape Estimate Evaluate Fail Fetch Fill Find Finish Fit Follow Forget
Format Gather Get Give Go Group Hand Handle Have Hold Identify Ignore Import Indent Insert Join Judge Keep Kill Leave
Let List Load Lock Log Make Map Mark Mask Match Measure Merge Move Multiply Normalise Note Open Order Parse Pass Pick
Place Prepare Print Propose Push Put Queue Rank Raise Read Record Redirect Reduce Refuse Register Release Remove Renew
Replace Report Require Resolve Restore Return Run Save Say Scale Score Search See Seed Select Send Serve Set Show
Shuffle Silence Skip Sort Split Start Stop Store Stream Submit Sum Take Tell Train Translate Try Turn Unite Update Use
Validate Visit Wait Walk Warn Withdraw Wrap Write Yield
"""
VERBS = frozenset(_VERBS.split())
"""Verbs that open the docstring of a function. Add one that is missing."""


LATER: frozenset[str] = frozenset()
"""Modules that are yet to be brought to the rules. None may be added."""


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


FILES = [file for folder in ("stray", "jobs/benchmarks") for file in (ROOT / folder).rglob("*.py")]
MODULES = sorted(file for file in FILES if relative(file) not in LATER)


def documented(tree: ast.Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Every module, class and function with a docstring: the node, its name, the docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, getattr(node, "name", "the module"), text


def is_method(node: ast.AST) -> bool:
    """Whether a docstring describes an action: properties are described by a noun, and `__init__` by its arguments."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == "__init__":
        return False
    return not any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_docstrings_open_directly(file: Path) -> None:
    found = [f"{name}: {text.splitlines()[0]}" for node, name, text in documented(ast.parse(file.read_text("utf-8")))
             if RIDDLES.match(text)]  # fmt: skip
    assert not found, "say the thing: a noun phrase, or an imperative"


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_docstrings_of_functions_open_with_an_imperative(file: Path) -> None:
    found = [
        f"{name}: {text.splitlines()[0]}"
        for node, name, text in documented(ast.parse(file.read_text("utf-8")))
        if is_method(node) and text.partition(" ")[0].rstrip(".,:;") not in VERBS
    ]
    assert not found, "begin with a verb such as Return, Write or Raise (VERBS of this test lists them)"


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_docstrings_of_fields_open_directly(file: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        body = getattr(node, "body", None)
        for before, after in pairwise(body if isinstance(body, list) else []):
            if not isinstance(before, ast.Assign | ast.AnnAssign) or not isinstance(after, ast.Expr):
                continue
            if isinstance(after.value, ast.Constant) and RIDDLES.match(str(after.value.value)):
                found.append(f"line {after.lineno}: {after.value.value}")
    assert not found, "name the value of the field"
