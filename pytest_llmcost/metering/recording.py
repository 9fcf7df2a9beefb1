"""Recorded files, whoever wrote them: cassettes of several recorders, responses, streams.

Data flow: a file's bytes -> `read_recordings` -> Recorded exchanges -> calls. Reading never runs
anything: YAML tags that name Python objects come out as plain data.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmcost.errors import RecordingError
from pytest_llmcost.metering.recordedbody import (
    Allowance,
    TooLarge,
    UndecodableBody,
    decode_body,
    is_event_stream,
    parsed_json,
    unzip,
)
from pytest_llmcost.metering.yaml_file import YamlError, load_yaml
from pytest_llmcost.pricing.money import read_digits

_INTERACTIONS = ("interactions", "http_interactions")
"""vcrpy, go-vcr and cassetter; vcr for Ruby and for R."""
_STREAM_EVENTS = ("message_start", "message_delta", "content_block_start", "content_block_delta")
_CONTAINERS = ("results", "responses")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange as a file holds it; a bare response has no method, URL and request."""

    source: str
    """`path#index`, the index counted from 0 over all that the file holds."""
    method: str | None = None
    url: str | None = None
    status: int = 200
    request: Mapping[str, Any] | None = None
    """The request's JSON, where it was recorded and is an object."""
    content_type: str | None = None
    body: bytes = b""
    """Of the response, decompressed."""
    problem: str | None = None
    """Why there is no body, though there was one."""
    message: tuple[str, str] | None = None
    """A bare response's id and model; logs may hold one response several times while it grows."""
    output_tokens: int = 0
    """Of a bare response, as far as it has grown."""


def read_recordings(data: bytes, path: str) -> tuple[Recorded, ...]:
    """Read whatever a file holds, told by its content and not by its name.

    Raises:
        RecordingError: when it is none of the known forms; names file and place.
    """
    try:
        return tuple(_once_each(_read(_unpacked(data, path), path)))
    except TooLarge as error:
        raise RecordingError(f"{path}: {error}") from None
    except RecursionError:
        raise RecordingError(f"{path}: nested too deeply") from None


def _read(data: bytes, path: str) -> list[Recorded]:
    if is_event_stream(data):
        kind = "application/vnd.amazon.eventstream" if data[:1] == b"\0" else "text/event-stream"
        return [Recorded(source=f"{path}#0", content_type=kind, body=data)]
    found = [*_entries(_parse(data, path), path, Allowance())]
    if not found:
        raise RecordingError(
            f"{path}: neither a cassette nor a Messages response, event stream or batch result"
        )
    return [
        msgspec.structs.replace(each, source=f"{path}#{index}") for index, each in enumerate(found)
    ]


def _once_each(recordings: Sequence[Recorded]) -> Iterator[Recorded]:
    """Leave out earlier states of a response: of one message, the longest reply counts."""
    longest: dict[object, Recorded] = {}
    for each in recordings:
        before = longest.get(each.message)
        if before is None or each.output_tokens >= before.output_tokens:
            longest[each.message] = each
    for each in recordings:
        if each.message is None or longest[each.message] is each:
            yield each


def _unpacked(data: bytes, path: str) -> bytes:
    allowance = Allowance()
    try:
        return allowance.take(unzip(data, allowance)).removeprefix(b"\xef\xbb\xbf")
    except (OSError, EOFError, zlib.error) as error:
        raise RecordingError(f"{path}: looks gzip-compressed, but is not: {error}") from None


def _parse(data: bytes, path: str) -> object:
    """JSON, JSON Lines or YAML, whichever it is."""
    if not data.strip():
        raise RecordingError(f"{path}: the file is empty")
    if data.lstrip()[:1] not in b"{[":
        return _parse_yaml(data, path)
    value = parsed_json(data)
    if value is not None:
        return value
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    values = [(number, parsed_json(line)) for number, line in lines]
    bad = [number for number, each in values if each is None]
    if not bad:
        return [each for _, each in values]
    if len(bad) < len(values):
        raise RecordingError(f"{path}, line {bad[0]}: not JSON, though other lines are")
    return _parse_yaml(data, path)


def _parse_yaml(data: bytes, path: str) -> object:
    try:
        return load_yaml(data, any_tag=True)
    except YamlError as error:
        raise RecordingError(f"{path}{error.place}: {error.problem}") from None


def _entries(value: object, path: str, allowance: Allowance) -> Iterator[Recorded]:
    """Find every exchange, response and batch result in a parsed file."""
    if isinstance(value, list):
        yield from _listed(value, path, allowance)
    elif isinstance(value, dict):
        yield from _single(value, path, allowance)
        for name in _CONTAINERS:
            if isinstance(value.get(name), list):
                yield from _listed(value[name], path, allowance)


