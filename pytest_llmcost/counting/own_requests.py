"""Requests of our own: past every recorder and our own capture, and ended in their time.

VCR patches the transports of httpx and httpx2 for the whole process while a cassette is open. A
count must not be answered from, or written into, a user's cassette; and a cassette of ours
would catch their concurrent requests. So no patch is touched and no cassette opened: the
client is copied with transports that call what VCR has wrapped.
"""

from __future__ import annotations

import contextvars
import copy
import math
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from types import MethodType
from typing import Any, TypeVar

from pytest_llmcost.errors import CountError

OWN_REQUEST = contextvars.ContextVar("pytest_llmcost_own_request", default=False)
"""True in the context that sends a request of ours, which is not billed; capture asks for it."""
SILENT_SECONDS = 5.0
"""Only what takes longer is worth a line on the terminal."""
_LOOK_SECONDS = 0.25
_LONGEST_BODY = 65_536
"""Bytes of a body, as sent; packed by gzip, they unpack to 64 MB at most."""
T = TypeVar("T")


class Patience:
    """What is left of the time that one count may take, over all its requests."""

    def __init__(
        self,
        seconds: float,
        show: Callable[[str], None] | None = None,
        *,
        retries: int | None = None,
    ) -> None:
        """Allow so many seconds; `show` is given a line about a wait that takes a while.

        `retries` is how often the SDK tries again, by default as the client is set.
        """
        self.seconds = self.left = seconds
        self.retries = retries
        self._show = show
        self._last_answer = ""

    def wait(self, future: Future[T], *, model: str, host: str) -> None:
        """Return when a future is done.

        The time is what was spent waiting here, not what a clock says: tests stop the clock.

        Raises:
            CountError: the time is up.
        """
        while not future.done() and self.left > 0:
            seconds = min(_LOOK_SECONDS, self.left)
            if not wait([future], timeout=seconds).done:
                self.left -= seconds
            if self._show is not None and self.seconds - self.left >= SILENT_SECONDS:
                self._show(
                    f"llmcost: waiting for {host} to count a payload of {model}"
                    f"{self._last_answer}, for {self.seconds:g} s at most (--llmcost-count-timeout)"
                )
                self._show = None
        # Its thread may see first that the time is up, which may be another count's.
        if not future.done() or isinstance(future.exception(), _GivenUp):
            raise CountError(
                f"{host} did not count a payload of {model} within {self.seconds:g} s"
                f"{self._last_answer}; run again, or allow a count more time with "
                "--llmcost-count-timeout=SECONDS",
                foreign=(host,),
            )

    def note(self, response: Any) -> None:
        """Note an answer; keep the SDK from trying again if it would have to wait for too long."""
        status, seconds = response.status_code, pause_of(response.headers)
        self._last_answer = ""
        if status in (408, 409, 429) or status >= 500:  # which the SDK tries again
            pause = "" if seconds is None else f", try again in {seconds:,.9g} s"
            self._last_answer = f" (it answered {status}{pause})"
            if seconds is not None and seconds > self.left:
                response.headers["x-should-retry"] = "false"


def pause_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait, if it says so in numbers."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        stated = headers.get(name, "")
        with suppress(ValueError):
            seconds = float(stated) / scale
            return None if math.isnan(seconds) else max(0.0, seconds)
    return None


def start(work: Callable[[], T], future: Future[T]) -> None:
    """Do some work in a thread that nothing waits for, not even the end of the process."""
    context = contextvars.copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="llmcost-count", daemon=True).start()
    except RuntimeError as error:  # there are too many threads
        future.set_exception(error)


class NetworkBlocked(BaseException):
    """A plugin forbids connections. No Exception, for the SDK would retry and wait in vain."""


class _GivenUp(BaseException):
    """The count's time is up. No Exception, for the SDK would retry."""


def past_recorders(client: Any, patience: Patience) -> Any:
    """Return the same SDK client, its requests unseen by VCR: same key, address, transports.

    A client that is not the SDK's is returned as it is. Closing the copy closes nothing: the
    connections are the original's.

    Raises:
        NetworkBlocked: by the copy's requests, if a plugin forbids connections.
    """
    # `_client` is the SDK's HTTP client; `_transport` and `_mounts` are httpx's and httpx2's.
    http_client: Any = getattr(client, "_client", None)
    copied = getattr(client, "with_options", None)
    if not hasattr(http_client, "_transport") or copied is None:
        return client
    unrecorded = copy.copy(http_client)
    unrecorded._transport = _Unrecorded(http_client._transport, patience)
    unrecorded._mounts = {
        pattern: transport and _Unrecorded(transport, patience)
        for pattern, transport in http_client._mounts.items()
    }
    # vcrpy 6 and 7 wrap this method of the client, later ones the transports.
    inner = _beneath_vcr(type(http_client)._send_single_request)
    unrecorded._send_single_request = MethodType(inner, unrecorded)
    options = {} if patience.retries is None else {"max_retries": patience.retries}
    return copied(http_client=unrecorded, **options)


class _Unrecorded:
    """A transport, or a pool inside one, whose `handle_request` is the one before VCR.

    With a patience, which the client's own transports have, an answer is read here, in its time
    and only its beginning: a count, or an error of the API, is far shorter.
    """

    def __init__(self, inner: Any, patience: Patience | None = None, levels: int = 4) -> None:
        # Also those inside it: vcrpy 8.0 wraps httpcore's pools, which a transport keeps.
        inside = {
            name: _Unrecorded(value, levels=levels - 1)
            for name, value in getattr(inner, "__dict__", {}).items()
            if levels and callable(getattr(type(value), "handle_request", None))
        }
        if inside:
            inner = copy.copy(inner)
            inner.__dict__.update(inside)
        self._inner, self._patience = inner, patience

    def handle_request(self, request: Any) -> Any:
        """Send, looking up the method anew: a cassette may have been opened meanwhile."""
        inner, patience = self._inner, self._patience
        if patience is not None and patience.left <= 0:  # between two attempts of the SDK's
            raise _GivenUp
        try:
            response = _beneath_vcr(type(inner).handle_request)(inner, request)
        except (RuntimeError, UserWarning) as error:
            # pytest-recording raises a plain RuntimeError. pytest-socket warns before it raises,
            # and suites that turn warnings into errors see only that.
            if not str(error).startswith(("Network is disabled", "A test tried to use socket")):
                raise
            # The standard library leaves the socket open if a connect fails with no OSError;
            # its ResourceWarning fails suites that turn warnings into errors.
            for frame, _ in traceback.walk_tb(error.__traceback__):
                left_open = frame.f_locals.get("sock")
                if isinstance(left_open, socket.SocketType):
                    left_open.close()
            raise NetworkBlocked(str(error)) from None
        if patience is None:
            return response
        patience.note(response)
        if not hasattr(response, "_content"):  # httpx's, of a body that its transport has read
            body = b""
            with closing(response.stream):
                for chunk in response.stream:
                    if patience.left <= 0:
                        raise _GivenUp
                    body += chunk
                    if len(body) >= _LONGEST_BODY:
                        break
            # Of httpx or of httpx2, each of which takes no other's streams.
            response.stream = type(response)(200, content=body[:_LONGEST_BODY]).stream
        return response

    def close(self) -> None:
        """Leave the connections open: they are the original client's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _beneath_vcr(method: Any) -> Any:
    """Return what VCR has wrapped, or the method itself if VCR has not."""
    found = layer = method
    while inner := getattr(layer, "__wrapped__", None):
        if getattr(layer, "__globals__", {}).get("__name__", "").startswith("vcr."):
            found = inner
        layer = inner
    return found
