"""Why a figure is a bound and not exact: everything that is known of each caveat, in one table.

A caveat on a call is the text `name`, or `name: detail`; ledgers hold that text. A test holds
`docs/caveats.md` to the table. Knows nothing of the rooms that find caveats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

TokenKind = Literal["input_tokens", "uncached_input_tokens", "output_tokens"]
"""Tokens that can be limited; all but the output are of the prompt."""

_BOTH: frozenset[TokenKind] = frozenset(get_args(TokenKind))
_OUTPUT: frozenset[TokenKind] = frozenset({"output_tokens"})
_INPUT = _BOTH - _OUTPUT
_BY_CACHE = _INPUT - {"input_tokens"}
"""What of the input depends on what the cache holds: all but the whole."""


class Rule(NamedTuple):
    """What one kind of caveat means."""

    direction: Literal["lower", "higher", "either", "none"]
    """On which side of the figure the true cost may lie; `none` leaves the figure exact."""
    what: str
    """What a message says of a call, with `{detail}`."""
    remedy: str = ""
    """What settles it, with `{command}`."""
    tokens: frozenset[TokenKind] = frozenset()
    """Which stated tokens it makes uncertain; without any it concerns the price alone."""
    bounded_by: str = ""
    """The field in which a sampling call may state its bound, so that the bill has it already."""
    may_be_stated: bool = False
    """Whether what a test states by `llmcost.record(...)` takes the place of a call with it."""
    by_card: bool = False
    """Found by the rate card each time it prices a call, which then sets the bounds itself."""

    @property
    def meaning(self) -> str:
        """What it says of any call, without a detail."""
        return self.what.replace("{detail}", "")


_READING = {
    "truncated-stream": Rule(
        "higher",
        "a reply was not read to its end{detail}",
        "read it to the end, or pass its final message to llmcost.record(...)",
        _OUTPUT,
        "most_output_tokens",
        may_be_stated=True,
    ),
    "lost-answer": Rule(
        "higher",
        "a request got no answer and may have been billed{detail}",
        "run the test again, or state its cost with llmcost.record(...) if no retry was answered",
        _BOTH,
        may_be_stated=True,
    ),
    "unreadable-response": Rule(
        "either",
        "the usage of a reply cannot be read{detail}",
        "record it with llmcost.record(...)",
        _BOTH,
        may_be_stated=True,
    ),
    "unmetered-route": Rule(
        "higher",
        "a request took a route to Claude that is not metered{detail}",
        "state its usage with llmcost.record(...)",
        _BOTH,
        may_be_stated=True,
    ),
    "left-out": Rule(
        "higher",
        "count_tokens rejected a part of the payload{detail}, so the count is too low",
        "a recorded reply has the true usage",
        _INPUT,
    ),
    "unknown-field": Rule(
        "higher",
        "this version does not know a field of the payload{detail}",
        "update pytest-llmcost",
        _INPUT,
    ),
    "unknown-usage": Rule(
        "higher", "the usage has a quantity without a price{detail}", "update pytest-llmcost"
    ),
    "usage-disagrees": Rule(
        "higher",
        "two places of a response disagree{detail}",
        "state the usage with llmcost.record(...)",
        _BOTH,
        may_be_stated=True,
    ),
    "first-call-only": Rule(
        "higher",
        "the count covers only the first sampling call, and the request may make more{detail}",
        "a recorded reply has the true usage",
        _BOTH,
    ),
    "input-only": Rule(
        "none", "no output was counted", "pass output_tokens= to llmcost.count(...)", _OUTPUT
    ),
    "unbounded-output": Rule(
        "higher",
        "nothing limits the output{detail}",
        "set max_tokens, or limit the cost instead of the worst case",
        _OUTPUT,
    ),
    "code-execution-hours": Rule(
        "higher", "code execution is also billed by the hour, which replies do not state"
    ),
    "advisor-without-entry": Rule(
        "higher",
        "an advisor answered, but the usage does not list its tokens{detail}",
        tokens=_BOTH,
    ),
    "other-tokenizer": Rule(
        "either",
        "the recorded reply was counted by another model's tokenizer{detail}",
        "record it again",
        _OUTPUT,
    ),
    "cut-reply": Rule(
        "higher",
        "the recorded reply was cut by a limit that has changed{detail}",
        "record it again",
        _OUTPUT,
    ),
    "open-batch": Rule(
        "higher", "a batch was created but its results were not read{detail}", "read them", _BOTH
    ),
    "not-comparable": Rule(
        "either",
        "the recorded request cannot be compared with what is sent now{detail}",
        "record it with its body in the cassette",
        _INPUT,
    ),
    "stale": Rule(
        "either",
        "the prompt changed since its reply was recorded{detail} and is not counted yet",
        "count it (free): {command}",
        _INPUT,
    ),
    "not-recounted": Rule(
        "either",
        "a count cannot give the cost of a reply{detail}",
        "record it again, or state its cost with llmcost.record(...)",
        _BOTH,
        may_be_stated=True,
    ),
    "uncounted": Rule(
        "either", "a payload is not counted yet{detail}", "count it (free): {command}", _BOTH
    ),
    "count-failed": Rule(
        "either",
        "a payload could not be counted{detail}",
        "resolve this, then run {command}",
        _BOTH,
    ),
    "changed-cache": Rule(
        "lower",
        "the cached prefix or its writer changed{detail}, so it is either read or written",
        'record the test again, or give its budget cache="cold"',
        _BY_CACHE,
        "usage_low",
    ),
    "changed-prompt": Rule("none", "the prompt changed since its reply or its count was recorded"),
    "volatile": Rule("none", "part of the prompt differs in every run, as a clock or a random id"),
    "cache-notes": Rule(
        "none", "not all that is marked is cached, or its count is nearly exact{detail}"
    ),
    "cache-miss": Rule("none", "the API says why the prompt was not read from the cache"),
    "chat/completions": Rule(
        "none", "it was sent to Anthropic's OpenAI-compatible API; such prompts cannot be counted"
    ),
    "live-cap": Rule("none", "the cap on live spend refused it, or did not see it leave"),
    "declared-price": Rule("none", "the test stated this price itself"),
}
_PRICING = {
    "unknown-model": Rule(
        "either", "a model has no price{detail}", "add it to a price file (--llmcost-prices=FILE)"
    ),
    "cache-unpriced": Rule(
        "either",
        "a prompt with cache_control was counted without saying what is cached",
        'pass llmcost.count(..., cache="cold"), "warm" or "none"',
        _BY_CACHE,
    ),
    "retired-model": Rule("none", "the model is retired; its last rates were used"),
    "ended-fast-mode": Rule("none", "fast mode has ended; its last rates were used"),
    "priority-tier": Rule("none", "priority tokens are priced at the standard tier"),
    "unknown-tier": Rule(
        "either", "no price is published for the service tier{detail}", "see llmcost_prices"
    ),
    "unknown-endpoint": Rule(
        "higher",
        "the endpoint may be a regional one, which costs more{detail}",
        "if it is not, set regional = 1 in a price file (--llmcost-prices=FILE)",
    ),
    "unknown-geography": Rule("higher", "inference may have cost more in this place{detail}"),
    "unknown-speed": Rule(
        "higher", "a higher speed, which costs more, may have been requested and used{detail}"
    ),
    "fallback-without-entry": Rule(
        "higher",
        "a declined attempt is billed, but its tokens are not in the usage{detail}",
        tokens=_BOTH,
    ),
    "unknown-lifetime": Rule(
        "higher",
        "what was read from the cache may live for an hour, which costs more to write",
        'price a count of the prompt: llmcost.count(..., cache="cold")',
    ),
    "unknown-refusal": Rule(
        "higher", "it is unknown whether this kind of refusal is billed{detail}"
    ),
    "band-on-total": Rule(
        "lower", "the length band was chosen by the sum of several sampling calls{detail}"
    ),
}
CAVEATS: Mapping[str, Rule] = MappingProxyType(
    _READING | {name: rule._replace(by_card=True) for name, rule in _PRICING.items()}
)
"""Every rule by its name."""

_FROM_A_NEWER_VERSION = Rule("either", "", tokens=_BOTH)
"""An unknown name: the figure may be off in either direction."""


class Caveat(str):
    """One reason why a figure is not the whole truth: `name`, or `name: detail`.

    Example:
        >>> Caveat("left-out: tools.web_search").detail
        'tools.web_search'
    """

    __slots__ = ("detail", "may_be_higher", "may_be_lower", "name", "rule")
    name: str
    """What kind it is."""
    detail: str
    """What it is about; empty if there is nothing to add."""
    rule: Rule
    """What is known of its kind; a name of a newer version may mean anything."""
    may_be_lower: bool
    """Whether the true cost may lie below a figure with this caveat."""
    may_be_higher: bool
    """Whether the true cost may lie above a figure with this caveat."""

    def __new__(cls, text: str) -> Caveat:
        """Look up what is known of its kind."""
        caveat = super().__new__(cls, text)
        caveat.name, _, detail = text.partition(":")
        caveat.detail = detail.strip()
        caveat.rule = CAVEATS.get(caveat.name, _FROM_A_NEWER_VERSION)
        caveat.may_be_lower = caveat.rule.direction in ("lower", "either")
        caveat.may_be_higher = caveat.rule.direction in ("higher", "either")
        return caveat


_make = lru_cache(maxsize=1_024)(Caveat)
"""The calls of a run have the same few."""


def sorted_caveats(texts: Iterable[str]) -> tuple[Caveat, ...]:
    """Return caveats sorted, each once."""
    return tuple(map(_make, sorted(set(texts))))


def decode_caveat(kind: type, value: Any) -> Caveat:
    """Decode caveats for msgspec, which does not know subclasses of str."""
    return _make(str(value))


def encode_caveat(value: object) -> str:
    """Encode caveats for msgspec: the only type of ours that it does not know."""
    if isinstance(value, Caveat):
        return str(value)
    raise NotImplementedError(f"no encoder for {type(value)}")
