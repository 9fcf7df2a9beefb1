"""Parts of a prompt that differ in every run: a clock, or a random id.

It takes two texts of one place to know it: an ordinary edit, also of a date, must not be taken
for a clock. A text alone gives a hint. No text of a prompt leaves this module, only
places in it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import chain

from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.json_values import JsonValue

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?:{'|'.join(_MONTHS)})[a-z]*"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )"
_DAY = r"\d\d?(?:st|nd|rd|th)?"
_TIME = r"\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[ap]m)?"
_FORMS = {
    "uuid": r"[\da-f]{8}-(?:[\da-f]{4}-){3}[\da-f]{12}",
    "moment": rf"\d{{4}}-\d\d-\d\d[t ]{_TIME}(?:z|[+-]\d\d:?\d\d)?"
    rf"|{_WEEKDAY}{_MONTH} +\d\d? {_TIME} \d{{4}}",
    "day": rf"{_WEEKDAY}?(?:\d{{4}}-\d\d-\d\d|\d{{4}}/\d\d/\d\d|\d\d?[./-]\d\d?[./-]\d{{4}}"
    rf"|{_MONTH} {_DAY},? \d{{4}}|{_DAY} {_MONTH},? \d{{4}})",
    "time": _TIME,
    "epoch": r"1\d{9}(?:\d{3}|\d{6}|\d{9}|\.\d+)?",
    "hex": r"(?:0x)?(?=[a-f]*\d)(?=\d*[a-f])[\da-f]{8,64}",
}
_ANY = "|".join(f"(?P<{kind}>{form})" for kind, form in _FORMS.items())
_TOKEN = re.compile(rf"(?<![\da-z])(?:{_ANY})(?![\da-z])", re.IGNORECASE)
_NAMES = {"uuid": "an id", "hex": "an id", "day": "a date"}
LONGEST = 200_000
"""Characters; a longer text is a file and not a prompt."""


def volatile_spans(before: str, now: str, at: datetime) -> list[str]:
    """Return where two texts differ as clocks and random ids do, and nothing if also elsewhere.

    A date counts if the new one is that of the run, which is at an aware `at`, and a time if it
    is that or has odd seconds: another date or a round time is somebody's edit.

    Example:
        >>> at = datetime(2026, 11, 25, tzinfo=timezone.utc)
        >>> volatile_spans("It is 09:41:07.", "It is 10:02:33.", at)
        ['characters 7-14 (a time)']
    """
    if max(len(before), len(now)) > LONGEST or skeleton(before) != skeleton(now):
        return []
    pairs = zip(_TOKEN.finditer(before), _TOKEN.finditer(now), strict=True)
    changed = [(old, new) for old, new in pairs if old.group() != new.group()]
    if not all(_differs_in_every_run(old, new, at) for old, new in changed):
        return []
    return [_span(new) for _, new in changed]


def describe_volatile(before: Payload, now: Payload, at: datetime) -> str:
    """Name the places at which a payload differs from its recording in every run; empty if none.

    Example: `system, characters 31-38 (a time)`.
    """
    old, found = before.values, []
    for name, value in now.values.items():
        for path, one, other in _texts(name, old.get(name), value):
            found += [f"{path}, {span}" for span in volatile_spans(one, other, at)]
    return _listed(found)


def describe_suspicious(now: Payload, changed: Collection[str], at: datetime) -> str:
    """Name what may differ in every run, in the changed parts of a payload; empty if nothing.

    That is the first date or time of the run in a text, or else its first UUID.
    """
    found = []
    for name, value in now.values.items():
        for path, _, text in _texts(name, None, value) if name in changed else ():
            tokens = list(_TOKEN.finditer(text)) if len(text) <= LONGEST else []
            clocks = (token for token in tokens if _is_of_the_run(token, at))
            ids = (token for token in tokens if token.lastgroup == "uuid")
            if (first := next(chain(clocks, ids), None)) is not None:
                found.append(f"{path}, {_span(first)}")
    return _listed(found)


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - 2
    return "; ".join(paths[:2]) + (f"; {more} more" if more > 0 else "")


def _texts(path: str, before: JsonValue, now: JsonValue) -> Iterator[tuple[str, str, str]]:
    """Yield each text of a value with its place and the text that stood there before."""
    if before == now:
        return
    if isinstance(now, str):
        yield path, before if isinstance(before, str) else "", now
    elif isinstance(now, dict):
        for key, value in now.items():
            inner = path if key in ("content", "text") else f"{path}.{key}"
            yield from _texts(inner, before.get(key) if isinstance(before, dict) else None, value)
    elif isinstance(now, (list, tuple)):
        is_alike = isinstance(before, (list, tuple)) and len(before) == len(now)
        for index, value in enumerate(now):
            inner = f"{path}.{index}" if len(now) > 1 else path
            yield from _texts(inner, before[index] if is_alike else None, value)


@lru_cache(maxsize=32)  # most tests of a suite have the same system prompt
def skeleton(text: str) -> str:
    """Return a text with every clock and random id blanked out."""
    return _TOKEN.sub(lambda token: f"\0{token.lastgroup}\0", text)


def _span(token: re.Match[str]) -> str:
    """Return which characters of its text a token is, the first of which has the number 1."""
    kind = _NAMES.get(str(token.lastgroup), "a time")
    return f"characters {token.start() + 1}-{token.end()} ({kind})"


def _differs_in_every_run(old: re.Match[str], new: re.Match[str], at: datetime) -> bool:
    kind = new.lastgroup
    if kind in ("uuid", "hex"):
        return len(old.group()) == len(new.group())
    seconds = re.search(r":\d\d:(\d\d)", new.group())
    is_odd = seconds is not None and seconds[1] not in ("00", "59")
    return is_odd or _is_of_the_run(new, at)


def _is_of_the_run(token: re.Match[str], at: datetime) -> bool:
    """Whether a token is the time of the run, or its date, give or take a day for the zone."""
    kind, text = token.lastgroup, token.group()
    if kind == "epoch":
        return abs(float(text[:10]) - at.timestamp()) < timedelta(days=1).total_seconds()
    if kind == "time":
        hour, minute = map(int, re.findall(r"\d+", text)[:2])
        if (half := text[-2:].lower()) in ("am", "pm"):
            hour = hour % 12 + 12 * (half == "pm")
        clocks = (at.astimezone(timezone.utc), at.astimezone())
        return any(abs(hour * 60 + minute - each.hour * 60 - each.minute) <= 2 for each in clocks)
    if kind not in ("moment", "day"):
        return False
    day = text[:10] if text[:4].isdigit() else re.sub(_TIME, "", text.lower())
    day = re.sub("|".join(_MONTHS), lambda month: f"{_MONTHS.index(month[0]) + 1} ", day)
    numbers = sorted(map(int, re.findall(r"\d+", day)))  # in any order
    days = (at + timedelta(days=shift) for shift in (-1, 0, 1))
    return numbers in [sorted((each.year, each.month, each.day)) for each in days]
