"""What an exception out of a client tells: never sent, answered all the same, or lost on the way.

A request is presumed to have reached the API, and to be billed there, unless something says that
it did not: whatever ends a wait (an alarm, a time limit, a transport of one's own) raises what it
likes, and the API works on.
"""

from __future__ import annotations

from traceback import walk_tb
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_NEVER_SENT = frozenset(
    {
        # httpx and httpx2: no connection, or no request that could be sent
        "ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol",
        "LocalProtocolError", "InvalidURL", "ConnectionRefusedError", "gaierror",
        # urllib3
        "NewConnectionError", "ConnectTimeoutError", "EmptyPoolError", "HostChangedError",
        "LocationValueError",
    }
)  # fmt: skip
"""Names of errors after which the API has certainly not seen the request."""

_TURNED_AWAY = frozenset(
    {
        "CannotOverwriteExistingCassetteException", "UnhandledHTTPRequestError", "NoMatchError",
        "AllMockedAssertionError", "SocketBlockedError", "SocketConnectBlockedError",
    }
)  # fmt: skip
"""Names of errors of recorders, mocks and blockers that have nothing for the request."""

_TURNED_AWAY_TEXTS = ("Network is disabled", "No response can be found for ")
"""If the class says nothing: pytest-recording's `RuntimeError`, pytest-httpx's time-out."""

_CLIENTS = ("httpx._client", "httpx2._client")
_AROUND_THE_REQUEST = ("send", "_send_handling_auth", "_send_handling_redirects")
"""The clients' own functions around `_send_single_request`, which calls a transport. If one of them
is the last of the client's in the traceback, a hook, a log-in or the client itself has raised."""
_BEFORE_BODY = (
    "connect", "_connect", "connect_tcp", "_init_socks5_connection", "start_tls",
    "_send_request_headers",
)  # fmt: skip
"""How `http.client` and httpcore name what connects, and what sends the headers. The three from
`connect_tcp` on also connect through a proxy, where no method holds them together."""


class Failure(NamedTuple):
    """What became of a request that raised."""

    may_be_billed: bool
    """If it went out at all."""
    is_seen: bool = True
    """Whether the request reached anything, for example a mock that raised."""
    response: Any = None
    """The answer, if the exception came after it."""


def read_failure(error: BaseException) -> Failure:
    """Tell what an exception says of the request that it ended."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _TURNED_AWAY or str(error).startswith(_TURNED_AWAY_TEXTS):
        return Failure(may_be_billed=False, is_seen=False)
    if names & _NEVER_SENT:
        return Failure(may_be_billed=False)
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    frames = [frame for frame in frames if frame.f_globals.get("__name__") in _CLIENTS]
    if not frames or frames[-1].f_code.co_name not in _AROUND_THE_REQUEST:
        return Failure(may_be_billed=True)
    # Hooks run before and after the request: only the local variable tells which it was. Taking
    # each for lost would make every test of a guard that refuses to send an unverified one.
    for frame in reversed(frames):
        response = frame.f_locals.get("response")
        if isinstance(getattr(response, "status_code", None), int):
            return Failure(may_be_billed=True, response=response)
    return Failure(may_be_billed=False, is_seen=False)


def note_failure(captured: CapturedRequest, error: BaseException, live: bool | None = True) -> None:
    """Tell a captured request that no response came, and what an exception says of that."""
    failure = read_failure(error)
    # What was sent is lost, by whatever name: some call each lost connection a `ConnectError`.
    may_be_billed = failure.may_be_billed or captured.is_unrefused
    # What a mock or a recorder has raised was never sent, so it cannot be billed.
    captured.is_lost = may_be_billed and live is not False
    if captured.lost_attempts:  # they were sent, whatever became of this one
        before = captured.retry_of
        live = captured.is_on_wire or (live if before is None else before.live)
    elif not may_be_billed:
        live = False
    captured.live = False if captured.is_to_stand_in else live
    captured.is_seen = failure.is_seen
    if captured.is_lost:
        captured.note_left()
    captured.over(captured)


def is_before_body(error: BaseException) -> bool:
    """Tell whether an error came before the body was sent, without which the API does no work.

    It came from what connects, which sending calls if need be, or from what sends the headers.
    """
    names = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
    return not names.isdisjoint(_BEFORE_BODY)
