from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import MODEL, OUTSIDE, a_fixture, a_test, make_budget, make_report

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import IncreaseLimit, State, judge, parse_increase
from pytest_llmcost.call import Before, Call, PricedSamplingCall
from pytest_llmcost.call import reprice as reprice_call
from pytest_llmcost.compare.baseline import compare, keep_rows, write_baseline
from pytest_llmcost.errors import LedgerError, SettingsError
from pytest_llmcost.ledger.builder import Owner
from pytest_llmcost.ledger.ledger import (
    CardId,
    Change,
    Comparison,
    Ledger,
    PayloadFacts,
    TestRow,
    parse_ledger,
    read_ledger,
    render_json,
)
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.comparisons import describe_vanished
from pytest_llmcost.reports.wording import sentence

CARD = shipped_card()
TODAY = "2026-11-22"
A, B = a_test("tests/test_a.py::test_a"), a_test("tests/test_b.py::test_b")
MICRO_USD_OF_A_TOKEN = 5
"""Opus 4.7, uncached input: $5 for a million."""


def call(tokens: int, fingerprint: str | None = "1:a", *, on: str = TODAY, **fields: Any) -> Call:
    """A replayed call of so many input tokens, priced on a day."""
    model = fields.pop("model", MODEL)
    usage = fields.pop("usage", Usage(input_tokens=tokens))
    sampling_calls = (PricedSamplingCall(model=model, usage=usage),)
    whole = {"model": model, "evidence": "billed", "usage": usage, "sampling_calls": sampling_calls}
    bare = Call(**{**whole, "fingerprint": fingerprint, **fields})
    return reprice_call(bare, CARD, on=date.fromisoformat(on))


def report(spent: dict[Any, Iterable[Call]], **fields: Any) -> Ledger:
    owners: dict[Owner, Iterable[Call]] = spent
    card = CardId(version=CARD.version, sha256=CARD.sha256)
    return make_report(owners, **{"price_date": TODAY, "rate_card": card, **fields})


def tokens_usd(tokens: int) -> Decimal:
    return Decimal(tokens * MICRO_USD_OF_A_TOKEN).scaleb(-6)


def only_change(comparison: Comparison) -> Change:
    (change,) = comparison.changes
    return change


