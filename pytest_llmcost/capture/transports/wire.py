"""httpcore and httpcore2: where a request of httpx is about to go over a socket.

Below all recorders and mocks, so what comes here is live. A connection is opened inside these
methods: what is refused has not even opened one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import CURRENT, wrap_method


def wrap(module: ModuleType) -> None:
    """Wrap a connection, through which those of proxies send, too."""
    wrap_method(getattr(module, "HTTPConnection", None), "handle_request", leaving)
    connection = getattr(module, "AsyncHTTPConnection", None)
    wrap_method(connection, "handle_async_request", leaving)


def leaving(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what sends the current request, a coroutine function or not: it may be refused."""

    @functools.wraps(original)
    def send(*args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if (current := CURRENT.get()) is not None:
            current.leave()
        return original(*args, **options)

    return send
