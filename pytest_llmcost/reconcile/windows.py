"""When the runs of some ledgers took place, and in which buckets to ask for their usage.

Data flow: reports -> `windows_of` -> disjoint Windows, snapped to one bucket width.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Literal

import msgspec

from pytest_llmcost.call import Call
from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.ledger.ledger import Ledger

Width = Literal["1m", "1h", "1d"]

BUCKETS: dict[Width, tuple[timedelta, int]] = {
    "1m": (timedelta(minutes=1), 1440),
    "1h": (timedelta(hours=1), 168),
    "1d": (timedelta(days=1), 31),
}
"""Each width's length and how many buckets one answer holds at most.

Source: https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages (2026-08-22)
"""
_LONGEST_ANSWER = timedelta(minutes=10)
"""How long the SDK waits for an answer; usage may be booked when a request ends."""
_TICK = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Window(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A span of time, UTC; its end is not part of it."""

    starting_at: datetime
    ending_at: datetime

    def overlaps(self, other: Window) -> bool:
        """Whether the two have an instant in common."""
        return self.starting_at < other.ending_at and other.starting_at < self.ending_at


def parse_instant(text: str) -> datetime:
    """Read a ledger's instant; without an offset it is UTC.

    Raises:
        ReconcileError: when it is not one.
    """
    try:
        instant = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise ReconcileError(f"{text!r} in the ledger is not a date and time") from None
    return instant.replace(tzinfo=instant.tzinfo or timezone.utc).astimezone(timezone.utc)


def windows_of(
    runs: Iterable[tuple[Ledger, tuple[Call, ...]]], *, whole_days: bool
) -> tuple[Width, tuple[Window, ...]]:
    """Return the bucket width and the disjoint windows in which the runs' live calls fell.

    The width is the narrowest one that shows the longest run in a single answer; one for all
    windows, so that no bucket is counted twice.

    Raises:
        ReconcileError: when a run says nowhere when it took place.
    """
    spans = [_span(ledger, calls) for ledger, calls in runs]
    width = "1d" if whole_days else _width_for(max(end - start for start, end in spans))
    return width, _merge(sorted(_snap(start, end, width) for start, end in spans))


def _span(ledger: Ledger, calls: tuple[Call, ...]) -> tuple[datetime, datetime]:
    at = [parse_instant(call.at) for call in calls if call.at]
    start, end = ledger.run.started_at, ledger.run.finished_at
    starts = at + ([parse_instant(start)] if start else [])
    ends = [parse_instant(end)] if end else [instant + _LONGEST_ANSWER for instant in at]
    if not starts or not ends:
        raise ReconcileError(
            f"{len(calls)} live calls, but neither they nor the run say when they were made; "
            "write the ledger with --llmcost-report of this version and reconcile that"
        )
    return min(starts), max(ends + at)


def _width_for(span: timedelta) -> Width:
    for width, (length, most) in BUCKETS.items():
        if span <= length * most:
            return width
    return "1d"


def whole_days(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Return the UTC days of which some part lies in the windows."""
    inside = ((each.starting_at, each.ending_at - _TICK) for each in windows)
    return _merge(sorted(_snap(start, end, "1d") for start, end in inside))


def _snap(start: datetime, end: datetime, width: Width) -> Window:
    """Widen a span to whole buckets; an end on a border still belongs to the next bucket."""
    length, _ = BUCKETS[width]
    first = (start - _EPOCH) // length
    last = (end - _EPOCH) // length
    return Window(starting_at=_EPOCH + first * length, ending_at=_EPOCH + (last + 1) * length)


def _merge(windows: list[Window]) -> tuple[Window, ...]:
    merged: list[Window] = []
    for window in windows:
        if merged and window.starting_at <= merged[-1].ending_at:
            end = max(window.ending_at, merged[-1].ending_at)
            window = Window(starting_at=merged.pop().starting_at, ending_at=end)
        merged.append(window)
    return tuple(merged)