class TestComparison:
    def test_of_equal_runs_finds_nothing(self) -> None:
        run = report({A: [call(1000)], OUTSIDE: [call(5)], a_fixture(): [call(7)]})
        comparison = compare(run, run, CARD)
        assert comparison.changes == ()
        assert (comparison.change_usd, comparison.price_change_usd) == (Decimal(0), Decimal(0))
        assert comparison.unchanged == 3

    def test_names_the_test_the_tokens_and_the_parts_that_grew(self) -> None:
        old = {"model": "m", "system": "aaaa", "messages.0": "bbbb"}
        new = {"model": "m", "system": "cccc", "messages.0": "bbbb", "tools.search": "dddd"}
        base = report(
            {A: [call(1000, "1:old")]}, payloads={"1:old": PayloadFacts(model="m", parts=old)}
        )
        head = report(
            {A: [call(5000, "1:new")]}, payloads={"1:new": PayloadFacts(model="m", parts=new)}
        )
        change = only_change(compare(base, head, CARD))
        assert (change.name, change.path, change.line) == (A.nodeid, A.path, A.line)
        assert (change.status, change.usd) == ("changed", tokens_usd(4000))
        assert change.tokens == {"input_tokens": 4000}
        assert change.parts == ("system", "tools.search (new)")

    def test_does_not_compare_the_order_of_tools_which_no_ledger_keeps(self) -> None:
        old = {"model": "m", "system": "aaaa", "tools.search": "b", "tools.find": "c"}
        new = {**old, "system": "dddd"}
        saved, now = (
            report({A: [call(size, key)]}, payloads={key: PayloadFacts(model="m", parts=parts)})
            for size, key, parts in ((1, "1:old", old), (2, "1:new", new))
        )
        base = parse_ledger(render_json(saved), "base.json")
        assert only_change(compare(base, now, CARD)).parts == ("system",)

    def test_tells_a_change_of_prices_from_one_of_prompts(self) -> None:
        reads = Usage(cache_read_tokens=1_000_000)  # $0.20 a million till October 6, then $0.10
        model = "claude-sonnet-5-5"
        base = report(
            {A: [call(0, model=model, usage=reads, on="2026-10-06")]}, price_date="2026-10-06"
        )
        head = report({A: [call(0, model=model, usage=reads + reads, fingerprint="1:b")]})
        comparison = compare(base, head, CARD)
        assert comparison.base_usd_then == Decimal("0.2")
        assert comparison.base_usd == Decimal("0.1")
        assert comparison.price_change_usd == Decimal("-0.1")
        assert comparison.change_usd == Decimal("0.1")
        assert comparison.base_price_date == "2026-10-06"

    def test_takes_prices_alone_for_no_change_of_a_test(self) -> None:
        usage = Usage(cache_read_tokens=1_000_000)
        base = report(
            {A: [call(0, model="claude-sonnet-5-5", usage=usage, on="2026-10-06")]},
            price_date="2026-10-06",
        )
        head = report({A: [call(0, model="claude-sonnet-5-5", usage=usage)]})
        assert compare(base, head, CARD).changes == ()

    def test_lists_new_tests_and_those_without_calls(self) -> None:
        comparison = compare(report({A: [call(1)]}), report({B: [call(2)]}), CARD)
        assert [(each.name, each.status) for each in comparison.changes] == [
            (B.nodeid, "new"),
            (A.nodeid, "no calls"),
        ]
        assert comparison.change_usd == tokens_usd(1)

    @pytest.mark.parametrize(
        ("kept", "outcome", "status"),
        [
            (0, "skipped", "skipped"),
            (0, "passed", "no calls"),
            (1, "skipped", "changed"),
            (1, "passed", "changed"),
        ],
    )
    def test_says_of_a_test_with_a_budget_whether_it_has_calls_left(
        self, kept: int, outcome: str, status: str
    ) -> None:
        calls = [call(1000), call(5, "1:b")]
        base = report({A: calls})
        row = replace(base.tests[0], calls=tuple(calls[:kept]), outcome=outcome)
        change = only_change(compare(base, replace(base, tests=(row,)), CARD))
        assert change.status == status

    def test_puts_the_unknown_first_then_what_adds_most(self) -> None:
        unknown = a_test("tests/test_c.py::test_c")
        head = report({A: [call(1)], B: [call(9)], unknown: [call(3, model="who")]})
        names = [each.name for each in compare(report({}), head, CARD).changes]
        assert names == [unknown.nodeid, B.nodeid, A.nodeid]

    def test_counts_the_last_attempt_alone(self) -> None:
        base = report({A: [call(1000)]})
        head = report({A: [call(9000)], a_test(A.nodeid, attempt=2): [call(1000)]})
        assert compare(base, head, CARD).changes == ()

    def test_counts_a_shared_fixture_once_at_its_most_expensive(self) -> None:
        base = report({a_fixture(worker="gw0"): [call(1)], a_fixture(worker="gw1"): [call(5)]})
        head = report({a_fixture(): [call(6, "1:b")]})
        change = only_change(compare(base, head, CARD))
        assert (change.kind, change.name) == ("fixture", "client (session fixture)")
        assert change.usd == tokens_usd(1)

    def test_names_where_a_fixture_belongs_to(self) -> None:
        owner = a_fixture(scope="module", node="tests/test_a.py", baseid="tests", param="x")
        change = only_change(compare(report({}), report({owner: [call(1)]}), CARD))
        assert change.name == "tests/test_a.py::client[x] (module fixture)"

    @pytest.mark.parametrize("side", ["base", "head"])
    def test_of_a_run_that_lost_calls_has_no_known_change(self, side: str) -> None:
        spent: dict[Any, Iterable[Call]] = {
            A: [call(1000, tags=("a",))],
            B: [call(500, "1:b", tags=("a",))],
        }
        whole, part = report(spent), report({A: spent[A]}, lost_calls=["worker-crashed"])
        base, head = (part, whole) if side == "base" else (whole, part)
        comparison = compare(base, head, CARD)
        assert (comparison.change_usd, comparison.tokens) == (None, {})
        bounds = (comparison.low_usd, comparison.high_usd)
        assert bounds == ((None, tokens_usd(500)) if side == "base" else (tokens_usd(-500), None))
        for each in (comparison, comparison.by_tag["a"]):
            assert (each.base_is_least, each.head_is_least) == (side == "base", side == "head")

    def test_covers_calls_outside_tests(self) -> None:
        change = only_change(compare(report({}), report({OUTSIDE: [call(1)]}), CARD))
        assert (change.kind, change.usd) == ("outside", tokens_usd(1))

    def test_sees_a_call_that_was_added_for_nothing(self) -> None:
        head = report({A: [call(0, "1:a"), call(0, "1:b")]})
        change = only_change(compare(report({A: [call(0, "1:a")]}), head, CARD))
        assert (change.calls, change.usd) == (1, Decimal(0))

    def test_pairs_each_payload_with_its_likest(self) -> None:
        parts = {"1:x": {"system": "1", "tools.a": "2"}, "1:y": {"system": "3", "tools.b": "4"}}
        later = {"1:p": {"system": "3", "tools.b": "9"}, "1:q": {"system": "1", "tools.a": "8"}}
        base = report(
            {A: [call(1, "1:x"), call(2, "1:y")]},
            payloads={key: PayloadFacts(model="m", parts=value) for key, value in parts.items()},
        )
        head = report(
            {A: [call(3, "1:p"), call(4, "1:q"), call(5, "1:z")]},
            payloads={key: PayloadFacts(model="m", parts=value) for key, value in later.items()},
        )
        assert only_change(compare(base, head, CARD)).parts == ("tools.b", "tools.a")

    def test_pairs_no_payload_twice(self) -> None:
        old = {"system": "1", "tools.a": "2", "tools.b": "3"}
        parts = {"1:x": old, "1:y": {"system": "7", "tools.c": "8"}}
        later = {"1:p": {**old, "tools.a": "4"}, "1:q": {**old, "tools.a": "5"}}
        base, head = (
            report(
                {A: [call(number, key) for number, key in enumerate(side, first)]},
                payloads={key: PayloadFacts(model="m", parts=value) for key, value in side.items()},
            )
            for first, side in ((1, parts), (3, later))
        )
        assert "system" in only_change(compare(base, head, CARD)).parts

    def test_has_nothing_to_pair_a_call_with_that_was_added(self) -> None:
        parts = {
            name: PayloadFacts(model="m", parts={"system": name}) for name in ("1:x", "1:y", "1:z")
        }
        base = report({A: [call(1, "1:x")]}, payloads=parts)
        head = report({A: [call(1, "1:y"), call(1, "1:z")]}, payloads=parts)
        change = only_change(compare(base, head, CARD))
        assert (change.parts, change.calls) == (("system",), 1)

    def test_prices_a_changed_prefix_at_the_rates_of_its_whole_prompt(self) -> None:
        model = "claude-haiku-5-5"  # costs five times as much above 100,000 tokens
        usage = Usage(input_tokens=60_000, cache_write_5m_tokens=50_000)
        sent = call(0, "1:a", model=model, usage=usage)
        base, head = (
            report(
                {A: [sent]},
                payloads={"1:a": PayloadFacts(model=model, prefixes={"system.0": digest})},
            )
            for digest in ("aaaa", "bbbb")
        )
        (prefix,) = compare(base, head, CARD).prefixes
        assert (prefix.tokens, prefix.usd) == (50_000, Decimal("0.03125"))

    def test_names_the_parts_that_differ_between_very_many_payloads(self) -> None:
        def many(letter: str) -> Ledger:
            names = [f"1:{letter}{number:03}" for number in range(101)]
            payloads = {each: PayloadFacts(model="m", parts={"system": each}) for each in names}
            return report({A: [call(1, each) for each in names]}, payloads=payloads)

        base, head = many("a"), many("b")
        assert compare(base, replace(head, tests=()), CARD).changes[0].parts == ()
        more = replace(head.tests[0], calls=(*head.tests[0].calls, call(1, "1:z")))
        change = only_change(compare(base, replace(head, tests=(more,)), CARD))
        assert change.parts == ("system",)

    def test_compares_each_turn_of_a_conversation_with_the_one_of_its_length(self) -> None:
        def turns(system: str, order: str) -> Ledger:
            payloads = {}
            for name, length in zip(order, (1, 3, 5), strict=True):
                parts = {"system": system} | {f"messages.{at}": str(at) for at in range(length)}
                payloads[f"1:{name}{system}"] = PayloadFacts(model="m", parts=parts)
            return report({A: [call(len(system), each) for each in payloads]}, payloads=payloads)

        for order in map("".join, permutations("abc")):
            change = only_change(compare(turns("old", order), turns("newer", "abc"), CARD))
            assert change.parts == ("system",)

    def test_prices_a_run_of_another_card_anew_and_says_so(self) -> None:
        foreign = report({A: [replace(call(1000), usd=Decimal(99))]}, rate_card=CardId(version="x"))
        comparison = compare(report({A: [call(1000)]}), foreign, CARD)
        assert comparison.changes == ()
        assert "priced with the rate card x" in comparison.notes[0]

    def test_keeps_the_runs_cache_state(self) -> None:
        usage = Usage(cache_read_tokens=1_000_000)
        base = report({A: [call(0, usage=usage)]})
        head = report({A: []}, cache_state="cold")
        assert compare(base, head, CARD).base_usd == Decimal("6.25")  # a 5-minute write

    def test_refuses_a_ledger_that_does_not_say_when_it_was_priced(self) -> None:
        head = report({A: [call(1)]}, price_date="odd")
        with pytest.raises(LedgerError, match="price_date is 'odd'"):
            compare(report({A: [call(1)]}), head, CARD)

    def test_survives_its_own_file(self) -> None:
        base, head = report({A: [call(1000)]}), report({A: [call(9, "1:n")], B: [call(1)]})
        limits = [parse_increase("1%"), parse_increase("$1")]
        whole = replace(
            head, comparison=compare(base, head, CARD, limits=limits, test_limits=limits)
        )
        assert parse_ledger(render_json(whole), "x") == whole


