"""What an exception out of a client tells: never sent, answered all the same, or lost on the way.

A request is presumed to have reached the API, and to be billed there, unless something says that
it did not: whatever ends a wait (an alarm, a time limit, a transport of one's own) raises what it
likes, and the API works on.
"""

from __future__ import annotations

from traceback import walk_tb
from typing import TYPE_CHECKING

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

_CONNECTING = ("connect", "_connect", "connect_tcp", "_init_socks5_connection", "start_tls")
"""How `http.client` and httpcore name what connects; the last three also through a proxy, where no
method holds them together."""


def can_be_billed(error: BaseException) -> bool | None:
    """Tell whether what an exception has ended may be billed; None if it reached nothing at all."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & _TURNED_AWAY or str(error).startswith(_TURNED_AWAY_TEXTS):
        return None
    return not names & _NEVER_SENT


def note_failure(captured: CapturedRequest, error: BaseException, live: bool | None = True) -> None:
    """Tell a captured request that no response came, and what an exception says of that."""
    by_error = can_be_billed(error)
    # What was sent is lost, by whatever name: some call each lost connection a `ConnectError`.
    may_be_billed = bool(by_error) or captured.is_unrefused
    # What a mock or a recorder has raised was never sent, so it cannot be billed; an answer that a
    # recorder has played was, and is lost if a hook raises then.
    captured.is_lost = may_be_billed and (live is not False or captured.play is not None)
    has_left = may_be_billed or captured.lost_attempts
    captured.live = live if has_left and not captured.is_to_stand_in else False
    captured.is_seen = captured.is_seen and by_error is not None
    if captured.is_lost:
        captured.note_left()
    captured.over(captured)


def is_connecting(error: BaseException) -> bool:
    """Tell whether an error came from what connects, which sending calls if need be."""
    names = {frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)}
    return not names.isdisjoint(_CONNECTING)
