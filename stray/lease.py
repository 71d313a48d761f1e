"""One command at a time on a folder: a lease that its holder renews while it lives, on any filesystem.

Object stores cannot create a file only where there is none, so each command writes a claim of its own below the
folder, and then lists all claims. A command that sees another living claim withdraws its own. A claim is alive while
its process runs (seen from the same machine), or while it is renewed (from another one): times are those of the
filesystem, so that the machines' clocks need not agree.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import psutil
from pyarrow import fs

from stray import storage
from stray.errors import InputError, Problem

logger = logging.getLogger(__name__)

RENEW_S = 10.0
"""Seconds between a holder's renewals of its claim."""
EXPIRY_S = 60.0
"""A claim of another machine that was not renewed for so long is that of a command that ended without a word."""
_POLL_S = 0.2


@dataclass(frozen=True)
class Claim:
    """Holder of a folder."""

    command: str
    user: str
    host: str
    machine: str
    """Identifies the running system and its process numbers: two containers of one host differ."""
    pid: int
    started: float
    """When the process started; another one may have its number later."""
    since: str
    """Local time."""
    held: bool
    """Whether it found no other claim, and holds the folder."""

    def __str__(self) -> str:
        return f"`{self.command}` of {self.user} on {self.host} (process {self.pid}), since {self.since}"

    def ended(self) -> bool:
        """Return whether its process is known to have ended; False where another machine would have to be asked."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started) > 1
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:  # another user's
            return False


@contextmanager
def lease(place: str, command: str, remedy: str, *, folder: str = ".lock") -> Iterator[None]:
    """Hold `place` (path or URI) while the block runs. Claims lie in its `folder`.

    Raises InputError, which names the holder and `remedy`, when another living command holds it. A claim of another
    machine is watched until it is renewed or expires, `EXPIRY_S` at most. A holder that finds its claim taken over,
    because it was stopped for longer, is interrupted as by Ctrl-C.
    """
    own = _Own(storage.absolute(place), storage.join(storage.absolute(place), folder), command, remedy)
    ended = threading.Event()
    try:
        own.acquire()
        thread = threading.Thread(target=own.renew, args=(ended,), daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=RENEW_S)
    finally:
        own.withdraw()


def holder(place: str, *, folder: str = ".lock") -> Claim | None:
    """Return the claim of the command that holds `place`; None where none does, or it is known to have ended."""
    with suppress(OSError):
        for _, claim, _ in _claims(storage.join(storage.absolute(place), folder)):
            if claim is not None and claim.held and not claim.ended():
                return claim
    return None


class _Own:
    def __init__(self, place: str, folder: str, command: str, remedy: str) -> None:
        self._place, self._folder, self._remedy = place, folder, remedy
        self._name = f"{uuid.uuid4().hex}.json"
        me = psutil.Process()
        self._claim = Claim(
            command, _user(), socket.gethostname(), _machine(), me.pid, me.create_time(), _now(), held=False
        )

    def acquire(self) -> None:
        """Write the claim, and wait until it is the only one."""
        self._write(held=False)
        watched: dict[str, int] = {}
        written = time.monotonic()
        while self._others(watched):
            time.sleep(_POLL_S)
            if time.monotonic() - written > RENEW_S / 2:
                self._write(held=False)
                written = time.monotonic()
        self._write(held=True)

    def _others(self, watched: dict[str, int]) -> bool:
        """Return whether there are claims to wait for. `watched` keeps when those of other machines were renewed."""
        found = list(_claims(self._folder))
        now = next((mtime for name, _, mtime in found if name == self._name), 0)
        waits = False
        for name, claim, mtime in found:
            if name == self._name:
                continue
            if (claim is not None and claim.ended()) or now - mtime > EXPIRY_S * 1e9:
                self._remove(name)
                continue
            waits = True
            if claim is not None and not claim.held:
                # Of two that begin at the same time, the first by name waits until the other has withdrawn.
                alive = name < self._name
            elif claim is not None and claim.machine == self._claim.machine:
                alive = True
            else:
                if name not in watched:
                    logger.warning(
                        "%s: waiting up to %.0f s to see whether its owner still runs: %s",
                        self._place, EXPIRY_S, claim or name,
                    )  # fmt: skip
                alive = watched.setdefault(name, mtime) != mtime
            if alive:
                raise InputError(Problem(self._place, f"is in use by {claim or name}", self._remedy))
        return waits

    def renew(self, ended: threading.Event) -> None:
        """Renew the claim until `ended`."""
        while not ended.wait(RENEW_S):
            try:
                if self._name in [name for name, _, _ in _claims(self._folder)]:
                    self._write(held=True)
                    continue
            except OSError as error:
                logger.warning("%s: the lease could not be renewed (%s); trying again", self._place, error)
                continue
            logger.error("%s: another command took the lease while this process was suspended; stopping", self._place)
            # Started in the background of a script, a process ignores Ctrl-C.
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
            return

    def withdraw(self) -> None:
        """Take the claim away."""
        self._remove(self._name)

    def _write(self, *, held: bool) -> None:
        content = json.dumps(asdict(replace(self._claim, held=held))).encode()
        storage.write_bytes(storage.join(self._folder, self._name), content)

    def _remove(self, name: str) -> None:
        filesystem, inner = storage.resolve(storage.join(self._folder, name))
        with suppress(OSError):
            filesystem.delete_file(inner)


def _claims(folder: str) -> Iterator[tuple[str, Claim | None, int]]:
    """Yield name, claim and time of the last renewal in nanoseconds; None for what cannot be read as a claim."""
    filesystem, inner = storage.resolve(folder)
    for info in filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True)):
        if info.type != fs.FileType.File or not info.base_name.endswith(".json"):
            continue
        try:
            claim = Claim(**json.loads(storage.read_bytes(storage.join(folder, info.base_name))))
        except FileNotFoundError:  # withdrawn since
            continue
        except (ValueError, TypeError):
            claim = None
        yield info.base_name, claim, info.mtime_ns or 0


@cache
def _machine() -> str:
    """Identify this running system, and the process numbers that this process sees."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in many a container
        return str(os.getuid())


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
