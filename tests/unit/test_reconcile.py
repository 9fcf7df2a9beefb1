from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from sample_reports import OUTSIDE, a_fixture, a_test, make_call, make_report

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.ledger.ledger import Ledger, RunRecord
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage
from pytest_llmcost.reconcile.admin_api import (
    Bucket,
    CacheCreation,
    CostRow,
    Filters,
    ServerToolUse,
    UsageRow,
)
from pytest_llmcost.reconcile.matching import (
    CostLine,
    Query,
    Reconciliation,
    reconcile,
    with_windows,
)

OPUS, HAIKU = "claude-opus-4-7", "claude-haiku-5-5"
NOON = datetime(2026, 11, 20, 12, 0, 30, tzinfo=timezone.utc)
OWN_KEY = Filters(api_key_ids=("apikey_ci",))
USAGE = Usage(input_tokens=1000, output_tokens=100)
"""At Opus 4.7's 5 and 25 USD per million tokens: $0.0075."""
RUN = RunRecord(started_at="2026-11-20T12:00:00Z", finished_at="2026-11-20T12:01:00Z")


def live(usage: Usage = USAGE, *, model: str = OPUS, at: str | None = None, **fields: Any) -> Call:
    sampling_calls = fields.pop("sampling_calls", (PricedSamplingCall(model=model, usage=usage),))
    whole = {
        "live": True,
        "at": at or "2026-11-20T12:00:30Z",
        "sampling_calls": sampling_calls,
        "usage": usage,
    }
    return make_call(None, model=model, **{**whole, **fields})


def replayed() -> Call:
    return make_call("0.5", live=False)


def ledger(*calls: Call, **fields: Any) -> Ledger:
    times = sorted(call.at for call in calls if call.at) or [""]
    run = RunRecord(started_at=times[0], finished_at=times[-1])
    return make_report({a_test("t.py::test_a"): calls}, **{"run": run, **fields})


def row(usage: Usage = USAGE, *, model: str | None = OPUS, **fields: Any) -> UsageRow:
    return UsageRow(
        uncached_input_tokens=usage.input_tokens,
        cache_read_input_tokens=usage.cache_read_tokens,
        cache_creation=CacheCreation(
            ephemeral_5m_input_tokens=usage.cache_write_5m_tokens,
            ephemeral_1h_input_tokens=usage.cache_write_1h_tokens,
        ),
        output_tokens=usage.output_tokens,
        server_tool_use=ServerToolUse(web_search_requests=usage.web_search_requests),
        model=model,
        **{"service_tier": "standard", **fields},
    )


def minute(*rows: UsageRow, at: datetime = NOON) -> Bucket[UsageRow]:
    start = at.replace(second=0)
    return Bucket(starting_at=start, ending_at=start + timedelta(minutes=1), results=rows)


def day(*rows: CostRow, at: datetime = NOON) -> Bucket[CostRow]:
    start = at.replace(hour=0, minute=0, second=0)
    return Bucket(starting_at=start, ending_at=start + timedelta(days=1), results=rows)


def cents(amount: str, **fields: Any) -> CostRow:
    whole = {"cost_type": "tokens", "model": OPUS, "service_tier": "standard", "currency": "USD"}
    return CostRow(amount=amount, **{**whole, **fields})


def compare(
    reports: Ledger | Sequence[Ledger],
    usage: Sequence[Bucket[UsageRow]],
    cost: Sequence[Bucket[CostRow]] | None = None,
    *,
    filters: Filters = OWN_KEY,
    tolerance: str = "0",
    whole_days: bool = False,
    asked_at: datetime | None = None,
) -> Reconciliation:
    ledgers = [reports] if isinstance(reports, Ledger) else reports
    terms = Query(filters=filters, tolerance=Decimal(tolerance), whole_days=whole_days)
    query = with_windows(terms, ledgers)
    usage = [
        Bucket(
            starting_at=each.starting_at,
            ending_at=each.ending_at,
            results=tuple(own(each) for each in each.results),
        )
        for each in usage
    ]
    return reconcile(ledgers, query, usage, cost, card=shipped_card(), asked_at=asked_at)


def own(usage_row: UsageRow) -> UsageRow:
    return (
        usage_row
        if usage_row.api_key_id
        else msgspec.structs.replace(usage_row, api_key_id="apikey_ci")
    )


