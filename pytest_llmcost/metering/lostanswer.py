"""What an exception out of `send` tells: never sent, answered all the same, or lost on the way.

Data flow: the exception and its traceback -> `read_failure` -> Failure -> Conversation.

A request is presumed to have reached the API, and to be billed there, unless something says that
it did not: whoever interrupts a wait (an alarm, a time limit, a transport of one's own) raises
what they like, and the API works on.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

import msgspec

_NEVER_SENT = frozenset(
    {
        # httpx and httpx2: no connection, or no request that could be sent
        "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
        "LocalProtocolError", "InvalidURL", "ConnectionRefusedError", "gaierror",
        # whoever replays, mocks or blocks, and has nothing for this request
        "CannotOverwriteExistingCassetteException", "UnhandledHTTPRequestError", "NoMatchError",
        "AllMockedAssertionError", "SocketBlockedError", "SocketConnectBlockedError",
    }
)  # fmt: skip
"""Errors, by name, behind which the API has certainly not seen the request."""

_NEVER_SENT_TEXTS = ("Network is disabled", "No response can be found for ")
"""Where the class says nothing: pytest-recording's `RuntimeError`, pytest-httpx's time-out."""

_LIBRARIES = ("httpx._client", "httpx2._client")
_BEFORE_THE_WIRE = ("send", "_send_handling_auth", "_send_handling_redirects")
"""The clients' own functions around `_send_single_request`, which hands over to a transport."""


class Failure(msgspec.Struct, frozen=True):
    """What became of a request that raised."""

    is_lost: bool
    """Whether the API may have worked on it, and billed it."""
    response: Any = None
    """A successful answer, where the exception came after all of it had been read."""


def read_failure(error: BaseException) -> Failure:
    """Tell what an exception out of `send` says of the request.

    Hooks and log-in flows run inside `send`, before and after the request itself: the traceback
    tells on which side of it they raised, and holds the response they raised over.
    """
    if _is_never_sent(error):
        return Failure(is_lost=False)
    frames = list(_frames(error))
    if not frames or frames[-1].f_code.co_name not in _BEFORE_THE_WIRE:
        return Failure(is_lost=True)
    response = next((seen for seen in map(_response_of, reversed(frames)) if seen), None)
    if response is None or not 200 <= response.status_code < 300:
        return Failure(is_lost=False)
    if getattr(response, "_content", None) is None:
        return Failure(is_lost=True)
    return Failure(is_lost=False, response=response)


def _is_never_sent(error: BaseException) -> bool:
    if any(kind.__name__ in _NEVER_SENT for kind in type(error).__mro__):
        return True
    return str(error).startswith(_NEVER_SENT_TEXTS)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The HTTP library's frames that the exception went through, outermost first."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__") in _LIBRARIES:
            yield step.tb_frame
        step = step.tb_next


def _response_of(frame: FrameType) -> Any:
    response = frame.f_locals.get("response")
    return response if isinstance(getattr(response, "status_code", None), int) else None
