"""aiohttp: Claude calls are noticed, not read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import CURRENT, Noticed, may_be_claude, wrap_method


def wrap(module: ModuleType) -> None:
    """Wrap how a response waits for its head: the request has been sent by then.

    Recorders and mocks replace what is above, and do not come here.
    """
    wrap_method(getattr(module, "ClientResponse", None), "start", _wrap_start)


def _wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def start(response: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        url = str(response.url)
        # Inside a call that is followed already, as of httpx over aiohttp, its client reads.
        if response.method != "POST" or CURRENT.get() is not None or not may_be_claude(url):
            return await original(response, *args, **options)
        with Noticed(response, url) as noticed:
            result = await original(response, *args, **options)
            noticed.answered(response.status)
        return result

    return start
