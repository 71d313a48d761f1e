"""Peak memory of this process, all that it started, and Ray's object store. Linux only."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

SHORTEST_S, LONGEST_S = 0.5, 5.0
"""Between two looks."""
MOST = 0.05
"""Share of the time that looking may take, within these: the kernel walks all pages of large processes, which wait."""


class PeakMemory:
    """A context manager whose `peak_bytes` is the most that was seen, looked at every half second, or less often where
    that takes long, and at the end.

    The proportional set size (PSS: pages that several processes share count once) of this process and of all its
    descendants, without shared memory, and the pages of the object store that were ever written: the store keeps them.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stray-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        over = False
        while True:
            started = time.perf_counter()
            self.peak_bytes = max(self.peak_bytes, memory_bytes(os.getpid()))
            if over:
                return
            pause_s = (time.perf_counter() - started) / MOST
            over = self._stop.wait(min(max(SHORTEST_S, pause_s), LONGEST_S))


def memory_bytes(pid: int) -> int:
    """Return the memory of process `pid`, its descendants and their object store now, as `PeakMemory` counts."""
    total, stores = 0, {}
    for process in _tree(pid):
        try:
            total += _private(process)
            stores |= dict(_stores(process))
        except OSError:
            continue  # it has ended, or it is another user's
    return total + sum(stores.values())


def _tree(pid: int) -> list[int]:
    """Return `pid` and its descendants."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            # The name in parentheses may hold spaces; the state and the parent follow it.
            children[int(stat.rpartition(")")[2].split()[1])].append(int(entry.name))
    found = [pid]
    for process in found:
        found += children[process]
    return found


def _private(pid: int) -> int:
    """Return the PSS of a process in bytes, without shared memory."""
    lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return 1024 * (kib["Pss"] - kib.get("Pss_Shmem", 0))


def _stores(pid: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield the object stores that a raylet holds open, by device and inode, and the bytes of their written pages."""
    if (Path("/proc") / str(pid) / "comm").read_text().strip() != "raylet":
        return
    for link in (Path("/proc") / str(pid) / "fd").iterdir():
        if os.readlink(link).startswith("/dev/shm/"):
            stat = link.stat()  # of the file behind it, which has no name any more
            yield (stat.st_dev, stat.st_ino), 512 * stat.st_blocks