def test_what_was_spent_and_what_is_reported_agree_to_the_token() -> None:
    outcome = compare(ledger(live()), [minute(row())])
    assert outcome.state == "agrees"
    assert [(line.category, line.ledger, line.reported) for line in outcome.usage] == [
        ("input_tokens", 1000, 1000),
        ("output_tokens", 100, 100),
    ]
    assert outcome.live_usd == Decimal("0.0075")
    assert outcome.likely_reasons == ()


CATEGORIES = Usage.__struct_fields__


@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("off", [-1, 1])
def test_one_token_of_any_category_makes_them_differ(category: str, off: int) -> None:
    spent = Usage(**dict.fromkeys(CATEGORIES, 500))
    billed = Usage(**{**dict.fromkeys(CATEGORIES, 500), category: 500 + off})
    outcome = compare(ledger(live(spent)), [minute(row(billed))])
    assert outcome.state == "differs"
    assert [line.category for line in outcome.usage if not line.agrees] == [category]
    assert outcome.likely_reasons


@pytest.mark.parametrize(
    ("reported", "agrees"), [(9900, False), (9901, True), (10101, True), (10102, False)]
)
def test_a_tolerance_is_a_share_of_what_is_reported(reported: int, agrees: bool) -> None:
    spent = ledger(live(Usage(output_tokens=10_000)))
    outcome = compare(spent, [minute(row(Usage(output_tokens=reported)))], tolerance="0.01")
    assert (outcome.state == "agrees") is agrees
    assert outcome.is_short is (reported < 10_000 and not agrees)


def test_a_model_that_no_ledger_has_makes_them_differ_and_is_named() -> None:
    outcome = compare(ledger(live()), [minute(row(), row(model=HAIKU))])
    assert outcome.state == "differs"
    assert HAIKU in outcome.likely_reasons[0]


def test_calls_of_tests_of_fixtures_of_each_worker_and_outside_are_all_counted() -> None:
    owners = (a_test("t.py::a"), a_fixture(worker="gw0"), a_fixture(worker="gw1"), OUTSIDE)
    report = make_report({owner: [live()] for owner in owners}, run=RUN)
    outcome = compare(report, [minute(*[row()] * 4)])
    assert (outcome.state, outcome.live_calls) == ("agrees", 4)


def test_every_sampling_call_counts_under_its_own_model() -> None:
    sampling_calls = (
        PricedSamplingCall(model=OPUS, usage=USAGE),
        PricedSamplingCall(kind="advisor", model=HAIKU, usage=Usage(input_tokens=7)),
    )
    buckets = [minute(row(), row(Usage(input_tokens=7), model=HAIKU))]
    assert compare(ledger(live(sampling_calls=sampling_calls)), buckets).state == "agrees"


def test_a_refusal_that_is_free_is_on_no_bill() -> None:
    free = PricedSamplingCall(model=OPUS, usage=USAGE, refusal="cyber")
    outcome = compare(ledger(live(sampling_calls=(free,)), live()), [minute(row())])
    assert outcome.state == "agrees"
    assert outcome.live_usd == Decimal("0.0075")


def test_aliases_and_dated_ids_are_one_model() -> None:
    spent = ledger(live(model="claude-opus-4-5-20251101"))
    assert compare(spent, [minute(row(model="claude-opus-4-5"))]).state == "agrees"


def test_a_model_without_a_price_is_still_compared_by_its_tokens() -> None:
    outcome = compare(ledger(live(model="claude-next")), [minute(row(model="claude-next"))])
    assert (outcome.state, outcome.unpriced_calls) == ("agrees", 1)


def test_each_call_is_priced_on_its_own_date() -> None:
    read = Usage(cache_read_tokens=1_000_000)
    before = live(read, model="claude-sonnet-5-5", at="2026-10-06T23:59:59Z")
    after = live(read, model="claude-sonnet-5-5", at="2026-10-07T00:00:00Z")
    outcome = compare(ledger(before, after), [])
    assert outcome.live_usd == Decimal("0.20") + Decimal("0.10")


def test_a_call_without_an_instant_is_priced_on_the_runs_date() -> None:
    read = Usage(cache_read_tokens=1_000_000)
    run = RunRecord(started_at="2026-10-08T01:00:00Z", finished_at="2026-10-08T02:00:00Z")
    call = live(read, model="claude-sonnet-5-5")
    spent = ledger(but(call, at=None), run=run, price_date="2026-10-01")
    assert compare(spent, []).live_usd == Decimal("0.20")


