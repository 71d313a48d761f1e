"""The house of the design: who may import whom, who alone may import a library, and how long a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stray.cli import VERBS
from tests.support.order import ALONE, LONG, SESSION

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "stray"

FLOORS: tuple[frozenset[str], ...] = (
    # 0
    frozenset({"columns", "errors"}),
    frozenset({"config"}),
    # 1
    frozenset({"collective", "storage"}),
    frozenset({"lease", "likelihood", "noise", "metrics", "report", "track"}),
    # 2
    frozenset({"cohort", "models", "losses", "recipe"}),
    # 3
    frozenset({"data", "evaluate"}),
    frozenset({"training", "comparison"}),
    frozenset({"stages"}),
    frozenset({"experiment"}),
    # 4
    frozenset({"on_ray"}),
    frozenset({"api"}),
    # 5
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""Parts of stray from the ground up, in steps within the design's floors. A part imports from below and from itself."""

SOLE_IMPORTERS = {
    "ray": ("stray/on_ray/", "jobs/benchmarks/"),
    "mlflow": ("stray/track/mlflow",),
    "matplotlib": ("stray/report/",),
    "jinja2": ("stray/report/",),
    "argparse": ("stray/cli/", "jobs/benchmarks/"),
    "rich": ("stray/cli/", "jobs/benchmarks/"),
    "yaml": ("stray/recipe/",),
    "optuna": ("stray/experiment/", "stray/on_ray/", "jobs/benchmarks/"),
    "torch": ("stray/likelihood/", "stray/collective.py", "stray/noise.py", "stray/models/", "stray/losses/",
              "stray/data/", "stray/training/", "stray/stages/", "stray/experiment/",
              "stray/on_ray/", "stray/evaluate/", "stray/track/mlflow", "jobs/benchmarks/"),
    "scanpy": ("stray/cohort/",),
    "anndata": ("stray/cohort/", "stray/api/", "jobs/benchmarks/"),
    "scvi": ("jobs/benchmarks/",),
}  # fmt: skip
"""Library to the only places that may import it (`stray/track/mlflow` begins the names of several modules)."""

MODULES = sorted(PACKAGE.rglob("*.py"))
JOBS = sorted((ROOT / "jobs").rglob("*.py"))
SCRIPTS = [file for file in JOBS if file.parent.name == "jobs" and file.stem != "__init__"]


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(file): file for file in [*MODULES, *JOBS]}


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that `tree` imports, at any depth, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                # `from stray import storage` imports a module, `from stray.errors import Problem` a name of one.
                yield full if full in NAMES else node.module


def imports_when_loaded(file: Path) -> set[str]:
    """What importing `file` imports at once: not what its functions import, nor what only type checkers see."""
    found: set[str] = set()

    def visit(statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                found.update(imports(statement))
            elif isinstance(statement, ast.If):
                if "TYPE_CHECKING" not in ast.unparse(statement.test):
                    visit(statement.body)
                visit(statement.orelse)
            elif isinstance(statement, ast.Try | ast.With | ast.ClassDef):
                visit(statement.body)

    visit(ast.parse(file.read_text(encoding="utf-8")).body)
    return found


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor_of(part: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


@pytest.mark.parametrize("file", [*MODULES, *JOBS], ids=relative)
def test_what_ray_keeps_private_is_imported_in_one_place(file: Path) -> None:
    found = {name for name in imports(ast.parse(file.read_text(encoding="utf-8"))) if name.startswith("ray")}
    private = {name for name in found if any(part.startswith("_") for part in name.split("."))}
    assert relative(file) == "stray/on_ray/private.py" or not private


def test_every_part_has_its_floor() -> None:
    parts = {part_of(name_of(file)) for file in MODULES} - {""}
    assert parts == frozenset().union(*FLOORS)


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_a_module_imports_only_from_below(file: Path) -> None:
    part = part_of(name_of(file))
    # The package itself imports a part only when one of its functions is asked for.
    found = imports_when_loaded(file) if part == "" else imports(ast.parse(file.read_text(encoding="utf-8")))
    others = {part_of(name) for name in found if name.split(".")[0] == "stray"} - {part, ""}
    if part == "":
        assert not others, "`import stray` loads no part of it"
        return
    upwards = sorted(other for other in others if floor_of(other) >= floor_of(part))
    assert not upwards, f"{relative(file)} (floor {floor_of(part)}) imports {', '.join(upwards)}"


@pytest.mark.parametrize("file", MODULES, ids=relative)
def test_the_package_does_without_the_jobs(file: Path) -> None:
    assert not {name for name in imports(ast.parse(file.read_text(encoding="utf-8"))) if name.split(".")[0] == "jobs"}


@pytest.mark.parametrize("file", [*MODULES, *JOBS], ids=relative)
def test_a_library_is_imported_only_where_it_belongs(file: Path) -> None:
    for module in imports(ast.parse(file.read_text(encoding="utf-8"))):
        places = SOLE_IMPORTERS.get(module.split(".")[0])
        assert places is None or relative(file).startswith(places), f"{relative(file)} imports {module}"


@pytest.mark.parametrize("file", [*MODULES, *JOBS], ids=relative)
def test_a_module_can_be_read_in_one_go(file: Path) -> None:
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{lines} lines: a second reason to change?"


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: {used for used in imports_when_loaded(file) if used in NAMES} for name, file in NAMES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name in done:
            return
        for used in sorted(graph[name]):
            visit(used, (*path, name))
        done.add(name)

    for name in sorted(graph):
        visit(name, ())


def loaded_by(code: str) -> set[str]:
    """The top-level modules in memory after running `code` in a fresh interpreter."""
    program = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    ["import stray", "import stray.config", "import stray.recipe", "from stray.cli import main; main([])"],
    ids=["import stray", "the configuration", "recipes", "stray --help"],
)
def test_what_is_light_loads_nothing_heavy(code: str) -> None:
    assert not loaded_by(code) & {"torch", "ray", "mlflow", "matplotlib", "scanpy", "anndata", "sklearn"}


def test_a_verb_is_declared_without_what_it_runs_on() -> None:
    verbs = [verb for group in VERBS.values() for verb in group]
    missing = [verb for verb in verbs if not (PACKAGE / "cli" / f"{verb}.py").is_file()]
    assert not missing
    code = "import importlib\n" + "\n".join(
        f"module = importlib.import_module('stray.cli.{verb}'); module.HELP, module.configure, module.run"
        for verb in verbs
    )
    assert not loaded_by(code) & {"torch", "ray", "mlflow"}


@pytest.mark.parametrize("file", SCRIPTS, ids=relative)
def test_a_job_is_a_short_script_over_the_command_line(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 50
    entry = "jobs.benchmarks.command" if file.stem == "benchmark" else "stray.cli"
    assert {name for name in imports(ast.parse(text)) if name.split(".")[0] in ("stray", "jobs")} == {entry}


@pytest.mark.parametrize("file", [*SESSION, *LONG, *ALONE])
def test_a_file_that_the_order_of_tests_names_is_there(file: str) -> None:
    assert (ROOT / file).is_file(), "a file that was renamed would lose its place, or run beside what it disturbs"
