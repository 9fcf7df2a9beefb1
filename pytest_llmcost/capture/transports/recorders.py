"""VCR and cassetter: which recording was played for the request that is being sent.

A response of VCR's that is played while no call is followed is one for a library whose sending VCR
has replaced, or that is not metered: it is read as it was recorded.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.headers import as_bytes
from pytest_llmcost.capture.transports import begin, being_sent, note_saved, passed_on, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest


def wrap(module: ModuleType) -> None:
    """Wrap the methods of a recorder's `Cassette` that play a response."""
    cassette = getattr(module, "Cassette", None)
    names: tuple[str, ...] = ("match",)
    if module.__name__ == "vcr.cassette":
        # Whichever HTTP library VCR patches, its stub asks both (vcrpy 6.0.2 and later); the first
        # is for a cassette class of the user's own, which may play its responses in another way.
        names = ("can_play_response_for", "play_response")
        wrap_method(cassette, "_save", _wrap_save)  # private: the one way to the file
    for name in names:
        wrap_method(cassette, name, functools.partial(_wrap_playing, name))


def _wrap_playing(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make a wrapper that lets the current request read what a method of a cassette returned."""

    def method(cassette: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        result = original(cassette, *args, **kwargs)
        current = passed_on(args[0].body) if args and name != "match" else being_sent()
        if current is not None:
            current.do(_played, name, result, cassette, *args, *kwargs.values())
        elif name == "play_response" and args:
            _follow(result, cassette, args[0])
        return result

    return method


def _played(captured: CapturedRequest, name: str, result: Any, cassette: Any, *args: Any) -> None:
    # Imported with the first call: a suite that never calls Claude may import a recorder.
    from pytest_llmcost.capture.replay import Recording, VcrPlay
    from pytest_llmcost.capture.request import Replay
    from pytest_llmcost.responses.recorded_files import read_status

    if name == "match":
        captured.play = Replay(obstacle="cassetter replayed it")
    elif result and Recording(args[0]).kind is not None:  # and no log-in inside a Claude call
        # Until it is played, nothing is known but that there is a response.
        captured.play = Replay(obstacle="VCR does not tell which recording it replayed")
        if name == "play_response":
            captured.sent = captured.sent or as_bytes(args[0].body)  # of a stream, VCR has it all
            captured.play = VcrPlay(cassette, args[0], result)
            if captured.is_unrefused:  # what sends below its client got one and asks again
                captured.go_again()
            captured.is_unrefused = 200 <= read_status(result) < 300


def _wrap_save(original: Callable[..., Any]) -> Callable[..., Any]:
    def save(cassette: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        path = os.path.abspath(getattr(cassette, "_path", None) or "")  # private
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
    url = getattr(request, "uri", None)
    if not isinstance(url, str) or not isinstance(response, dict):
        return
    captured = begin(response, cassette, request.method, url, request.headers, request.body)
    if captured is not None:
        captured.do(_played, "play_response", response, cassette, request)
        captured.do(_answered, response)


def _answered(captured: CapturedRequest, response: dict[str, Any]) -> None:
    from pytest_llmcost.responses.recorded_files import read_status

    captured.answered(status=read_status(response), live=False, content=response)
