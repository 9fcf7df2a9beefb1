"""VCR and cassetter: which recording was played for the request that is being sent.

A response of VCR's that is played while no call is followed is one for a library whose sending VCR
has replaced, or that is not metered: it is read as it was recorded.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.transports import begin, being_sent, note_saved, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest


def wrap(module: ModuleType) -> None:
    """Wrap the methods of a recorder's `Cassette` that play a response."""
    cassette = getattr(module, "Cassette", None)
    if module.__name__ == "vcr.cassette":
        # Whichever HTTP library VCR patches, its stub asks both (vcrpy 6.0.2 and later); the first
        # is for a cassette class of the user's own, which may play its responses in another way.
        wrap_method(cassette, "can_play_response_for", _then("vcr_obstacle"))
        wrap_method(cassette, "play_response", _then("vcr_play"))
        wrap_method(cassette, "_save", _wrap_save)  # private: the one way to the file
    else:
        wrap_method(cassette, "match", _then("cassetter_obstacle"))


def _then(reader: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a wrapper that lets the current request read what a method of a cassette returned."""

    def wrapper_of(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(cassette: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            result = original(cassette, *args, **kwargs)
            current = being_sent()
            if current is not None:
                current.do(functools.partial(_played, **kwargs), reader, result, cassette, *args)
            elif reader == "vcr_play" and args:
                _follow(result, cassette, args[0])
            return result

        return method

    return wrapper_of


def _played(captured: CapturedRequest, reader: str, *facts: Any, **named: Any) -> None:
    # Imported with the first call: a suite that never calls Claude may import a recorder.
    from pytest_llmcost.capture import replay

    captured.play = getattr(replay, reader)(captured.sent, *facts, **named) or captured.play


def _wrap_save(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save(cassette: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        path = os.path.abspath(getattr(cassette, "_path", None) or "")
        before = _state(path)
        result = original(cassette, *args, **options)
        if _state(path) != before:
            note_saved(path)
        return result

    return save


def _state(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _follow(response: Any, cassette: Any, request: Any) -> None:
    """Follow a Claude call of a library of which only the recorder is seen, or none is known."""
    url, body = getattr(request, "uri", None), getattr(request, "body", None)
    if not isinstance(url, str) or not isinstance(response, dict):
        return
    body = json.dumps(body) if isinstance(body, dict) else body  # aiohttp's `json=`
    captured = begin(response, cassette, request.method, url, request.headers, body)
    if captured is not None:
        captured.do(_played, "vcr_play", response, cassette, request)
        captured.do(_answered, response)


def _answered(captured: CapturedRequest, response: dict[str, Any]) -> None:
    captured.answered(
        status=(response.get("status") or {}).get("code", 200),
        live=False,
        content=captured.read_recorded(response),
    )
