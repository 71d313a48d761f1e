"""Progress for people: lines where there is no terminal, whole under threads, and problems printed as they are."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from stray.cli import console
from stray.cli.console import print_problems, say
from stray.cli.progress import PLAIN_INTERVAL_S, ConsoleProgress
from stray.cli.safe import SafeConsole, visible
from stray.errors import InputError, Problem


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(text: str) -> list[str]:
    """Without their times."""
    return [line.partition("  ")[2] for line in text.splitlines()]


def test_plain_progress_is_a_line_at_the_start_the_end_and_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with ConsoleProgress(live=False, clock=clock) as progress:
        progress.start("gene", "gene stage [A]", total=3)
        progress.update("gene", 1, "ELBO -812")
        clock.now = PLAIN_INTERVAL_S
        progress.update("gene", advance=1)
        progress.say("a note [b]")
        progress.finish("gene", "ELBO -700")
    assert lines(capsys.readouterr().err) == [
        "gene stage [A]  started",
        "gene stage [A]  2/3  ELBO -812",
        "a note [b]",
        "gene stage [A]  done in 10 s  ELBO -700",
    ]


def test_threads_do_not_tear_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleProgress(live=False) as progress:

        def work(number: int) -> None:
            for step in range(20):
                progress.start(f"{number}-{step}", f"task {number}-{step}")
                progress.update(f"{number}-{step}", advance=1)
                progress.finish(f"{number}-{step}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shown = lines(capsys.readouterr().err)
    expected = [f"task {n}-{s}  {state}" for n in range(8) for s in range(20) for state in ("started", "done in 0 s")]
    assert sorted(shown) == sorted(expected)


def test_live_progress_shows_labels_counts_and_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = SafeConsole(stderr=True, force_terminal=True, width=120, record=True)
    monkeypatch.setattr(console, "stderr", terminal)
    with ConsoleProgress(live=True) as progress:
        progress.start("a", "fold [A]", total=4)
        progress.update("a", 2, "loss 3.1")
        progress.start("b", "fold B")
        progress.finish("b")
        progress.say("kept [note]")
    text = terminal.export_text()
    assert "fold [A]" in text
    assert "2/4" in text
    assert "loss 3.1" in text
    assert "kept [note]" in text


def test_problems_are_printed_with_their_remedies_and_no_markup_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 60
    print_problems(InputError([Problem("a[0].b", "bad [bold]value[/]", "do [this]"), Problem("c", long.strip())]))
    text = capsys.readouterr().err
    assert "2 problems" in text
    assert "a[0].b: bad [bold]value[/]\n      do [this]\n" in text
    assert f"c: {long.strip()}\n" in text, "long lines are not broken: they are searched for and copied"


HOSTILE = "P1\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202egnp\u2028\udcff[bold]x[/nope]"
"""A name that clears the screen, sets the window's title, turns text around, and is no valid markup."""
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028\udcff]")


def shown(print_to: SafeConsole, what: object) -> str:
    print_to.print(what)
    return print_to.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_control_characters_are_written_as_escapes_wherever_text_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    print_problems(InputError(Problem(HOSTILE, HOSTILE, HOSTILE)))
    say(HOSTILE)
    with ConsoleProgress(live=False) as progress:
        progress.start(HOSTILE, HOSTILE)
        progress.say(HOSTILE)
        progress.finish(HOSTILE, HOSTILE)
    text = capsys.readouterr().err
    assert not UNSAFE.search(text)
    assert text.count(r"P1\x1b[2J\x1b]0;owned") == 8
    assert text.count("[bold]x[/nope]") == 8


def test_tables_texts_and_titles_let_none_through_and_stay_aligned() -> None:
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text("a\x1b[2Jb"))
    text = shown(SafeConsole(file=io.StringIO(), width=200), table)
    assert not UNSAFE.search(text)
    assert r"a\x1b[2Jb" in text
    assert text.count("[bold]x[/nope]") == 3
    rows = [line for line in text.splitlines() if r"P1\x1b" in line][1:]
    assert len({len(line) for line in rows}) == 1


