"""A right that one thread has at a time. Loaded in every run, so it imports nothing heavy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """A right that one thread has at a time, although it runs the user's code.

    A plain lock would hang: that code may come back to us in the same thread, or wait for another
    thread that does.
    """

    def __init__(self) -> None:
        """Begin without an owner."""
        self._lock = threading.Lock()
        self._thread: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the turn already, further up its stack."""
        return self._thread == threading.get_ident()

    @contextmanager
    def taken(self, seconds: float) -> Iterator[bool | None]:
        """Take the turn, or wait for it for so long at most; yield whether it was available.

        None is yielded in the thread that has the turn already.
        """
        if self.is_mine:
            yield None
            return
        taken = self._lock.acquire(timeout=seconds)
        if taken:
            self._thread = threading.get_ident()
        try:
            yield taken
        finally:
            if taken:
                self._thread = None
                self._lock.release()
