"""Count cassettes: recorded counts as files, in VCR's format.

A cassette's interactions are POSTs to the canonical count_tokens address. The recorded request's
body is JSON with `fingerprint`, `model`, `asked_by`, `parts` (a digest of each) and, if something
could not be counted, `left_out`; never the prompt. The response's body is `{"input_tokens": n}`;
or, with status 400, the API's error, if `--llmcost-model` asked for a model that does not take
the payload. Interactions are sorted by fingerprint, with a line for each value, so that two
branches merge. VCR itself can load a cassette, and is not needed for it.

A file that is as it was written is read by its form: a YAML parser would take most of the time of
a replay. Any other file, which a merge or a formatter has left, is read as YAML.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from pytest_llmcost.counting.payload import RECIPE, Payload
from pytest_llmcost.errors import CountCassetteError
from pytest_llmcost.files import LockError, locked, show_path, write_atomic
from pytest_llmcost.json_values import prepare
from pytest_llmcost.prices.usage import PromptCount
from pytest_llmcost.yaml_file import MOST_BYTES, YamlError, load_yaml

_REMEDY = "restore it, or delete it and record again"


class Count(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many tokens a payload is, or why the API refused to count it for this model.

    Whatever is a field of it is recorded.
    """

    input_tokens: int = 0
    """The whole prompt; a lower bound if something is left out."""
    left_out: tuple[str, ...] = ()
    refused: str | None = None
    """Where in the payload the API found a fault (400)."""


class Entry(Count, frozen=True):  # its own fields are no keywords alone: so they come first
    """A recorded count; as JSON, what its request's body holds, save what its response says."""

    fingerprint: str
    model: str
    asked_by: tuple[str, ...]
    """The tests and fixtures that count this payload, sorted."""
    parts: Mapping[str, str]

    @classmethod
    def of(cls, payload: Payload, count: Count, asker: str) -> Entry:
        """Make the entry of a payload: digests and numbers, none of its text."""
        of = {"fingerprint": payload.fingerprint, "model": payload.model, "parts": payload.parts}
        return cls(**{**asdict(count), **of, "asked_by": (asker,)})

    @property
    def is_current(self) -> bool:
        """Whether it is of today's recipe; of an earlier one it may be the same payload."""
        return self.fingerprint.startswith(f"{RECIPE}:")


# A file as it is written.

_HEAD, _END = "interactions:\n", "version: 1\n"
_INTERACTION = """\
- request:
    body: |-
%s
    headers: {}
    method: POST
    uri: https://api.anthropic.com/v1/messages/count_tokens
  response:
    body:
      string: '%s'
    headers:
      content-type:
      - application/json
    status:
      code: %s
      message: %s
"""
"""In VCR's format, but with a line for each line of a text, which merges better. Whatever host was
asked: the name of a private gateway stays out of the file."""
_INDENT = " " * 6
_WRITTEN = re.compile(
    re.escape(_INTERACTION)
    % (rf"({_INDENT}\{{(?:\n{_INDENT}[ -~]*)*)", "((?:[ -&(-~]|'')*)", "(200|400)", "[A-Za-z ]+")
)
_TWO_ANSWERS = re.compile(r"\n( +string:).*\n\1")
"""What is left if a merge keeps the lines of both sides; a YAML parser takes the last."""


class _Counted(msgspec.Struct):
    input_tokens: PromptCount


class _Refused(msgspec.Struct):
    error: dict[str, str]


prepare(Entry, _Counted, _Refused)


