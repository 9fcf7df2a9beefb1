"""VCR and cassetter: which recording was played for the request that is being sent."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.replay import (
    Replay,
    VcrPlay,
    cassetter_obstacle,
    vcr_obstacle,
    vcr_play,
)
from pytest_llmcost.capture.transports import CURRENT, wrap_method


def wrap(module: ModuleType) -> None:
    """Wrap the methods of a recorder's `Cassette` that play a response."""
    cassette = getattr(module, "Cassette", None)
    if module.__name__ == "vcr.cassette":
        # Whichever HTTP library VCR patches, its stub asks both (vcrpy 6.0.2 and later); the first
        # is for a cassette class of the user's own, which may play its responses in another way.
        wrap_method(cassette, "can_play_response_for", _then(vcr_obstacle))
        wrap_method(cassette, "play_response", _then(vcr_play))
    else:
        wrap_method(cassette, "match", _then(cassetter_obstacle))


def _then(
    read: Callable[..., VcrPlay | Replay | None],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a wrapper that lets the current request read what a method of a cassette returned."""

    def wrapper_of(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(cassette: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            result = original(cassette, *args, **kwargs)
            current = CURRENT.get()
            if current is not None:
                current.replayed(read, result, cassette, *args, **kwargs)
            return result

        return method

    return wrapper_of
