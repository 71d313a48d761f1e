"""A full disk or a place that is not the user's, wherever it is met, is an error with its remedy."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem

from stray.cli import config, main
from stray.errors import InputError, Problem, input_fault


def test_a_full_disk_is_found_behind_whatever_wraps_it() -> None:
    try:
        try:
            Path("/dev/full").write_text("x" * 100_000)
        except OSError as error:
            raise RuntimeError("in a task") from error
    except RuntimeError as error:
        fault = input_fault(error)
    assert fault is not None
    assert "No space left on device" in str(fault)
    assert "run the same command again" in fault.problems[0].remedy


def test_so_is_one_that_arrow_met() -> None:
    with pytest.raises(OSError) as caught, LocalFileSystem().open_output_stream("/dev/full") as stream:  # noqa: PT011
        stream.write(pa.py_buffer(b"x" * 100_000))
    assert caught.value.errno == errno.ENOSPC
    assert input_fault(caught.value) is not None


def test_other_errors_are_not_made_the_users() -> None:
    assert input_fault(KeyError("x")) is None
    assert input_fault(OSError(errno.EINVAL, "x")) is None
    assert input_fault(BrokenPipeError(errno.EPIPE, "x")) is None
    known = InputError(Problem("a", "b"))
    assert input_fault(known) is known


def raised_while_handling(handled: Exception) -> ValueError:
    """A defect of the code that shows while another error is handled."""
    try:
        try:
            raise handled
        except type(handled):
            raise ValueError("a defect")  # noqa: B904
    except ValueError as error:
        return error


def test_an_error_that_was_handled_before_is_not_blamed_for_the_next() -> None:
    for handled in (InputError(Problem("a", "b")), PermissionError(errno.EACCES, "x")):
        error = raised_while_handling(handled)
        assert error.__context__ is handled
        assert input_fault(error) is None
        error.__cause__ = handled
        assert input_fault(error) is not None


def test_a_place_that_cannot_be_written_ends_a_command_with_its_name_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config, "run", lambda args: Path("/sys/none").mkdir())
    assert main(["config", "smoke"]) == 2
    shown = capsys.readouterr().err
    assert "/sys/none: Operation not permitted" in shown or "/sys/none: Permission denied" in shown
    assert "permissions" in shown
