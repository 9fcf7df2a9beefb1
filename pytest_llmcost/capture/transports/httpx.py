"""Tee: a response's stream that also lets us read what passes.

The code under test gets the very same bytes at the very same time; nothing is read ahead, read
twice, or kept. Compressed bodies are decompressed a second time for us, so that it does not
matter whether the caller iterates over raw or decoded bytes.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol

from pytest_llmcost.capture.import_hook import ImportWatcher
from pytest_llmcost.capture.lost_answer import was_on_the_wire
from pytest_llmcost.capture.replay import Replay, read_vcr_promise, read_vcr_replay


class Listener(Protocol):
    """Who reads along. Its methods never raise."""

    def feed(self, chunk: bytes) -> None:
        """Take the next decoded bytes."""

    def close(self, *, exhausted: bool) -> None:
        """The body has ended, or nobody will read on; may be called again."""


def decoding_of(response: Any) -> Decode:
    """Return what undoes the content encoding, with a state of its own."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.strip().lower() in ("", "identity"):
        return Decode(None)
    twin = type(response)(200, headers={"content-encoding": encoding})
    return Decode(twin._get_content_decoder())


class Decode:
    """Decodes for a listener. httpx's decoders return bytes, httpx2's yield pieces."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def chunk(self, listener: Listener, chunk: bytes) -> None:
        """Let the listener have a piece of the body."""
        if self._decoder is None:
            listener.feed(chunk)
        else:
            self._pass_on(listener, self._decoder.decode, chunk)

    def flush(self, listener: Listener) -> None:
        """Let the listener have what the decoder has kept back."""
        if self._decoder is not None:
            self._pass_on(listener, self._decoder.flush)

    def _pass_on(self, listener: Listener, step: Callable[..., Any], *chunk: bytes) -> None:
        try:
            decoded = step(*chunk)
            for piece in [decoded] if isinstance(decoded, bytes) else decoded:
                listener.feed(piece)
        except Exception:  # noqa: BLE001 - zlib, brotli and zstd each raise their own
            # The caller's own decoder meets the same bytes and says what is wrong with them.
            self._decoder = _Deaf()


class _Deaf:
    """Stands in for a decoder that has failed."""

    def decode(self, chunk: bytes) -> bytes:
        return b""

    def flush(self) -> bytes:
        return b""


class Tee:
    """What both kinds of tee share."""

    def __init__(self, inner: Any, listener: Listener, decode: Decode) -> None:
        """Pass on what an inner stream gives."""
        self._inner = inner
        self._listener = listener
        self._decode = decode

    @property
    def elapsed(self) -> Any:
        """What httpx2 asks its streams for.

        No `__getattr__`: the SDK asks the stream for an attribute of its own at every event, and
        that would cost more than all our reading.
        """
        return getattr(self._inner, "elapsed", None)

    def _heard(self, chunk: bytes) -> bytes:
        self._decode.chunk(self._listener, chunk)
        return chunk

    def _ended(self) -> None:
        self._decode.flush(self._listener)
        self._listener.close(exhausted=True)

    def _left(self) -> None:
        self._listener.close(exhausted=False)


def sync_tee(base: type) -> type[Tee]:
    """Make the tee of an HTTP library's streams: `isinstance` of its own base class."""

    class SyncTee(Tee, base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            return _Passing(iter(self._inner), self)

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                self._left()

    return SyncTee


def async_tee(base: type) -> type[Tee]:
    """Make the tee of an HTTP library's asynchronous streams."""

    class AsyncTee(Tee, base):  # type: ignore[misc]
        def __aiter__(self) -> AsyncIterator[bytes]:
            return _AsyncPassing(aiter(self._inner), self)

        async def aclose(self) -> None:
            try:
                await self._inner.aclose()
            finally:
                self._left()

    return AsyncTee


class _Passing:
    """An iterator, not a generator: abandoned, it leaves nothing to be collected late."""

    def __init__(self, inner: Iterator[bytes], tee: Tee) -> None:
        self._inner = inner
        self._tee = tee

    def __iter__(self) -> _Passing:
        return self

    def __next__(self) -> bytes:
        __tracebackhide__ = True
        try:
            chunk = next(self._inner)
        except StopIteration:
            self._tee._ended()
            raise
        except BaseException:
            self._tee._left()
            raise
        return self._tee._heard(chunk)


class _AsyncPassing:
    """Passes for an async generator where the inner one is one, so that it gets closed."""

    def __init__(self, inner: AsyncIterator[bytes], tee: Tee) -> None:
        self._inner: Any = inner
        self._tee = tee

    def __aiter__(self) -> _AsyncPassing:
        return self

    async def __anext__(self) -> bytes:
        __tracebackhide__ = True
        try:
            chunk: bytes = await anext(self._inner)
        except StopAsyncIteration:
            self._tee._ended()
            raise
        except BaseException:
            self._tee._left()
            raise
        return self._tee._heard(chunk)

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> Any:
        return await self._inner.athrow(*error)

    async def aclose(self) -> None:
        if hasattr(self._inner, "aclose"):
            await self._inner.aclose()


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


UNDER_WAY: ContextVar[Talk | None] = ContextVar("pytest_llmcost_talk", default=None)


class Talk(Protocol):
    """One request on its way, and what becomes of it. Its methods never raise."""

    request: Any
    """The very object that was given to `send`."""

    def replayed(self, read: Callable[[bytes], Replay | None]) -> None:
        """A cassette plays a response; `read` takes the body sent now and tells what it knows."""

    def failed(self, error: BaseException, library: Library) -> None:
        """No response came."""

    def answered(self, response: Any, library: Library) -> None:
        """A response came, its body perhaps not read yet."""


class Ear(Protocol):
    """Who listens at the seam. Its method never raises."""

    def begin(self, client: Any, request: Any) -> Talk | None:
        """A request is about to be sent; None where it is no Claude call."""


class _Seam:
    """What is wrapped in this process, and who listens."""

    def __init__(self) -> None:
        self.ears: list[Ear] = []
        self.wrapped: list[tuple[type, str, object, object]] = []
        """Class, attribute, what was there, what we put there."""
        self.watcher = ImportWatcher(
            {
                "httpx": self.wrap_clients,
                "httpx2": self.wrap_clients,
                "vcr.cassette": self.wrap_vcr,
                "cassetter.cassette": self.wrap_cassetter,
            }
        )

    def wrap_clients(self, module: ModuleType) -> bool:
        if not is_http_library(module):
            return False
        library = Library(module)
        self.put(module.Client, "send", functools.partial(_wrap_send, library))
        self.put(module.AsyncClient, "send", functools.partial(_wrap_async_send, library))
        return True

    def wrap_vcr(self, module: ModuleType) -> bool:
        cassette = getattr(module, "Cassette", None)
        self.put(cassette, "can_play_response_for", _wrap_can_play)
        self.put(cassette, "play_response", _wrap_play_response)
        return cassette is not None

    def wrap_cassetter(self, module: ModuleType) -> bool:
        cassette = getattr(module, "Cassette", None)
        self.put(cassette, "match", _wrap_match)
        return cassette is not None

    def put(self, owner: object, name: str, wrap: Callable[[Any], object]) -> None:
        """Wrap once by identity: two names of one module are one class."""
        original = vars(owner).get(name) if isinstance(owner, type) else None
        if original is None or any(original is ours for _, _, _, ours in self.wrapped):
            return
        assert isinstance(owner, type)
        wrapper = wrap(original)
        setattr(owner, name, wrapper)
        self.wrapped.append((owner, name, original, wrapper))

    def remove(self) -> None:
        """Take out what is topmost; what somebody has wrapped in turn stays, and is deaf."""
        for owner, name, original, wrapper in reversed(self.wrapped):
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
        self.wrapped.clear()
        self.watcher.remove()


_seam = _Seam()


def open_seam(ear: Ear) -> None:
    """Listen: wrap what is imported now, and whatever will be; again only wraps what is new."""
    if ear not in _seam.ears:
        _seam.ears.append(ear)
    _seam.watcher.install()


def close_seam(ear: Ear) -> None:
    """Stop listening; the last one out takes the wrappers off."""
    if ear in _seam.ears:
        _seam.ears.remove(ear)
    if not _seam.ears:
        _seam.remove()


def _begin(client: Any, request: Any, outer: Talk | None) -> Talk | None:
    if not _seam.ears or request is None or (outer is not None and outer.request is request):
        return None  # nobody listens, or a second wrapper of ours sees the same request
    if _seam.watcher.incomplete:
        _seam.watcher.look_again()
    return _seam.ears[-1].begin(client, request)


def _wrap_send(library: Library, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send(client: Any, request: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        outer = UNDER_WAY.get()
        talk = _begin(client, request, outer)
        if talk is None:
            return original(client, request, **options)
        UNDER_WAY.set(talk)
        try:
            response = original(client, request, **options)
        except BaseException as error:
            talk.failed(error, library)
            raise
        finally:
            UNDER_WAY.set(outer)
        talk.answered(response, library)
        return response

    return send


def _wrap_async_send(
    library: Library, original: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def send(client: Any, request: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        outer = UNDER_WAY.get()
        talk = _begin(client, request, outer)
        if talk is None:
            return await original(client, request, **options)
        UNDER_WAY.set(talk)
        try:
            response = await original(client, request, **options)
        except BaseException as error:
            talk.failed(error, library)
            raise
        finally:
            UNDER_WAY.set(outer)
        talk.answered(response, library)
        return response

    return send


def _wrap_can_play(original: Callable[..., Any]) -> Callable[..., Any]:
    """A cassette of a kind of its own may play its responses without telling us which."""

    @functools.wraps(original)
    def can_play_response_for(cassette: Any, request: Any) -> Any:
        __tracebackhide__ = True
        can_play = original(cassette, request)
        talk = UNDER_WAY.get()
        if talk is not None and can_play:
            talk.replayed(lambda sent: read_vcr_promise(request))
        return can_play

    return can_play_response_for


def _wrap_play_response(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def play_response(cassette: Any, request: Any) -> Any:
        __tracebackhide__ = True
        response = original(cassette, request)
        talk = UNDER_WAY.get()
        if talk is not None:
            talk.replayed(lambda sent: read_vcr_replay(cassette, request, response, sent))
        return response

    return play_response


def _wrap_match(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def match(cassette: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        found = original(cassette, *args, **kwargs)
        talk = UNDER_WAY.get()
        if talk is not None:
            talk.replayed(lambda sent: Replay(obstacle="cassetter replayed it"))
        return found

    return match
