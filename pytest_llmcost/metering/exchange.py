"""Exchange: a request to Claude and what its answer costs, as capture hands it on.

Data flow: Talk -> Exchange -> the sink, which compares, prices and books it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmcost.metering.assembly import StreamedMessage
from pytest_llmcost.metering.call import Call
from pytest_llmcost.metering.endpoint import Endpoint, bedrock_platform
from pytest_llmcost.metering.replay import Replay
from pytest_llmcost.metering.response import read_message
from pytest_llmcost.pricing.arn import mask_account
from pytest_llmcost.pricing.usage import Platform, Usage


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the code under test and what came of it."""

    endpoint: Endpoint
    call: Call | None
    """Not priced yet, evidence `billed`; None where it costs nothing: a count, a request that
    was refused or answered by a mock's exception, a batch's request that failed."""
    payload: Mapping[str, Any] | None = None
    """The request's JSON; None where its body could not be read."""
    betas: tuple[str, ...] = ()
    """From the request's header."""
    replay: Replay | None = None
    """The recorded request whose response was played; None where nothing was replayed."""
    live: bool | None = False
    """Whether it went over the network in this run; None is unknown."""
    at: str | None = None
    """When it was sent, UTC; None unless it was, or may have been, live."""
    messages: int = 1
    """How many messages the answer held. A recount is for one."""
    stop_reason: str | None = None
    """Why the reply ended."""
    replaces: Exchange | None = None
    """What was said of the same request when its owner was settled, before it was complete."""


def read_answer(
    messages: Sequence[StreamedMessage],
    *,
    endpoint: Endpoint,
    payload: Mapping[str, Any] | None,
    batch: bool | None = None,
) -> Call:
    """Read the call that an answer's messages state; several are legs of one call.

    Raises:
        UsageDataError: when a usage does not have the documented shape.
    """
    model = model_of(endpoint, payload)
    calls = [
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
    return calls[0] if len(calls) == 1 else join_calls(calls)


def join_calls(calls: Sequence[Call]) -> Call:
    """Make one call of several responses in one body; each leg keeps its own model and band."""
    return msgspec.structs.replace(
        calls[-1],
        usage=sum((call.usage for call in calls), Usage()),
        legs=tuple(leg for call in calls for leg in call.legs),
        caveats=tuple(sorted({caveat for call in calls for caveat in call.caveats})),
    )


def unknown_call(endpoint: Endpoint, payload: Mapping[str, Any] | None, caveat: str) -> Call:
    """Return a call of which nothing is known but that it was made; it has no price, not $0."""
    return Call(
        model=model_of(endpoint, payload) or "unknown", evidence="billed", caveats=(caveat,)
    )


def model_of(endpoint: Endpoint, payload: Mapping[str, Any] | None) -> str | None:
    """Return the model that was asked for, from the URL or the body, without an account id."""
    asked = endpoint.model or (payload or {}).get("model")
    return mask_account(asked) if isinstance(asked, str) else None


def platform_of(endpoint: Endpoint, model: str | None) -> Platform | None:
    """Return the platform; Bedrock's newer route names the model, hence the region, in the body."""
    if endpoint.platform == "bedrock" and endpoint.model is None and model is not None:
        return bedrock_platform(model)
    return endpoint.platform


def stop_reason_of(messages: Sequence[StreamedMessage]) -> str | None:
    """Return why the last message ended."""
    reason = messages[-1].body.get("stop_reason") if messages else None
    return reason if isinstance(reason, str) else None
