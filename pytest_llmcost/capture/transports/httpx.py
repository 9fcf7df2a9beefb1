"""httpx and httpx2: `send` of clients and transports, the streams of responses, and the wire below.

The code under test gets the very same bytes at the very same time; nothing is read ahead, read
twice, or kept. Compressed bodies are decompressed a second time for us, so that it does not matter
whether the caller iterates over raw or decoded bytes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.headers import HEADERS, read_headers
from pytest_llmcost.capture.lost_answer import is_before_body, note_failure, read_failure
from pytest_llmcost.capture.transports import CURRENT, begin, being_sent, passed_on, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_CLASSES = ("Client", "AsyncClient", "SyncByteStream", "AsyncByteStream")
_MOCKS = ("MockTransport", "ASGITransport", "WSGITransport")
_OWN = ("HTTPTransport", "AsyncHTTPTransport")
_CONNECTIONS = ("HTTPConnection", "TunnelHTTPConnection", "Socks5Connection")
_HEADERS = {name.encode(): name for name in HEADERS}
_sending: dict[int, CapturedRequest] = {}
"""By the id of the library's object, what is being sent: a transport may do so in another thread,
where `CURRENT` is not set."""


def wrap(module: ModuleType) -> None:
    """Wrap `send` of both clients, unless the module is a test's stub of that name.

    Of httpcore and httpcore2, wrap the connections. All recorders and mocks are above them, so what
    comes there is live; and they are opened inside these methods, so what is refused has not even
    opened one.
    """
    if module.__name__.startswith("httpcore"):
        for kind in _CONNECTIONS:
            wrap_method(getattr(module, kind, None), "handle_request", _wrap_wire)
            wrap_method(getattr(module, f"Async{kind}", None), "handle_async_request", _wrap_wire)
    elif module.__name__.startswith("pytest_httpx"):
        # It puts these, which are private, in the place of the transports' methods below.
        mock, library = getattr(module, "HTTPXMock", None), _Library(sys.modules["httpx"])
        wrap_method(mock, "_handle_request", partial(_wrap_mock, library.wrap_send))
        wrap_method(mock, "_handle_async_request", partial(_wrap_mock, library.wrap_async_send))
    elif all(isinstance(getattr(module, name, None), type) for name in _CLASSES):
        library = _Library(module)
        wrap_method(module.Client, "send", library.wrap_send)
        wrap_method(module.AsyncClient, "send", library.wrap_async_send)
        # A redirect to Claude, and a transport that is used without a client.
        for transport in library.transports:
            wrap_method(transport, "handle_request", library.wrap_send)
            wrap_method(transport, "handle_async_request", library.wrap_async_send)


def _wrap_wire(original: Callable[..., Any]) -> Callable[..., Any]:
    def handle(connection: Any, request: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if (current := being_sent()) is not None:
            try:
                current.leave()
            except BaseException:
                # As if it could not connect, or its pool keeps a place for it, which others wait
                # for. Private, as is that of a tunnel to its proxy.
                (getattr(connection, "_connection", None) or connection)._connect_failed = True
                raise
            current.is_on_wire = True
        return original(connection, request, *args, **options)  # a coroutine, where it is one

    return handle


def _wrap_mock(wrap: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def handle(mock: Any, transport: Any, request: Any) -> Any:
        __tracebackhide__ = True
        return wrap(partial(original, mock))(transport, request)

    return handle


class _Library:
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
        self.transports = (*self.mocks, *self.own)

    def wrap_send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def send(client: Any, request: Any = None, **options: Any) -> Any:
            __tracebackhide__ = True
            with _Sending(self, client, request) as sending:
                sending.response = original(client, request, **options)
            return sending.response

        return send

    def wrap_async_send(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def send(client: Any, request: Any = None, **options: Any) -> Any:
            __tracebackhide__ = True
            with _Sending(self, client, request) as sending:
                sending.response = await original(client, request, **options)
            return sending.response

        return send


class _Sending:
    """What a client sends, or a transport, from its beginning to its end."""

    __slots__ = ("before", "captured", "client", "library", "request", "response")

    def __init__(self, library: _Library, client: Any, request: Any) -> None:
        self.library = library
        self.client = client
        self.request = request
        self.response: Any = None

    def __enter__(self) -> _Sending:
        __tracebackhide__ = True
        self.before = CURRENT.get()
        self.captured = self._begin(self.request)
        if self.captured is not None:
            CURRENT.set(self.captured)
        return self

    def _begin(self, request: Any) -> CapturedRequest | None:
        """Follow a request; return the outer call if this is a transport that sends for it."""
        if request is None:
            return None  # the library's own error says what is missing
        # Private: `content` raises for a body that is a stream, which is left alone.
        outer, body = None, getattr(request, "_content", b"")
        if isinstance(self.client, self.library.transports):
            outer = _sending.get(id(request)) or passed_on(body)
        if outer is not None:
            if outer.source is not request and not (body and outer.sent):
                return None  # a log-in inside it, or where it was redirected to
            if outer.cap is not None:
                outer.do(_note_headers, request)
            if outer.is_unrefused:  # a transport of the user's own tries again
                outer.go_again()
            outer.is_unrefused = isinstance(self.client, self.library.own)
            outer.is_in_mock = not outer.is_unrefused
            return outer
        captured = begin(
            request,
            self.client,
            request.method,
            # Private: what the address is the text of, which it makes anew each time.
            getattr(request.url, "_uri_reference", request.url),
            None,  # hooks of the client, and log-ins, change the headers until they are sent
            body,
        )
        if captured is not None:
            _sending.setdefault(id(request), captured)
        return captured

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        captured, response = self.captured, self.response
        if captured is None:
            return
        CURRENT.set(self.before)  # no token: a loop may end this in another context
        if captured.client is not self.client and not captured.is_over:
            # One attempt of a transport: its client tells the captured request what came of it.
            captured.is_in_mock = False
            captured.outcome_below = response if error is None else error
            if error is None:
                captured.is_on_wire |= "network_stream" in response.extensions
                captured.is_unrefused = 200 <= response.status_code < 300
            else:
                captured.is_unrefused &= read_failure(error).may_be_billed
            return
        if _sending.get(id(self.request)) is captured:
            del _sending[id(self.request)]
        try:  # as `do`, without its frame
            if not captured.is_over:
                self._ended(captured, error)
        except Exception as ours:  # noqa: BLE001 - whatever it is, it is ours
            captured.broke(ours)

    def _ended(self, captured: CapturedRequest, error: BaseException | None) -> None:
        _note_headers(captured, self.request)
        response = self.response if error is None else read_failure(error).response
        live = self._is_live(captured, response, error)
        # Private: `content` raises unless it has been read.
        content = getattr(response, "_content", None)
        # A hook may raise after the answer has come, whose body is lost unless it was read.
        is_lost = response is None or (content is None and response.status_code < 300)
        if error is not None and is_lost:
            note_failure(captured, error, live)
            return
        # Private: a client wraps the stream that its transport has returned.
        stream = getattr(response.stream, "_stream", response.stream)
        inside = getattr(stream, "_captured", None)
        captured.is_answered_inside = inside is not None and inside.outer is captured
        captured.answered(status=response.status_code, live=live, content=content)
        if not captured.is_over:
            if "content-encoding" in response.headers:
                encoding = {"content-encoding": response.headers["content-encoding"]}
                # Private in both libraries, and the same since httpx 0.13.
                captured.decoder = type(response)(200, headers=encoding)._get_content_decoder()
            # No pickle of a response contains its stream.
            inner, library = response.stream, self.library
            tee = library.async_tee if isinstance(inner, library.async_stream) else library.tee
            response.stream = tee(inner, captured)

    def _is_live(
        self, captured: CapturedRequest, response: Any, error: BaseException | None
    ) -> bool | None:
        """Tell whether a request went over the network in this run; None if nothing tells.

        A response from a socket carries httpcore's `network_stream`; replayed and mocked ones do
        not: right in all cases tried, vcrpy 8 and 9, respx and pytest-httpx included. Without a
        response, its connection tells; a blocker of one's own may raise whatever it likes there.
        Of a transport of another's this holds if it passes on what one of the library's brought.
        """
        is_passed_on = captured.outcome_below is (error if response is None else response)
        captured.outcome_below = None  # whose stream or traceback refers to the captured request
        if response is not None and "network_stream" in response.extensions:
            return True
        # Private, but the one way to the transport that serves this URL, in all versions tried.
        find = getattr(captured.client, "_transport_for_url", None)
        transport = captured.client if find is None else find(self.request.url)
        if isinstance(transport, self.library.mocks):
            return False
        is_own = is_passed_on or isinstance(transport, self.library.own)
        if response is None and is_own and error is not None:
            return captured.is_on_wire and not is_before_body(error)
        # The library's own transport, but no socket: patched, to replay or to mock.
        if type(transport) in self.library.own and response is not None:
            return False
        if is_passed_on:
            return captured.is_on_wire  # which may be by an attempt before it
        # A transport of another's may send through a library that shows it, such as aiohttp.
        return captured.is_on_wire or None


def _note_headers(captured: CapturedRequest, request: Any) -> None:
    """Read the headers as they are now."""
    # Private: to look those up that are kept takes six times as long as to go through all once.
    listed = getattr(request.headers, "_list", None)
    if listed is None:
        captured.headers = read_headers(request.headers)
        return
    kept: dict[str, str] = {}
    for _, name, value in listed:
        if name in _HEADERS:
            known, text = _HEADERS[name], value.decode("latin-1")
            kept[known] = f"{kept[known]},{text}" if known in kept else text
    captured.headers = kept


class _Tee:
    """A response's stream that lets the captured request read along; sync or not, as its base."""

    def __init__(self, inner: Any, captured: CapturedRequest) -> None:
        self._inner = inner
        self._captured = captured

    @property
    def elapsed(self) -> Any:
        """What httpx2 asks its streams for.

        No `__getattr__`: the SDK asks the stream for an attribute of its own at every event, and
        that would cost more than all our reading.
        """
        return getattr(self._inner, "elapsed", None)

    def __iter__(self) -> Iterator[bytes]:
        return self._captured.passing(iter(self._inner))

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._captured.passing(aiter(self._inner))

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
