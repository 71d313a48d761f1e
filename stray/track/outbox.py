"""Queue between training and a tracking server: putting is instant, sending is retried, unsent items are kept.

Delivery is in order and at least once. Unsent items lie in a spool on disk, from which they can be sent later, also
when the process is killed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from stray.errors import without_secrets
from stray.track.items import Item
from stray.track.spool import Spool

logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_BATCH = 200
"""Largest number of items that `send` gets at once."""


class Outbox:
    """Queue of items that a thread sends."""

    def __init__(
        self,
        send: Callable[[list[Item]], None],
        is_transient: Callable[[Exception], bool],
        spool: Spool,
    ) -> None:
        """Start the thread.

        Args:
            send: Sends consecutive items of one kind and run; raises when they were not taken.
            is_transient: Tells of an error of `send` whether the same items may be taken later.
            spool: Keeps the items until they are taken.
        """
        self._send, self._is_transient, self._spool = send, is_transient, spool
        self._items: deque[Item] = deque()
        self._rejected: list[Item] = []
        self._changed = threading.Condition()
        self._closing = self._given_up = False
        self._thread = threading.Thread(target=self._work, name="stray-tracking", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue an item; never blocks on the server. Raises RuntimeError after `close`."""
        with self._changed:
            if self._closing:
                raise RuntimeError("the tracking store is closed")
            self._spool.append(item)
            self._items.append(item)
            self._changed.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything put so far is sent or rejected; False when the time was not enough."""
        return self.wait_for(lambda: not self._items, timeout_seconds)

    def wait_for(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        """Wait until `condition` holds, which is checked after every send; False when the time was not enough."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_seconds)

    def close(self, timeout_seconds: float) -> Path | None:
        """Send the remaining items, and return the file of those that could not be sent; None when all were sent.

        Gives up when nothing was taken for `timeout_seconds`, however long the queue is.
        """
        with self._changed:
            if self._closing:
                return None
            self._closing = True
            self._changed.notify_all()
        left, deadline = len(self._items), time.monotonic() + timeout_seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.05)
            if len(self._items) < left:
                left, deadline = len(self._items), time.monotonic() + timeout_seconds
        with self._changed:
            self._given_up = True
            unsent = [*self._rejected, *self._items]
            if unsent and self._spool.failed:  # there may be room now
                self._spool.keep(unsent)
            self._spool.close(remove=not unsent)
        if not unsent:
            return None
        if self._spool.failed:
            logger.error("%d tracked items were not sent and could not be kept", len(unsent))
            return None
        logger.warning("%d tracked items were not sent; they are kept in %s", len(unsent), self._spool.path)
        return self._spool.file

    def _work(self) -> None:
        wait, away_since = _FIRST_WAIT_SECONDS, 0.0
        alone = 0  # so many items go one by one: a batch of them was refused
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._items) or self._closing)
                if not self._items or self._given_up:
                    return
                batch = _head(self._items, 1 if alone else _BATCH)
            try:
                self._spool.sync()
                self._send(batch)
            except Exception as error:
                if self._is_transient(error):
                    if not away_since:
                        away_since = time.monotonic()
                        what = "the tracking store does not answer; the run goes on, metrics wait (%s)"
                        logger.warning(what, _said(error))
                    with self._changed:
                        # Woken early by closing only: a new item is no reason to knock again.
                        closing = self._closing
                        self._changed.wait_for(lambda: self._closing and not closing, wait)  # noqa: B023
                    wait = min(2 * wait, _LONGEST_WAIT_SECONDS if not self._closing else 1.0)
                    continue
                if len(batch) > 1:
                    alone = len(batch)
                    continue
                logger.warning("the tracking store refused %s of a run: %s", batch[0].kind, _said(error))
                self._rejected.extend(batch)
            if away_since:
                logger.warning("the tracking store answers again after %.0f s", time.monotonic() - away_since)
            wait, away_since, alone = _FIRST_WAIT_SECONDS, 0.0, max(alone - 1, 0)
            with self._changed:
                for _ in batch:
                    self._items.popleft()
                if not self._items and not self._given_up:
                    self._spool.keep(self._rejected)
                self._changed.notify_all()


def _head(items: Iterable[Item], most: int) -> list[Item]:
    batch: list[Item] = []
    for item in items:
        if batch and (item.kind != batch[0].kind or item.run != batch[0].run or len(batch) == most):
            break
        batch.append(item)
    return batch


def _said(error: Exception) -> str:
    return without_secrets(str(error).strip().partition("\n")[0] or type(error).__name__)
