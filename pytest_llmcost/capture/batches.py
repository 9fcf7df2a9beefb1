"""Batches: the requests that were asked for in them, until their results tell what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pytest_llmcost.capture.replay import Replay
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.endpoints import Endpoint
from pytest_llmcost.responses.message import read_answer, unknown_answer
from pytest_llmcost.responses.stream import BatchResult, StreamedMessage

_Key = tuple[str, str]
"""The batch's id and the request's `custom_id`."""


class Batches:
    """The batches of a run."""

    def __init__(self) -> None:
        self._open: dict[_Key, CapturedRequest] = {}
        self._readers: dict[_Key, list[object]] = {}
        """Owners who have read a result, so that reading it twice costs once."""

    def create(self, created: CapturedRequest) -> None:
        """Keep a created batch's requests."""
        receipt = decode_json(created.receipt)
        batch_id = str(receipt.get("id") if isinstance(receipt, dict) else None)
        for custom_id, request in _requests(created):
            self._open[batch_id, custom_id] = request
            self._readers.pop((batch_id, custom_id), None)

    def settle(self, results: CapturedRequest, result: BatchResult) -> CapturedRequest | None:
        """Return what a result costs, once: for who created the batch, else for who reads it."""
        key = (results.endpoint.batch_id or "", result.custom_id)
        opened = self._open.pop(key, None)
        request = opened or results
        readers = self._readers.setdefault(key, [])
        if opened is None and request.owner in readers:
            return None
        readers.append(request.owner)
        settled = _settled(request, result)
        return settled if settled.answer is not None or settled.supersedes is not None else None

    def report_open(self, matches: Callable[[object], bool]) -> Iterator[CapturedRequest]:
        """Yield the open requests of matching owners that were not reported yet."""
        for request in [*self._open.values()]:
            if request.supersedes is None and matches(request.owner):
                request.supersedes = request.variant()
                yield request.supersedes


def _requests(created: CapturedRequest) -> Iterator[tuple[str, CapturedRequest]]:
    """One open request per request of the batch, with what was recorded for it.

    If the batch's body could not be read, it is one request that stays open.
    """
    listed = (created.payload or {}).get("requests")
    if not isinstance(listed, list):
        yield "", _opened(created, None, created.replay)
        return
    for request in listed:
        params = request.get("params") if isinstance(request, dict) else None
        if isinstance(params, dict):
            custom_id = str(request.get("custom_id"))
            yield custom_id, _opened(created, params, _recorded(created.replay, custom_id))


def _opened(
    created: CapturedRequest, params: dict[str, Any] | None, replay: Replay | None
) -> CapturedRequest:
    endpoint = Endpoint(kind="messages", platform=created.endpoint.platform)
    return created.variant(
        endpoint=endpoint,
        answer=unknown_answer(endpoint, params, "open-batch"),
        payload=params,
        replay=replay,
        attempts=1,  # how often the batch was sent is not how often its requests were
        lost_attempts=None,
    )


def _recorded(replay: Replay | None, custom_id: str) -> Replay | None:
    if replay is None or replay.body is None:
        return replay
    listed = replay.body.get("requests")
    for request in listed if isinstance(listed, list) else []:
        if isinstance(request, dict) and request.get("custom_id") == custom_id:
            params = request.get("params")
            if isinstance(params, dict):
                return Replay(body=params, is_same=replay.is_same)
    return Replay(obstacle=f"the recorded batch has no request {custom_id!r}")


def _settled(request: CapturedRequest, result: BatchResult) -> CapturedRequest:
    if result.outcome not in ("succeeded", "unreadable"):
        return request.variant(answer=None)
    messages = [StreamedMessage(body=result.body or {})]
    endpoint, payload = request.endpoint, request.payload
    try:
        answer = read_answer(messages, endpoint=endpoint, payload=payload, batch=True)
    except UsageDataError as error:
        answer = unknown_answer(endpoint, payload, f"unreadable-response: {error}")
    return request.variant(answer=answer, attempts=1)
