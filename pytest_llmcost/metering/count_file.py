"""The format of count cassettes, which is VCR's, and reading it strictly without VCR.

Data flow: file -> `read_entries` -> {fingerprint: Entry} -> CountCassette.

Shape: a VCR cassette whose interactions are POSTs to the canonical count_tokens address. The
recorded request's body is JSON with `fingerprint`, `model`, `asked_by`, `parts` (a digest of
each) and, where something could not be counted, `left_out`; never the prompt. The response's
body is `{"input_tokens": n}`; or, with status 400, the API's error, where `--llmcost-model` asked
for a model that does not take the payload. Interactions are sorted by fingerprint, a line for
each value, so that two branches merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pytest_llmcost.errors import CountCassetteError
from pytest_llmcost.metering.yaml_file import MOST_BYTES, YamlError, find_item_line, load_yaml
from pytest_llmcost.pricing.usage import is_quantity

URI = "https://api.anthropic.com/v1/messages/count_tokens"
"""Whatever host was asked: a private gateway's name stays out of the file."""


_VERSION = 1
"""Of VCR's cassettes."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded count."""

    fingerprint: str
    model: str
    asked_by: tuple[str, ...]
    """The tests and fixtures that count this payload, sorted."""
    parts: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    input_tokens: int = 0
    refused: str | None = None
    """What the API said where it did not count the payload for this model (400)."""


class _Body(msgspec.Struct, kw_only=True):
    """What the recorded request's body holds."""

    fingerprint: str
    model: str
    asked_by: tuple[str, ...]
    parts: dict[str, str]
    left_out: tuple[str, ...] = ()


class _Counted(msgspec.Struct):
    input_tokens: int


class _Error(msgspec.Struct):
    message: str


class _Refused(msgspec.Struct):
    error: _Error


class _Damage(Exception):
    """What is wrong with one interaction, before the file's name is known."""


def read_entries(path: Path) -> dict[str, Entry]:
    """All counts of a file by fingerprint; none where there is no file, or an empty one.

    Raises:
        CountCassetteError: when it cannot be read or is not a count cassette; names the
            place. The file is left as it is.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise CountCassetteError(f"{show_path(path)} cannot be read: {error}") from None
    if not text.strip():
        return {}
    return _read_interactions(_load_yaml(text, path), text, path)


def _load_yaml(text: str, path: Path) -> Any:
    try:
        return load_yaml(text)
    except YamlError as error:
        hint = "; it holds unresolved merge conflicts" if "\n<<<<<<< " in f"\n{text}" else ""
        raise CountCassetteError(
            f"{show_path(path)}{error.place} is not YAML ({error.problem}){hint}; restore it, or "
            "delete it and record again"
        ) from None


def _read_interactions(document: Any, text: str, path: Path) -> dict[str, Entry]:
    interactions = document.get("interactions") if isinstance(document, dict) else None
    if not isinstance(interactions, list):
        raise CountCassetteError(
            f"{show_path(path)} is not a count cassette: it has no list of interactions; "
            "restore it, or delete it and record again"
        )
    version = document.get("version", _VERSION)
    if version != _VERSION:
        raise CountCassetteError(
            f"{show_path(path)} is of version {version!r:.40}, and {_VERSION} is understood; "
            "update pytest-llmcost, or delete the file and record again"
        )
    entries: dict[str, Entry] = {}
    for index, interaction in enumerate(interactions):
        try:
            entry = _read_interaction(interaction)
            _check_agrees(entries.get(entry.fingerprint), entry)
        except _Damage as damage:
            line = find_item_line(text, "interactions", index)
            place = "" if line is None else f" (line {line})"
            raise CountCassetteError(
                f"{show_path(path)}, interaction {index + 1}{place}: {damage}; restore the file, "
                "or delete it and record again"
            ) from None
        entries[entry.fingerprint] = entry
    return entries


def _read_interaction(interaction: Any) -> Entry:
    request = _get(interaction, "request", dict)
    method, uri = _get(request, "method", str, "request."), _get(request, "uri", str, "request.")
    if (method, uri) != ("POST", URI):
        raise _Damage(f"{method} {uri} is not a recorded count; this is another cassette")
    response = _get(interaction, "response", dict)
    status = _get(response, "status", dict, "response.").get("code")
    if status not in (200, 400):
        raise _Damage(f"response.status.code: expected 200 or 400, got {status!r}")
    told = _get(_get(response, "body", dict, "response."), "string", str, "response.body.")
    body = _decode(_get(request, "body", str, "request."), _Body, "request.body")
    tokens, refused = _read_answer(told, status)
    return Entry(
        fingerprint=body.fingerprint,
        model=body.model,
        asked_by=body.asked_by,
        parts=body.parts,
        left_out=body.left_out,
        input_tokens=tokens,
        refused=refused,
    )


def _read_answer(told: str, status: int) -> tuple[int, str | None]:
    if status == 400:
        refused: _Refused = _decode(told, _Refused, "response.body.string")
        return 0, refused.error.message
    counted: _Counted = _decode(told, _Counted, "response.body.string")
    if not is_quantity(counted.input_tokens, least=1):
        raise _Damage(
            f"response.body.string: {counted.input_tokens} input tokens; no prompt has so few or "
            "so many"
        )
    return counted.input_tokens, None


def _get(mapping: Any, key: str, kind: type, path: str = "") -> Any:
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if not isinstance(value, kind):
        raise _Damage(f"{path}{key}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _decode(text: str, kind: type[Any], path: str) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:  # of msgspec, or half a surrogate pair
        raise _Damage(f"{path}: {error}") from None


def _check_agrees(before: Entry | None, entry: Entry) -> None:
    if before is not None and (before.input_tokens, before.refused) != (
        entry.input_tokens,
        entry.refused,
    ):
        raise _Damage(
            f"{entry.fingerprint[:12]} is recorded twice, with {before.input_tokens} and "
            f"{entry.input_tokens} tokens; delete one of them"
        )


def show_path(path: Path) -> str:
    """The path as a person types it: relative where it lies below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
