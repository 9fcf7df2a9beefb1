"""Recount: a replayed reply whose prompt has changed, priced by a count of the new prompt.

Data flow: the recorded call, a count of what is sent now, both payloads -> Call (`recounted`), or
`stale` where no count can tell. Pure; who counts and where is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.capture.request import Exchange
from pytest_llmcost.counting.client import Count
from pytest_llmcost.counting.payload import Payload, changed_parts, describe_changes
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage

_TAKEN_FIRST = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)
"""What a shrunk prompt comes off, in this order: uncached input, reads, writes."""


def recount(
    call: Call,
    count: Count,
    *,
    sent: Payload,
    recorded: Payload,
    exchange: Exchange,
    tokenizer: Callable[[str], str | None] | None = None,
) -> Call:
    """Price what is sent now: its own count as input, the recorded reply as output.

    What the prompt grew by is uncached input. The model, and with it the rates, are those of what
    is sent now.

    Args:
        call: What the replayed response bills, unpriced.
        count: `count_tokens` of the payload sent now.
        sent: The payload sent now.
        recorded: The payload that the response was recorded for.
        exchange: Where the call comes from.
        tokenizer: Model -> name of its tokenizer; the shipped card's by default.
    """
    obstacle = _obstacle(call, exchange)
    if obstacle is not None:
        return stale(call, sent=sent, recorded=recorded, obstacle=obstacle)
    (sampling,) = call.sampling_calls
    model = sampling.model if sent.model == recorded.model else sent.model
    usage = spread(sampling.usage, count.input_tokens)
    caveats = {*call.caveats, *count.caveats}
    caveats.update(reply_caveats(sent, recorded, exchange, tokenizer or shipped_tokenizer))
    caveats.add(f"changed-prompt: {_changes(sent, recorded)}")
    if sent.body.get("speed") == "fast" != recorded.body.get("speed"):
        caveats.add("unknown-speed")  # fast may be asked for and not given
    return replace(
        call,
        model=model,
        evidence="recounted",
        usage=usage,
        sampling_calls=(replace(sampling, model=model, usage=usage),),
        context=_context(call.context, sent, recorded),
        caveats=tuple(sorted(caveats)),
    )


def stale(call: Call, *, sent: Payload, recorded: Payload, obstacle: str = "") -> Call:
    """Make an unknown of a call whose payload has changed and that no count can mend.

    It keeps no legs: yesterday's price would be taken for today's.
    """
    text = f"stale: {_changes(sent, recorded)}" + (f" ({obstacle})" if obstacle else "")
    return replace(
        call, evidence="stale", sampling_calls=(), caveats=tuple(sorted({*call.caveats, text}))
    )


def _changes(sent: Payload, recorded: Payload) -> str:
    return describe_changes(changed_parts(recorded.parts, sent.parts)) or "the payload"


def spread(usage: Usage, prompt_tokens: int) -> Usage:
    """Spread a new prompt length over the kinds of input that the recorded usage had.

    Example:
        >>> spread(Usage(input_tokens=5, cache_read_tokens=90), 80)
        Usage(input_tokens=0, cache_write_5m_tokens=0, cache_write_1h_tokens=0, cache_read_tokens=80, output_tokens=0, web_search_requests=0)
    """  # noqa: E501 - a repr is one line
    growth = prompt_tokens - usage.prompt_tokens
    if growth >= 0:
        return replace(usage, input_tokens=usage.input_tokens + growth)
    left = -growth
    kept: dict[str, int] = {}
    for kind in _TAKEN_FIRST:
        tokens: int = getattr(usage, kind)
        kept[kind] = max(0, tokens - left)
        left -= tokens - kept[kind]
    return replace(usage, **kept)


def _obstacle(call: Call, exchange: Exchange) -> str | None:
    """Why a count of the prompt does not give the call's new cost."""
    if exchange.messages > 1:
        return "the recorded answer holds several messages"
    if len(call.sampling_calls) != 1 or call.sampling_calls[0].kind != "message":
        return "the recorded answer took several sampling calls"
    (sampling,) = call.sampling_calls
    if sampling.sums_calls or sampling.usage.web_search_requests:
        return "the recorded answer took several sampling calls"
    if sampling.refusal is not None:
        return "the recorded answer is a refusal"
    return None


def reply_caveats(
    sent: Payload,
    recorded: Payload,
    exchange: Exchange,
    tokenizer: Callable[[str], str | None],
) -> set[str]:
    """Say in which way the recorded reply is not the one that would come now."""
    caveats = set()
    if sent.model != recorded.model:
        then, now = tokenizer(recorded.model), tokenizer(sent.model)
        if then is None or then != now:
            caveats.add(f"other-tokenizer: recorded with {recorded.model}")
    if exchange.stop_reason == "max_tokens":
        then_most, now_most = recorded.body.get("max_tokens"), sent.body.get("max_tokens")
        if not (isinstance(then_most, int) and isinstance(now_most, int) and now_most <= then_most):
            caveats.add(f"cut-reply: by max_tokens {then_most}, now {now_most}")
    if exchange.stop_reason == "stop_sequence":
        gone = [text for text in _stop_sequences(recorded) if text not in _stop_sequences(sent)]
        if gone:
            caveats.add(f"cut-reply: by one of stop_sequences, now without {gone[0]!r}")
    return caveats


def _stop_sequences(payload: Payload) -> list[object]:
    texts = payload.body.get("stop_sequences")
    return texts if isinstance(texts, list) else []


def _context(context: Terms, sent: Payload, recorded: Payload) -> Terms:
    """What was asked for in another way than then is priced as it is asked for now."""
    if sent.body.get("inference_geo") != recorded.body.get("inference_geo"):
        asked = sent.body.get("inference_geo")
        context = replace(context, inference_geo=asked if isinstance(asked, str) else None)
    if context.speed == "fast" and sent.body.get("speed") != "fast":
        context = replace(context, speed="standard")
    return context


def shipped_tokenizer(model: str) -> str | None:
    """The name of a model's tokenizer; None where the shipped card does not know it."""
    card = shipped_card()
    return card.tokenizer(model) if card.find(model) else None
