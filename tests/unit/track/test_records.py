"""Tag names: written and read back by modules that must agree on them."""

from __future__ import annotations

import ast
from pathlib import Path

import stray
from stray.track import records

PACKAGE = Path(stray.__file__).parent
TAGS = {
    value
    for name, value in vars(records).items()
    if name.isupper() and isinstance(value, str) and value.startswith(("stray.", "mlflow."))
}


def test_tag_names_are_written_out_in_one_module() -> None:
    assert {records.KIND, records.KEY, records.PARENT, records.WARNING} <= TAGS
    found = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TAGS
    }
    assert found == {"track/records.py"}
