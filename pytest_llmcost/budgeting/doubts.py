"""Doubts: how far a call's figures can be off, and what would settle each of them.

Data flow: Call -> `bounds_of` one quantity, `doubts_of` it -> Doubts -> sentences for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Literal

from pytest_llmcost.metering.call import Call

Kind = Literal["usd", "input_tokens", "output_tokens", "calls"]

COUNT_COMMAND = "pytest --llmcost-record-mode=new_episodes"
"""What counts changed prompts and records the counts; free, for it sends `count_tokens` alone."""

_HARMLESS = frozenset({"input-only", "declared-price", "retired-model", "ended-fast-mode"})
"""Worth saying, but the figure stands; an output that was never asked for is another matter."""

_UNSEEN: Mapping[str, frozenset[Kind]] = {
    "stale": frozenset({"input_tokens"}),
    "not-comparable": frozenset({"input_tokens"}),
    "open-batch": frozenset({"input_tokens", "output_tokens"}),
    "lost-answer": frozenset({"input_tokens", "output_tokens"}),
    "unreadable-response": frozenset({"input_tokens", "output_tokens"}),
}
"""Caveats under which the stated tokens say nothing of the true ones, not even a lower bound."""

_PARTLY: Mapping[str, frozenset[Kind]] = {
    "truncated-stream": frozenset({"output_tokens"}),
    "cut-reply": frozenset({"output_tokens"}),
    "other-tokenizer": frozenset({"output_tokens"}),
    "input-only": frozenset({"output_tokens"}),
    "unbounded-output": frozenset({"output_tokens"}),
    "left-out": frozenset({"input_tokens"}),
    "unknown-field": frozenset({"input_tokens"}),
    "first-call-only": frozenset({"input_tokens", "output_tokens"}),
    "advisor-without-entry": frozenset({"input_tokens", "output_tokens"}),
}
"""Caveats under which the stated tokens are a lower bound."""

_SENTENCES: Mapping[str, str] = {
    "stale": "the prompt changed since its reply was recorded{detail}, and has no token count; "
    "count it, free: {command}",
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
    "unknown-model": "no price for a model{detail}; add it to a price file (--llmcost-prices)",
    "priority-tier": "priced at list rates, but served in the priority tier{detail}",
    "code-execution-hours": "code execution is billed by the hour too, which no reply states",
    "advisor-fast": "an advisor's call under fast mode is priced at standard rates{detail}",
    "advisor-without-entry": "an advisor was asked, but the usage does not list it{detail}",
    "band-on-total": "the length band was chosen on the total of several requests{detail}",
    "unknown-endpoint": "the endpoint is not known, and may have a premium{detail}",
    "unknown-geography": "the geography is not known, and may have a premium{detail}",
}

_UNEXPLAINED = "what a call cost is unknown; state it with llmcost.record(...)"


def bounds_of(call: Call, kind: Kind) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Return the least, the best and the greatest figure of one quantity of a call."""
    if kind == "usd":
        return call.usd_low, call.usd, call.usd_high
    if kind == "calls":
        return Decimal(1), Decimal(1), Decimal(1)
    usage = call.billed_usage
    tokens = Decimal(usage.prompt_tokens if kind == "input_tokens" else usage.output_tokens)
    if not call.legs or _has(call, _UNSEEN, kind):
        return Decimal(0), None, None
    return tokens, tokens, None if _has(call, _PARTLY, kind) else tokens


def doubts_of(call: Call, kind: Kind) -> Iterator[str]:
    """Name what keeps one quantity of a call from being exact: caveats with their details."""
    low, best, high = bounds_of(call, kind)
    if best is not None and low == best == high:
        return
    found = [each for each in _caveats(call) if _concerns(_name(each), kind)]
    yield from found or [""]


def _has(call: Call, table: Mapping[str, frozenset[Kind]], kind: Kind) -> bool:
    return any(kind in table.get(_name(each), ()) for each in _caveats(call))


def _caveats(call: Call) -> tuple[str, ...]:
    if call.evidence == "stale" and not any(_name(each) == "stale" for each in call.caveats):
        return ("stale", *call.caveats)
    return call.caveats


def _name(caveat: str) -> str:
    return caveat.partition(":")[0]


def _concerns(name: str, kind: Kind) -> bool:
    if kind == "usd":
        return name not in _HARMLESS
    return kind in _UNSEEN.get(name, ()) or kind in _PARTLY.get(name, ())


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
