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

import hashlib
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from pytest_llmcost.errors import CountCassetteError
from pytest_llmcost.prices.usage import is_quantity
from pytest_llmcost.yaml_file import MOST_BYTES, YamlError, find_item_line, load_yaml

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


_LOCK_SECONDS = 60.0
_SAVING_SHARE = 10
"""Saving takes at most a tenth of the time, however many counts a file holds."""


class CountCassette:
    """One file of counts. Several may be open on the same file; saving merges.

    Example:
        >>> cassette = CountCassette.load(Path("cassettes/test_triage/test_refund.llmcost.yaml"))
        >>> cassette.find("1:3f9a") is None
        True
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry]) -> None:
        """Use `load`; this takes the entries as they are in the file."""
        self.path = path
        self._entries = dict(entries)
        self._first_askers = frozenset(
            asker for entry in entries.values() for asker in entry.asked_by
        )
        self._pending: dict[str, Entry] = {}
        self._released: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self._next_save_at = 0.0

    @classmethod
    def load(cls, path: Path) -> CountCassette:
        """Read a file; one that is not there yet is empty.

        Raises:
            CountCassetteError: when it is damaged or something else.
        """
        return cls(path, read_entries(path))

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every count, those not yet saved included."""
        return self._entries

    def has_recorded(self, asker: str) -> bool:
        """Whether the file held counts of this asker when it was loaded."""
        return asker in self._first_askers

    def find(self, fingerprint: str) -> Entry | None:
        """The count of exactly this payload, whoever asked for it."""
        return self._entries.get(fingerprint)

    def nearest(self, parts: Mapping[str, str], asker: str) -> Entry | None:
        """The recorded payload most like this one; the asker's own before others'."""

        def likeness(entry: Entry) -> tuple[bool, int, int, str]:
            same = sum(entry.parts.get(name) == digest for name, digest in parts.items())
            size = -abs(len(entry.parts) - len(parts))
            return asker in entry.asked_by, same, size, entry.fingerprint

        return max(self._entries.values(), key=likeness, default=None)

    def put(self, entry: Entry) -> None:
        """Add a count, or another asker of a known one; `save` writes it."""
        with self._lock:
            known = self._entries.get(entry.fingerprint)
            added = _joined(known, entry)
            if added != known:
                self._entries[entry.fingerprint] = added
                self._pending[entry.fingerprint] = added

    def prune(self, asker: str, keep: Collection[str]) -> None:
        """Take this asker off every count but those kept; counts nobody asks for go."""
        with self._lock:
            for name, entry in list(self._entries.items()):
                if name not in keep and asker in entry.asked_by:
                    self._released.add((name, asker))
                    _release(self._entries, name, asker)
                    self._pending.pop(name, None)

    def save_soon(self) -> None:
        """Save now, unless saving has lately taken more than its share of the time."""
        if time.monotonic() >= self._next_save_at:
            self.save()

    def save(self) -> None:
        """Merge what is new into the file, under a lock; without news nothing is written.

        Raises:
            CountCassetteError: when the file is damaged or cannot be written.
        """
        with self._lock:
            if not self._pending and not self._released:
                return
            started_at = time.monotonic()
            with _locked(self.path):
                merged = read_entries(self.path)
                before = dict(merged)
                for name, asker in self._released:
                    _release(merged, name, asker)
                for name, entry in self._pending.items():
                    merged[name] = _joined(merged.get(name), entry)
                if merged != before:
                    write_entries(self.path, merged.values())
            self._entries = merged
            self._pending.clear()
            self._released.clear()
            ended_at = time.monotonic()
            self._next_save_at = ended_at + _SAVING_SHARE * (ended_at - started_at)


def _joined(known: Entry | None, entry: Entry) -> Entry:
    """The newer count, asked for by everybody who asked for either."""
    if known is None:
        return entry
    askers = sorted({*known.asked_by, *entry.asked_by})
    return msgspec.structs.replace(entry, asked_by=tuple(askers))


