"""The command line: what it teaches, what `stray config` prints, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import stray
from stray.cli import VERBS, main
from stray.config import Recipe
from stray.recipe import load_recipe, shipped_recipes
from stray.recipe.schema import settings, valid_paths


def stray_process(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "stray", *words], capture_output=True, text=True, cwd=cwd, timeout=60)


def test_help_names_every_verb_in_the_order_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    verbs = [verb for group in VERBS.values() for verb in group]
    shown = [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in verbs]
    assert shown == verbs
    assert all(len(line) <= 120 for line in lines)


def test_help_is_there_at_once() -> None:
    start = time.perf_counter()
    assert stray_process("--help").returncode == 0
    # Half a second on a quiet machine; loading torch or ray alone would take longer than this.
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize("verb", [verb for group in VERBS.values() for verb in group])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"usage: stray {verb}" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"stray {stray.__version__}"
    assert {line.split()[0] for line in out} >= {"python", "ray", "torch", "mlflow", "optuna", "anndata"}


def test_an_unknown_verb_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean `stray train`?" in capsys.readouterr().err


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--nonsense"]) == 2
    assert "--nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_config_prints_the_recipe_that_it_read(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", name, "--set", "contrastive.optim.lr=3e-4"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_recipe(str(tmp_path / "printed.yaml")) == load_recipe(name, ["contrastive.optim.lr=3e-4"])


def test_flat_lines_are_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["methods.clip_mlp.set.contrastive.projection.size=64", "eval.exclude_classes=['no, never', '1e3']"]
    assert main(["config", "smoke", "--flat", "--set", changed[0], "--set", changed[1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert load_recipe(None, lines) == load_recipe("smoke", changed)


def test_a_method_shows_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--method", "clip_mlp"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["contrastive"]["gene_tower"]["kind"] == "mlp"


def test_describe_explains_every_setting_and_is_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "demo", "--describe"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "described.yaml").write_text(text, encoding="utf-8")
    assert load_recipe(str(tmp_path / "described.yaml")) == load_recipe("demo")
    assert all(setting.doc in text for setting in settings(Recipe).values())
    assert all(path.rpartition(".")[2] in text for path in valid_paths() if "NAME" not in path and ".0" not in path)
    # The default is the place's own: the gene stage's optimiser is not the contrastive stage's.
    gene = text[text.index("\ngene:") : text.index("\ncontrastive:")]
    assert "eps: 0.01" in gene
    assert "(number > 0; default 0.01)" in gene


def test_everything_wrong_is_printed_at_once_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("gene: {epochs: many, epoch: 3}\nseeds: 3\n", encoding="utf-8")
    words = ["--set", "contrastive.lr=1", "--set", "nonsense", "--set", "folds.held_out=[A, A]"]
    done = stray_process("config", "mine.yaml", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "6 problems" in done.stderr
    for text in ("gene.epochs: expected a whole number", "gene.epoch: unknown", "seeds: expected a list, found 3",
                 "contrastive.lr: unknown", "`contrastive.optim.lr`", "--set nonsense: is not a.b=value",
                 "folds.held_out: A given more than once"):  # fmt: skip
        assert text in done.stderr
    assert "\x1b[" not in done.stderr, "colours are for terminals"


def test_a_missing_recipe_is_refused_with_what_there_is(tmp_path: Path) -> None:
    done = stray_process("config", "nothing.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing.yaml: no such recipe" in done.stderr
    assert "smoke" in done.stderr


@pytest.mark.parametrize("word", ["config", "--help"])
def test_a_closed_pipe_is_no_error(word: str) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "stray", word], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (141, "")


def test_an_editor_checks_recipes_by_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    import jsonschema

    assert main(["config", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    checker = jsonschema.Draft202012Validator(schema)
    for path in shipped_recipes().values():
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        assert not list(checker.iter_errors(tree)), path
    assert list(checker.iter_errors({**tree, "gene": {"epoch": 3}})), "an unknown key"
    assert list(checker.iter_errors({**tree, "seeds": "many"}))
    epochs = schema["$defs"]["GeneConfig"]["properties"]["epochs"]
    assert epochs["description"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["stray", "tr"], {"train", "track"}),
        (["stray", "train", ""], {"smoke", "her2st"}),
        (["stray", "train", "--fo"], {"--folds"}),
    ],
)
def test_a_shell_completes_verbs_recipes_and_options(
    words: list[str], found: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "stray.bash").write_text(capsys.readouterr().out, encoding="utf-8")
    line = " ".join(map(repr, words))
    script = (
        f'source stray.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _shtab_stray; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found <= set(done.stdout.split())


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_have_a_completion_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "predict" in capsys.readouterr().out


def test_what_a_command_says_goes_to_a_file_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "stray.log"
    assert main(["train", "smoke", "--log-file", str(log)]) == 2
    assert "is not set in the recipe" in capsys.readouterr().err
    assert "ERROR stray.console: dataset: is not set in the recipe" in log.read_text(encoding="utf-8")
    assert main(["config", "smoke", "--log-file", str(tmp_path / "no" / "where")]) == 2
    assert "name another file" in capsys.readouterr().err
