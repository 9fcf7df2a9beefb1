"""Waiting for the API that ends, whatever the server does."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from pytest_llmcost.counting.api_error import pause_of, show_seconds
from pytest_llmcost.errors import CountError

SILENT_SECONDS = 5.0
"""Only what takes longer is worth a line on the terminal."""
_LOOK_SECONDS = 0.25
T = TypeVar("T")


class Patience:
    """What is left of the time that one count may take, over all its requests."""

    def __init__(self, seconds: float, show: Callable[[str], None] | None = None) -> None:
        """Allow so many seconds; `show` is given a line about a wait that takes a while."""
        self.seconds = self.left = seconds
        self._show = show
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
            if self._show is not None and self.seconds - self.left >= SILENT_SECONDS:
                self._show(
                    f"llmcost: waiting for {host} to count a payload of {model}{self._heard}, "
                    f"for {self.seconds:g} s at most (--llmcost-count-timeout)"
                )
                self._show = None

    def hear(self, response: Any) -> None:
        """Note an answer; keep the SDK from trying again if it would have to wait for too long."""
        status, seconds = response.status_code, pause_of(response.headers)
        self._heard = ""
        if status in (408, 409, 429) or status >= 500:  # which the SDK tries again
            pause = "" if seconds is None else f", try again in {show_seconds(seconds)} s"
            self._heard = f" (it answered {status}{pause})"
            if seconds is not None and seconds > self.left:
                response.headers["x-should-retry"] = "false"


def start(work: Callable[[], T]) -> Future[T]:
    """Do some work in a thread that nothing waits for, not even the end of the process."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            future.set_exception(error)

    threading.Thread(target=run, name="llmcost-count", daemon=True).start()
    return future
