"""CountCassette: the recorded counts of one test or fixture, looked up by fingerprint.

Data flow: file -> `CountCassette.load` -> `find` / `nearest`; new counts -> `put` -> `save`,
which merges them into what the file holds by then.
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
from pytest_llmcost.metering.count_file import URI, Entry, read_entries, show_path

__all__ = ["CountCassette", "Entry", "read_entries", "write_entries"]

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

    lock = filelock.FileLock(_lock_path(path))
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except filelock.Timeout:
        raise CountCassetteError(
            f"{show_path(path)} is being written by another process since more than "
            f"{_LOCK_SECONDS:.0f} s ({lock.lock_file}); end it, then run again"
        ) from None
    try:
        yield
    finally:
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
