"""Doubts: how far a call's figures can be off, and what would settle each of them.

Data flow: Call -> `bounds_of` one quantity, `doubts_of` it -> Doubts -> sentences for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Literal

from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.caveats import CAVEATS, caveat_name, may_be_lower

Kind = Literal["usd", "input_tokens", "output_tokens", "calls"]

COUNT_COMMAND = "pytest --llmcost-record-mode=new_episodes"
"""What counts changed prompts and records the counts; free, for it sends `count_tokens` alone."""

_BOTH: frozenset[Kind] = frozenset({"input_tokens", "output_tokens"})
_INPUT: frozenset[Kind] = frozenset({"input_tokens"})
_OUTPUT: frozenset[Kind] = frozenset({"output_tokens"})

_TOKENS: Mapping[str, frozenset[Kind]] = {
    "stale": _INPUT,
    "uncounted": _BOTH,
    "not-comparable": _INPUT,
    "left-out": _INPUT,
    "unknown-field": _INPUT,
    "truncated-stream": _OUTPUT,
    "cut-reply": _OUTPUT,
    "other-tokenizer": _OUTPUT,
    "unbounded-output": _OUTPUT,
    "input-only": _OUTPUT,
    "first-call-only": _BOTH,
    "advisor-without-entry": _BOTH,
    "fallback-without-entry": _BOTH,
    "open-batch": _BOTH,
    "lost-answer": _BOTH,
    "unreadable-response": _BOTH,
}
"""Which stated tokens a caveat puts in doubt; those not named here concern the price alone."""

_SENTENCES: Mapping[str, str] = {
    "stale": "the prompt changed since its reply was recorded{detail}, and has no token count; "
    "count it, free: {command}",
    "uncounted": "a payload could not be counted{detail}; count it, free: {command}",
    "not-comparable": "the recorded request cannot be compared with what is sent now{detail}; "
    "record it with its body in the cassette",
    "truncated-stream": "a streamed reply was not read to its end{detail}; read it to the end, "
    "or hand its final message to llmcost.record(...)",
    "cut-reply": "the recorded reply was cut by a smaller max_tokens{detail}; record it again",
    "other-tokenizer": "the recorded reply is another tokenizer's{detail}; record it again",
    "input-only": "no output was counted; say llmcost.count(..., output_tokens=...)",
    "unbounded-output": "nothing bounds the output{detail}; say output_tokens= or max_tokens",
    "left-out": "count_tokens refused a part of the payload{detail}, so the count is too low; "
    "a recorded reply has the true usage",
    "unknown-field": "a field is not known to this version{detail}; update pytest-llmcost",
    "first-call-only": "the count covers the first call of a server tool's loop alone{detail}; "
    "a recorded reply has the true usage",
    "open-batch": "a batch was created but its results were not read{detail}; read them",
    "lost-answer": "a request had no answer, which may be billed all the same{detail}; "
    "state it with llmcost.record(...)",
    "unreadable-response": "a reply's usage could not be read{detail}; "
    "state it with llmcost.record(...)",
    "cache-unpriced": "a prompt with cache_control was counted without saying what is cached; "
    'say llmcost.count(..., cache="cold"), or "warm", or "none"',
    "unknown-model": "no price for a model{detail}; add it to a price file (--llmcost-prices)",
    "code-execution-hours": "code execution is billed by the hour too, which no reply states",
    "unknown-speed": "fast mode was asked for, and the reply does not say whether it was{detail}",
    "unknown-tier": "no price is published for the service tier{detail}; see llmcost_prices",
    "advisor-fast": "nobody knows whether a fast request's advisor is fast too{detail}",
    "advisor-without-entry": "an advisor was asked, but the usage does not list it{detail}",
    "fallback-without-entry": "a declined attempt is missing in the usage{detail}",
    "band-on-total": "the length band was chosen on the total of several requests{detail}",
    "unknown-endpoint": "a regional endpoint has a premium, and this may be one{detail}",
    "unknown-geography": "no factor is known for the place of inference{detail}",
    "unknown-refusal": "a refusal is of a kind that may be billed or not{detail}",
    "unknown-usage": "the usage has a quantity without a price{detail}; update pytest-llmcost",
}
"""What became uncertain, and what would settle it where something would."""

_UNEXPLAINED = "what a call cost is unknown; state it with llmcost.record(...)"


def bounds_of(call: Call, kind: Kind) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Return the least, the best and the greatest figure of one quantity of a call."""
    if kind == "usd":
        return call.usd_low, call.usd, call.usd_high
    if kind == "calls":
        return Decimal(1), Decimal(1), Decimal(1)
    usage = call.billed_usage
    tokens = Decimal(usage.prompt_tokens if kind == "input_tokens" else usage.output_tokens)
    doubts = [each for each in _caveats(call) if _concerns(each, kind)]
    if not call.legs or any(map(may_be_lower, doubts)):
        return Decimal(0), None, None
    lost = call.lost_usage
    if lost is not None and all(caveat_name(each) == "lost-answer" for each in doubts):
        each = lost.prompt_tokens if kind == "input_tokens" else lost.output_tokens
        return tokens, tokens, tokens + (call.lost_attempts or 0) * each
    return tokens, tokens, None if doubts else tokens


def doubts_of(call: Call, kind: Kind) -> Iterator[str]:
    """Name what keeps one quantity of a call from being exact: caveats with their details."""
    low, best, high = bounds_of(call, kind)
    if best is not None and low == best == high:
        return
    yield from [each for each in _caveats(call) if _concerns(each, kind)] or [""]


def _caveats(call: Call) -> tuple[str, ...]:
    if call.evidence == "stale" and not any(caveat_name(each) == "stale" for each in call.caveats):
        return ("stale", *call.caveats)
    return call.caveats


def _concerns(caveat: str, kind: Kind) -> bool:
    """Whether a caveat puts a quantity in doubt; one of a newer version does so with all."""
    name = caveat_name(caveat)
    if kind == "usd":
        return name not in CAVEATS or CAVEATS[name].direction != "none"
    return kind in _TOKENS.get(name, () if name in CAVEATS else _BOTH)


class Doubts:
    """Caveats of many calls by name, in constant memory: how many, and one detail of each."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str, str]] = {}

    def add(self, caveat: str) -> None:
        """Note one caveat of one call, `name` or `name: detail`."""
        name, _, detail = caveat.partition(":")
        self._note(name, 1, detail.strip(), detail.strip())

    def update(self, other: Doubts) -> None:
        """Note all that another collection has seen."""
        for name, (number, first, last) in other._seen.items():
            self._note(name, number, first, last)

    def _note(self, name: str, number: int, first: str, last: str) -> None:
        # The least and the greatest detail, so that the order of calls never shows.
        seen, least, greatest = self._seen.get(name, (0, first, last))
        self._seen[name] = (seen + number, min(least, first), max(greatest, last))

    def explain(self, count_command: str = COUNT_COMMAND) -> tuple[str, ...]:
        """Write each as a sentence that says what would settle it; sorted, each once."""
        return tuple(
            sorted(_sentence(name, *seen, count_command) for name, seen in self._seen.items())
        )


def _sentence(name: str, number: int, detail: str, other: str, command: str) -> str:
    if name == "unknown-model" and detail:
        text = detail  # the error itself, which names the nearest models and the remedy
    else:
        shown = f" ({detail}{', ...' if other != detail else ''})" if detail or other else ""
        template = _SENTENCES.get(name, name + "{detail}") if name else _UNEXPLAINED
        text = template.replace("{command}", command).replace("{detail}", shown)
    return f"{text} ({number:,} calls)" if number > 1 else text
