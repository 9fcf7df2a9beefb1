"""Recorded exchanges as calls: which of them are Claude's, and what each one bills.

Data flow: Recorded -> `read_calls` -> unpriced calls; nothing for what is free or not Claude's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.metering.assembly import StreamedMessage, decode_json
from pytest_llmcost.metering.batchresults import BatchResult, BatchResultsReader
from pytest_llmcost.metering.call import Call
from pytest_llmcost.metering.endpoint import Endpoint, recognise
from pytest_llmcost.metering.exchange import model_of, read_answer
from pytest_llmcost.metering.recording import Recorded
from pytest_llmcost.metering.stream import reader_for

_BARE = Endpoint(kind="messages")
"""A response without its request is taken for one of Anthropic's own API."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one recorded exchange comes to: a call, something free, or a problem."""

    source: str
    call: Call | None = None
    free: str | None = None
    """Why it costs nothing."""
    model: str | None = None
    """As asked for; of what is free or cannot be read."""
    problem: str | None = None


def read_calls(recorded: Recorded) -> tuple[Found, ...]:
    """Return what an exchange comes to; nothing where it is none of Claude's.

    A batch's results are several calls; a batch that is only submitted is billed with them.
    """
    endpoint = _BARE if recorded.url is None else recognise(recorded.method or "POST", recorded.url)
    if endpoint is None or endpoint.kind == "batch_create":
        return ()
    found = Found(source=recorded.source, model=model_of(endpoint, recorded.request))
    if not 200 <= recorded.status < 300:
        return (msgspec.structs.replace(found, free=f"status {recorded.status}"),)
    if endpoint.kind == "count_tokens":
        return (msgspec.structs.replace(found, free="count_tokens"),)
    if recorded.problem:
        return (msgspec.structs.replace(found, problem=recorded.problem),)
    if endpoint.kind == "batch_results" or recorded.content_type == "application/x-jsonl":
        return tuple(_results(recorded, endpoint, found))
    return (_answer(recorded, endpoint, found),)


def _answer(recorded: Recorded, endpoint: Endpoint, found: Found) -> Found:
    reader = reader_for(recorded.content_type)
    reader.feed(recorded.body)
    reader.close()
    if not reader.messages:
        return msgspec.structs.replace(found, problem=_why_nothing(recorded, reader.error))
    return _read(reader.messages, recorded, endpoint, found)


def _read(
    messages: Sequence[StreamedMessage],
    recorded: Recorded,
    endpoint: Endpoint,
    found: Found,
    *,
    batch: bool | None = None,
) -> Found:
    try:
        call = read_answer(messages, endpoint=endpoint, payload=recorded.request, batch=batch)
    except UsageDataError as error:
        return msgspec.structs.replace(found, problem=str(error))
    return msgspec.structs.replace(found, call=call, model=call.model)


def _why_nothing(recorded: Recorded, error: str | None) -> str:
    if error:
        return f"the answer is an error ({error}) without a usage"
    if not recorded.body:
        return "the response has no body"
    body = decode_json(recorded.body)
    if isinstance(body, dict):
        keys = ", ".join(sorted(body)[:5])
        return f"the response has no usage; expected a Messages response, got an object with {keys}"
    return f"{len(recorded.body):,} bytes without a usage; is the stream or the body cut off?"


def _results(recorded: Recorded, endpoint: Endpoint, found: Found) -> Iterator[Found]:
    reader = BatchResultsReader()
    reader.feed(recorded.body)
    reader.close()
    for result in reader.drain():
        yield _result(result, recorded, endpoint, found)


def _result(result: BatchResult, recorded: Recorded, endpoint: Endpoint, found: Found) -> Found:
    """One line of a batch: only those that succeeded are billed."""
    if result.body is not None:
        messages = [StreamedMessage(body=result.body)]
        return _read(messages, recorded, endpoint, found, batch=True)
    if result.outcome == "unreadable":
        problem = f"batch result {result.custom_id!r} cannot be read"
        return msgspec.structs.replace(found, problem=problem)
    return msgspec.structs.replace(found, free=f"{result.outcome} in a batch")
