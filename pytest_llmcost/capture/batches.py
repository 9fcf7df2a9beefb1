"""Batches: the requests that were asked for in them, until their results tell what they cost."""

from __future__ import annotations

from msgspec.structs import replace

from pytest_llmcost.capture.request import CapturedRequest, Replay, Unclaimed
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.endpoints import Endpoint
from pytest_llmcost.responses.stream import BatchResult, StreamedMessage

_Key = tuple[str, str]
"""The batch's id and the request's `custom_id`."""


class Batches:
    """The batches of a run."""

    def __init__(self) -> None:
        self.open: dict[_Key, CapturedRequest] = {}
        """Those whose results are awaited."""
        self._readers: dict[_Key, list[object]] = {}
        """Owners who have read a result, so that reading it twice costs once."""
        self._bought: set[_Key] = set()
        """Results of batches that were created in this run."""
        self._gone: dict[_Key, Replay] = {}
        """What was recorded in replayed batches, and is not asked for now."""
        self._unclaimed: list[tuple[object, Unclaimed]] = []
        """What that has left in the cache, and who has read its results."""

    def create(self, created: CapturedRequest) -> None:
        """Keep a created batch's requests, each with what was recorded for it.

        If the batch's body could not be read, it is one request that stays open.
        """
        receipt = decode_json(created.receipt)
        batch_id = str(receipt.get("id") if isinstance(receipt, dict) else None)
        replay = created.replay
        listed = _requests((created.payload or {}).get("requests"))
        recorded = _requests(replay.body.get("requests")) if replay and replay.body else None
        for custom_id, params in {"": None}.items() if listed is None else listed.items():
            request = created.variant(
                endpoint=Endpoint(kind="messages", platform=created.endpoint.platform),
                asked=(params, None),
                replay=replay,
                is_of_batch=True,
            )
            if replay is not None and replay.body is not None and listed is not None:
                body = (recorded or {}).get(custom_id)
                obstacle = f"the recorded batch has no request {custom_id!r}" if not body else None
                is_same = replay.is_same and body is not None
                strand = (batch_id, custom_id)  # several may be worked on at once
                facts = {"body": body, "is_same": is_same, "obstacle": obstacle, "strand": strand}
                request.replay = replace(replay, **facts)
            request.answer = request.unknown("open-batch")
            self.open[batch_id, custom_id] = request
            self._readers.pop((batch_id, custom_id), None)
            self._bought.add((batch_id, custom_id))
            self._gone.pop((batch_id, custom_id), None)
        if replay is not None and recorded is not None and listed is not None:
            for custom_id in recorded.keys() - listed.keys():
                self._gone[batch_id, custom_id] = replace(replay, body=recorded[custom_id])

    def settle(self, results: CapturedRequest) -> list[CapturedRequest]:
        """Return what a batch's results cost, once: for who created it, else for who reads them.

        What reads little from the cache comes first, and what is short: others may read what it
        writes.
        """
        settled = list[CapturedRequest]()
        for result in results.results():
            request = self._settle(results, result)
            if request is None:
                continue
            gone = self._gone.get((results.endpoint.batch_id or "", result.custom_id))
            if gone is None:
                settled.append(request)
            elif gone.body is not None:
                used = _usage(request)
                tokens = used.cache_read_tokens, used.cached_tokens
                unclaimed = Unclaimed(gone.body, gone.model, gone.betas, *tokens)
                self._unclaimed.append((results.owner, unclaimed))
        return sorted(settled, key=_tokens_read)

    def unclaimed_before(self, request: CapturedRequest) -> tuple[Unclaimed, ...]:
        """Return what its owner would have found in the cache, had the batches not changed."""
        return tuple(each for owner, each in self._unclaimed if owner == request.owner)

    def _settle(self, results: CapturedRequest, result: BatchResult) -> CapturedRequest | None:
        """Return what one result costs; None if that is told already.

        A request that failed has no answer, but was made. If an attempt to create its batch was
        lost, there may be another batch in which it succeeded.
        """
        key = (results.endpoint.batch_id or "", result.custom_id)
        opened = self.open.pop(key, None)
        request = opened or results
        readers = self._readers.setdefault(key, [])
        # Mocks and cassettes of several tests may have an id in common, but the API has each once.
        is_bought = results.live is not False and key in self._bought
        if opened is None and (is_bought or request.owner in readers):
            return None
        readers.append(request.owner)
        lost = None if opened is None else opened.lost_attempts  # to ask for results costs nothing
        settled = request.variant(answer=None, is_of_batch=True, lost_attempts=lost)
        if result.outcome in ("succeeded", "unreadable"):
            message = StreamedMessage(body=result.body or {})
            settled.answer = settled.read_messages([message])
        elif lost:
            settled.answer = settled.unknown("lost-answer")
        return settled


def _usage(request: CapturedRequest) -> Usage:
    return Usage() if request.answer is None else request.answer.usage


def _tokens_read(request: CapturedRequest) -> tuple[int, int]:
    used = _usage(request)
    return used.cache_read_tokens, used.prompt_tokens


def _requests(listed: object) -> dict[str, dict[str, object]] | None:
    """Return a batch's requests by their `custom_id`; None if it is not a list."""
    if not isinstance(listed, list):
        return None
    pairs = [each for each in listed if isinstance(each, dict)]
    return {
        str(each.get("custom_id")): each["params"]
        for each in pairs
        if isinstance(each.get("params"), dict)
    }
