"""What a test states itself, if nothing could be seen: mocked methods, subprocesses."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.errors import PayloadError, SettingsError, UsageDataError
from pytest_llmcost.json_values import to_json_value
from pytest_llmcost.money import parse_usd
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import text_of
from pytest_llmcost.responses.endpoints import Endpoint
from pytest_llmcost.responses.message import Answer, read_answer
from pytest_llmcost.responses.stream import StreamedMessage

_UNSEEN = Endpoint(kind="messages")


def read_declared(
    response: Any, *, model: str | None = None, usd: Decimal | None = None, **request: Any
) -> Answer:
    """Read an answer from what stands in for its response.

    Shape: a Messages response, an SDK `Message` or a stream's final message (`usage` and
    `model`); a usage alone (`input_tokens`, ...); an agent's result (`total_cost_usd`). What it
    leaves open the `request` says that it replies to, if one is known: as for `read_answer`.

    Raises:
        UsageDataError: none of these, or one whose usage cannot be read.
    """
    body = stated_body(response)
    total = body.get("total_cost_usd")
    try:
        total = None if total is None else parse_usd(total)
    except SettingsError:
        what = f"total_cost_usd is {total}, which is not an amount of money"
        raise UsageDataError(what, path="total_cost_usd") from None
    stated = usd if usd is not None else total
    usage = body.get("usage") or (body if "input_tokens" in body else None)
    name = model or text_of(body.get("model"))
    if stated is None and (usage is None or name is None):
        shown = ", ".join(key for key in sorted(body) if body[key] is not None) or "no value in it"
        raise UsageDataError(
            "record takes a Messages response, a usage with model=, or a result with "
            f"total_cost_usd or usd=; got {type(response).__name__} with {shown}",
            path="usage",
        )
    answer = Answer(model=name or "unknown")
    if usage is not None:
        message = {**({} if usage is body else body), "usage": usage, "model": answer.model}
        request = request or {"endpoint": _UNSEEN, "payload": {"model": model}}
        try:
            answer = read_answer([StreamedMessage(body=message)], **request)
        except UsageDataError:
            # An agent that failed at once, or has asked another model, states zeros beside its
            # total: then the total is all that is known.
            if stated is None:
                raise
    if stated is None:
        return answer
    if total is not None or answer.caveats:  # more was called than this usage says
        answer = replace(answer, sampling_calls=())
    # The total of an agent's result is that of its session so far, not of this turn.
    # Source: https://github.com/anthropics/claude-code/issues/83239, read 2026-11-25.
    session = text_of(body.get("session_id"))
    session_total = (session, total) if session and total is not None else None
    return replace(
        answer,
        declared_usd=usd if session_total else stated,
        session_total=session_total,
        code_beside=None,
        caveats=sorted_caveats([f"declared-price{': total_cost_usd' * (total is not None)}"]),
    )


def stated_body(response: Any) -> dict[str, Any]:
    """Return what stands in for a response in plain JSON; iterators in it are read once.

    Raises:
        UsageDataError: it is no JSON object.
    """
    if hasattr(response, "__dataclass_fields__"):
        # The Agent SDK's results are dataclasses with more in them than JSON.
        fields = ("usage", "total_cost_usd", "model", "session_id")
        response = {name: getattr(response, name) for name in fields if hasattr(response, name)}
    try:
        body = to_json_value(response)
    except PayloadError as error:
        if error.path:
            raise UsageDataError(str(error), path=error.path) from None
        body = None  # nothing that is sent or answered, for example a mock
    if not isinstance(body, dict):
        raise UsageDataError(
            f"record takes a Messages response or a usage, not {type(response).__name__}", path=""
        )
    return body
