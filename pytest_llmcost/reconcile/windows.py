"""When the runs of some ledgers took place, as whole buckets of Anthropic's usage report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
"""The length of each width, and how many buckets one page holds at most.

Source: https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages (2026-08-22)
"""
_LONGEST_ANSWER = timedelta(minutes=10)
"""The SDK's default timeout. The API may record usage when a request ends, not when it starts."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A span of time in UTC, without its last instant."""

    starting_at: datetime
    ending_at: datetime


def parse_instant(text: str) -> datetime:
    """Read a date and time from a ledger; without an offset it is UTC.

    Raises:
        ReconcileError: if the text is not a date and time.
    """
    try:
        instant = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        raise ReconcileError(f"{text!r} in the ledger is not a date and time") from None
    return instant.replace(tzinfo=instant.tzinfo or timezone.utc).astimezone(timezone.utc)


def windows_of(
    runs: Iterable[tuple[Ledger, Sequence[Call]]], *, whole_days: bool
) -> tuple[Width, tuple[Window, ...]]:
    """Return the bucket width and the separate windows in which the live calls were made.

    All windows have the same width, so that no bucket is counted twice. It is the narrowest one
    for which the longest run fits on one page.

    Raises:
        ReconcileError: if neither a run nor its calls have a time.
    """
    spans = []
    for ledger, calls in runs:
        at = [parse_instant(call.at) for call in calls if call.at]
        start, end = ledger.run.started_at, ledger.run.finished_at
        starts = [*at, parse_instant(start)] if start else at
        ends = [*at, parse_instant(end)] if end else [each + _LONGEST_ANSWER for each in at]
        if not starts or not ends:
            raise ReconcileError(
                f"the time of {len(calls)} live calls is unknown: the ledger has no time for "
                "them or for the run; write it again with --llmcost-report"
            )
        spans.append((min(starts), max(ends)))
    longest = max(end - start for start, end in spans)
    fitting = [width for width, (length, most) in BUCKETS.items() if longest <= length * most]
    width: Width = fitting[0] if fitting and not whole_days else "1d"
    return width, _cover(spans, width)


def days_of(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Return the UTC days that the windows touch."""
    tick = timedelta(microseconds=1)  # a window that ends at midnight does not touch the next day
    return _cover([(each.starting_at, each.ending_at - tick) for each in windows], "1d")


def _cover(spans: Iterable[tuple[datetime, datetime]], width: Width) -> tuple[Window, ...]:
    """Widen the spans to whole buckets, both ends included, and join those that meet."""
    length, _ = BUCKETS[width]
    windows: list[Window] = []
    for start, end in sorted(spans):
        first = _EPOCH + (start - _EPOCH) // length * length
        after = _EPOCH + ((end - _EPOCH) // length + 1) * length
        if windows and first <= windows[-1].ending_at:
            last = windows.pop()
            first, after = last.starting_at, max(after, last.ending_at)
        windows.append(Window(starting_at=first, ending_at=after))
    return tuple(windows)
