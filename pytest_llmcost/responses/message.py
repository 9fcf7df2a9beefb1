"""Usage data: a response's numbers, checked one by one; errors name the dotted path.

Data flow: the `usage` of a response, or an entry of its `iterations` -> `read_usage` -> Usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.prices.caveats import Caveat, sorted_caveats
from pytest_llmcost.prices.model_names import mask_account
from pytest_llmcost.prices.usage import (
    Platform,
    SamplingCall,
    Terms,
    Usage,
    find_impossible,
    is_quantity,
)
from pytest_llmcost.responses.endpoints import Endpoint, bedrock_platform
from pytest_llmcost.responses.stream import StreamedMessage

_SPLIT_KEYS = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_COUNT_KEYS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
_COUNTED = ("_tokens", "_requests")
"""How the names of quantities end."""
_EXPECTED = "a whole number from 0 to 10^9"
_TOOL_KEYS = ("web_search_requests", "web_fetch_requests", "code_execution_requests")


def read_usage(raw: Mapping[str, object], *, path: str = "usage") -> Usage:
    """Read one usage into billing categories.

    Cache writes that no lifetime is stated for are 5-minute ones. Where the split says more than
    the total, the total wins: extra writes of a server tool's loop are not in the split, and a
    stream's final total may be lower than the split of its start.

    Shape: Anthropic's `usage`; all but `input_tokens` and `output_tokens` may be null or missing.

    Raises:
        UsageDataError: naming the path of what is not a whole number from 0 to 10^9.

    Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching and the usage
    types of the SDK, release 2.12.0, read 2026-11-22.

    Example:
        >>> read_usage({"input_tokens": 3, "output_tokens": 5}).prompt_tokens
        3
    """
    split = mapping_at(raw, "cache_creation", path)
    split_path = f"{path}.cache_creation"
    short, long = (_optional_count(split, key, split_path) or 0 for key in _SPLIT_KEYS)
    total = _optional_count(raw, "cache_creation_input_tokens", path)
    written = short + long if total is None else total
    written_1h = min(long, written)
    tools = mapping_at(raw, "server_tool_use", path)
    searches = _optional_count(tools, "web_search_requests", f"{path}.server_tool_use")
    return Usage(
        input_tokens=_count(raw, "input_tokens", path),
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        cache_read_tokens=_optional_count(raw, "cache_read_input_tokens", path) or 0,
        output_tokens=_count(raw, "output_tokens", path),
        web_search_requests=searches or 0,
    )


def unknown_quantities(raw: Mapping[str, object]) -> Iterator[str]:
    """Name the quantities that no price is known for: a new cache lifetime, tool or kind of token.

    `output_tokens_details` only divides up `output_tokens`.
    """
    for key, value in raw.items():
        if value and key.endswith(_COUNTED) and key not in _COUNT_KEYS:
            yield key
    for table, known in (("cache_creation", _SPLIT_KEYS), ("server_tool_use", _TOOL_KEYS)):
        for key, value in mapping_at(raw, table, "usage").items():
            if key not in known and value:
                yield f"{table}.{key}"
    for index, entry in enumerate(list_at(raw, "iterations", "usage")):
        if isinstance(entry, Mapping):
            yield from (f"iterations[{index}].{each}" for each in unknown_quantities(entry))


def mapping_at(raw: Mapping[str, object], key: str, path: str) -> Mapping[str, object]:
    """Return the mapping at a key; an empty one where there is none."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _error(f"{path}.{key}", "an object", value)
    return value


def list_at(raw: Mapping[str, object], key: str, path: str) -> Sequence[object]:
    """Return the list at a key; an empty one where there is none."""
    value = raw.get(key)
    if not value:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _error(f"{path}.{key}", "a list", value)
    return value


def text_at(raw: Mapping[str, object], key: str) -> str | None:
    """Return the text at a key; nothing where there is none.

    Recorders in other languages write an empty object for a null.
    """
    value = raw.get(key)
    return value if isinstance(value, str) else None


def term_at(raw: Mapping[str, object], key: str) -> str | None:
    """Return what a usage says of the terms it is billed by: its tier, speed or geography.

    Raises:
        UsageDataError: for what is neither text nor nothing; the price may depend on it.
    """
    if raw.get(key) and not isinstance(raw[key], str):
        raise _error(f"usage.{key}", "text", raw[key])
    return text_at(raw, key) or None


