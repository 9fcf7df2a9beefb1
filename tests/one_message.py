"""One message of a response, read as the answer to a request of the Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.endpoints import Endpoint
from pytest_llmcost.responses.message import Answer, read_answer
from pytest_llmcost.responses.stream import StreamedMessage


def read_message(
    body: Mapping[str, Any],
    *,
    model: str | None = None,
    platform: Any = None,
    batch: bool | None = None,
    request: Mapping[str, Any] | None = None,
    **streamed: Any,
) -> Answer:
    """Read what a message used; `streamed` are further fields of a `StreamedMessage`."""
    endpoint = Endpoint(kind="messages", platform=platform, model=model)
    message = StreamedMessage(body=body, **streamed)
    return read_answer([message], endpoint=endpoint, payload=request, batch=batch)


def read_usage(stated: Mapping[str, Any]) -> Usage:
    """Read one `usage` into billing categories."""
    return read_message({"model": "claude-opus-5", "usage": stated}).usage