def _release(entries: dict[str, Entry], name: str, asker: str) -> None:
    entry = entries.get(name)
    if entry is None:
        return
    others = tuple(other for other in entry.asked_by if other != asker)
    if others:
        entries[name] = msgspec.structs.replace(entry, asked_by=others)
    else:
        del entries[name]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes off a file. The lock lies in the temporary folder, not beside it.

    It is the operating system's lock on an open file: one left behind by a process that
    died is free.
    """
    import filelock

    try:
        lock = filelock.FileLock(_lock_path(path))
        lock.acquire(timeout=_LOCK_SECONDS)
    except filelock.Timeout as timeout:
        raise CountCassetteError(
            f"{show_path(path)} is being written by another process since more than "
            f"{_LOCK_SECONDS:.0f} s ({timeout.lock_file}); end it, then run again"
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter where there are no locks at all
        raise CountCassetteError(
            f"{show_path(path)} cannot be locked: {error}. The lock is a file in the temporary "
            "folder; make that writable, set TMPDIR to another one, or count without recording "
            "(--disable-recording)"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # closing the file frees it as well
            lock.release()


def _lock_path(path: Path) -> str:
    user = getattr(os, "getuid", lambda: "user")()
    folder = Path(tempfile.gettempdir()) / f"pytest-llmcost-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return str(folder / f"{name}.lock")


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file by one that holds these counts, through VCR; or remove it with the last.

    The new file is complete before it takes the old one's place, and the same counts give the
    same bytes.

    Raises:
        CountCassetteError: when it cannot be written; the old file is then still there.
    """
    kept = sorted(entries, key=lambda entry: entry.fingerprint)
    try:
        if not kept:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _save_through_vcr(path, kept)
    except OSError as error:
        raise CountCassetteError(
            f"{show_path(path)} cannot be written: {error.strerror or error}; make the folder "
            "writable, or count without recording (--disable-recording)"
        ) from None


def _save_through_vcr(path: Path, entries: Iterable[Entry]) -> None:
    from vcr.cassette import Cassette  # type: ignore[import-untyped]
    from vcr.request import Request  # type: ignore[import-untyped]

    cassette = Cassette(str(path), serializer=_Serializer, persister=_Persister)
    for entry in entries:
        cassette.append(Request("POST", URI, _request_body(entry), {}), _response(entry))
    cassette._save(force=True)


def _request_body(entry: Entry) -> bytes:
    told: dict[str, Any] = msgspec.to_builtins(entry)
    del told["input_tokens"], told["refused"]
    if not entry.left_out:
        del told["left_out"]
    return json.dumps(told, indent=1).encode()


def _response(entry: Entry) -> dict[str, Any]:
    status, body = (200, "OK"), {"input_tokens": entry.input_tokens}
    if entry.refused is not None:
        status, body = (400, "Bad Request"), _error_body(entry.refused)
    return {
        "status": dict(zip(("code", "message"), status, strict=True)),
        "headers": {"content-type": ["application/json"]},
        "body": {"string": json.dumps(body).encode()},
    }


def _error_body(said: str) -> dict[str, Any]:
    """What the API answers when it refuses a request."""
    return {"type": "error", "error": {"type": "invalid_request_error", "message": said}}


class _Serializer:
    """VCR's YAML with a line for each line of a text, which diffs and merges better."""

    @staticmethod
    def serialize(document: object) -> str:
        import yaml

        class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
            """Without aliases, and with literal blocks for texts of several lines."""

            def ignore_aliases(self, data: object) -> bool:
                return True

        def represent(dumper: Any, text: str) -> Any:
            style = "|" if "\n" in text else None
            return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

        Dumper.add_representer(str, represent)
        dumped: str = yaml.dump(document, Dumper=Dumper, width=10_000, line_break="\n")
        return dumped

    @staticmethod
    def deserialize(text: str) -> Any:
        raise NotImplementedError("count cassettes are read without VCR")


class _Persister:
    """Writes beside the file, then puts the new one in its place."""

    @staticmethod
    def save_cassette(path: str, cassette: dict[str, Any], serializer: Any) -> None:
        from vcr.serialize import serialize  # type: ignore[import-untyped]

        replace_file(Path(path), serialize(cassette, serializer).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place at once: readers see the old one or the new one, never a part.

    A link is followed, and an existing file's permissions are kept.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{secrets.token_hex(8)}.llmcost.tmp")
    try:
        beside.write_bytes(content)
        with suppress(FileNotFoundError):
            beside.chmod(target.stat().st_mode)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