def _listed(values: Sequence[object], path: str, allowance: Allowance) -> Iterator[Recorded]:
    """A list is one stream if it holds events, else each element stands for itself."""
    if any(isinstance(each, dict) and each.get("type") in _STREAM_EVENTS for each in values):
        lines = b"".join(b"data: " + _json(each) + b"\n\n" for each in values)
        yield Recorded(source=path, content_type="text/event-stream", body=lines)
        return
    for each in values:
        if isinstance(each, dict):
            yield from _single(each, path, allowance)


def _single(value: Mapping[str, Any], path: str, allowance: Allowance) -> Iterator[Recorded]:
    interactions = _interactions_of(value)
    if interactions is not None:
        yield from (_interaction(each, path, allowance) for each in interactions)
    elif _is_answer(value):
        yield _bare(value)


def _is_answer(value: Mapping[str, Any]) -> bool:
    if value.get("type") in ("message", "error") or "usage" in value:
        return True
    return "custom_id" in value and "result" in value


def _bare(value: Mapping[str, Any]) -> Recorded:
    status = 400 if value.get("type") == "error" else 200
    kind = "application/x-jsonl" if "custom_id" in value else "application/json"
    name, model = value.get("id"), value.get("model")
    tokens = _part(value, "usage").get("output_tokens")
    return Recorded(
        source="",
        status=status,
        content_type=kind,
        body=_json(value),
        message=(name, model) if isinstance(name, str) and isinstance(model, str) else None,
        output_tokens=tokens if isinstance(tokens, int) else 0,
    )


def _json(value: object) -> bytes:
    """Write a parsed value as JSON; bytes and odd keys of YAML are no part of a response."""
    return json.dumps(value, default=repr, skipkeys=True).encode()


def _interactions_of(value: Mapping[str, Any]) -> list[Any] | None:
    for name in _INTERACTIONS:
        if name in value:
            return value[name] if isinstance(value[name], list) else []
    log = value.get("log")
    if isinstance(log, dict) and isinstance(log.get("entries"), list):
        return list(log["entries"])
    if isinstance(value.get("request"), dict) and isinstance(value.get("response"), dict):
        return [value]
    return None


def _interaction(entry: object, path: str, allowance: Allowance) -> Recorded:
    request, response = _part(entry, "request"), _part(entry, "response")
    headers = {str(k).lower(): v for k, v in _headers(response).items()}
    body, problem = b"", None
    try:
        encoding = _first(headers.get("content-encoding"))
        body = decode_body(_body_of(response), allowance, encoding=encoding)
    except UndecodableBody as error:
        problem = str(error)
    return Recorded(
        source=path,
        method=str(request.get("method") or "POST").upper(),
        url=str(request.get("uri") or request.get("url") or ""),
        status=_status(response),
        request=_request_json(request, allowance),
        content_type=_first(headers.get("content-type"))
        or _first(_part(response, "content").get("mimeType")),
        body=body,
        problem=problem,
    )


def _part(entry: object, name: str) -> Mapping[str, Any]:
    part = entry.get(name) if isinstance(entry, dict) else None
    return part if isinstance(part, dict) else {}


def _headers(response: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as a mapping; archives (HAR) list them as names with values."""
    headers = response.get("headers")
    if isinstance(headers, list):
        pairs = [each for each in headers if isinstance(each, dict) and "name" in each]
        return {each["name"]: each.get("value") for each in pairs}
    return headers if isinstance(headers, dict) else {}


def _first(value: object) -> str | None:
    """A header's value: recorders keep it as text, as bytes, or as a list of either."""
    while isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value if isinstance(value, str) else None


def _status(response: Mapping[str, Any]) -> int:
    """`{code: 200}`, `{status_code: 200}`, `code: 200`, `status_code: 200` or `200 OK`."""
    status = response.get("status")
    nested = status if isinstance(status, dict) else response
    for value in (nested.get("code"), nested.get("status_code"), status):
        code = read_digits(str(value).split(" ")[0])
        if code is not None:
            return code
    return 200


def _body_of(message: Mapping[str, Any]) -> object:
    for name in ("parsed_body", "body", "content", "postData"):
        if message.get(name) not in (None, ""):
            return message[name]
    return None


def _request_json(request: Mapping[str, Any], allowance: Allowance) -> Mapping[str, Any] | None:
    try:
        value = parsed_json(decode_body(_body_of(request), allowance))
    except UndecodableBody:
        return None
    return value if isinstance(value, dict) else None
