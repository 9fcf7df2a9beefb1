"""Responses: the body of a Messages response to the Call that it bills.

Data flow: a message, whole or merged from a stream, or a batch's result -> `read_message` ->
Call with legs and caveats, unpriced. `read_usage` reads one usage alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.metering.call import Call, PricedLeg
from pytest_llmcost.metering.contents import (
    Blocks,
    Fallback,
    advisor_calls,
    blocks_of,
    fallbacks_of,
    has_server_loop,
    is_code_free,
    last_words,
    only_resumes_code,
    read_lifetime,
    runs_code,
    runs_server_tools,
    says_something,
)
from pytest_llmcost.metering.iterations import (
    UNSPECIFIED,
    Pass,
    added_legs,
    declined_legs,
    message_legs,
    read_passes,
    serving_model,
    split_passes,
    unknown_kinds,
)
from pytest_llmcost.metering.usagedata import (
    mapping_at,
    read_usage,
    term_at,
    text_at,
    unknown_quantities,
)
from pytest_llmcost.pricing.ratecard import shipped_card
from pytest_llmcost.pricing.usage import Context, Leg, Platform, Usage, find_impossible

__all__ = ["read_message", "read_usage"]


class _Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was read of a response, before anything is concluded from it."""

    body: Mapping[str, object]
    raw: Mapping[str, object]
    """Its `usage`."""
    usage: Usage
    passes: list[Pass]
    blocks: Blocks
    fallbacks: list[Fallback]
    request: Mapping[str, object] | None
    truncated: bool


def read_message(
    body: Mapping[str, object],
    *,
    model: str | None = None,
    platform: Platform | None = None,
    batch: bool | None = None,
    truncated: bool = False,
    withdrawn: str | None = None,
    stream: bool = False,
    request: Mapping[str, object] | None = None,
) -> Call:
    """Read what a response bills: its legs, what their price depends on, and what it hides.

    Args:
        body: the message; of a stream, what its events add up to.
        model: as the request or the URL names it; the response's own name comes first.
        platform: the cloud and kind of endpoint, as the URL tells.
        batch: whether it is a batch's result, where the response does not say so itself.
        truncated: whether the stream ended before its final usage.
        withdrawn: the input count that a stream restated as 0, see `StreamedMessage`.
        stream: whether it was streamed; only noted.
        request: the payload, where it is known; it tells what the response leaves open.

    Raises:
        UsageDataError: naming the path of what cannot be read, or what no request can have used.
    """
    reading = _read(body, request, truncated)
    if withdrawn and not reading.passes:  # a compaction may leave less; its passes say so
        raise UsageDataError(
            f"usage.{withdrawn}: restated as 0 at the end of the stream, after more before",
            path=f"usage.{withdrawn}",
        )
    named = model or text_at(request or {}, "model")
    serving = _serving_model(reading, named)
    return Call(
        model=serving,
        evidence="billed",
        stream=stream,
        usage=reading.usage,
        legs=tuple(map(_unpriced, _legs(reading, serving, named))),
        context=_context(reading, platform or _platform_of(named), batch),
        caveats=tuple(sorted(set(_caveats(reading)))),
    )


def _read(
    body: Mapping[str, object], request: Mapping[str, object] | None, truncated: bool
) -> _Reading:
    raw = mapping_at(body, "usage", "message")
    blocks = blocks_of(body)
    return _Reading(
        body=body,
        raw=raw,
        usage=read_usage(raw),
        passes=read_passes(raw),
        blocks=blocks,
        fallbacks=fallbacks_of(blocks),
        request=request,
        truncated=truncated,
    )


def _serving_model(reading: _Reading, named: str | None) -> str:
    """Return the model that answered: the last fallback's, else the response's own name for it."""
    serving = serving_model(reading.passes, reading.fallbacks)
    serving = serving or text_at(reading.body, "model") or named
    if not serving:
        raise UsageDataError("model: expected the model's name, got nothing", path="model")
    return serving


