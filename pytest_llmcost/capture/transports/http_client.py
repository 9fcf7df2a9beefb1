"""`http.client`, on which urllib sends, and urllib3: requests as they leave, and bodies as read.

A call that is followed above is seen to leave. Light, as `urllib3` is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.lost_answer import is_before_body, note_failure
from pytest_llmcost.capture.transports import (
    begin,
    being_sent,
    claude_address,
    passed_on,
    url_of,
    wrap_method,
)
from pytest_llmcost.capture.transports.bodies import tee_of

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_READ = ("read", "read1", "readline", "readinto")
"""The ways of reading that all others use."""


def wrap(module: ModuleType) -> None:
    """Wrap how a connection sends a request, and how it gets the answer."""
    wrap_method(module.HTTPConnection, "endheaders", _wrap_endheaders)
    wrap_method(module.HTTPConnection, "getresponse", _wrap_getresponse)


def _wrap_endheaders(original: Callable[..., Any]) -> Callable[..., Any]:
    def endheaders(connection: Any, message_body: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        if not connection._buffer:  # nothing was begun: the library's own error says so
            return original(connection, message_body, **options)
        outer, captured = passed_on(message_body), None
        method, url = _target(connection)
        try:
            if outer is not None:  # its client reads the answer
                outer.leave_below(method, url)
            elif claude_address(url) is not None:
                pairs = (line.decode("latin-1").partition(":") for line in connection._buffer[1:])
                headers = {name: value.strip() for name, _, value in pairs}
                # As its client, not itself: the next attempt opens a connection of its own.
                captured = begin(connection, type(connection), method, url, headers, message_body)
            if captured is not None:
                captured.leave()  # nothing is sent before: the lines of the head are kept until now
        except BaseException:
            connection._buffer.clear()  # or they go out before those of the next request
            connection.close()
            raise
        try:
            result = original(connection, message_body, **options)
        except BaseException as error:
            if outer is not None:
                outer.is_unrefused &= not is_before_body(error)
            elif captured is not None:
                captured.do(note_failure, error, not is_before_body(error))
            raise
        connection._llmcost = captured  # until its answer is asked for
        return result

    return endheaders


def _target(connection: Any) -> tuple[str, str]:
    """Return the method and the address of the request that a connection is about to send."""
    # `_buffer` is private, and the same in all versions of Python 3.
    method, target, _ = connection._buffer[0].decode("latin-1").split(" ")
    # Private: through a proxy, `host` and `port` are the proxy's.
    host = getattr(connection, "_tunnel_host", None) or connection.host
    port = getattr(connection, "_tunnel_port", None) or connection.port
    return method, url_of("https", host, port, target)


def _wrap_getresponse(original: Callable[..., Any]) -> Callable[..., Any]:
    def getresponse(connection: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        captured, connection._llmcost = getattr(connection, "_llmcost", None), None
        try:
            response = original(connection, *args, **options)
        except BaseException as error:
            if captured is not None:
                captured.do(note_failure, error)
            raise
        if captured is not None:
            captured.do(_answered, response)
        elif (outer := being_sent()) is not None:
            outer.is_unrefused &= 200 <= response.status < 300
        return response

    return getresponse


def _answered(captured: CapturedRequest, response: Any) -> None:
    captured.answered(status=response.status, live=True)
    if response.length == 0:
        captured.close(is_whole=True)
    if not captured.is_over:
        if response.headers.get("content-encoding") in ("gzip", "x-gzip", "deflate"):
            captured.decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        response._llmcost = captured
        kind: Any = type(response)
        response.__class__ = tee_of(kind, _READ, _how_ended)


def _how_ended(response: Any, data: object) -> bool | None:
    # Not all versions close it with the last byte of a known length.
    return not response.length if response.isclosed() or response.length == 0 else None