def test_live_progress_lets_none_through(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = SafeConsole(stderr=True, force_terminal=True, width=200, record=True)
    monkeypatch.setattr(console, "stderr", terminal)
    with ConsoleProgress(live=True) as progress:
        progress.start("a", HOSTILE + "\nforged")
        progress.update("a", 1, HOSTILE)
        progress.say(HOSTILE)
    text = terminal.export_text()
    assert not UNSAFE.search(text)
    assert r"P1\x1b[2J" in text


def test_a_newline_in_a_name_does_not_start_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    forged = "x\nstray: forged"
    print_problems(InputError(Problem(forged, forged, forged)))
    say(forged)
    with ConsoleProgress(live=False) as progress:
        progress.start("a", forged)
        progress.say(forged)
    text = capsys.readouterr().err
    assert "forged" in text
    assert "\nstray: forged" not in text


def test_text_of_any_script_stays_as_it_is() -> None:
    for text in ("Müller", "患者", "क\u200dष", "µm", "two\nlines\tand a tab"):
        assert visible(text) == text
    assert visible("\x1b[31mred\x1b[0m\x1b[2J", colours=True) == "\x1b[31mred\x1b[0m\\x1b[2J"


def test_warnings_of_stray_go_through_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("stray.test").addHandler(handler := console.LogHandler())
    try:
        logging.getLogger("stray.test").warning("of run %s", HOSTILE)
    finally:
        logging.getLogger("stray.test").removeHandler(handler)
    assert capsys.readouterr().err.startswith(r"of run P1\x1b[2J")


@pytest.mark.parametrize("words", [["config", "smoke", "--sot\x1b[2J"], ["train", "smoke", "--x\x1b[2J"], ["\x1b[2J"]])
def test_a_command_line_that_is_wrong_is_shown_without_its_control_characters(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "stray", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "2J" in done.stderr
    assert not UNSAFE.search(done.stderr)


def test_so_is_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_traceback(KeyError, KeyError(HOSTILE), None)
    error = RuntimeError("in \x1b[2J")
    console.show_traceback(RuntimeError, error, None)
    assert not UNSAFE.search(capsys.readouterr().err)


def test_a_quiet_command_prints_warnings_and_problems_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with console.shown(quiet=True, log_file=str(log)), ConsoleProgress() as progress:
        progress.start("gene", "gene stage", total=3)
        progress.say("a note")
        say("another note")
        logging.getLogger("stray.cohort").info("a detail")
        logging.getLogger("stray.cohort").warning("a warning")
        progress.finish("gene", "ELBO -700")
        print_problems(InputError(Problem("here", "is wrong", "mend it")))
    err = capsys.readouterr().err
    assert "a warning" in err
    assert "is wrong" in err
    assert not any(text in err for text in ("note", "gene stage", "detail"))
    logged = log.read_text(encoding="utf-8")
    for text in ("gene stage  started", "a note", "another note", "a detail", "a warning", "ELBO -700"):
        assert logged.count(text) == 1, text
    say("loud again")
    assert "loud again" in capsys.readouterr().err


def test_a_verbose_command_prints_messages_of_every_level(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("stray.cohort")
    with console.shown(verbose=True):
        logger.debug("a detail")
    logger.debug("too late")
    err = capsys.readouterr().err
    assert "a detail" in err
    assert "too late" not in err


def test_an_error_that_nobody_expected_goes_to_the_file_with_its_traceback(tmp_path: Path) -> None:
    def fail() -> None:
        with console.shown(log_file=str(tmp_path / "log.txt")):
            raise ZeroDivisionError("of a kind")

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 120])
def test_a_narrow_terminal_cuts_the_title_and_never_the_numbers(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    screen = SafeConsole(file=shown, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "stderr", screen)
    with ConsoleProgress(live=True) as progress:
        progress.start("all", "folds and seeds", total=6)
        progress.update("all", 2)
        progress.start("gene", "fold Patient-17, seed 0: gene stage, scvi (clip_scvi, clip_scanvi)", total=400)
        progress.update("gene", 120, "ELBO -1033.2, held out -1040.9, label accuracy 0.71")
    last = [line for line in shown.getvalue().replace("\r", "\n").splitlines() if line.strip()]
    (line,) = {text for text in last[-3:] if "Patient" in text}
    assert "120/400" in line
    assert "0:00:0" in line
    assert "left" in line
    assert "…" in line
    assert len(line) <= width
    assert any("2/6" in text for text in last[-3:])


def test_the_clock_runs_between_tasks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = SafeConsole(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "stderr", terminal)

    def shown() -> list[str]:
        return [task.description for task in progress._live.tasks] if progress._live else []

    with ConsoleProgress(live=True) as progress:
        progress.say("starting Ray ...\nat [here]")
        assert shown() == [r"starting Ray ...\nat [here]"]
        progress.start("a", "fold A", total=2)
        progress.say("a note")
        assert shown() == ["fold A"]
        progress.finish("a")
        assert shown() == ["working ..."], "what was done is a line above the display"
    assert shown() == []
    assert "fold A  done in 0 s" in terminal.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


FIRST_LINES = """
import sys
from stray.cli import main
from stray.cli.progress import ConsoleProgress

def say(progress, text):
    print(text, [name for name in ("ray", "torch", "sklearn", "mlflow", "optuna") if name in sys.modules], flush=True)
    raise SystemExit(7)

ConsoleProgress.say = say
for words in sys.argv[1:]:
    assert main(words.split()) == 7, words
"""


def test_the_first_line_comes_before_anything_heavy_is_imported() -> None:
    train = [f"{verb} smoke --set dataset=none" for verb in ("train", "evaluate", "search")]
    ingest = ["ingest made --synthetic patients=2", "demo"]
    use = ["predict model dataset", "embed model dataset"]
    command = [sys.executable, "-c", FIRST_LINES, *train, *ingest, *use]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["starting Ray ... []"] * 5 + ["loading model ... []"] * 2