class TestPartialRuns:
    def test_are_compared_over_what_ran(self) -> None:
        base = report({A: [call(1000)], B: [call(5000)], OUTSIDE: [call(9)]})
        head = report({A: [call(1001, "1:b")], OUTSIDE: [call(8)]}, incomplete=["deselected"])
        comparison = compare(base, head, CARD, limits=[parse_increase("$0.000004")])
        assert comparison.partial
        assert comparison.base_usd == tokens_usd(1000)
        assert only_change(comparison).name == A.nodeid
        assert comparison.verdicts[0].state == "exceeded"
        assert "only what ran is compared" in comparison.notes[0]

    def test_that_have_lost_calls_may_have_added_anything(self) -> None:
        base = report({A: [call(1000)]})
        head = report({A: [call(1000)]}, incomplete=["interrupted"], lost_calls=["interrupted"])
        (verdict,) = compare(base, head, CARD, limits=[parse_increase("$1")]).verdicts
        assert (verdict.state, verdict.high) == ("unverified", None)

    def test_are_said_to_be_poor_baselines(self) -> None:
        base = report({A: [call(1)]}, incomplete=["interrupted"])
        assert "baseline is a partial run (interrupted)" in compare(base, base, CARD).notes[0]
        passed = report({A: [call(1)]})
        assert not compare(passed, passed, CARD).notes
        failed = replace(passed, tests=[replace(each, outcome="failed") for each in passed.tests])
        (note,) = compare(failed, passed, CARD).notes
        assert note.startswith("tests failed in the baseline (1 of 1); what they did not come to")

    def test_are_never_written_as_a_baseline(self, tmp_path: Path) -> None:
        path = tmp_path / "base.json"
        path.write_text("before")
        with pytest.raises(LedgerError, match=r"not complete \(deselected\)"):
            write_baseline(report({}, incomplete=["deselected"]), path)
        assert path.read_text() == "before"

    def test_leave_complete_ones_to_be_written_without_their_comparison(
        self, tmp_path: Path
    ) -> None:
        whole = report({A: [call(1)]})
        write_baseline(replace(whole, comparison=Comparison()), tmp_path / "base.json")
        assert read_ledger(tmp_path / "base.json") == whole


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "usd", "share"),
        [
            ("10%", None, "0.1"),
            (" 12.5 % ", None, "0.125"),
            ("$0.05", "0.05", None),
            ("5c", "0.05", None),
            ("0", "0", None),
        ],
    )
    def test_are_a_share_or_an_amount(self, text: str, usd: str | None, share: str | None) -> None:
        limit = parse_increase(text)
        assert limit.limit == Decimal(usd or 0)
        assert limit.share == (None if share is None else Decimal(share))

    @pytest.mark.parametrize("text", ["", "%", "ten percent", "-5%", "-$1", "$5%c"])
    def test_are_refused_when_they_are_neither(self, text: str) -> None:
        with pytest.raises(SettingsError):
            parse_increase(text)

    @pytest.mark.parametrize(
        ("text", "added", "state"),
        [
            ("10%", 100, "within"),
            ("10%", 101, "exceeded"),
            ("$0.0005", 100, "within"),
            ("$0.000499999", 100, "exceeded"),
            ("0%", 0, "within"),
            ("0%", 1, "exceeded"),
            ("0%", -1, "within"),
        ],
    )
    def test_let_the_limit_itself_pass(self, text: str, added: int, state: State) -> None:
        base, head = report({A: [call(1000)]}), report({A: [call(1000 + added, "1:b")]})
        (verdict,) = compare(base, head, CARD, limits=[parse_increase(text)]).verdicts
        assert (verdict.scope, verdict.state) == ("increase", state)
        assert verdict.actual == tokens_usd(added)
        if added < 0:
            assert sentence(verdict) == "-$0.000005 is within the $0.00 (0 %) increase limit"

    def test_break_one_by_one_when_both_are_given(self) -> None:
        base, head = report({A: [call(1000)]}), report({A: [call(1200, "1:b")]})
        limits = [parse_increase("10%", origin="--flag"), parse_increase("$1")]
        verdicts = compare(base, head, CARD, limits=limits).verdicts
        assert [(each.label, each.state) for each in verdicts] == [
            ("max_increase 10%", "exceeded"),
            ("max_increase $1", "within"),
        ]
        assert verdicts[0].origin == "--flag"
        assert verdicts[0].limit == tokens_usd(100)

    def test_hold_for_a_new_test_in_the_run_but_not_by_itself(self) -> None:
        base, head = report({A: [call(1000)]}), report({A: [call(1000)], B: [call(500)]})
        limits = [parse_increase("10%")]
        comparison = compare(base, head, CARD, limits=limits, test_limits=limits)
        assert comparison.verdicts[0].state == "exceeded"
        assert only_change(comparison).verdicts == ()

    def test_of_a_test_are_not_made_up_for_by_another(self) -> None:
        base = report({A: [call(1000)], B: [call(1000)]})
        head = report({A: [call(500, "1:b")], B: [call(1500, "1:c")]})
        limits = [parse_increase("10%", label="max_test_increase")]
        comparison = compare(base, head, CARD, limits=limits, test_limits=limits)
        assert comparison.verdicts[0].state == "within"
        grown, shrunk = comparison.changes
        assert (grown.name, grown.verdicts[0].state) == (B.nodeid, "exceeded")
        assert (shrunk.name, shrunk.verdicts[0].state) == (A.nodeid, "within")

    @given(
        before=st.integers(0, 10_000),
        after=st.integers(0, 10_000),
        share=st.decimals("0", "200", places=3),
    )
    def test_are_exact(self, before: int, after: int, share: Decimal) -> None:
        base, head = report({A: [call(before, "1:a")]}), report({A: [call(after, "1:b")]})
        (verdict,) = compare(base, head, CARD, limits=[parse_increase(f"{share}%")]).verdicts
        may_be = after * 100_000 <= before * (100_000 + int(share * 1000))
        assert verdict.state == ("within" if may_be or after <= before else "exceeded")


