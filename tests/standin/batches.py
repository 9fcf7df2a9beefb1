"""Message batches: accepted at once, finished when first asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from standin.answers import Answer, Reply, answer_error, answer_json, build_message
from standin.cache import PromptCache
from standin.models import find_model
from standin.rules import check_create


@dataclass
class Batches:
    """All batches of one stand-in, by id."""

    _requests: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    def create(self, body: Mapping[str, Any]) -> Answer:
        """`POST /v1/messages/batches`."""
        name = f"msgbatch_standin_{len(self._requests) + 1:04}"
        self._requests[name] = list(body["requests"])
        return answer_json(_state(name, len(body["requests"]), ended=False, base=""))

    def retrieve(self, name: str, base: str) -> Answer:
        """`GET /v1/messages/batches/{id}`."""
        requests = self._requests.get(name)
        if requests is None:
            return answer_error(404, f"Message Batch {name} not found.")
        return answer_json(_state(name, len(requests), ended=True, base=base))

    def results(self, name: str, reply: Reply, cache: PromptCache) -> Answer:
        """`GET /v1/messages/batches/{id}/results`: a line for each request, last one first."""
        requests = self._requests.get(name)
        if requests is None:
            return answer_error(404, f"Message Batch {name} has no available results.")
        lines = [
            json.dumps({"custom_id": one["custom_id"], "result": _result(one, reply, cache, index)})
            for index, one in enumerate(requests)
        ]
        body = "".join(f"{line}\n" for line in reversed(lines)).encode()
        return Answer(200, (body,), content_type="application/x-jsonl")


def _result(
    request: Mapping[str, Any], reply: Reply, cache: PromptCache, index: int
) -> dict[str, Any]:
    body = request["params"]
    message = check_create(body, beta=True)
    model = find_model(body.get("model", ""))
    if message or model is None:
        error = {"type": "invalid_request_error", "message": message or f"model: {body['model']}"}
        return {"type": "errored", "error": {"type": "error", "error": error}}
    said = build_message(body, model, reply, cache, index)
    said["usage"]["service_tier"] = "batch"
    return {"type": "succeeded", "message": said}


def _state(name: str, size: int, *, ended: bool, base: str) -> dict[str, Any]:
    done = size if ended else 0
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": {
            "processing": size - done,
            "succeeded": done,
            "errored": 0,
            "canceled": 0,
            "expired": 0,
        },
        "created_at": "2026-11-22T00:00:00Z",
        "expires_at": "2026-11-23T00:00:00Z",
        "ended_at": "2026-11-22T00:01:00Z" if ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{base}/v1/messages/batches/{name}/results" if ended else None,
    }
