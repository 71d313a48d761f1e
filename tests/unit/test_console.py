"""Progress for people: lines where there is no terminal, whole under threads, and problems printed as they are."""

from __future__ import annotations

import threading

import pytest
from rich.console import Console

from stray.cli import console
from stray.cli.console import PLAIN_INTERVAL_S, Progress, print_problems
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
    with Progress(live=False, clock=clock) as progress:
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
    with Progress(live=False) as progress:

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
    terminal = Console(stderr=True, force_terminal=True, width=120, record=True, highlight=False)
    monkeypatch.setattr(console, "stderr", terminal)
    with Progress(live=True) as progress:
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