def unknown(fingerprint: str | None, **fields: Any) -> Call:
    return call(1000, fingerprint, model="who-knows", **fields)


class TestUnknowns:
    LIMITS = (parse_increase("10%"), parse_increase("$0.05"))

    def states(self, base: list[Call], head: list[Call], limits: Any = LIMITS) -> list[State]:
        comparison = compare(report({A: base}), report({A: head}), CARD, limits=limits)
        return [each.state for each in comparison.verdicts]

    def test_of_the_run_leave_it_unverified_with_a_reason(self) -> None:
        comparison = compare(
            report({A: [call(1000)]}), report({A: [unknown("1:b")]}), CARD, limits=self.LIMITS
        )
        assert [each.state for each in comparison.verdicts] == ["unverified", "unverified"]
        assert comparison.change_usd is None
        assert "who-knows" in comparison.verdicts[0].reasons[0].what
        assert only_change(comparison).usd is None

    def test_of_the_baseline_say_that_they_are_its_own(self) -> None:
        comparison = compare(
            report({A: [unknown("1:b"), call(10**6)]}),
            report({A: [call(10**7)]}),
            CARD,
            limits=self.LIMITS,
        )
        assert [each.state for each in comparison.verdicts] == ["unverified", "unverified"]
        assert comparison.verdicts[0].reasons[0].what.startswith("in the baseline: ")
        assert comparison.low_usd is None
        assert comparison.verdicts[0].low == 0

    def test_cancel_out_when_the_same_replay_is_in_both(self) -> None:
        base, head = [unknown("1:x"), call(1000)], [unknown("1:x"), call(1050, "1:b")]
        assert self.states(base, head, self.LIMITS[1:]) == ["within"]
        assert self.states(base, base) == ["within", "within"]

    def test_cancel_out_whatever_was_recorded_before_the_prompt_changed(self) -> None:
        # The baseline priced its recording on another day.
        base, head = (
            [unknown("1:x", evidence="stale", before=Before(input_tokens=900, usd=Decimal(usd)))]
            for usd in ("0.2", "0.1")
        )
        assert self.states(base, head) == ["within", "within"]

    def test_do_not_cancel_out_when_made_anew_or_when_nobody_knows_what_was_sent(self) -> None:
        live = [unknown("1:x", live=True)]
        assert self.states(live, live) == ["unverified", "unverified"]
        nameless = [unknown(None)]
        assert self.states(nameless, nameless) == ["unverified", "unverified"]

    def test_are_never_a_price_of_nothing(self) -> None:
        comparison = compare(
            report({A: [unknown("1:b")]}), report({A: [unknown("1:c"), call(1)]}), CARD
        )
        assert (comparison.base_usd_then, comparison.base_usd) == (None, None)
        assert comparison.price_change_usd is None
        assert comparison.head_usd == tokens_usd(1)
        change = only_change(comparison)
        assert (change.base_usd, change.head_usd, change.usd) == (None, tokens_usd(1), None)

    def test_do_not_hide_a_known_breach(self) -> None:
        head = [unknown("1:x"), call(100_000, "1:b")]
        assert self.states([call(1000)], head) == ["exceeded", "exceeded"]

    def test_within_a_share_of_what_is_known_is_within(self) -> None:
        base = [unknown("1:x"), call(1000)]
        assert self.states(base, [unknown("1:x"), call(1100, "1:b")]) == ["within", "within"]
        assert self.states(base, [unknown("1:x"), call(1101, "1:b")]) == ["unverified", "within"]

    def test_never_exceed_nothing_by_a_share_of_nothing(self) -> None:
        zero: list[IncreaseLimit] = [parse_increase("0%")]
        base = [unknown("1:x")]
        assert self.states(base, [unknown("1:x"), call(1, "1:b")], zero) == ["exceeded"]


