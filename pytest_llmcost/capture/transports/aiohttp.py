"""aiohttp, on which aiobotocore sends: requests as they leave, bodies as they are read.

Recorders and mocks replace what is above, and do not come here: what VCR plays instead is read by
`recorders`. Light, as `urllib3` is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.lost_answer import note_failure
from pytest_llmcost.capture.transports import begin, being_sent, passed_on, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_read_by: dict[int, CapturedRequest] = {}
"""Whose body a reader with this id brings: readers have slots, so none for an attribute."""


def wrap(module: ModuleType) -> None:
    """Wrap how a request is written to a connection, and how a response waits for its head."""
    wrap_method(getattr(module, "ClientRequest", None), "send", _wrap_send)
    wrap_method(getattr(module, "ClientResponse", None), "start", _wrap_start)


def _wrap_send(original: Callable[..., Any]) -> Callable[..., Any]:
    async def send(request: Any, conn: Any) -> Any:
        __tracebackhide__ = True
        # Inside a call that is followed already, as of httpx over aiohttp, its client reads.
        body = request.body
        body = getattr(body, "_value", body)  # private: of bytes
        outer, captured = passed_on(body), None
        if outer is not None:
            outer.leave_below(request.method, str(request.url))
        else:
            captured = begin(
                request.headers,  # its own, and the one thing of it that is looked at afterwards
                getattr(request, "_session", None),  # private
                request.method,
                request.url,
                None,
                body,
            )
        if captured is None:
            return await original(request, conn)
        if captured.cap is not None:  # as `leave` asks, without its frame
            captured.leave()
        try:
            response = await original(request, conn)
        except BaseException as error:
            captured.do(note_failure, error)
            raise
        response._llmcost = captured
        return response

    return send


def _wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    async def start(response: Any, connection: Any) -> Any:
        __tracebackhide__ = True
        captured = getattr(response, "_llmcost", None)
        try:
            result = await original(response, connection)
        except BaseException as error:
            if captured is not None:
                captured.do(note_failure, error)
            raise
        if captured is not None:
            try:  # as `do`, without its frame
                if not captured.is_over:
                    _answered(captured, response)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is ours
                captured.broke(error)
        elif (outer := being_sent()) is not None:
            outer.is_unrefused &= 200 <= response.status < 300
        return result

    return start


def _answered(captured: CapturedRequest, response: Any) -> None:
    reader = response.content  # decompressed
    # Most answers have come whole with their head; nothing has been read of them yet. How much of a
    # stream, or of a batch's results, counts is for its reader to say, or it would be a question of
    # timing.
    # Private, like the attributes that `Tee` uses: what came and was not read.
    came = b"".join(getattr(reader, "_buffer", ())) if getattr(reader, "_eof", False) else b""
    is_message = captured.endpoint.kind == "messages" and came.startswith(b"{")
    message = came if is_message else None
    captured.answered(status=response.status, live=True, content=message)
    if captured.is_over:
        return
    if reader.at_eof():
        captured.close(is_whole=True)
        return
    _read_by[id(reader)] = captured
    # For good: Python has to specialise aiohttp's code anew whenever a reader's class changes.
    kind: Any = type(reader)
    reader.__class__ = _tee_of(kind)


def _end(reader: Any, *, is_whole: bool) -> None:
    captured = _read_by.pop(id(reader), None)
    if captured is not None:
        captured.close(is_whole=is_whole)


@functools.cache
def _tee_of(kind: Any) -> type[Any]:
    """Return a reader class whose bytes are read along, so that the reader stays what it is."""

    class Tee(kind):  # type: ignore[misc]
        """All ways of reading take a chunk by one private method, in all of aiohttp 3."""

        __slots__ = ()

        def _read_nowait_chunk(self, n: int) -> Any:
            captured = _read_by.pop(id(self), None)  # the end may come in the midst of it
            data = kind._read_nowait_chunk(self, n)
            if captured is not None:
                captured.feed(data)
                if self._eof and not self._buffer:  # private: as `at_eof`, without its frame
                    captured.close(is_whole=True)
                else:
                    _read_by[id(self)] = captured
            return data

        def feed_eof(self) -> None:
            kind.feed_eof(self)
            if not self._buffer:
                _end(self, is_whole=True)

        def set_exception(self, *args: Any) -> None:
            # Also what closing or releasing the response does.
            kind.set_exception(self, *args)
            _end(self, is_whole=False)

    functools.update_wrapper(Tee, kind, updated=())
    return Tee
