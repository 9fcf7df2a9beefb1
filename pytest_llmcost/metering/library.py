"""Library: what capture must know of httpx and httpx2, once each has been imported.

anthropic 0.x speaks httpx, 1 and later httpx2; both have the same classes by the same names.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from pytest_llmcost.metering.lostanswer import was_on_the_wire
from pytest_llmcost.metering.tee import Listener, async_tee, decoding_of, sync_tee

_CLASSES = ("Client", "AsyncClient", "SyncByteStream", "AsyncByteStream")
_MOCKS = ("MockTransport", "ASGITransport", "WSGITransport")
_OWN = ("HTTPTransport", "AsyncHTTPTransport")


class Library:
    """One HTTP library: its tees, and what tells a live response from another."""

    def __init__(self, module: ModuleType) -> None:
        """Make the tee classes once; one for each response would cost more than reading it."""
        self._async_stream = module.AsyncByteStream
        self._sync_tee = sync_tee(module.SyncByteStream)
        self._async_tee = async_tee(module.AsyncByteStream)
        self._mocks = _transports(module, _MOCKS)
        self._own = _transports(module, _OWN)

    def attach(self, response: Any, listener: Listener) -> None:
        """Let a listener read along while somebody reads this response, for the first time.

        Only `response.stream` is replaced, which no pickle of a response contains.
        """
        inner = response.stream
        tee = self._async_tee if isinstance(inner, self._async_stream) else self._sync_tee
        response.stream = tee(inner, listener, decoding_of(response))

    def is_live(
        self, client: Any, request: Any, response: Any, error: BaseException | None = None
    ) -> bool | None:
        """Tell whether a request went over the network in this run; None where nothing tells.

        One that came over a socket carries httpcore's `network_stream`; replayed and mocked ones
        do not: right in all cases tried, vcrpy 8 and 9, respx and pytest-httpx included. Without
        a response the exception tells: a mock's has not been where sockets are.
        """
        if response is not None and "network_stream" in response.extensions:
            return True
        find = getattr(client, "_transport_for_url", None)
        transport = find(request.url) if find is not None else None
        if isinstance(transport, self._mocks):
            return False
        if response is None and isinstance(transport, self._own) and error is not None:
            return was_on_the_wire(error)
        # The library's own transport, but no socket: patched, to replay or to mock.
        return False if type(transport) in self._own and response is not None else None


def is_http_library(module: ModuleType) -> bool:
    """Tell whether a module of that name is what we take it for, and not a stub of a test's."""
    return all(isinstance(getattr(module, name, None), type) for name in _CLASSES)


def _transports(module: ModuleType, names: tuple[str, ...]) -> tuple[type, ...]:
    return tuple(getattr(module, name) for name in names if hasattr(module, name))