def guard(name: str, limit: str | None = None) -> TestRow:
    calls = (call(1000),)
    verdict = judge(make_budget(limit), Amounts.of(calls)) if limit else None
    return TestRow(nodeid=name, outcome="passed", calls=calls, verdict=verdict)


@pytest.mark.parametrize("names", [("test_a", "test_b"), ("test_b", "test_a")])
def test_of_tests_with_the_same_prompts_each_is_renamed_to_the_one_with_its_budget(
    names: tuple[str, str],
) -> None:
    base = replace(report({}), tests=(guard("old.py::test_a", "1"), guard("old.py::test_b")))
    limited, free = (f"new.py::{name}" for name in names)
    head = replace(report({}), tests=tuple(sorted((guard(limited, "1"), guard(free)), key=repr)))
    assert compare(base, head, CARD, vanished="warn").vanished == ()


def test_of_a_guard_that_vanished_a_cost_that_is_partly_unknown_is_a_lower_bound() -> None:
    test = TestRow(nodeid="t.py::test_a", outcome="passed", calls=(call(1000), unknown("1:x")))
    base = replace(report({}), tests=(test,))
    compared = compare(base, report({}), CARD, vanished="warn")
    assert [gone.base_is_least for gone in compared.vanished] == [True]
    assert "(baseline: at least $" in "".join(describe_vanished(compared))