def but(call: Call, **fields: Any) -> Call:
    return msgspec.structs.replace(call, **fields)


def test_replayed_calls_are_left_out_and_said_so() -> None:
    outcome = compare(ledger(live(), replayed(), replayed()), [minute(row())])
    assert outcome.state == "agrees"
    assert outcome.replayed_calls == 2
    assert any("left out as free: 2" in note for note in outcome.notes)


def test_ledgers_without_a_live_call_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ReconcileError, match=r"all calls in the ledgers \(3\).*--record-mode"):
        compare([ledger(replayed()), ledger(replayed(), replayed())], [])


def test_a_call_that_may_have_been_live_counts_as_live() -> None:
    spent = ledger(live(live=None))
    assert compare(spent, [minute(row())]).state == "agrees"
    outcome = compare(spent, [])
    assert any("does not tell" in reason for reason in outcome.likely_reasons)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"context": Terms(platform="bedrock-regional")}, "on bedrock"),
        ({"context": Terms(service_tier="priority")}, "service tier priority"),
        ({"context": Terms(service_tier="flex")}, "service tier flex"),
        ({"evidence": "counted"}, "tokens counted"),
        ({"sampling_calls": ()}, "no readable usage"),
    ],
)
def test_what_cannot_stand_in_the_report_is_set_apart(fields: dict[str, Any], said: str) -> None:
    outcome = compare(ledger(live(), live(**fields)), [minute(row())])
    [apart] = outcome.not_comparable
    assert outcome.state == "agrees"
    assert (apart.source, apart.calls) == ("ledger", 1)
    assert said in apart.what


def test_nothing_comparable_at_all_is_an_error() -> None:
    with pytest.raises(ReconcileError, match="on vertex"):
        compare(ledger(live(context=Terms(platform="vertex"))), [])


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (row(service_tier="priority"), "service tier priority"),
        (row(service_tier="flex_discount"), "service tier flex_discount"),
        (row(model=None), "names no model"),
    ],
)
def test_priority_and_unknown_rows_are_listed_and_do_not_decide(odd: UsageRow, said: str) -> None:
    outcome = compare(ledger(live()), [minute(row(), odd)])
    [apart] = outcome.not_comparable
    assert outcome.state == "agrees"
    assert said in apart.what
    assert apart.usage == USAGE


def test_buckets_outside_the_runs_are_not_theirs() -> None:
    early, late = NOON - timedelta(minutes=1), NOON + timedelta(minutes=30)
    buckets = [minute(row(), at=early), minute(row()), minute(row(), at=late)]
    assert compare(ledger(live()), buckets).state == "agrees"


def test_the_run_itself_bounds_the_window_where_it_says_when_it_was() -> None:
    run = RunRecord(started_at="2026-11-20T11:58:10Z", finished_at="2026-11-20T12:03:00Z")
    [window] = compare(ledger(live(), run=run), [minute(row())]).terms.windows
    assert (window.starting_at, window.ending_at) == (
        datetime(2026, 11, 20, 11, 58, tzinfo=timezone.utc),
        datetime(2026, 11, 20, 12, 4, tzinfo=timezone.utc),
    )


@pytest.mark.parametrize(
    ("hours", "width"),
    [(23, "1m"), (24, "1m"), (25, "1h"), (168, "1h"), (169, "1d"), (40 * 24, "1d")],
)
def test_the_width_of_the_buckets_follows_from_the_longest_run(hours: int, width: str) -> None:
    ends = datetime(2026, 11, 1, tzinfo=timezone.utc) + timedelta(hours=hours)
    run = RunRecord(started_at="2026-11-01T00:00:00Z", finished_at=ends.isoformat())
    at = "2026-11-01T00:00:00Z"
    outcome = compare(ledger(live(at=at), run=run), [])
    assert outcome.terms.bucket_width == width


def test_runs_far_apart_are_asked_for_one_by_one_and_overlapping_ones_together() -> None:
    shards = [ledger(live(at=f"2026-11-20T12:0{n}:00Z")) for n in range(3)]
    later = ledger(live(at="2026-11-21T12:00:00Z"))
    outcome = compare([*shards, later, ledger(replayed())], [])
    assert [each.starting_at.day for each in outcome.terms.windows] == [20, 21]
    assert outcome.terms.bucket_width == "1m"


