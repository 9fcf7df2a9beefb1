"""Why a figure is a bound and not exact: every caveat has a name, a direction and a meaning.

A caveat on a call is the text `name`, or `name: detail`. Its direction says where the true cost
may lie and so opens the call's low or high bound. `docs/caveats.md` lists them for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

Direction = Literal["lower", "higher", "either", "none"]


class Caveat(NamedTuple):
    """One reason why a figure is not the whole truth."""

    name: str
    direction: Direction
    """Where the true cost may lie, seen from the figure; `none` leaves the figure exact."""
    meaning: str
    """For people, one sentence."""
    by_card: bool = False
    """Found by the rate card each time it prices the call, which then sets the bounds itself."""


_READING = (
    Caveat("truncated-stream", "higher", "The stream ended before its final usage; output unknown"),
    Caveat("lost-answer", "higher", "The request was sent and no answer came; it may be billed"),
    Caveat("unreadable-response", "either", "The response has no usage that could be read"),
    Caveat("left-out", "higher", "count_tokens refused this part, so it was counted without it"),
    Caveat("unknown-field", "higher", "The payload has a key whose tokens nobody counted"),
    Caveat("unknown-usage", "higher", "The usage has a quantity that no price is known for"),
    Caveat("unknown-speed", "higher", "Asked to be fast; the response does not say whether it was"),
    Caveat("first-call-only", "higher", "Server tools: the count covers the first sampling call"),
    Caveat("input-only", "none", "The prompt alone was priced, as asked"),
    Caveat("unbounded-output", "higher", "Nothing says how long the reply may get"),
    Caveat("code-execution-hours", "higher", "Container time is billed but shown in no response"),
    Caveat("advisor-without-entry", "higher", "The advisor spoke, but its tokens are not in usage"),
    Caveat("other-tokenizer", "either", "The output was recorded with another tokenizer"),
    Caveat("cut-reply", "higher", "The recorded reply was cut by a limit that has changed since"),
    Caveat("open-batch", "higher", "The batch's results have not been seen"),
    Caveat("not-comparable", "either", "The two runs did not measure the same thing"),
    Caveat("stale", "either", "The payload has changed and no count of the new one is to be had"),
    Caveat("uncounted", "either", "Counting this payload failed, so its price is unknown"),
    Caveat("changed-prompt", "none", "The prompt changed since its reply was recorded"),
    Caveat("declared-price", "none", "The test stated this price itself"),
)

_PRICING = (
    Caveat("unknown-model", "either", "The card has no price for this model on this date", True),
    Caveat("cache-unpriced", "either", "The prompt is cached, and was priced as plain input", True),
    Caveat("retired-model", "none", "Retired; its last rates were used", True),
    Caveat("ended-fast-mode", "none", "Fast mode has ended; its last rates were used", True),
    Caveat("priority-tier", "none", "Priced as the same tokens at the standard tier", True),
    Caveat("unknown-tier", "either", "No price is published for this service tier", True),
    Caveat(
        "unknown-endpoint",
        "higher",
        "Regional endpoints cost more; unknown if it was one",
        True,
    ),
    Caveat("unknown-geography", "higher", "No factor is known for this place of inference", True),
    Caveat("fallback-without-entry", "higher", "A billed attempt's tokens are not in usage", True),
    Caveat("unknown-refusal", "higher", "Unknown whether this kind of refusal is billed", True),
    Caveat(
        "band-on-total", "lower", "The length band was chosen on the sum of several calls", True
    ),
    Caveat("advisor-fast", "higher", "Unknown whether a fast request's advisor is fast too", True),
)

CAVEATS: Mapping[str, Caveat] = MappingProxyType(
    {caveat.name: caveat for caveat in (*_READING, *_PRICING)}
)
"""Every caveat by name."""


def caveat_name(text: str) -> str:
    """Return the name of a caveat as it stands on a call.

    Example:
        >>> caveat_name("left-out: tools.web_search")
        'left-out'
    """
    return text.partition(":")[0]


def may_be_lower(text: str) -> bool:
    """Tell whether the true cost may lie below a figure with this caveat."""
    return _direction(text) in ("lower", "either")


def may_be_higher(text: str) -> bool:
    """Tell whether the true cost may lie above a figure with this caveat."""
    return _direction(text) in ("higher", "either")


def _direction(text: str) -> Direction:
    # A name from a newer version is not understood, so nothing is known of its direction.
    caveat = CAVEATS.get(caveat_name(text))
    return caveat.direction if caveat else "either"


def without_card_caveats(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the caveats that no rate card finds, for a call that is about to be priced anew."""
    return tuple(
        text
        for text in texts
        if not ((caveat := CAVEATS.get(caveat_name(text))) and caveat.by_card)
    )