class TestKeptRows:
    def test_bring_what_they_sent_and_nothing_else_of_the_older_run(self) -> None:
        facts = {key: PayloadFacts(model="m") for key in ("1:kept", "1:gone", "1:new")}
        old = report({A: [call(1, "1:kept")], B: [call(2, "1:gone")]}, payloads=facts)
        run = report({B: [call(3, "1:new")]}, payloads=facts)
        kept = keep_rows(run, old, [A.nodeid], CARD)
        assert [test.nodeid for test in kept.tests] == [A.nodeid, B.nodeid]
        assert kept.payloads.keys() == {"1:kept", "1:new"}

    @pytest.mark.parametrize(
        ("not_passed", "is_kept"),
        [
            ("a/test_a.py::test", True),
            ("a/test_a.py", True),
            ("a", True),
            ("a/test_b.py::test", False),
            ("b", False),
        ],
    )
    def test_bring_the_shared_fixtures_that_they_may_use(
        self, not_passed: str, is_kept: bool
    ) -> None:
        fixture = a_fixture(scope="module", node="a/test_a.py", baseid="a/test_a.py")
        kept = keep_rows(report({A: [call(1)]}), report({fixture: [call(2)]}), [not_passed], CARD)
        assert [each.node for each in kept.fixtures] == ["a/test_a.py"] * is_kept

    def test_do_not_bring_a_shared_fixture_that_was_set_up_again(self) -> None:
        fixture = a_fixture()
        kept = keep_rows(report({fixture: [call(1)]}), report({fixture: [call(2)]}), ["a"], CARD)
        assert [each.usd for each in kept.fixtures] == [tokens_usd(1)]
