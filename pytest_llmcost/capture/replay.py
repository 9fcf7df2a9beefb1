"""Replay: the recorded request to which a cassette's response belongs.

Data flow: the cassette library plays a response -> the request it was recorded for -> Replay ->
comparison with what is sent now. With VCR's default matching a prompt may have grown a
hundredfold and the cassette still reports yesterday's usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_llmcost.counting.payload import fingerprint
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.endpoints import recognise


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the request that was recorded with the response just played."""

    body: Mapping[str, Any] | None = None
    """Its JSON; None where it cannot be compared with."""
    model: str | None = None
    """The model where its URL named it (Bedrock, Google Cloud)."""
    betas: tuple[str, ...] | None = ()
    """From its `anthropic-beta` header; None where a filter of the cassette hides them."""
    is_same: bool = False
    """Byte for byte what is sent now, under the same names of model and betas."""
    obstacle: str | None = None
    """Why it cannot be compared with, for people; None where it can."""


def read_vcr_promise(request: Any) -> Replay | None:
    """Tell what is known once VCR has a response for a request: nothing yet, but that it has."""
    if recognise(request.method, request.uri) is None:
        return None
    return Replay(obstacle="VCR does not tell which recording it replayed")


def read_vcr_replay(cassette: Any, request: Any, response: Any, sent: bytes) -> Replay | None:
    """Tell what VCR recorded with a response of its own; None where it is no Claude call.

    The recorded request is found by the identity of its response, which holds when several
    threads replay at once. VCR's filters have run over what was recorded, so a filter that
    changes what counts hides whether the prompt has changed.
    """
    if recognise(request.method, request.uri) is None:
        return None
    recorded = next((asked for asked, told in cassette.data if told is response), None)
    body = _as_bytes(getattr(recorded, "body", None))
    if recorded is None or not body:
        return Replay(obstacle="the cassette holds no request body")
    sent = sent or _as_bytes(request.body)  # a stream, which VCR has read to the end
    model, betas = _model(recorded), _recorded_betas(cassette, request, recorded)
    is_same = body == sent and model == _model(request) and betas == _betas(request)
    parsed = _as_mapping(body)
    if parsed is None and not is_same:
        return Replay(obstacle="the recorded request body is not JSON")
    if body != sent and _hides_body(cassette, request, sent, parsed or {}):
        return Replay(obstacle="a filter of the cassette changes the request body")
    return Replay(body=parsed, model=model, betas=betas, is_same=is_same)


def _hides_body(cassette: Any, request: Any, sent: bytes, recorded: Mapping[str, Any]) -> bool:
    return _is_hidden(_as_mapping(_filtered(cassette, request)), _as_mapping(sent), recorded)


def _model(request: Any) -> str | None:
    endpoint = recognise(request.method, request.uri)
    return endpoint.model if endpoint is not None else None


def _recorded_betas(cassette: Any, request: Any, recorded: Any) -> tuple[str, ...] | None:
    found, now = _betas(recorded), _betas(request)
    if found != now and _betas(cassette.filter_request(request)) != now:
        return None
    return found


def _betas(request: Any) -> tuple[str, ...]:
    """From a header whose value VCR keeps as a text or as a list of texts; () without a request."""
    found = getattr(request, "headers", {}).get("anthropic-beta") or ""
    return read_betas(found if isinstance(found, str) else ",".join(map(str, found)))


def read_betas(header: str) -> tuple[str, ...]:
    """Return the names in an `anthropic-beta` header, sorted, each once.

    Example:
        >>> read_betas("b, a,b,")
        ('a', 'b')
    """
    return tuple(sorted({name.strip() for name in header.split(",")} - {""}))


def _is_hidden(
    filtered: Mapping[str, Any] | None, sent: Mapping[str, Any] | None, recorded: Mapping[str, Any]
) -> bool:
    """Whether what was recorded agrees with what is sent only where the filter has been."""
    if sent is None or filtered == sent:
        return False
    if filtered is None:
        return True
    if fingerprint(filtered) == fingerprint(sent):
        return False
    return fingerprint(filtered) == fingerprint(recorded)


def _filtered(cassette: Any, request: Any) -> bytes:
    kept = cassette.filter_request(request)
    return _as_bytes(getattr(kept, "body", None))


def _as_bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    return bytes(body) if isinstance(body, (bytes, bytearray)) else b""


def _as_mapping(body: bytes) -> Mapping[str, Any] | None:
    value = decode_json(body)
    return value if isinstance(value, dict) else None
