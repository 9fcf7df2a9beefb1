"""Recount: a replayed reply whose prompt has changed, priced by a count of the new prompt.

Data flow: the recorded call, a count of what is sent now, both payloads -> Call (`recounted`), or
`stale` where no count can tell. Pure; who counts and where is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from pytest_llmcost.counting.cassette import Count
from pytest_llmcost.counting.client import caveats_of
from pytest_llmcost.counting.payload import Payload, changed_parts, describe_changes
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Terms, Usage
from pytest_llmcost.responses.message import Answer

_TAKEN_FIRST = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)
"""What a shrunk prompt comes off, in this order: uncached input, reads, writes."""


def recount(
    answer: Answer,
    count: Count,
    *,
    sent: Payload,
    recorded: Payload,
    tokenizer: Callable[[str], str | None],
) -> Answer | None:
    """Return what the recorded reply uses for the prompt that is sent now.

    Its input is the count of the new prompt, its output that of the recorded reply. What the prompt
    grew by is uncached input. The model, and with it the rates, are those of what is sent now.
    Return None where a count of the prompt does not give the new cost.

    Args:
        answer: What the replayed response said.
        count: `count_tokens` of the payload sent now.
        sent: The payload sent now.
        recorded: The payload that the response was recorded for.
        tokenizer: Model -> name of its tokenizer, None where it is unknown.
    """
    if obstacle_to_recount(answer) is not None:
        return None
    (sampling,) = answer.sampling_calls
    model = answer.model if sent.model == recorded.model else sent.model
    usage = spread(sampling.usage, count.input_tokens)
    caveats = {*answer.caveats, *caveats_of(sent, count)}
    caveats |= reply_caveats(answer, sent, recorded, tokenizer)
    caveats.add(f"changed-prompt: {_changes(sent, recorded)}")
    if sent.body.get("speed") == "fast" != recorded.body.get("speed"):
        caveats.add("unknown-speed")  # fast may be asked for and not given
    return replace(
        answer,
        model=model,
        usage=usage,
        sampling_calls=(replace(sampling, model=model, usage=usage),),
        terms=_terms_now(answer.terms, sent, recorded),
        caveats=sorted_caveats(caveats),
    )


def without_figures(answer: Answer, *, sent: Payload, recorded: Payload) -> Answer:
    """Make an unknown of a reply whose prompt has changed and cannot be recounted.

    It keeps no sampling calls: yesterday's price would be taken for today's.
    """
    obstacle = obstacle_to_recount(answer)
    text = f"stale: {_changes(sent, recorded)}" + (f" ({obstacle})" if obstacle else "")
    return replace(answer, sampling_calls=(), caveats=sorted_caveats([*answer.caveats, text]))


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


def obstacle_to_recount(answer: Answer) -> str | None:
    """Return why a count of the prompt does not give a reply's new cost; None where it does."""
    if len(answer.ids) > 1:
        return "the recorded answer holds several messages"
    if len(answer.sampling_calls) != 1 or answer.sampling_calls[0].kind != "message":
        return "the recorded answer took several sampling calls"
    (sampling,) = answer.sampling_calls
    if sampling.sums_calls or sampling.usage.web_search_requests:
        return "the recorded answer took several sampling calls"
    if sampling.refusal is not None:
        return "the recorded answer is a refusal"
    return None


def reply_caveats(
    answer: Answer,
    sent: Payload,
    recorded: Payload,
    tokenizer: Callable[[str], str | None],
) -> set[str]:
    """Return in which ways the recorded reply is not the one that would come now."""
    caveats = set()
    if sent.model != recorded.model:
        then, now = tokenizer(recorded.model), tokenizer(sent.model)
        if then is None or then != now:
            caveats.add(f"other-tokenizer: recorded with {recorded.model}")
    if answer.stop_reason == "max_tokens":
        then_most, now_most = recorded.body.get("max_tokens"), sent.body.get("max_tokens")
        if not (isinstance(then_most, int) and isinstance(now_most, int) and now_most <= then_most):
            caveats.add(f"cut-reply: by max_tokens {then_most}, now {now_most}")
    if answer.stop_reason == "stop_sequence":
        gone = [text for text in _stop_sequences(recorded) if text not in _stop_sequences(sent)]
        if gone:
            caveats.add(f"cut-reply: by one of stop_sequences, now without {gone[0]!r}")
    return caveats


def _stop_sequences(payload: Payload) -> list[object]:
    texts = payload.body.get("stop_sequences")
    return texts if isinstance(texts, list) else []


def _terms_now(terms: Terms, sent: Payload, recorded: Payload) -> Terms:
    """What was asked for in another way than then is priced as it is asked for now."""
    if sent.body.get("inference_geo") != recorded.body.get("inference_geo"):
        asked = sent.body.get("inference_geo")
        terms = replace(terms, inference_geo=asked if isinstance(asked, str) else None)
    if terms.speed == "fast" and sent.body.get("speed") != "fast":
        terms = replace(terms, speed="standard")
    return terms
