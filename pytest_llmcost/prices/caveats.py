"""Why a figure is a bound and not exact: everything that is known of each caveat, in one table.

A caveat on a call is the text `name`, or `name: detail`; ledgers hold that text. A test holds
`docs/caveats.md` to the table. Knows nothing of the rooms that find caveats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

Direction = Literal["lower", "higher", "either", "none"]
TokenKind = Literal["input_tokens", "uncached_input_tokens", "output_tokens"]

_UNCACHED: frozenset[TokenKind] = frozenset({"uncached_input_tokens"})
_INPUT: frozenset[TokenKind] = frozenset({"input_tokens", "uncached_input_tokens"})
_OUTPUT: frozenset[TokenKind] = frozenset({"output_tokens"})
_BOTH = _INPUT | _OUTPUT


class Rule(NamedTuple):
    """What one kind of caveat means."""

    name: str
    direction: Direction
    """On which side of the figure the true cost may lie; `none` leaves the figure exact."""
    meaning: str
    """For the documentation, one sentence without its full stop."""
    sentence: str = ""
    """For a message: what is uncertain and how to resolve it, with `{detail}` and `{command}`."""
    tokens: frozenset[TokenKind] = frozenset()
    """Which stated tokens it makes uncertain; without any it concerns the price alone."""
    by_card: bool = False
    """Found by the rate card each time it prices a call, which then sets the bounds itself."""

    @property
    def of_the_reply(self) -> bool:
        """Whether it is about the length of the reply, which `max_tokens` bounds."""
        return self.tokens == _OUTPUT


_READING = (
    Rule(
        "truncated-stream",
        "higher",
        "The stream ended before its final usage, so its output is unknown",
        "a streamed reply was not read to its end{detail}; read it to the end, or pass its final "
        "message to llmcost.record(...)",
        _OUTPUT,
    ),
    Rule(
        "lost-answer",
        "higher",
        "The request got no answer and may have been billed",
        "a request got no answer and may have been billed{detail}; record its cost with "
        "llmcost.record(...)",
        _BOTH,
    ),
    Rule(
        "unreadable-response",
        "either",
        "The response has no usage that can be read",
        "the usage of a reply cannot be read{detail}; record it with llmcost.record(...)",
        _BOTH,
    ),
    Rule(
        "unmetered-route",
        "higher",
        "The request took a route to Claude whose answers are not read",
        "a request took a route to Claude that is not metered{detail}; state its usage with "
        "llmcost.record(...)",
        _BOTH,
    ),
    Rule(
        "left-out",
        "higher",
        "count_tokens rejected this part, so it is not counted",
        "count_tokens rejected a part of the payload{detail}, so the count is too low; a recorded "
        "reply has the true usage",
        _INPUT,
    ),
    Rule(
        "unknown-field",
        "higher",
        "The payload has a key whose tokens are unknown",
        "this version does not know a field of the payload{detail}; update pytest-llmcost",
        _INPUT,
    ),
    Rule(
        "unknown-usage",
        "higher",
        "The usage has a quantity without a known price",
        "the usage has a quantity without a price{detail}; update pytest-llmcost",
    ),
    Rule(
        "usage-disagrees",
        "higher",
        "Two places of the response state different usage",
        "two places of a response disagree{detail}; state the usage with llmcost.record(...)",
        _BOTH,
    ),
    Rule(
        "first-call-only",
        "higher",
        "Server tools: the count covers the first sampling call",
        "the count covers only the first call of a server tool's loop{detail}; a recorded reply "
        "has the true usage",
        _BOTH,
    ),
    Rule(
        "input-only",
        "none",
        "The prompt alone was priced, as asked",
        "no output was counted; pass output_tokens= to llmcost.count(...)",
        _OUTPUT,
    ),
    Rule(
        "unbounded-output",
        "higher",
        "Nothing limits the length of the reply",
        "nothing limits the output{detail}; pass output_tokens= or max_tokens",
        _OUTPUT,
    ),
    Rule(
        "code-execution-hours",
        "higher",
        "Container time is billed but not shown in responses",
        "code execution is also billed by the hour, which replies do not state",
    ),
    Rule(
        "advisor-without-entry",
        "higher",
        "An advisor answered, but its tokens are not in the usage",
        "an advisor answered, but the usage does not list its tokens{detail}",
        _BOTH,
    ),
    Rule(
        "other-tokenizer",
        "either",
        "The output was recorded with another tokenizer",
        "the recorded reply was counted by another model's tokenizer{detail}; record it again",
        _OUTPUT,
    ),
    Rule(
        "cut-reply",
        "higher",
        "The recorded reply was cut by a limit that has changed since",
        "the recorded reply was cut by a limit that has changed{detail}; record it again",
        _OUTPUT,
    ),
    Rule(
        "open-batch",
        "higher",
        "The results of the batch were not read",
        "a batch was created but its results were not read{detail}; read them",
        _BOTH,
    ),
    Rule(
        "not-comparable",
        "either",
        "The recorded request cannot be compared with the new one",
        "the recorded request cannot be compared with what is sent now{detail}; record it with its "
        "body in the cassette",
        _INPUT,
    ),
    Rule(
        "stale",
        "either",
        "The payload has changed, and the new one is not counted yet",
        "the prompt changed since its reply was recorded{detail} and is not counted yet; count it "
        "(free): {command}",
        _INPUT,
    ),
    Rule(
        "not-recounted",
        "either",
        "The prompt changed, and a count cannot give the new cost of its reply",
        "a count cannot give the cost of a reply{detail}; record it again, or state its cost with "
        "llmcost.record(...)",
        _BOTH,
    ),
    Rule(
        "uncounted",
        "either",
        "This payload is not counted yet, so its price is unknown",
        "a payload is not counted yet{detail}; count it (free): {command}",
        _BOTH,
    ),
    Rule(
        "count-failed",
        "either",
        "Counting this payload was tried and failed, so its price is unknown",
        "a payload could not be counted{detail}; resolve this, then run {command}",
        _BOTH,
    ),
    Rule(
        "changed-cache",
        "lower",
        "The cached prefix changed since it was read, so it may have to be written again",
        "the cached prefix changed{detail}, so it is either read or written again; an earlier call "
        "of the test that writes it would settle this",
        _UNCACHED,
    ),
    Rule("changed-prompt", "none", "The prompt changed since its reply or its count was recorded"),
    Rule("volatile", "none", "Part of the prompt differs in every run, as a clock or a random id"),
    Rule("cache-miss", "none", "The API says why the prompt was not read from the cache"),
    Rule(
        "chat/completions",
        "none",
        "Sent to Anthropic's OpenAI-compatible API; such prompts cannot be counted",
    ),
    Rule("live-cap", "none", "The cap on live spend refused it, or did not see it leave"),
    Rule("declared-price", "none", "The test stated this price itself"),
)

_PRICING = (
    Rule(
        "unknown-model",
        "either",
        "The card has no price for this model on this date",
        "a model has no price{detail}; add it to a price file (--llmcost-prices=FILE)",
    ),
    Rule(
        "cache-unpriced",
        "either",
        "The prompt is cached, and was priced as plain input",
        "a prompt with cache_control was counted without saying what is cached; pass "
        'llmcost.count(..., cache="cold"), "warm" or "none"',
        _UNCACHED,
    ),
    Rule("retired-model", "none", "The model is retired; its last rates were used"),
    Rule("ended-fast-mode", "none", "Fast mode has ended; its last rates were used"),
    Rule("priority-tier", "none", "Priority tokens are priced at the standard tier"),
    Rule(
        "unknown-tier",
        "either",
        "No price is published for this service tier",
        "no price is published for the service tier{detail}; see llmcost_prices",
    ),
    Rule(
        "unknown-endpoint",
        "higher",
        "The endpoint may be a regional one, which costs more",
        "the endpoint may be a regional one, which costs more{detail}; if it is not, set "
        "regional = 1 in a price file (--llmcost-prices=FILE)",
    ),
    Rule(
        "unknown-geography",
        "higher",
        "Inference may have cost more in this place",
        "inference may have cost more in this place{detail}",
    ),
    Rule(
        "unknown-speed",
        "higher",
        "Fast mode was requested, and the response does not confirm it",
        "fast mode was requested, and the reply does not say whether it was used{detail}",
    ),
    Rule(
        "latency-optimized",
        "higher",
        "Bedrock's latency-optimised inference costs more than standard",
        "latency-optimised inference costs more than the standard price{detail}; add its rates to "
        "a price file (--llmcost-prices=FILE)",
    ),
    Rule(
        "fallback-without-entry",
        "higher",
        "A declined attempt is billed, but its tokens are not in the usage",
        "a declined attempt is billed, but its tokens are not in the usage{detail}",
        _BOTH,
    ),
    Rule(
        "unknown-refusal",
        "higher",
        "It is unknown whether this kind of refusal is billed",
        "it is unknown whether this kind of refusal is billed{detail}",
    ),
    Rule(
        "band-on-total",
        "lower",
        "The length band was chosen by the sum of several sampling calls",
        "the length band was chosen by the sum of several sampling calls{detail}",
    ),
    Rule(
        "advisor-fast",
        "higher",
        "It is unknown whether a fast request's advisor is fast too",
        "it is unknown whether a fast request's advisor is fast too{detail}",
    ),
)

CAVEATS: Mapping[str, Rule] = MappingProxyType(
    {rule.name: rule for rule in _READING}
    | {rule.name: rule._replace(by_card=True) for rule in _PRICING}
)
"""Every rule by name."""

_FROM_A_NEWER_VERSION = Rule("", "either", "", tokens=_BOTH)
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
