"""httpcore and httpcore2: where a request is about to go over a socket.

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
    wrap_method(getattr(module, "HTTPConnection", None), "handle_request", _wrap)
    wrap_method(getattr(module, "AsyncHTTPConnection", None), "handle_async_request", _wrap)


def _wrap(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def leave(connection: Any, request: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        if (current := CURRENT.get()) is not None:
            current.leave()
        return original(connection, request, *args, **options)  # a coroutine, where it is one

    return leave
