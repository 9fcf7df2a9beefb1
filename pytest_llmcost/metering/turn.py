"""Turn: work that one thread does at a time, although it runs code of the user's.

A plain lock would hang: the user's code may come back to us in the same thread, or wait for
another thread that does. So whoever has the turn is told so, and nobody waits without end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """A right that one thread has at a time."""

    def __init__(self) -> None:
        """Begin with no thread at it."""
        self._lock = threading.Lock()
        self._thread: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether this thread is at it already, further up its stack."""
        return self._thread == threading.get_ident()

    @contextmanager
    def taken(self, seconds: float) -> Iterator[bool]:
        """Take the turn, or wait for it so long at most; gives whether it was there to take."""
        taken = self._lock.acquire(timeout=seconds)
        if taken:
            self._thread = threading.get_ident()
        try:
            yield taken
        finally:
            if taken:
                self._thread = None
                self._lock.release()
