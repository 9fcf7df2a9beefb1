"""What becomes known of a payload, bit by bit and in any order, in the ledger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sample_reports import CARD, a_test, make_call

from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import PayloadFacts

PLAIN = PayloadFacts(model="m", parts={"system": "0a"})
OWNER = a_test("t.py::test")

models = st.sampled_from(["claude-opus-5", "claude-haiku-5-5", "claude-sonnet-5"])
payloads = st.builds(
    PayloadFacts,
    model=st.sampled_from(["a", "b"]),
    parts=st.dictionaries(st.sampled_from(["system", "messages.0"]), st.sampled_from(["0", "1"])),
    counts=st.dictionaries(models, st.integers(0, 9)),
    rejected=st.dictionaries(models, st.sampled_from(["x", "y"])),
    dropped=st.dictionaries(models, st.sampled_from(["x", "y"])),
    task_budget=st.none() | st.integers(0, 9),
    breakpoints=st.integers(0, 4),
    cached=st.dictionaries(st.sampled_from(["5m", "1h"]), st.integers(0, 9)),
)


@given(payloads, payloads, payloads)
def test_the_order_of_news_never_shows(
    one: PayloadFacts, two: PayloadFacts, three: PayloadFacts
) -> None:
    assert one.joined(two) == two.joined(one)
    assert one.joined(two).joined(three) == one.joined(two.joined(three))
    assert one.joined(one) == one


def test_news_of_two_models_add_up() -> None:
    joined = PayloadFacts(model="m", counts={"a": 1}).joined(
        PayloadFacts(model="m", counts={"b": 2})
    )
    assert joined.counts == {"a": 1, "b": 2}


def known(ledger: LedgerBuilder) -> dict[str, PayloadFacts]:
    report = ledger.ledger(price_date="2026-11-22", rate_card=CARD)
    return dict(report.payloads)


def test_booking_a_known_payload_again_forgets_nothing() -> None:
    ledger = LedgerBuilder()
    ledger.add(OWNER, make_call("1", fingerprint="1:a"), PayloadFacts(model="m", counts={"x": 5}))
    ledger.add(OWNER, make_call("1", fingerprint="1:a"), PayloadFacts(model="m"))
    assert known(ledger)["1:a"].counts == {"x": 5}


def test_what_is_learnt_after_the_call_has_left_crosses_processes_too() -> None:
    worker, controller = LedgerBuilder(), LedgerBuilder()
    worker.add(OWNER, make_call("1", fingerprint="1:a"), PLAIN)
    first = worker.take_fragment()
    worker.learn("1:a", PayloadFacts(model="m", parts=PLAIN.parts, counts={"x": 5}))
    second = worker.take_fragment()
    assert first is not None
    assert second is not None
    assert not second["accounts"]
    controller.absorb(second)
    controller.absorb(first)
    assert known(controller) == known(worker)
    assert known(controller)["1:a"].counts == {"x": 5}
    assert worker.take_fragment() is None


def test_a_payload_that_nobody_asked_more_about_is_written_as_before() -> None:
    ledger = LedgerBuilder()
    ledger.add(OWNER, make_call("1", fingerprint="1:a"), PLAIN)
    fragment = ledger.take_fragment()
    assert fragment is not None
    assert fragment["payloads"] == {"1:a": {"model": "m", "parts": {"system": "0a"}}}