def _count(raw: Mapping[str, object], key: str, path: str) -> int:
    count = _optional_count(raw, key, path)
    if count is None:
        raise _error(f"{path}.{key}", _EXPECTED, raw.get(key))
    return count


def _optional_count(raw: Mapping[str, object], key: str, path: str) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if not is_quantity(value):
        raise _error(f"{path}.{key}", _EXPECTED, value)
    return value


def _error(path: str, expected: str, value: object) -> UsageDataError:
    try:
        shown = "nothing" if value is None else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        shown = "a number with thousands of digits"
    return UsageDataError(f"{path}: expected {expected}, got {shown:.80}", path=path)


Blocks = Sequence[Mapping[str, object]]

_LOOPING = ("server_tool_use", "mcp_tool_use")
_CODE_TOOLS = ("code_execution", "bash_code_execution", "text_editor_code_execution")
_FILLINGS = {"text": ("text",), "thinking": ("thinking", "signature"), "compaction": ("content",)}
"""Blocks that may be empty, and where what they say would stand."""


class Fallback(NamedTuple):
    """One change of model inside a response, and what the declining model had said by then."""

    declined: str | None
    serving: str | None
    category: str | None
    spoke: bool
    """Whether any output of the declining model stands before it."""


def blocks_of(body: Mapping[str, object]) -> Blocks:
    """Return the content blocks of a message; what a recorder put in their place counts as text."""
    content = body.get("content")
    if isinstance(content, (list, tuple)):
        return [block for block in content if isinstance(block, Mapping)]
    return [{"type": "text", "text": content}] if content else []


def fallbacks_of(blocks: Blocks) -> list[Fallback]:
    """Return the changes of model in the order in which they happened."""
    found = []
    spoke = False
    for block in blocks:
        if block.get("type") != "fallback":
            spoke = spoke or says_something(block)
            continue
        names = (_part(block, "from").get("model"), _part(block, "to").get("model"))
        declined, serving = (name if isinstance(name, str) else None for name in names)
        category = text_at(_part(block, "trigger"), "category")
        found.append(Fallback(declined, serving, category, spoke))
        spoke = False
    return found


def last_words(blocks: Blocks) -> Blocks:
    """Return what the serving model itself said: the blocks behind the last change of model."""
    changes = [index for index, block in enumerate(blocks) if block.get("type") == "fallback"]
    return blocks[changes[-1] + 1 :] if changes else blocks


def says_something(block: Mapping[str, object]) -> bool:
    """Tell whether a block is output: every one but those of text that hold none."""
    fillings = _FILLINGS.get(str(block.get("type")))
    return fillings is None or any(block.get(key) for key in fillings)


def only_resumes_code(blocks: Blocks) -> bool:
    """Tell whether an answer only hands on the tool calls of code that has run on.

    The model was not sampled for it, so its usage is nothing but zeros.

    Source: recorded traffic of anthropics/anthropic-sdk-python and vercel/ai, and
    https://platform.claude.com/docs/en/agents-and-tools/tool-use/programmatic-tool-calling
    """
    return bool(blocks) and all(
        block.get("type") == "tool_use"
        and (text_at(_part(block, "caller"), "type") or "").startswith("code_execution")
        for block in blocks
    )


def advisor_calls(blocks: Blocks) -> int:
    """Count the advisor calls that gave advice; one that failed is not billed."""
    asked = sum(_is_tool_use(block, ("advisor",)) for block in blocks)
    answers = [block for block in blocks if block.get("type") == "advisor_tool_result"]
    kinds = [text_at(_part(block, "content"), "type") or "" for block in answers]
    failed = sum(kind.endswith("_error") for kind in kinds)
    return max(asked, len(answers)) - failed


def has_server_loop(blocks: Blocks, usage: Mapping[str, object]) -> bool:
    """Tell whether the response may sum up several sampling calls."""
    used = usage.get("server_tool_use")
    counted = isinstance(used, Mapping) and any(used.values())
    return counted or any(block.get("type") in _LOOPING for block in blocks)


def runs_code(blocks: Blocks, request: Mapping[str, object] | None) -> bool:
    """Tell whether a container may have run: code was executed, or files were attached to it."""
    if any(
        _is_tool_use(block, _CODE_TOOLS)
        or str(block.get("type")).endswith("code_execution_tool_result")
        for block in blocks
    ):
        return True
    if request is None or not any(kind.startswith("code_execution_") for kind in _tools(request)):
        return False
    return any(block.get("type") == "container_upload" for block in _sent_blocks(request))


