"""httpx and httpx2: `send` of clients and transports, and the streams of their responses.

The code under test gets the very same bytes at the very same time; nothing is read ahead, read
twice, or kept. Compressed bodies are decompressed a second time for us, so that it does not matter
whether the caller iterates over raw or decoded bytes.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.lost_answer import read_failure, was_on_the_wire
from pytest_llmcost.capture.transports import CURRENT, begin, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_CLASSES = ("Client", "AsyncClient", "SyncByteStream", "AsyncByteStream")
_MOCKS = ("MockTransport", "ASGITransport", "WSGITransport")
_OWN = ("HTTPTransport", "AsyncHTTPTransport")
_sending: dict[int, CapturedRequest] = {}
"""By the id of the library's object, what is being sent: a transport may do so in another thread,
where `CURRENT` is not set."""


def wrap(module: ModuleType) -> None:
    """Wrap `send` of both clients, unless the module is a test's stub of that name."""
    if all(isinstance(getattr(module, name, None), type) for name in _CLASSES):
        library = _Library(module)
        wrap_method(module.Client, "send", library.wrap_send)
        wrap_method(module.AsyncClient, "send", library.wrap_async_send)
        # A redirect to Claude, and a transport that is used without a client. Inside a call that
        # is followed already, its client reads the answer.
        for transport in (*library.mocks, *library.own):
            handle = functools.partial(library.wrap_send, is_outermost=True)
            wrap_method(transport, "handle_request", handle)
            handle = functools.partial(library.wrap_async_send, is_outermost=True)
            wrap_method(transport, "handle_async_request", handle)


class _Library:
    """One of the two libraries."""

    def __init__(self, module: ModuleType) -> None:
        """Make the tee classes once; one for each response would cost more than reading it."""
        self.async_stream = module.AsyncByteStream
        # httpx asks a stream for its base class before it iterates over it.
        self.tee = type("Tee", (_Tee, module.SyncByteStream), {})
        self.async_tee = type("AsyncTee", (_Tee, module.AsyncByteStream), {})
        self.mocks, self.own = (
            tuple(getattr(module, name) for name in names if hasattr(module, name))
            for names in (_MOCKS, _OWN)
        )

    def wrap_send(
        self, original: Callable[..., Any], *, is_outermost: bool = False
    ) -> Callable[..., Any]:
        @functools.wraps(original)
        def send(client: Any, request: Any = None, **options: Any) -> Any:
            __tracebackhide__ = True
            above = _sending.get(id(request)) if is_outermost and not CURRENT.get() else None
            if above is not None:
                with _inside(above):
                    response = original(client, request, **options)
                above.is_on_wire |= "network_stream" in response.extensions
                return response
            captured = _begin(client, request, is_outermost)
            if captured is None:
                return original(client, request, **options)
            try:
                with _inside(captured):
                    response = original(client, request, **options)
            except BaseException as error:
                captured.do(_failed, self, request, error)
                raise
            captured.do(_answered, self, request, response)
            return response

        return send

    def wrap_async_send(
        self, original: Callable[..., Any], *, is_outermost: bool = False
    ) -> Callable[..., Any]:
        @functools.wraps(original)
        async def send(client: Any, request: Any = None, **options: Any) -> Any:
            __tracebackhide__ = True
            above = _sending.get(id(request)) if is_outermost and not CURRENT.get() else None
            if above is not None:
                with _inside(above):
                    response = await original(client, request, **options)
                above.is_on_wire |= "network_stream" in response.extensions
                return response
            captured = _begin(client, request, is_outermost)
            if captured is None:
                return await original(client, request, **options)
            try:
                with _inside(captured):
                    response = await original(client, request, **options)
            except BaseException as error:
                captured.do(_failed, self, request, error)
                raise
            captured.do(_answered, self, request, response)
            return response

        return send

    def is_live(self, client: Any, request: Any, response: Any, error: Any = None) -> bool | None:
        """Tell whether a request went over the network in this run; None if nothing tells.

        A response from a socket carries httpcore's `network_stream`; replayed and mocked ones do
        not: right in all cases tried, vcrpy 8 and 9, respx and pytest-httpx included. Without a
        response the exception tells: a mock's has not been where sockets are.
        """
        if response is not None and "network_stream" in response.extensions:
            return True
        # Private, but the one way to the transport that serves this URL, in all versions tried.
        find = getattr(client, "_transport_for_url", None)
        transport = client if find is None else find(request.url)
        if isinstance(transport, self.mocks):
            return False
        if response is None and isinstance(transport, self.own) and error is not None:
            return was_on_the_wire(error)
        # The library's own transport, but no socket: patched, to replay or to mock.
        return False if type(transport) in self.own and response is not None else None


@contextmanager
def _inside(captured: CapturedRequest) -> Iterator[None]:
    outer, key = CURRENT.get(), id(captured.source)
    is_first = key not in _sending
    CURRENT.set(captured)
    _sending[key] = captured
    try:
        yield
    finally:
        CURRENT.set(outer)  # no token: a loop may end this in another context
        if is_first:
            _sending.pop(key, None)


