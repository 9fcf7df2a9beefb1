"""`http.client`, on which urllib sends, and urllib3: calls of the former are noticed, not read.

A connection knows host and path, which tell a Claude call; what the answer used is for the test to
state. A call that is followed above is seen to wait for its answer on a socket.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import CURRENT, ask_to_leave, begin, wrap_method

_KEY = "_pytest_llmcost_sent"
"""Where a connection remembers a Claude call until its answer is asked for."""


def wrap(module: ModuleType) -> None:
    """Wrap how a connection begins a request, and how it gets the answer."""
    wrap_method(module.HTTPConnection, "putrequest", _wrap_putrequest)
    wrap_method(module.HTTPConnection, "getresponse", _wrap_getresponse)


def _wrap_putrequest(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def putrequest(connection: Any, method: Any, url: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        # Inside a call that is followed already, its client reads the answer.
        if (current := CURRENT.get()) is not None:
            current.leave()
        if method == "POST" and isinstance(url, str) and CURRENT.get() is None:
            host = getattr(connection, "_tunnel_host", None) or connection.host
            full = f"https://{host}{url}" if url.startswith("/") else url
            # A path alone does not tell on a host that is neither Anthropic's nor a cloud's.
            if any(part in full for part in ("anthropic", "claude", "/model/")):
                ask_to_leave(connection, full)
                vars(connection)[_KEY] = full
        return original(connection, method, url, *args, **options)

    return putrequest


def _wrap_getresponse(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def getresponse(connection: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        url = vars(connection).pop(_KEY, None)
        if (current := CURRENT.get()) is not None:
            current.is_on_wire = True
        if url is None:
            return original(connection, *args, **options)
        # Not before: a connection that was never made has sent nothing.
        sent = {"method": "POST", "url": url, "headers": {}, "sent": b"", "is_read": False}
        captured = begin(connection, client=connection, **sent)
        try:
            response = original(connection, *args, **options)
        except BaseException:
            if captured is not None:
                captured.failed(may_be_billed=True, is_seen=True, live=True)
            raise
        if captured is not None:
            captured.answered(status=response.status, live=True)
        return response

    return getresponse
