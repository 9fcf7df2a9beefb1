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
from typing import Any

from pytest_llmcost.counting.patience import Patience

OWN_REQUEST: ContextVar[bool] = ContextVar("pytest_llmcost_own_request", default=False)
"""True in the context that sends a request of ours, which is not billed."""
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


class NetworkBlocked(BaseException):
    """A plugin forbids connections. No Exception, for the SDK would retry and wait in vain."""


class _GivenUp(BaseException):
    """The count's time is up. No Exception, for the SDK would retry."""


def past_recorders(client: Any, patience: Patience, **options: Any) -> Any:
    """Return the same SDK client, its requests unseen by VCR: same key, address, transports.

    Options are those of its `with_options`. A client that is not the SDK's is returned as it is.
    Closing the copy closes nothing: the connections are the original's.

    Raises:
        NetworkBlocked: by the copy's requests, if a plugin forbids connections.
    """
    http_client: Any = getattr(client, "_client", None)
    copied = getattr(client, "with_options", None)
    if not hasattr(http_client, "_transport") or copied is None:
        return client
    unrecorded = copy.copy(http_client)
    unrecorded._transport = _Watched(http_client._transport, patience)
    unrecorded._mounts = {
        pattern: transport and _Watched(transport, patience)
        for pattern, transport in http_client._mounts.items()
    }
    # vcrpy 6 and 7 wrap this method of the client, later ones the transports.
    inner = _beneath_vcr(type(http_client)._send_single_request)
    unrecorded._send_single_request = MethodType(inner, unrecorded)
    return copied(http_client=unrecorded, **options)


class _Unwrapped:
    """A transport, or a connection pool, whose `handle_request` is the one before VCR."""

    def __init__(self, inner: Any, levels: int = 4) -> None:
        # Also those inside it: vcrpy 8.0 wraps httpcore's pools, which a transport keeps.
        inside = {
            name: _Unwrapped(value, levels - 1)
            for name, value in getattr(inner, "__dict__", {}).items()
            if levels and callable(getattr(type(value), "handle_request", None))
        }
        if inside:
            inner = copy.copy(inner)
            inner.__dict__.update(inside)
        self._inner = inner

    def handle_request(self, request: Any) -> Any:
        """Send, looking up the method anew: a cassette may have been opened meanwhile."""
        inner = self._inner
        try:
            return _beneath_vcr(type(inner).handle_request)(inner, request)
        except (RuntimeError, UserWarning) as error:
            if _forbids_connections(error):
                # The standard library leaves the socket open if a connect fails with no OSError;
                # its ResourceWarning fails suites that turn warnings into errors.
                for frame, _ in traceback.walk_tb(error.__traceback__):
                    left_open = frame.f_locals.get("sock")
                    if isinstance(left_open, socket.SocketType):
                        left_open.close()
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
    """A client's transport: its answers are timed, and not read at length."""

    def __init__(self, inner: Any, patience: Patience) -> None:
        super().__init__(inner)
        self._patience = patience

    def handle_request(self, request: Any) -> Any:
        """Send, unless the count was given up between two attempts of the SDK's."""
        if self._patience.left <= 0:
            raise _GivenUp
        response = super().handle_request(request)
        self._patience.hear(response)
        if not hasattr(response, "_content"):
            response.stream = _shortened(response.stream, self._patience)
        return response


def _shortened(stream: Any, patience: Patience) -> Any:
    """Return the beginning of a body: a count, or an error of the API, is far shorter."""
    kinds = (kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")
    base: Any = next(kinds, object)

    class Shortened(base):  # type: ignore[misc]
        @property
        def elapsed(self) -> Any:  # httpx2 asks its streams for it
            return getattr(stream, "elapsed", None)

        def __iter__(self) -> Iterator[bytes]:
            left = _LONGEST_BODY
            for chunk in stream:
                if patience.left <= 0:
                    raise _GivenUp
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return

        def close(self) -> None:
            stream.close()

    return Shortened()


def _beneath_vcr(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what VCR has wrapped, or the method itself if VCR has not."""
    found = method
    layer: Any = method
    while layer is not None:
        wrapped = getattr(layer, "__wrapped__", None)
        if getattr(layer, "__globals__", {}).get("__name__", "").startswith("vcr."):
            found = wrapped or found
        layer = wrapped
    return found


def _forbids_connections(error: Exception) -> bool:
    """Return whether pytest-recording (a plain RuntimeError) or pytest-socket raised this.

    pytest-socket warns first, and suites that turn warnings into errors see only that.
    """
    named = type(error).__name__ in ("SocketBlockedError", "SocketConnectBlockedError")
    return named or str(error).startswith(("Network is disabled", "A test tried to use socket"))
