"""Requests of our own go out past every recorder: VCR's patches, and our own capture.

VCR patches the transports of httpx and httpx2 for the whole process while a cassette is open. A
count must not be answered from, or written into, a user's cassette; and a cassette of ours
would catch their concurrent requests. So no patch is touched and no cassette opened: the
client is copied with transports that call what VCR has wrapped.

Capture asks `OWN_REQUEST` whether the request that passes is one of ours.
"""

from __future__ import annotations

import copy
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import Any, Protocol

OWN_REQUEST: ContextVar[bool] = ContextVar("pytest_llmcost_own_request", default=False)
"""True in the context that sends a request of ours, which nobody is billed for."""
_LONGEST_BODY = 65_536
"""Bytes of a body, as sent; packed by gzip, they unpack to 64 MB at most."""


@contextmanager
def own_request() -> Iterator[None]:
    """Mark what is sent inside as ours."""
    token = OWN_REQUEST.set(True)
    try:
        yield
    finally:
        OWN_REQUEST.reset(token)


class Watcher(Protocol):
    """Who waits for an answer."""

    left: float
    """The seconds for which it still waits."""

    def hear(self, response: Any) -> None:
        """An answer's status and headers are there."""


def past_recorders(client: Any, watcher: Watcher, **options: Any) -> Any:
    """The same SDK client, its requests unseen by VCR: same key, address, transport, settings.

    Options are those of its `with_options`. Returned as it is where it is none of the SDK's.
    Closing the copy closes nothing: the connections are the original's.

    Raises:
        NetworkBlocked: by the copy's requests, where a plugin forbids connections.
    """
    http_client = getattr(client, "_client", None)
    copied = getattr(client, "with_options", None)
    if not hasattr(http_client, "_transport") or copied is None:
        return client
    return copied(http_client=_unrecorded(http_client, watcher), **options)


def _unrecorded(http_client: Any, watcher: Watcher) -> Any:
    """A copy of an httpx or httpx2 client on the same, unwrapped transports."""
    unrecorded = copy.copy(http_client)
    unrecorded._transport = _Watched(_Unwrapped.around(http_client._transport), watcher)
    unrecorded._mounts = {
        pattern: transport and _Watched(_Unwrapped.around(transport), watcher)
        for pattern, transport in http_client._mounts.items()
    }
    # vcrpy 6 and 7 wrap this method of the client, later ones the transports.
    inner = _beneath_vcr(type(http_client)._send_single_request)
    unrecorded._send_single_request = MethodType(inner, unrecorded)
    return unrecorded


class NetworkBlocked(BaseException):
    """A plugin forbids connections. No Exception, for the SDK would retry and wait in vain."""


class _GivenUp(BaseException):
    """Nobody waits any more. No Exception, for the SDK would retry."""


class _Unwrapped:
    """A transport, or a connection pool, whose `handle_request` is the one before VCR."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def around(cls, transport: Any, levels: int = 4) -> _Unwrapped:
        """Wrap a transport, and those inside it (vcrpy 8.0 wraps httpcore's pools)."""
        inside = {
            name: cls.around(value, levels - 1)
            for name, value in getattr(transport, "__dict__", {}).items()
            if levels and callable(getattr(type(value), "handle_request", None))
        }
        if inside:
            transport = copy.copy(transport)
            transport.__dict__.update(inside)
        return cls(transport)

    def handle_request(self, request: Any) -> Any:
        """Send, looking up the method anew: a cassette may have been opened meanwhile."""
        inner = self._inner
        try:
            return _beneath_vcr(type(inner).handle_request)(inner, request)
        except (RuntimeError, UserWarning) as error:
            if _forbids_connections(error):
                _close_sockets(error)
                raise NetworkBlocked(str(error)) from None
            raise

    def __enter__(self) -> _Unwrapped:
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the connections open: they are the original client's."""

    def close(self) -> None:
        """Leave the connections open: they are the original client's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Watched(_Unwrapped):
    """A client's transport: what it answers is watched, and not read at length."""

    def __init__(self, inner: _Unwrapped, watcher: Watcher) -> None:
        super().__init__(inner)
        self._watcher = watcher

    def handle_request(self, request: Any) -> Any:
        """Send, unless the count was given up between two attempts of the SDK's."""
        if self._watcher.left <= 0:
            raise _GivenUp
        response = self._inner.handle_request(request)
        self._watcher.hear(response)
        if not hasattr(response, "_content"):
            response.stream = _shortened(response.stream, self._watcher)
        return response


def _shortened(stream: Any, watcher: Watcher) -> Any:
    """The beginning of a body. A count, or an error of the API, is far shorter than this."""
    kinds = (kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")
    base: Any = next(kinds, object)

    class Shortened(base):  # type: ignore[misc]
        @property
        def elapsed(self) -> Any:  # httpx2 asks its streams for it
            return getattr(stream, "elapsed", None)

        def __iter__(self) -> Iterator[bytes]:
            left = _LONGEST_BODY
            for chunk in stream:
                if watcher.left <= 0:
                    raise _GivenUp
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return

        def close(self) -> None:
            stream.close()

    return Shortened()


def _beneath_vcr(method: Callable[..., Any]) -> Callable[..., Any]:
    """What VCR has wrapped, or the method itself where it has not."""
    found = method
    layer: Any = method
    while layer is not None:
        wrapped = getattr(layer, "__wrapped__", None)
        if getattr(layer, "__globals__", {}).get("__name__", "").startswith("vcr."):
            found = wrapped or found
        layer = wrapped
    return found


def _forbids_connections(error: Exception) -> bool:
    """Whether pytest-recording (a plain RuntimeError) or pytest-socket raised this.

    pytest-socket warns first, and suites that turn warnings into errors see only that.
    """
    named = type(error).__name__ in ("SocketBlockedError", "SocketConnectBlockedError")
    return named or str(error).startswith(("Network is disabled", "A test tried to use socket"))


def _close_sockets(error: Exception) -> None:
    """Close what the standard library leaves open when a connect fails with no OSError.

    Otherwise the socket's ResourceWarning would be the news in suites with warnings as errors.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        left_open = frame.f_locals.get("sock")
        if isinstance(left_open, socket.SocketType):
            left_open.close()