def read_entries(path: Path) -> dict[str, Entry]:
    """Return all counts of a file by fingerprint; none if there is no file, or an empty one.

    Raises:
        CountCassetteError: it cannot be read, is damaged or is something else; names the place.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode().replace("\r\n", "\n")  # Git's on Windows
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise CountCassetteError(f"{show_path(path)} is not UTF-8 ({error}); {_REMEDY}") from None
    except OSError as error:
        why = error.strerror or error  # which would name the path once more
        raise CountCassetteError(f"{show_path(path)} cannot be read: {why}") from None
    if not text.strip():
        return {}
    written = _read_written(text)
    if not written and (twice := _TWO_ANSWERS.search(text)):
        line = text.count("\n", 0, twice.end()) + 1
        raise CountCassetteError(
            f"{show_path(path)}, line {line}: one payload has two counts; {_REMEDY}"
        )
    try:
        interactions = [*(written or load_yaml(text)["interactions"])]
    except YamlError as error:
        hint = "; it holds unresolved merge conflicts" if "\n<<<<<<< " in f"\n{text}" else ""
        raise CountCassetteError(
            f"{show_path(path)}{error.where} is not YAML ({error.problem}){hint}; {_REMEDY}"
        ) from None
    except (LookupError, TypeError):
        raise CountCassetteError(f"{show_path(path)} is not a count cassette; {_REMEDY}") from None
    entries: dict[str, Entry] = {}
    for number, interaction in enumerate(interactions, start=1):
        try:
            entry = _read_interaction(interaction)
            before = entries.get(entry.fingerprint, entry)
            if (before.input_tokens, before.refused) != (entry.input_tokens, entry.refused):
                raise ValueError(
                    f"{entry.fingerprint[:12]} is recorded twice, with {before.input_tokens} and "
                    f"{entry.input_tokens} tokens"
                )
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            is_said = isinstance(error, (RecursionError, ValueError))  # by what decodes it
            why = f"{error!s:.300}" if is_said else "it is no recorded count"
            raise CountCassetteError(
                f"{show_path(path)} is not a count cassette, or damaged: interaction {number}: "
                f"{why}; {_REMEDY}"
            ) from None
        # Twice is what a merge leaves.
        asked_by = tuple(sorted({*before.asked_by, *entry.asked_by}))
        entries[entry.fingerprint] = replace(entry, asked_by=asked_by)
    return entries


def _read_written(text: str) -> list[Any]:
    """Return what is read of each interaction, as YAML has it, if a file is as it was written."""
    head, *found = _WRITTEN.split(text)
    *between, end = found[3::4] or [""]
    if (head, end) != (_HEAD, _END) or any(between):
        return []
    return [
        {
            "request": {"body": asked},
            "response": {
                "body": {"string": body.replace("''", "'")},
                "status": {"code": int(code)},
            },
        }
        for asked, body, code in zip(found[::4], found[1::4], found[2::4], strict=True)
    ]


def _read_interaction(interaction: Any) -> Entry:
    request, response = interaction["request"]["body"], interaction["response"]
    body, code = response["body"]["string"], response["status"]["code"]
    if (number := request.count('"fingerprint":')) > 1:  # of which a JSON parser takes the last
        raise ValueError(f"it has {number} fingerprints")
    entry = msgspec.json.decode(request, type=Entry)
    if code == 400:
        refused = msgspec.json.decode(body, type=_Refused).error["message"]
        return replace(entry, input_tokens=0, refused=refused)
    tokens = msgspec.json.decode(body, type=_Counted).input_tokens
    return replace(entry, input_tokens=tokens, refused=None)


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Replace the file by one that holds these counts; remove it if there are none.

    Raises:
        OSError: it cannot be written; the old file is then still there.
    """
    kept = sorted(entries, key=lambda entry: entry.fingerprint)
    if kept:
        write_atomic(path, ["".join([_HEAD, *map(_interaction, kept), _END]).encode()])
    else:
        path.unlink(missing_ok=True)


def _interaction(entry: Entry) -> str:
    asked = msgspec.to_builtins(entry)
    tokens, refused = asked.pop("input_tokens", 0), asked.pop("refused", None)
    code, message, body = 200, "OK", {"input_tokens": tokens}
    if refused is not None:
        error = {"type": "invalid_request_error", "message": refused}
        code, message, body = 400, "Bad Request", {"type": "error", "error": error}
    request = _INDENT + json.dumps(asked, indent=1).replace("\n", f"\n{_INDENT}")
    return _INTERACTION % (request, json.dumps(body).replace("'", "''"), code, message)


_SAVING_SHARE = 10
"""Saving takes at most a tenth of the time, however many counts a file holds."""


