"""VCR and cassetter: which recording was played for the request that is being sent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.replay import cassetter_obstacle, vcr_obstacle, vcr_play
from pytest_llmcost.capture.transports import CURRENT, wrap_method


def wrap(module: ModuleType) -> None:
    """Wrap the methods of a recorder's `Cassette` that play a response."""
    cassette = getattr(module, "Cassette", None)
    if module.__name__ == "vcr.cassette":
        # Stable from vcrpy 4 to 9. Whichever HTTP library is patched, its stub asks both.
        wrap_method(cassette, "can_play_response_for", _wrap_can_play)
        wrap_method(cassette, "play_response", _wrap_play)
    else:
        wrap_method(cassette, "match", _wrap_match)


def _wrap_can_play(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def can_play_response_for(cassette: Any, request: Any) -> Any:
        __tracebackhide__ = True
        can_play = original(cassette, request)
        current = CURRENT.get()
        if current is not None and can_play:
            # Said before it is played: a cassette class of the user's own may play in another way.
            current.replayed(vcr_obstacle, request)
        return can_play

    return can_play_response_for


def _wrap_play(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def play_response(cassette: Any, request: Any) -> Any:
        __tracebackhide__ = True
        response = original(cassette, request)
        current = CURRENT.get()
        if current is not None:
            current.replayed(vcr_play, cassette, request, response)
        return response

    return play_response


def _wrap_match(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def match(cassette: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        found = original(cassette, *args, **kwargs)
        current = CURRENT.get()
        if current is not None:
            current.replayed(cassetter_obstacle)
        return found

    return match