def runs_server_tools(request: Mapping[str, object]) -> bool:
    """Tell whether a request may make the API sample more than once, or with another model."""
    more = ("mcp_servers", "fallbacks", "context_management", "compaction", "container")
    return any(request.get(key) for key in more) or any(
        kind != "custom" for kind in _tools(request)
    )


def read_lifetime(request: Mapping[str, object]) -> Literal["5m", "1h"] | None:
    """Return how long all cache entries live that a request asks for; None where they differ."""
    lifetimes = {str(mark.get("ttl") or "5m") for mark in _cache_marks(request)}
    if lifetimes == {"1h"}:
        return "1h"
    return "5m" if lifetimes == {"5m"} else None


def _cache_marks(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, Mapping):
        mark = value.get("cache_control")
        if isinstance(mark, Mapping) and mark.get("type") == "ephemeral":
            yield mark
        for part in value.values():
            yield from _cache_marks(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _cache_marks(part)


def _tools(request: Mapping[str, object]) -> Iterator[str]:
    for tool in _list(request.get("tools")):
        if isinstance(tool, Mapping):
            yield str(tool.get("type") or "custom")


def _sent_blocks(request: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    for message in _list(request.get("messages")):
        if isinstance(message, Mapping):
            yield from (b for b in _list(message.get("content")) if isinstance(b, Mapping))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _part(block: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = block.get(key)
    return part if isinstance(part, Mapping) else {}


def _is_tool_use(block: Mapping[str, object], names: Sequence[str]) -> bool:
    return block.get("type") == "server_tool_use" and block.get("name") in names


UNSPECIFIED = "unspecified"
"""The category of a refusal that states none."""
_SAMPLING = ("message", "fallback_message")
_KINDS = (*_SAMPLING, "compaction", "advisor_message")


class Pass(NamedTuple):
    """One entry of `usage.iterations`."""

    kind: str
    model: str | None
    usage: Usage


def read_passes(usage: Mapping[str, object]) -> list[Pass]:
    """Read all entries; their kinds are checked by who uses them."""
    passes = []
    for index, entry in enumerate(list_at(usage, "iterations", "usage")):
        path = f"usage.iterations[{index}]"
        if not isinstance(entry, Mapping):
            raise UsageDataError(f"{path}: expected an object, got {entry!r:.80}", path=path)
        kind = text_at(entry, "type") or "message"
        passes.append(Pass(kind, text_at(entry, "model"), read_usage(entry, path=path)))
    return passes


def unknown_kinds(passes: Sequence[Pass]) -> list[str]:
    """Name the kinds of entries that no rule is known for."""
    return sorted({f"iterations of type {each.kind}" for each in passes if each.kind not in _KINDS})


def serving_model(passes: Sequence[Pass], fallbacks: Sequence[Fallback]) -> str | None:
    """Return the model that a fallback left the answer to; nothing where there was none.

    A stream's `message_start` still names the model that declined.
    """
    entries = [each.model for each in passes if each.kind == "fallback_message" and each.model]
    blocks = [each.serving for each in fallbacks if each.serving]
    models = entries or blocks
    return models[-1] if models else None


def split_passes(passes: Sequence[Pass]) -> tuple[list[Pass], list[Pass]]:
    """Return the sampling passes that were declined and those that served.

    Without a fallback all of them served; with one, those from the last fallback's model on.
    """
    sampling = [each for each in passes if each.kind in _SAMPLING]
    fallbacks = [index for index, each in enumerate(sampling) if each.kind == "fallback_message"]
    if not fallbacks:
        return [], sampling
    start = fallbacks[-1]
    while start - 1 in fallbacks and sampling[start - 1].model == sampling[start].model:
        start -= 1
    return sampling[:start], sampling[start:]


def message_samplings(
    top: Usage, served: Sequence[Pass], *, model: str, looped: bool
) -> list[SamplingCall]:
    """Return the legs of the answer itself: one a sampling pass where these explain the top level.

    Each pass has a length band of its own. An all-zero top level, as after a compaction on
    demand, says nothing, and the passes are the bill.
    """
    searches = Usage(web_search_requests=top.web_search_requests)
    explained = sum((each.usage for each in served), searches) == top
    if served and (explained or top == searches):
        first = SamplingCall(model=model, usage=served[0].usage + searches)
        return [first, *(SamplingCall(model=model, usage=each.usage) for each in served[1:])]
    return [SamplingCall(model=model, usage=top, sums_calls=bool(served) or looped)]


def added_samplings(passes: Sequence[Pass], *, requested: str) -> list[SamplingCall]:
    """Return the legs that come on top: compactions at the request's model, advisors at theirs."""
    sampling_calls = []
    for index, each in enumerate(passes):
        if each.kind == "compaction":
            sampling_calls.append(
                SamplingCall(kind="compaction", model=each.model or requested, usage=each.usage)
            )
        elif each.kind == "advisor_message":
            if each.model is None:
                path = f"usage.iterations[{index}].model"
                raise UsageDataError(
                    f"{path}: expected the advisor's model, got nothing", path=path
                )
            sampling_calls.append(SamplingCall(kind="advisor", model=each.model, usage=each.usage))
    return sampling_calls


def declined_samplings(
    declined: Sequence[Pass], fallbacks: Sequence[Fallback], *, requested: str
) -> list[SamplingCall]:
    """Return the legs of declined attempts; one without usage where only the content tells of it.

    An attempt is paired with the change of model that names it; what it had said by then tells
    whether it was refused before any output.
    """
    sampling_calls = []
    left = list(fallbacks)
    for each in declined:
        change = next((f for f in left if each.model in (None, f.declined)), None)
        if change is not None:
            left.remove(change)
        model = each.model or (change.declined if change else None) or requested
        sampling_calls.append(_declined(model, each.usage, change))
    sampling_calls += [_declined(change.declined or requested, Usage(), change) for change in left]
    return sampling_calls


def _declined(model: str, usage: Usage, change: Fallback | None) -> SamplingCall:
    category = (change.category if change else None) or UNSPECIFIED
    refusal = None if change and change.spoke else category
    return SamplingCall(kind="declined", model=model, usage=usage, refusal=refusal)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a response said it used, or what a count predicts; knows no rate card, price or date.

    Several messages in one body are one answer with all their sampling calls and ids.
    """

    model: str
    """As the response names it; the model that served, after a fallback."""
    asked_model: str | None = None
    """As the request, or its URL, names it."""
    ids: tuple[str, ...] = ()
    """Of the messages."""
    usage: Usage = Usage()
    """What the top level states, in our categories."""
    sampling_calls: tuple[SamplingCall, ...] = ()
    """What is paid for; without any, the cost is unknown or stated by the test."""
    terms: Terms = Terms()
    """What the price depends on besides model and tokens; those of the last message."""
    stream: bool = False
    stop_reason: str | None = None
    declared_usd: Decimal | None = None
    """A price that the test stated itself."""
    session_id: str | None = None
    """Of an agent's result, whose figures are the running total of its session."""
    code_beside: tuple[str, ...] | None = None
    """The tools of the request beside which a container may have run code; None if none ran."""
    caveats: tuple[Caveat, ...] = ()


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
) -> Answer:
    """Read what a response bills: its sampling calls, what their price depends on, what it hides.

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
    return Answer(
        model=serving,
        asked_model=named,
        ids=(message_id,) if (message_id := text_at(body, "id")) else (),
        stream=stream,
        stop_reason=text_at(body, "stop_reason"),
        usage=reading.usage,
        sampling_calls=tuple(_samplings(reading, serving, named)),
        terms=_terms(reading, platform, batch),
        code_beside=_code_beside(reading),
        caveats=sorted_caveats(_caveats(reading)),
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


def _samplings(reading: _Reading, serving: str, named: str | None) -> list[SamplingCall]:
    """Return what is paid for: the answer, what ran beside it, what was declined before it.

    Passes that used nothing are dropped. The answer itself stays, for it has had a prompt; unless
    it was a compaction alone, on demand.
    """
    declined, served = split_passes(reading.passes)
    requested = serving
    if declined or reading.fallbacks:
        requested = named or text_at(reading.body, "model") or serving
    sampling_calls = _message_samplings(reading, served, serving)
    sampling_calls += added_samplings(reading.passes, requested=requested)
    sampling_calls += declined_samplings(declined, reading.fallbacks, requested=requested)
    answer, told = (
        sampling_calls[0],
        [sampling for sampling in sampling_calls if sampling.usage or sampling.kind == "declined"],
    )
    if not any(sampling.kind in ("message", "compaction") for sampling in told):
        if only_resumes_code(reading.blocks):
            answer = msgspec.structs.replace(answer, kind="resumed")
        told.insert(0, answer)
    if (impossible := find_impossible(told)) is not None:
        raise UsageDataError(f"usage: {impossible}", path="usage")
    return told


def _message_samplings(reading: _Reading, served: list[Pass], model: str) -> list[SamplingCall]:
    looped = has_server_loop(reading.blocks, reading.raw)
    sampling_calls = message_samplings(reading.usage, served, model=model, looped=looped)
    changes: dict[str, object] = {"refusal": _refusal(reading)}
    request = reading.request
    if request is not None:
        changes["most_output_tokens"] = _most_output_tokens(reading, request)
        if reading.usage.cache_read_tokens:
            changes["read_lifetime"] = read_lifetime(request)
    return [replace(sampling, **changes) for sampling in sampling_calls]


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
    for unknown in (*unknown_quantities(reading.raw), *unknown_kinds(reading.passes)):
        yield f"unknown-usage: {unknown}"
    asked = text_at(reading.request or {}, "speed")
    if asked == "fast" and term_at(reading.raw, "speed") is None:
        yield "unknown-speed"


def _code_beside(reading: _Reading) -> tuple[str, ...] | None:
    if not runs_code(reading.blocks, reading.request):
        return None
    return tuple(_tools(reading.request or {}))


def _terms(reading: _Reading, platform: Platform | None, batch: bool | None) -> Terms:
    tier = term_at(reading.raw, "service_tier")
    asked_geography = text_at(reading.request or {}, "inference_geo")
    return Terms(
        service_tier="batch" if batch else tier,
        speed=term_at(reading.raw, "speed"),
        # Where only the request speaks of a geography, the premium may or may not have been paid.
        inference_geo=term_at(reading.raw, "inference_geo")
        or (f"asked-{asked_geography}" if asked_geography else None),
        platform=platform,
    )


def read_answer(
    messages: Sequence[StreamedMessage],
    *,
    endpoint: Endpoint,
    payload: Mapping[str, Any] | None,
    batch: bool | None = None,
) -> Answer:
    """Read what a body's messages state; several are one answer.

    Raises:
        UsageDataError: when a usage does not have the documented shape.
    """
    model = model_of(endpoint, payload)
    answers = [
        read_message(
            message.body,
            model=model,
            platform=platform_of(endpoint, model),
            batch=batch,
            truncated=message.truncated,
            withdrawn=message.withdrawn,
            request=payload,
        )
        for message in messages
    ]
    return answers[0] if len(answers) == 1 else _joined(answers)


def _joined(answers: Sequence[Answer]) -> Answer:
    """Make one answer of several responses in one body; each keeps its own model and band."""
    return replace(
        answers[-1],
        ids=tuple(each for answer in answers for each in answer.ids),
        usage=sum((answer.usage for answer in answers), Usage()),
        sampling_calls=tuple(each for answer in answers for each in answer.sampling_calls),
        # All have the same request, so the same tools; code ran if any of them says so.
        code_beside=next((a.code_beside for a in answers if a.code_beside is not None), None),
        caveats=sorted_caveats(caveat for answer in answers for caveat in answer.caveats),
    )


def unknown_answer(endpoint: Endpoint, payload: Mapping[str, Any] | None, caveat: str) -> Answer:
    """Return an answer of which only the request is known: its cost is unknown, never $0."""
    model = model_of(endpoint, payload)
    return Answer(model=model or "unknown", asked_model=model, caveats=sorted_caveats([caveat]))


def model_of(endpoint: Endpoint, payload: Mapping[str, Any] | None) -> str | None:
    """Return the model that was asked for, from the URL or the body, without an account id."""
    asked = endpoint.model or (payload or {}).get("model")
    return mask_account(asked) if isinstance(asked, str) else None


def platform_of(endpoint: Endpoint, model: str | None) -> Platform | None:
    """Return the platform; Bedrock's newer route names the model, hence the region, in the body."""
    if endpoint.platform == "bedrock" and endpoint.model is None and model is not None:
        return bedrock_platform(model)
    return endpoint.platform
