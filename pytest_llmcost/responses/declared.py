"""What a test states itself, where nothing could be seen: mocked methods, boto3, subprocesses.

Data flow: a Message, a usage, an agent's result -> `read_declared` -> Call, evidence `declared`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.json_values import to_json_value
from pytest_llmcost.money import parse_usd
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.responses.message import Answer, read_message, text_at

_UNKNOWN_MODEL = "unknown"


def read_declared(response: Any, *, model: str | None = None, usd: Decimal | None = None) -> Answer:
    """Read an answer from what stands in for its response.

    Shape: a Messages response, an SDK `Message` or a stream's final message (`usage` and
    `model`); a usage alone (`input_tokens`, ...); an agent's result (`total_cost_usd`).

    Raises:
        UsageDataError: none of these, or one whose usage cannot be read.
    """
    body = _as_mapping(response)
    total = _stated_usd(body)
    stated = usd if usd is not None else total
    usage = body.get("usage") or (body if "input_tokens" in body else None)
    name = model or text_at(body, "model")
    if usage is None and stated is None:
        raise UsageDataError(
            "record takes a Messages response, a usage, or a result with total_cost_usd; "
            f"got {type(response).__name__} with {', '.join(sorted(body)) or 'nothing in it'}",
            path="usage",
        )
    if usage is None:
        return _stated(Answer(model=name or _UNKNOWN_MODEL), stated)
    if name is None and stated is None:
        raise UsageDataError("a usage alone names no model; add model=", path="model")
    message = {**({} if usage is body else body), "usage": usage, "model": name or _UNKNOWN_MODEL}
    try:
        answer = read_message(message, model=model)
    except UsageDataError:
        if stated is None:
            raise
        # An agent that failed at once, or has asked another model, states zeros beside its total.
        return _stated(Answer(model=name or _UNKNOWN_MODEL), stated)
    if stated is None:
        return answer
    if total is not None or answer.caveats:  # more was called than this usage says
        answer = replace(answer, sampling_calls=())
    return _stated(answer, stated)


def session_of(response: Any) -> str | None:
    """Return the session of an agent's result: its `total_cost_usd` is that session's so far.

    Source: https://github.com/anthropics/claude-code/issues/83239, read 2026-11-25.
    """
    body = _as_mapping(response)
    return text_at(body, "session_id") if body.get("total_cost_usd") is not None else None


def _stated(answer: Answer, usd: Decimal | None) -> Answer:
    """Let a stated price stand for all sampling calls, so that nothing is priced twice."""
    return replace(
        answer, declared_usd=usd, code_beside=None, caveats=sorted_caveats(["declared-price"])
    )


def _as_mapping(response: Any) -> Mapping[str, Any]:
    dumped = to_json_value(response) if not hasattr(response, "__dataclass_fields__") else None
    if dumped is None:
        # The Agent SDK's results are dataclasses with more in them than JSON.
        dumped = {
            name: getattr(response, name)
            for name in ("usage", "total_cost_usd", "model", "session_id")
            if getattr(response, name, None) is not None
        }
    if not isinstance(dumped, Mapping):
        raise UsageDataError(
            f"record takes a Messages response or a usage, not {type(response).__name__}",
            path="",
        )
    return dumped


def _stated_usd(body: Mapping[str, Any]) -> Decimal | None:
    """An agent's own total, which covers all that it called."""
    total = body.get("total_cost_usd")
    return None if total is None else parse_usd(total)
