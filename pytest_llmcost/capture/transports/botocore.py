"""botocore and aiobotocore: Bedrock calls that a handler of an event answers, as `Stubber` does.

Handlers of `before-call` and `before-send` may give the response themselves; then nothing is
sent. What is sent passes urllib3 or aiohttp, and is captured there, below the signer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.transports import begin, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_EVENTS = ("before-call.bedrock-runtime.", "before-send.bedrock-runtime.")


def wrap(module: ModuleType) -> None:
    """Wrap how an emitter asks its handlers."""
    # Private, and in all versions tried the one method through which both public ones emit.
    wrap_method(getattr(module, "HierarchicalEmitter", None), "_emit", _wrap_emit)
    wrap_method(getattr(module, "AioHierarchicalEmitter", None), "_emit", _wrap_emit)


def _wrap_emit(original: Callable[..., Any]) -> Callable[..., Any]:
    # A call emits a dozen events, to most of which nothing listens: so nothing is looked at before
    # there are responses, and arguments are passed one by one, which takes less than as a tuple.
    def _emit(emitter: Any, event_name: str, kwargs: Any, stop_on_response: bool = False) -> Any:
        __tracebackhide__ = True
        responses = original(emitter, event_name, kwargs, stop_on_response)
        if responses and event_name.startswith(_EVENTS):
            if hasattr(responses, "__await__"):  # aiobotocore awaits it at once
                return _follow_later(emitter, kwargs, responses)
            _follow(emitter, kwargs, responses)
        return responses

    return _emit


async def _follow_later(emitter: Any, kwargs: Any, coming: Any) -> Any:
    __tracebackhide__ = True
    responses = await coming
    _follow(emitter, kwargs, responses)
    return responses


def _follow(emitter: Any, kwargs: Any, responses: Any) -> None:
    given = next((each for _, each in responses if each is not None), None)
    request = kwargs.get("params") or kwargs.get("request")
    if given is None or request is None:
        return
    asked = request if isinstance(request, dict) else vars(request)
    method, url = str(asked.get("method")), str(asked.get("url"))
    headers, body = asked.get("headers"), asked.get("body")
    captured = begin(request, emitter, method, url, headers, body)
    if captured is not None:
        captured.do(_answered, given)


def _answered(captured: CapturedRequest, given: Any) -> None:
    """Read a raw response, or one with what botocore would have made of it."""
    raw, parsed = given if isinstance(given, tuple) else (given, None)
    body = raw.raw if parsed is None else parsed.get("body", parsed)
    captured.answered(status=raw.status_code, live=False, content=_content(body))


def _content(body: Any) -> bytes:
    """Return what a body will be read as, which is left unread; `{}` if that is not known."""
    if isinstance(body, dict):
        return json.dumps(body, default=repr).encode()
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    inner = getattr(body, "_raw_stream", body)  # private: of a StreamingBody
    whole = getattr(inner, "getvalue", None)
    return bytes(whole()) if whole is not None else b"{}"