def _legs(reading: _Reading, serving: str, named: str | None) -> list[Leg]:
    """Return what is paid for: the answer, what ran beside it, what was declined before it.

    Passes that used nothing are dropped. The answer itself stays, for it has had a prompt; unless
    it was a compaction alone, on demand.
    """
    declined, served = split_passes(reading.passes)
    requested = serving
    if declined or reading.fallbacks:
        requested = named or text_at(reading.body, "model") or serving
    legs = _message_legs(reading, served, serving)
    legs += added_legs(reading.passes, requested=requested)
    legs += declined_legs(declined, reading.fallbacks, requested=requested)
    answer, told = legs[0], [leg for leg in legs if leg.usage or leg.kind == "declined"]
    if not any(leg.kind in ("message", "compaction") for leg in told):
        if only_resumes_code(reading.blocks):
            answer = msgspec.structs.replace(answer, kind="resumed")
        told.insert(0, answer)
    if (impossible := find_impossible(told)) is not None:
        raise UsageDataError(f"usage: {impossible}", path="usage")
    return told


def _message_legs(reading: _Reading, served: list[Pass], model: str) -> list[Leg]:
    looped = has_server_loop(reading.blocks, reading.raw)
    legs = message_legs(reading.usage, served, model=model, looped=looped)
    changes: dict[str, object] = {"refusal": _refusal(reading)}
    request = reading.request
    if request is not None:
        changes["most_output_tokens"] = _most_output_tokens(reading, request)
        if reading.usage.cache_read_tokens:
            changes["read_lifetime"] = read_lifetime(request)
    return [msgspec.structs.replace(leg, **changes) for leg in legs]


def _refusal(reading: _Reading) -> str | None:
    """Return the category of a refusal before any output; nothing for any other answer.

    It is one when the content holds no block that says something, whatever `output_tokens` is.

    Source: https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
    """
    if reading.body.get("stop_reason") != "refusal":
        return None
    if any(says_something(block) for block in last_words(reading.blocks)):
        return None
    details = reading.body.get("stop_details")
    category = text_at(details, "category") if isinstance(details, Mapping) else None
    return category or UNSPECIFIED


def _most_output_tokens(reading: _Reading, request: Mapping[str, object]) -> int | None:
    """Return what the output of a cut stream may have come to: the request's `max_tokens`."""
    most = request.get("max_tokens")
    if not reading.truncated or not isinstance(most, int) or runs_server_tools(request):
        return None
    return most


def _caveats(reading: _Reading) -> Iterator[str]:
    if reading.truncated:
        yield "truncated-stream"
    entries = sum(each.kind == "advisor_message" for each in reading.passes)
    if advisor_calls(reading.blocks) > entries:
        yield "advisor-without-entry"
    terms = shipped_card().code_execution
    if runs_code(reading.blocks, reading.request) and not is_code_free(reading.request, terms):
        yield "code-execution-hours"
    for unknown in (*unknown_quantities(reading.raw), *unknown_kinds(reading.passes)):
        yield f"unknown-usage: {unknown}"
    asked = text_at(reading.request or {}, "speed")
    if asked == "fast" and term_at(reading.raw, "speed") is None:
        yield "unknown-speed"


def _context(reading: _Reading, platform: Platform | None, batch: bool | None) -> Context:
    tier = term_at(reading.raw, "service_tier")
    return Context(
        service_tier="batch" if batch else tier,
        speed=term_at(reading.raw, "speed"),
        inference_geo=term_at(reading.raw, "inference_geo") or _asked_geography(reading.request),
        platform=platform,
    )


def _asked_geography(request: Mapping[str, object] | None) -> str | None:
    """Return a geography that no factor is known for, where only the request speaks of one.

    The price stays the list price; whether the premium was paid is what its bound leaves open.
    """
    asked = text_at(request or {}, "inference_geo")
    return f"asked-{asked}" if asked and not shipped_card().is_at_list(asked) else None


def _platform_of(model: str | None) -> Platform | None:
    """Return the cloud that a model's spelling tells of."""
    found = shipped_card().find(model) if model else None
    return found.platform if found else None


def _unpriced(leg: Leg) -> PricedLeg:
    return PricedLeg(**{name: getattr(leg, name) for name in leg.__struct_fields__})
