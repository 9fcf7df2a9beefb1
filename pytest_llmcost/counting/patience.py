"""Turn: work that one thread does at a time, although it runs code of the user's.

A plain lock would hang: the user's code may come back to us in the same thread, or wait for
another thread that does. So whoever has the turn is told so, and nobody waits without end.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from pytest_llmcost.counting.api_error import pause_of, show_seconds
from pytest_llmcost.errors import CountError


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


SILENT_SECONDS = 5.0
"""Only what takes longer is worth a line on the terminal."""
_LOOK_SECONDS = 0.25
_RETRIED = (408, 409, 429)

T = TypeVar("T")


class Patience:
    """What is left of the time that one count may take, over all its requests."""

    def __init__(self, seconds: float, tell: Callable[[str], None] | None = None) -> None:
        """Allow so many seconds; `tell` is told what is waited for once that takes a while."""
        self.seconds = self.left = seconds
        self._tell = tell
        self._heard = ""

    def wait(self, future: Future[T], *, model: str, host: str) -> None:
        """Return when a future is done.

        The time is what was spent waiting here, not what a clock says: tests stop the clock.

        Raises:
            CountError: the time is up.
        """
        while not future.done():
            if self.left <= 0:
                raise CountError(
                    f"{host} did not count a payload of {model} within "
                    f"{self.seconds:g} s{self._heard}; run again, or allow a count more time "
                    "with --llmcost-count-timeout=SECONDS",
                    may_pass=True,
                )
            seconds = min(_LOOK_SECONDS, self.left)
            if not wait([future], timeout=seconds).done:
                self.left -= seconds
            if self._tell is not None and self.seconds - self.left >= SILENT_SECONDS:
                self._tell(
                    f"llmcost: waiting for {host} to count a payload of {model}{self._heard}, "
                    f"for {self.seconds:g} s at most (--llmcost-count-timeout)"
                )
                self._tell = None

    def hear(self, response: Any) -> None:
        """Note an answer; let the SDK not try again if it would have to wait for too long."""
        status, seconds = response.status_code, pause_of(response.headers)
        if not (status in _RETRIED or status >= 500):
            self._heard = ""
            return
        pause = "" if seconds is None else f", try again in {show_seconds(seconds)} s"
        self._heard = f" (it answered {status}{pause})"
        if seconds is not None and seconds > self.left:
            response.headers["x-should-retry"] = "false"


def start(work: Callable[[], T]) -> Future[T]:
    """Do some work in a thread that nobody has to wait for, not even the end of the process."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - whoever waits is to have it
            future.set_exception(error)

    threading.Thread(target=run, name="llmcost-count", daemon=True).start()
    return future