def test_a_live_run_that_says_nowhere_when_it_was_is_an_error() -> None:
    with pytest.raises(ReconcileError, match="the time of 1 live calls is unknown"):
        compare(ledger(but(live(), at=None)), [])


@pytest.mark.parametrize("at", ["noon", "2026-13-01T00:00:00Z", "2026-11-26T00:00:00\ud800"])
def test_an_instant_that_is_none_is_an_error(at: str) -> None:
    with pytest.raises(ReconcileError, match="not a date and time"):
        compare(ledger(live(at=at)), [])


def test_saved_rows_of_other_keys_and_workspaces_are_left_out() -> None:
    mine = Filters(api_key_ids=("apikey_ci",), workspace_ids=("default",))
    rows = (row(), row(api_key_id="apikey_other"), row(workspace_id="wrkspc_1"))
    assert compare(ledger(live()), [minute(*rows)], filters=mine).state == "agrees"


@pytest.mark.parametrize("anonymous", [row(), own(row(model=None))], ids=["key", "model"])
def test_saved_rows_that_do_not_say_whose_they_are_agree_with_nothing(anonymous: UsageRow) -> None:
    ledgers = [ledger(live())]
    query = with_windows(Query(filters=OWN_KEY), ledgers)
    usage = [minute(anonymous)]
    outcome = reconcile(ledgers, query, usage, None, card=shipped_card(), asked_at=None)
    assert outcome.state == "differs"
    assert any("not grouped by model" in reason for reason in outcome.likely_reasons)


def test_rows_of_the_console_which_has_no_key_say_whose_they_are_by_their_workspace() -> None:
    ledgers, mine = [ledger(live())], Filters(workspace_ids=("wrkspc_mine",))
    query = with_windows(Query(filters=mine), ledgers)
    for workspace, state in (("wrkspc_mine", "agrees"), ("wrkspc_other", "differs")):
        usage = [minute(row(workspace_id=workspace))]
        outcome = reconcile(ledgers, query, usage, None, card=shipped_card(), asked_at=None)
        assert outcome.state == state


def test_without_a_filter_the_whole_organisation_is_compared_and_that_is_said() -> None:
    outcome = compare(ledger(live()), [minute(row(), row())], filters=Filters())
    assert outcome.state == "differs"
    assert any("whole organisation" in note for note in outcome.notes)
    assert any("--api-key-id" in reason for reason in outcome.likely_reasons)


# --- cost ---------------------------------------------------------------------------------------


def test_the_cost_is_shown_and_does_not_decide_by_itself() -> None:
    outcome = compare(ledger(live()), [minute(row())], [day(cents("999"))])
    assert outcome.state == "agrees"
    assert outcome.cost == (
        CostLine(
            item=OPUS,
            ledger_usd=Decimal("0.0075"),
            reported_usd=Decimal("9.99"),
            decides=False,
            agrees=False,
        ),
    )
    assert any("--whole-days" in reason for reason in outcome.likely_reasons)


@pytest.mark.parametrize(
    ("amount", "state"),
    # The last one is the hundredfold: dollars that are read as cents.
    [("0.75", "agrees"), ("1.25", "agrees"), ("1.26", "differs"), ("75", "differs")],
)
def test_with_whole_days_the_cost_decides_to_the_cent(amount: str, state: str) -> None:
    rows = [Bucket(starting_at=day().starting_at, ending_at=day().ending_at, results=(row(),))]
    outcome = compare(ledger(live()), rows, [day(cents(amount))], whole_days=True)
    assert outcome.state == state
    assert outcome.terms.bucket_width == "1d"