def _begin(client: Any, request: Any, is_outermost: bool) -> CapturedRequest | None:
    if request is None or (is_outermost and CURRENT.get() is not None):
        return None  # without a request the library's own error says what is missing
    return begin(
        request,
        client=client,
        method=request.method,
        url=str(request.url),
        headers=request.headers,
        # Private: `content` raises for a body that is a stream, which is left alone.
        sent=getattr(request, "_content", b""),
    )


def _failed(captured: CapturedRequest, library: _Library, request: Any, error: Any) -> None:
    failure = read_failure(error)
    response = failure.response
    if response is not None and (_content(response) is not None or response.status_code >= 300):
        _answered(captured, library, request, response)
        return
    captured.failed(
        may_be_billed=failure.may_be_billed,
        is_seen=failure.is_seen,
        live=_is_live(captured, library, request, response, error),
    )


def _answered(captured: CapturedRequest, library: _Library, request: Any, response: Any) -> None:
    captured.answered(
        status=response.status_code,
        headers=response.headers,
        live=_is_live(captured, library, request, response),
        content=_content(response),
    )
    if not captured.is_over:
        # No pickle of a response contains its stream.
        inner = response.stream
        tee = library.async_tee if isinstance(inner, library.async_stream) else library.tee
        response.stream = tee(inner, captured, _decoder(response))


def _is_live(captured: CapturedRequest, library: _Library, *facts: Any) -> bool | None:
    # A transport of another's may send through a library that shows it, such as aiohttp.
    live = library.is_live(captured.client, *facts)
    return captured.is_on_wire or None if live is None else live


def _content(response: Any) -> bytes | None:
    """Return the body if it has been read. Private: `content` raises if it has not."""
    content: bytes | None = getattr(response, "_content", None)
    return content


def _decoder(response: Any) -> Any:
    """Return what undoes the content encoding, with a state of its own; None for none."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.strip().lower() in ("", "identity"):
        return None
    twin = type(response)(200, headers={"content-encoding": encoding})
    return twin._get_content_decoder()  # private in both libraries, and the same since httpx 0.13


class _Tee:
    """A response's stream that lets the captured request read along; sync or not, as its base."""

    def __init__(self, inner: Any, captured: CapturedRequest, decoder: Any) -> None:
        self._inner = inner
        self._captured = captured
        self._decoder = decoder

    @property
    def elapsed(self) -> Any:
        """What httpx2 asks its streams for.

        No `__getattr__`: the SDK asks the stream for an attribute of its own at every event, and
        that would cost more than all our reading.
        """
        return getattr(self._inner, "elapsed", None)

    def __iter__(self) -> Iterator[bytes]:
        return _Passing(iter(self._inner), self)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Passing(aiter(self._inner), self)

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._captured.close(is_whole=False)

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._captured.close(is_whole=False)

    def pass_on(self, chunk: bytes) -> bytes:
        if self._decoder is None:
            self._captured.feed(chunk)
        else:
            self._decode(self._decoder.decode, chunk)
        return chunk

    def end(self, error: BaseException) -> None:
        is_whole = isinstance(error, (StopIteration, StopAsyncIteration))
        if is_whole and self._decoder is not None:
            self._decode(self._decoder.flush)
        self._captured.close(is_whole=is_whole)

    def _decode(self, step: Callable[..., Any], *chunk: bytes) -> None:
        if self._captured.is_over:
            return
        try:
            decoded = step(*chunk)  # httpx's decoders return bytes, httpx2's yield pieces
            for piece in [decoded] if isinstance(decoded, bytes) else decoded:
                self._captured.feed(piece)
        except Exception:  # noqa: BLE001 - zlib, brotli and zstd each raise their own
            # The caller's own decoder meets the same bytes and says what is wrong with them.
            self._captured.close(is_whole=False)


class _Passing:
    """An iterator, not a generator: abandoned, it leaves nothing to be collected late.

    It passes for an async generator, for httpx2 closes those.
    """

    def __init__(self, inner: Any, tee: _Tee) -> None:
        self._inner = inner
        self._tee = tee

    def __iter__(self) -> _Passing:
        return self

    def __next__(self) -> bytes:
        __tracebackhide__ = True
        try:
            chunk = next(self._inner)
        except BaseException as error:
            self._tee.end(error)
            raise
        return self._tee.pass_on(chunk)

    def __aiter__(self) -> _Passing:
        return self

    async def __anext__(self) -> bytes:
        __tracebackhide__ = True
        try:
            chunk = await anext(self._inner)
        except BaseException as error:
            self._tee.end(error)
            raise
        return self._tee.pass_on(chunk)

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> Any:
        return await self._inner.athrow(*error)

    async def aclose(self) -> None:
        if hasattr(self._inner, "aclose"):
            await self._inner.aclose()
