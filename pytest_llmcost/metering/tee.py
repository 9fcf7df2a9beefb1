"""Tee: a response's stream that also lets us read what passes.

The code under test gets the very same bytes at the very same time; nothing is read ahead, read
twice, or kept. Compressed bodies are decompressed a second time for us, so that it does not
matter whether the caller iterates over raw or decoded bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol


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
