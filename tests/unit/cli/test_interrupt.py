"""Ctrl-C ends a command in bounded time whatever its code does with it, and a second one ends it at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from stray.on_ray import ending
ending.CLOSE_S = {close}
ending.end_on_interrupt()
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("unwinding", flush=True)
    time.sleep(60)
"""


def command(close: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(close=close)], stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(("close", "second"), [(0.2, False), (60.0, True)], ids=["it is lost", "pressed twice"])
def test_ctrl_c_ends_a_command_that_does_not_unwind(close: float, second: bool) -> None:
    with command(close) as process:
        assert read(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert read(process) == "unwinding"
        if second:
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
