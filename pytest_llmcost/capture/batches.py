"""Batches: what was asked for in them, until their results say what it cost.

Data flow: a created batch -> one open request per `custom_id` -> a result line settles it, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from pytest_llmcost.capture.replay import Replay
from pytest_llmcost.capture.request import Exchange
from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.batch_results import BatchResult
from pytest_llmcost.responses.endpoints import Endpoint
from pytest_llmcost.responses.message import read_answer, unknown_answer
from pytest_llmcost.responses.stream import StreamedMessage

Booking = tuple[object, Exchange]
"""Whose it is, and what."""
_Key = tuple[str, str]


class _Open(msgspec.Struct):
    """One request of a batch without its result."""

    owner: object
    exchange: Exchange
    is_told: bool = False
    """Whether the sink has been told that it is open."""


class Batches:
    """The batches of a run, as its exchanges are told: one at a time."""

    def __init__(self) -> None:
        self._open: dict[_Key, _Open] = {}
        self._settled: dict[_Key, list[object]] = {}
        """Owners who have read a result, so that reading it twice costs once."""

    def create(self, owner: object, request: Exchange, receipt: bytes) -> None:
        """Keep a created batch's requests; a receipt without an id creates nothing known."""
        answer = decode_json(receipt)
        batch_id = answer.get("id") if isinstance(answer, dict) else None
        for custom_id, exchange in _requests(request):
            key = (str(batch_id), custom_id)
            self._open[key] = _Open(owner, exchange)
            self._settled.pop(key, None)

    def settle(self, owner: object, results: Exchange, result: BatchResult) -> Booking | None:
        """Settle one result: for who created the batch, else for who reads it."""
        batch_id = results.endpoint.batch_id or ""
        key = (batch_id, result.custom_id)
        opened = self._open.pop(key, None)
        if opened is not None:
            owner = opened.owner
        readers = self._settled.setdefault(key, [])
        if opened is None and owner in readers:
            return None
        readers.append(owner)
        asked = opened.exchange if opened is not None else results
        exchange = _read_result(asked, result)
        if opened is not None and opened.is_told:
            return owner, replace(exchange, supersedes=opened.exchange)
        return None if exchange.answer is None else (owner, exchange)

    def tell_open(self, matches: Callable[[object], bool]) -> Iterator[Booking]:
        """Yield the open requests of matching owners that nobody has been told of."""
        for opened in [*self._open.values()]:
            if not opened.is_told and matches(opened.owner):
                opened.is_told = True
                yield opened.owner, opened.exchange


def _requests(created: Exchange) -> Iterator[tuple[str, Exchange]]:
    """One open exchange per request of the batch, with what was recorded for it.

    A batch of which nobody could read what it asks for is one request that stays open.
    """
    listed = (created.payload or {}).get("requests")
    if not isinstance(listed, list):
        yield "", _opened(created, {}, created.replay)
        return
    for request in listed:
        params = request.get("params") if isinstance(request, dict) else None
        if isinstance(params, dict):
            custom_id = str(request.get("custom_id"))
            yield custom_id, _opened(created, params, _recorded_request(created.replay, custom_id))


def _opened(created: Exchange, params: dict[str, Any], replay: Replay | None) -> Exchange:
    endpoint = Endpoint(kind="messages", platform=created.endpoint.platform)
    return replace(
        created,
        endpoint=endpoint,
        answer=unknown_answer(endpoint, params, "open-batch"),
        payload=params or None,
        replay=replay,
        attempts=1,  # how often the batch was sent is not how often its requests were
    )


def _recorded_request(replay: Replay | None, custom_id: str) -> Replay | None:
    if replay is None or replay.body is None:
        return replay
    listed = replay.body.get("requests")
    for request in listed if isinstance(listed, list) else []:
        if isinstance(request, dict) and request.get("custom_id") == custom_id:
            params = request.get("params")
            if isinstance(params, dict):
                return Replay(body=params, is_same=replay.is_same)
    return Replay(obstacle=f"the recorded batch has no request {custom_id!r}")


def _read_result(asked: Exchange, result: BatchResult) -> Exchange:
    if result.outcome not in ("succeeded", "unreadable"):
        return replace(asked, answer=None)
    payload: Mapping[str, Any] | None = asked.payload
    messages = [StreamedMessage(body=result.body or {})]
    try:
        answer = read_answer(messages, endpoint=asked.endpoint, payload=payload, batch=True)
    except UsageDataError as error:
        answer = unknown_answer(asked.endpoint, payload, f"unreadable-response: {error}")
    return replace(asked, answer=answer, attempts=1)
