from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.volatile import (
    describe_suspicious,
    describe_volatile,
    volatile_spans,
)

NOW = datetime(2026, 11, 25, 14, 3, 22, 81_000, tzinfo=timezone.utc)
THEN = NOW - timedelta(days=40, hours=3, minutes=11, seconds=29)
FORMS = (
    *("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M", "%H:%M:%S"),
    *("%d.%m.%Y", "%m/%d/%Y", "%Y/%m/%d", "%B %d, %Y", "%d %b %Y", "%A, %B %d, %Y", "%H:%M"),
    *("%I:%M:%S %p", "%I:%M %p", "%c", "%A, %d %B %Y %H:%M", "%A, %d %B %Y %H:%M:%S"),
    "%Y-%m-%dT%H:%M:%S+00:00",
)
CLOCKS = [(THEN.strftime(form), NOW.strftime(form)) for form in FORMS]
CLOCKS += [(each(THEN), each(NOW)) for each in (str, datetime.isoformat, format_datetime)]
CLOCKS += [(f"{THEN.timestamp()}", f"{NOW.timestamp()}")]
CLOCKS += [(f"{THEN.timestamp() * k:.0f}", f"{NOW.timestamp() * k:.0f}") for k in (1, 1_000, 10**9)]
CLOCKS += [("2026-10-16T10:52:00.081+0200", "2026-11-25T14:03:00.081+0200")]
IDS = [
    (str(UUID(int=2**127 + 7)), str(UUID(int=2**126 + 9))),
    (UUID(int=2**127 + 10).hex, UUID(int=2**126 + 11).hex),
    ("run_3f9a1c22", "run_07bc11e4"),
    ("3F9A1C22D0", "07BC11E4A1"),
    ("<function find at 0x7f8b1c2d3e40>", "<function find at 0x7fa207bc11e0>"),
]


def characters(span: str) -> tuple[int, int]:
    start, _, end = span.split()[1].partition("-")
    return int(start), int(end)


@pytest.mark.parametrize(("before", "now"), [*CLOCKS, *IDS])
def test_a_clock_and_a_random_id_are_known_by_two_texts(before: str, now: str) -> None:
    spans = volatile_spans(
        f"You are kind. {before}! Be brief.", f"You are kind. {now}! Be brief.", NOW
    )
    assert spans
    assert characters(spans[0])[0] >= 15
    assert characters(spans[-1])[1] <= 14 + len(now)


def test_the_place_is_that_of_the_clock_in_the_text_of_now() -> None:
    (span,) = volatile_spans(
        "You triage tickets. The time: 9:41:07.", "You triage tickets. The time: 14:03:22.", NOW
    )
    assert span == "characters 31-38 (a time)"


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("Today is 2026-11-25. Be brief.", "Today is 2026-11-25. Be kind."),
        ("Order run_3f9a1c22 is late.", "Order run_07bc11e4 never came."),
        ("Log 2025-01-03T10:22:31 error", "Log 2025-02-04T11:23:32 warning"),
        ("Your knowledge ends on 2026-01-31.", "Your knowledge ends on 2026-06-30."),
        ("The report of May 5, 2025.", "The report of June 7, 2025."),
        ("We are open until 17:00.", "We are open until 18:30."),
        ("Until 2026-12-31T23:59:59Z.", "Until 2027-12-31T23:59:59Z."),
        ("Call 1002003004.", "Call 1002003009."),
        ("Answer in 100 words.", "Answer in 200 words."),
        ("The bead is in the cafe.", "The dead are in the cafe."),
        ("Version 1.2.3 of 12345678", "Version 1.2.4 of 12345679"),
        ("deadbeef1 now", "now"),
        ("", "2026-11-25"),
        ("Today is 2026-10-01. Be brief.", "Today is 2026-11-25. Be kind."),
        ("It is 9:41:07, open until 17:00.", "It is 14:03:22, open until 18:30."),
    ],
)
def test_an_edit_is_neither_also_of_a_date_and_beside_one(before: str, now: str) -> None:
    assert volatile_spans(before, now, NOW) == []


@given(st.text("ab1:- 2026Tfz", max_size=60), st.text("ab1:- 2026Tfz", max_size=60))
def test_places_are_within_the_text_of_now(before: str, now: str) -> None:
    for span in volatile_spans(before, now, NOW):
        start, end = characters(span)
        assert 1 <= start <= end <= len(now)


def test_a_text_alone_is_suspicious_for_the_present_day_or_time_or_a_uuid() -> None:
    for text in (
        "It is 2026-11-25.",
        "It is November 25, 2026.",
        f"Id {uuid4()}.",
        f"{NOW}",
        "At 14:03.",
    ):
        assert describe_suspicious(payload(text), ["system"], NOW), text
    for text in ("Cut-off: 2025-03-01.", "Commit 3f9a1c22d0.", "Until 17:00.", "Be brief.", ""):
        assert describe_suspicious(payload(text), ["system"], NOW) == "", text


def payload(system: str, **more: object) -> Payload:
    body = {"model": "m", "system": system, "messages": [{"role": "user", "content": "a"}], **more}
    return read_payload(body)


def test_the_parts_are_named_with_the_place_in_them() -> None:
    before = payload("It is 9:41:07.", messages=[{"role": "user", "content": f"{UUID(int=1)}"}])
    now = payload("It is 14:03:22.", messages=[{"role": "user", "content": f"{UUID(int=2)}"}])
    reported = "system, characters 7-14 (a time); messages.0, characters 1-36 (an id)"
    assert describe_volatile(before, now, NOW) == reported
    assert describe_volatile(now, now, NOW) == ""


def test_texts_in_blocks_and_tools_have_their_place() -> None:
    def blocks(text: str) -> Payload:
        content = [{"type": "text", "text": "Look:"}, {"type": "text", "text": text}]
        tool = {"name": "find", "description": text, "input_schema": {"type": "object"}}
        return payload("a", messages=[{"role": "user", "content": content}], tools=[tool])

    reported = describe_volatile(blocks("run_3f9a1c22"), blocks("run_07bc11e4"), NOW)
    assert reported == (
        "tools.find.description, characters 5-12 (an id); messages.0.1, characters 5-12 (an id)"
    )


def test_only_what_has_changed_is_suspicious() -> None:
    sent = payload("Today is 2026-11-25.", metadata={"user_id": str(uuid4())})
    assert describe_suspicious(sent, ("messages.0",), NOW) == ""
    assert describe_suspicious(sent, ("system",), NOW) == "system, characters 10-19 (a date)"
    assert describe_suspicious(sent, ("system (new)",), NOW) == ""


@pytest.mark.usefixtures("soon")
def test_a_long_text_costs_no_time() -> None:
    for text in ("a1" * 90_000, "1:" * 90_000, "2026-11-25 " * 18_000, "a" * 10**7):
        volatile_spans(f"{text} b", f"{text} c", NOW)
