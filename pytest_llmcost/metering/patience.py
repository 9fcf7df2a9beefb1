"""Patience: how long one count may take in all, whatever the server does.

The SDK bounds each read and each retry, but not their sum: a server that drips, or asks for a
pause of a month, has it wait for as long as it likes. So it works in a thread of its own, and is
waited for no longer than this.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from pytest_llmcost.errors import CountError
from pytest_llmcost.metering.api_error import pause_of, show_seconds

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