def test_searches_and_containers_stand_apart_from_tokens() -> None:
    spent = ledger(live(Usage(output_tokens=100, web_search_requests=3)))
    rows = [minute(row(Usage(output_tokens=100, web_search_requests=3)))]
    bill = day(
        cents("0.25"),
        cents("3", cost_type="web_search", model=None, service_tier=None),
        cents("5", cost_type="code_execution", model=None, service_tier=None),
    )
    outcome = compare(spent, rows, [bill], whole_days=True)
    assert outcome.state == "agrees"
    assert [(line.item, line.ledger_usd, line.reported_usd) for line in outcome.cost or ()] == [
        (OPUS, Decimal("0.0025"), Decimal("0.0025")),
        ("code execution", None, Decimal("0.05")),
        ("web search", Decimal("0.03"), Decimal("0.03")),
    ]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"cost_type": "session_usage"}, "cost type session_usage"),
        ({"cost_type": None}, "cost type None"),
        ({"service_tier": "priority"}, "service tier priority"),
        ({"model": None}, "a row that names no model"),
    ],
)
def test_costs_that_no_ledger_can_know_are_listed(odd: dict[str, Any], said: str) -> None:
    bill = [day(cents("0.75"), cents("40", **odd))]
    outcome = compare(ledger(live()), [minute(row())], bill, whole_days=True)
    [apart] = outcome.not_comparable
    assert outcome.state == "agrees"
    assert said in apart.what
    assert apart.usd == Decimal("0.4")


def test_cost_of_other_workspaces_and_days_is_left_out() -> None:
    mine = Filters(workspace_ids=("wrkspc_1",))
    bill = [
        day(cents("0.75", workspace_id="wrkspc_1"), cents("50", workspace_id=None)),
        day(cents("50", workspace_id="wrkspc_1"), at=NOON + timedelta(days=1)),
    ]
    rows = [minute(row(workspace_id="wrkspc_1"))]
    outcome = compare(ledger(live()), rows, bill, whole_days=True, filters=mine)
    assert outcome.state == "agrees"


def test_a_model_without_a_price_cannot_agree_in_dollars() -> None:
    spent = ledger(live(model="claude-next"), live())
    rows = [minute(row(model="claude-next"), row())]
    bill = [day(cents("1", model="claude-next"), cents("0.75"))]
    outcome = compare(spent, rows, bill, whole_days=True)
    assert outcome.state == "differs"


# --- reasons ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "rows", "said"),
    [
        (live(caveats=sorted_caveats(("truncated-stream",))), [row(), row()], "cut off"),
        (live(attempts=2), [row(), row()], "more than once: 1"),
        (
            live(Usage(cache_read_tokens=900)),
            [row(Usage(cache_write_5m_tokens=900))],
            "prompt tokens moved between",
        ),
    ],
)
def test_what_may_have_been_billed_in_addition_is_named_as_a_reason(
    call: Call, rows: list[UsageRow], said: str
) -> None:
    outcome = compare(ledger(call), [minute(*rows)])
    assert outcome.state == "differs"
    assert any(said in reason for reason in outcome.likely_reasons)


def test_a_merged_ledger_beside_its_shard_is_named_as_a_reason() -> None:
    shard = ledger(live())
    outcome = compare([shard, ledger(live(), live())], [minute(row(), row())])
    assert any("in two of the ledgers" in reason for reason in outcome.likely_reasons)


@pytest.mark.parametrize(("minutes", "is_fresh"), [(0, True), (4, True), (5, False), (None, False)])
def test_data_that_may_not_be_there_yet_is_named_as_a_reason(
    minutes: int | None, is_fresh: bool
) -> None:
    asked_at = None if minutes is None else NOON + timedelta(minutes=minutes)
    outcome = compare(ledger(live()), [], asked_at=asked_at)
    assert outcome.is_short
    assert any("late data" in reason for reason in outcome.likely_reasons) is is_fresh


def test_nothing_reported_at_all_has_reasons_of_its_own() -> None:
    outcome = compare(ledger(live(context=Terms(service_tier="batch"))), [])
    why = "saved answers are of another time, not grouped by .*, or of another organisation"
    assert any(re.search(why, reason) for reason in outcome.likely_reasons)
    assert any("batches" in reason for reason in outcome.likely_reasons)


def test_wide_buckets_are_named_as_a_reason() -> None:
    run = RunRecord(started_at="2026-11-18T00:00:00Z", finished_at="2026-11-21T00:00:00Z")
    hour = Bucket(
        starting_at=NOON.replace(second=0),
        ending_at=NOON.replace(hour=13, second=0),
        results=(row(), row()),
    )
    # The second run would be asked for by minutes; its answers were saved by hours.
    for report in (ledger(live(), run=run), ledger(live())):
        outcome = compare(report, [hour])
        assert outcome.terms.bucket_width == "1h"
        assert any("buckets of 1h" in reason for reason in outcome.likely_reasons)