class CountCassette:
    """One file of counts. Several may be open on the same file; saving merges."""

    def __init__(self, path: Path) -> None:
        """Read a file; one that is not there yet is empty.

        Raises:
            CountCassetteError: it is damaged or something else.
        """
        self.path = path
        self.entries = read_entries(path)
        """Every count by its payload's fingerprint, whichever test asked for it; those not yet
        saved included."""
        self._first = tuple(self.entries.values())
        self._unsaved: list[tuple[str, Collection[str], Entry | None]] = []
        """The arguments of each `_change` since the last save."""
        self._lock = threading.RLock()
        self._next_save_at = 0.0

    def has_recorded(self, asker: str) -> bool:
        """Return whether the file held counts of this asker when it was loaded."""
        return any(asker in each.asked_by for each in self._first)

    def entry_before(self, payload: Payload, asker: str) -> Entry | None:
        """Return the count of the only payload of this asker, if that has changed.

        Of several payloads, which one became this one is unknown.
        """
        own = [
            each
            for each in self._first
            if asker in each.asked_by
            and each.model == payload.model
            and each.refused is None
            and each.is_current
        ]
        if len(own) != 1 or own[0].fingerprint == payload.fingerprint:
            return None
        return own[0]

    def nearest(self, parts: Mapping[str, str], asker: str) -> Entry | None:
        """Return the recorded payload most like this one; the asker's own before others'."""

        def likeness(entry: Entry) -> tuple[bool, int, int, str]:
            same = sum(entry.parts.get(name) == digest for name, digest in parts.items())
            size = -abs(len(entry.parts) - len(parts))
            return asker in entry.asked_by, same, size, entry.fingerprint

        current = (entry for entry in self.entries.values() if entry.is_current)
        return max(current, key=likeness, default=None)

    def put(self, entry: Entry) -> None:
        """Add a count, or another asker of a known one; `save` writes it."""
        name = entry.fingerprint
        with self._lock:
            known = self.entries.get(name)
            _change(self.entries, name, entry.asked_by, entry)
            if self.entries[name] != known:
                self._unsaved.append((name, entry.asked_by, entry))

    def prune(self, asker: str, keep: Collection[str]) -> None:
        """Take this asker off every count but those kept; a count without askers goes."""
        with self._lock:
            for name, entry in list(self.entries.items()):
                if name not in keep and asker in entry.asked_by:
                    _change(self.entries, name, (asker,), None)
                    self._unsaved.append((name, (asker,), None))

    def save_soon(self) -> None:
        """Save now, unless saving has lately taken more than its share of the time."""
        if time.monotonic() >= self._next_save_at:
            self.save()

    def save(self) -> None:
        """Merge what is new into the file, under a lock; write nothing if there is no news.

        Raises:
            CountCassetteError: the file is damaged, locked or cannot be written.
        """
        with self._lock:
            if not self._unsaved:
                return
            started_at = time.monotonic()
            try:
                with locked(self.path):
                    merged = read_entries(self.path)
                    before = dict(merged)
                    for change in self._unsaved:
                        _change(merged, *change)
                    if merged != before:
                        write_entries(self.path, merged.values())
            except OSError as error:
                why = f"cannot be written: {error.strerror or error}; make the folder writable"
                raise CountCassetteError(
                    f"{show_path(self.path)} {error if isinstance(error, LockError) else why}"
                ) from None
            self.entries = merged
            self._unsaved.clear()
            ended_at = time.monotonic()
            self._next_save_at = ended_at + _SAVING_SHARE * (ended_at - started_at)


def _change(
    entries: dict[str, Entry], name: str, askers: Collection[str], entry: Entry | None
) -> None:
    """Give askers the newer count of a payload, or take them off it; without askers it goes."""
    known = entries.get(name)
    others = {*known.asked_by} if known is not None else set[str]()
    asked_by = tuple(sorted(others - {*askers} if entry is None else others | {*askers}))
    found = known if entry is None else entry
    if found is not None and asked_by:
        entries[name] = replace(found, asked_by=asked_by)  # other threads always see one
    else:
        entries.pop(name, None)
