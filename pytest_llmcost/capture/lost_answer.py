"""What an exception out of `send` tells: never sent, answered all the same, or lost on the way.

Data flow: the exception and its traceback -> `read_failure` -> Failure -> Conversation.

A request is presumed to have reached the API, and to be billed there, unless something says that
it did not: whoever interrupts a wait (an alarm, a time limit, a transport of one's own) raises
what they like, and the API works on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

import msgspec

_NEVER_SENT = frozenset(
    {
        # httpx and httpx2: no connection, or no request that could be sent
        "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
        "LocalProtocolError", "InvalidURL", "ConnectionRefusedError", "gaierror",
    }
)  # fmt: skip
"""Errors, by name, behind which the API has certainly not seen the request."""

_TURNED_AWAY = frozenset(
    {
        "CannotOverwriteExistingCassetteException", "UnhandledHTTPRequestError", "NoMatchError",
        "AllMockedAssertionError", "SocketBlockedError", "SocketConnectBlockedError",
    }
)  # fmt: skip
"""Errors, by name, of whoever replays, mocks or blocks, and has nothing for this request."""

_TURNED_AWAY_TEXTS = ("Network is disabled", "No response can be found for ")
"""Where the class says nothing: pytest-recording's `RuntimeError`, pytest-httpx's time-out."""

_LIBRARIES = ("httpx._client", "httpx2._client")
_ON_THE_WIRE = re.compile(r"httpcore2?\._(sync|async)\.http(11|2)")
"""What writes a request to a socket, and reads its answer; no mock and no recorder gets there."""
_BEFORE_THE_WIRE = ("send", "_send_handling_auth", "_send_handling_redirects")
"""The clients' own functions around `_send_single_request`, which hands over to a transport."""


class Failure(msgspec.Struct, frozen=True):
    """What became of a request that raised."""

    is_lost: bool
    """Whether the API may have worked on it, and billed it, if it went out at all."""
    is_seen: bool = True
    """Whether anybody took the request, be it a mock that raised."""
    response: Any = None
    """A successful answer, where the exception came after it."""
    is_read: bool = False
    """Whether all of that answer had been read."""


def read_failure(error: BaseException) -> Failure:
    """Tell what an exception out of `send` says of the request.

    Hooks and log-in flows run inside `send`, before and after the request itself: the traceback
    tells on which side of it they raised, and holds the response they raised over.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & _TURNED_AWAY or str(error).startswith(_TURNED_AWAY_TEXTS):
        return Failure(is_lost=False, is_seen=False)
    if kinds & _NEVER_SENT:
        return Failure(is_lost=False)
    frames = [frame for frame in _frames(error) if _module(frame) in _LIBRARIES]
    if not frames or frames[-1].f_code.co_name not in _BEFORE_THE_WIRE:
        return Failure(is_lost=True)
    response = next((seen for seen in map(_response_of, reversed(frames)) if seen), None)
    if response is None:
        return Failure(is_lost=False, is_seen=False)
    if not 200 <= response.status_code < 300:
        return Failure(is_lost=False)
    is_read = getattr(response, "_content", None) is not None
    return Failure(is_lost=not is_read, response=response, is_read=is_read)


def was_on_the_wire(error: BaseException) -> bool:
    """Tell whether an exception, or one behind it, came from where httpx talks to a socket.

    httpx raises its own errors instead of httpcore's: those are their causes.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is each for each in seen):
        if any(_ON_THE_WIRE.match(_module(frame)) for frame in _frames(cause)):
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an exception went through, outermost first."""
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame
        step = step.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _response_of(frame: FrameType) -> Any:
    response = frame.f_locals.get("response")
    return response if isinstance(getattr(response, "status_code", None), int) else None
