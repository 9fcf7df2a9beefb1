from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from golden_files import assert_golden
from hostile_report import HOSTILE, hostile_report
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from page_run import page_run
from sample_reports import (
    OUTSIDE,
    STALE,
    a_fixture,
    a_test,
    doubtful,
    judge,
    judged,
    make_budget,
    make_call,
    make_report,
    suite_budget,
)
from sample_run import sample_run

from pytest_llmcost.budgets.budget import Budget, Verdict, judge_calls
from pytest_llmcost.call import Call
from pytest_llmcost.compare.baseline import judge_vanished
from pytest_llmcost.ledger.ledger import Change, Comparison, Ledger, RunRecord
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.reports.markdown import COMMENT_BYTES, MARKER, code, prose, render_markdown
from pytest_llmcost.reports.plain_text import as_text, clean
from pytest_llmcost.reports.run_wording import run_advice
from pytest_llmcost.reports.terminal import View, render_summary

NASTY = st.text(alphabet=st.sampled_from("ab/:._*`|<>&@#~[]()!\\$%_-+={}\n\r\t\x00\x1b\u202e "))


def to_html(markdown: str) -> str:
    cmarkgfm = pytest.importorskip("cmarkgfm", reason="GitHub's own Markdown is not installed")
    unsafe = cmarkgfm.Options.CMARK_OPT_UNSAFE
    return str(cmarkgfm.github_flavored_markdown_to_html(markdown, options=unsafe))


def test_a_run_looks_like_this() -> None:
    assert_golden("comment.md", render_markdown(hostile_report()))


@pytest.mark.parametrize("run", [hostile_report, page_run, sample_run])
def test_github_renders_every_table_list_and_fold(run: Callable[[], Ledger]) -> None:
    text = render_markdown(run())
    html = to_html(text)
    assert html.count("<table>") == text.count("\n| --- |") >= 4
    assert html.count("</details>") == text.count("<summary>") >= 4
    assert not re.findall(r"\| |<p>- |---|```", html)


def test_a_run_without_budgets_is_short() -> None:
    report = make_report({a_test("t.py::test"): [make_call("0.5")]})
    assert_golden("plain.md", render_markdown(report))


class TestHeading:
    def heading(self, report: Ledger) -> str:
        lines = render_markdown(report).splitlines()
        assert lines[0] == MARKER
        return lines[1]

    @pytest.mark.parametrize(
        ("usd", "heading"),
        [
            ("1", "### ✅ The suite costs $1.00 of $1.00 · within its budget"),
            ("1.000000001", "### ❌ The suite costs $1.000000001 of $1.00 · 1 budget exceeded"),
            (None, "### ❓ The suite costs an unknown amount · 1 budget could not be checked"),
        ],
    )
    def test_says_how_the_suite_stands(self, usd: str | None, heading: str) -> None:
        report = make_report({a_test("t"): [make_call(usd)]}, budgets=[suite_budget("1")])
        assert self.heading(report) == heading

    def test_says_within_which_bounds_an_inexact_cost_lies(self) -> None:
        inexact = make_call("0.5", usd_low=Decimal("0.4"), usd_high=Decimal("0.6"))
        report = make_report({a_test("t"): [inexact]}, budgets=[suite_budget("1")])
        assert self.heading(report) == (
            "### ✅ The suite costs between $0.40 and $0.60 of $1.00 · within its budget"
        )

    def test_says_that_no_test_ran_and_still_what_is_broken(self) -> None:
        run = RunRecord(has_tests=False, exit_status=2)
        title = "No test ran, so nothing is known of what merging costs"
        for limit, heading in (("9", title), ("1", f"❌ {title} · 1 budget exceeded")):
            report = make_report(
                {OUTSIDE: [make_call("2")]}, budgets=[suite_budget(limit)], run=run
            )
            assert self.heading(report) == f"### {heading}"

    def test_has_no_green_sign_in_a_run_that_failed_otherwise(self) -> None:
        report = make_report({a_test("t"): [make_call("1")]}, budgets=[suite_budget("1")])
        failed = replace(report, run=replace(report.run, exit_status=1))
        heading = "### The suite costs $1.00 of $1.00 · within its budget, but the run failed"
        assert self.heading(failed) == heading

    def test_says_of_a_run_without_a_budget_that_it_failed(self) -> None:
        report = make_report({a_test("t"): [make_call("1")]}, run=RunRecord(exit_status=1))
        assert self.heading(report) == "### The suite costs $1.00 · the run failed"

    def test_takes_a_test_that_lacks_a_count_for_none_that_failed_otherwise(self) -> None:
        missing = doubtful("uncounted", evidence="counted")
        report = make_report(
            {a_test("t.py::a"): [make_call("1")], a_test("t.py::b"): [missing]},
            run=RunRecord(exit_status=1),
        )
        a, b = (replace(row, outcome="failed") for row in report.tests)
        exceeded = replace(a, verdict=judge("0.5", make_call("1")))
        heading = self.heading(replace(report, tests=(exceeded, b)))
        assert heading == "### ❌ The suite costs at least $1.00 · 1 budget exceeded"

    def test_names_broken_rules_and_tests_that_failed_otherwise(self) -> None:
        report = make_report({a_test(f"t.py::{name}"): [make_call("1")] for name in "abc"})
        dear = judge("0.5", make_call("1"))
        foreign = judge("0", make_call("1"), kind="models", models=("none",))
        a, b, c = report.tests
        tests = (
            replace(a, outcome="failed", verdict=dear),
            replace(b, outcome="failed", verdict=foreign),
            replace(c, outcome="failed"),
        )
        text = render_markdown(replace(report, tests=tests, run=RunRecord(exit_status=1)))
        assert (
            " · 1 budget exceeded, 1 rule broken, and 1 test failed for another reason\n\n"
            "1 exceeded · 1 against a rule · 1 failed\n"
        ) in text
        assert "\n| <code>c</code><br><sub>t.py</sub> | $1.0000 |  | failed |\n" in text
        assert "pytest t.py::a t.py::b t.py::c" in text

    def test_counts_the_last_attempt_alone(self) -> None:
        first, second = a_test("t"), a_test("t", attempt=2)
        report = make_report({first: [make_call("2")], second: [make_call("1")]})
        assert "within its budget" in self.heading(judged(report, "1"))

    def test_two_budgets_are_both(self) -> None:
        place = make_budget("2", scope="path", pattern="t.py", label="t.py", origin="ini")
        report = make_report(
            {a_test("t.py::t"): [make_call("1")]}, budgets=[suite_budget("1"), place]
        )
        assert self.heading(report).endswith(" · within both budgets")

    def test_leaves_expected_breaches_out(self) -> None:
        report = judged(make_report({a_test("t"): [make_call("2")]}), "1", "xfailed")
        assert self.heading(report) == "### The suite costs $2.00"
        assert "\n1 expected to fail\n" in render_markdown(report)


class TestAmounts:
    def test_never_round_to_the_other_side_of_a_ceiling(self) -> None:
        report = make_report(
            {a_test("t.py::test"): [make_call("1.000000001")]}, budgets=[suite_budget("1")]
        )
        text = render_markdown(judged(report, "1"))
        assert "$1.000000001 is $0.000000001 (under 0.1 %) over the $1.00 suite budget" in text
        assert (
            "| ❌ <code>t.py::test</code> | $1.000000001 | $1.00 | 101% | 1 | 100 | 0 | 0 | 0 |"
            in text
        )

    def test_of_other_kinds_are_whole_numbers_with_their_unit(self) -> None:
        report = make_report({a_test("t.py::test"): [make_call("1")]})
        text = render_markdown(judged(report, "8000", kind="input_tokens"))
        assert "| $1.00 | 8,000 input tokens | 1% |" in text


class TestBaseline:
    def text(self, **fields: Any) -> str:
        comparison = Comparison(
            **{"base_usd": Decimal(1), "head_usd": Decimal(1), "unchanged": 3, **fields}
        )
        return render_markdown(replace(make_report({}), comparison=comparison))

    def test_says_what_merging_adds_or_saves(self) -> None:
        assert "### Merging does not change the cost of the suite\n" in self.text()
        grown = self.text(change_usd=Decimal("0.25"), head_usd=Decimal("1.25"))
        assert "### Merging adds $0.25 (+25 %) per run of the suite\n" in grown
        shrunk = self.text(change_usd=Decimal("-0.25"), head_usd=Decimal("0.75"))
        assert "### Merging saves $0.25 (-25 %) per run of the suite\n" in shrunk
        tiny = self.text(change_usd=Decimal("0.00001"), head_usd=Decimal("1.00001"))
        assert "### Merging adds $0.00001 (+under 0.1 %) per run" in tiny
        failed = self.text(
            change_usd=Decimal("-0.25"), head_usd=Decimal("0.75"), failed=["t.py::a"]
        )
        assert "### Merging saves $0.25 (-25 %) in a run with 1 failed test\n" in failed
        equal = self.text(failed=["t.py::a"])
        assert "### Merging does not change the cost of a run with 1 failed test\n" in equal
        unknown = self.text(change_usd=None)
        assert "### Merging adds an unknown amount per run of the suite\n" in unknown

    @pytest.mark.parametrize(
        ("head", "base", "words"),
        [
            ("1a2b3c4" + 33 * "0", "9f8e7d6" + 33 * "0", "1a2b3c4 against 9f8e7d6"),
            ("1a2b3c4" + 33 * "0", "", "1a2b3c4 against the baseline"),
            ("", "9f8e7d6" + 33 * "0", "against 9f8e7d6"),
            ("@octocat", "9f8", "against the baseline"),
        ],
    )
    def test_names_both_commits_where_they_are_known(
        self, head: str, base: str, words: str
    ) -> None:
        comparison = Comparison(unchanged=3, base_commit=base)
        report = replace(make_report({}, run=RunRecord(commit=head)), comparison=comparison)
        assert f"\n\n3 unchanged — {words}\n" in render_markdown(report)

    def test_new_prices_are_told_apart(self) -> None:
        text = self.text(price_change_usd=Decimal("0.5"), base_price_date="2026-10-06")
        assert "- new prices since 2026-10-06 changed the same calls by &#43;$0.50" in text

    def test_a_part_that_changed_in_several_tests_is_named_once(self) -> None:
        change = Change(
            name="t.py::a",
            status="changed",
            base_usd=Decimal(1),
            head_usd=Decimal(2),
            usd=Decimal(1),
            tokens={"input_tokens": 1428},
            parts=("system",),
        )
        text = self.text(changes=(change, replace(change, name="t.py::b")))
        assert text.count("system") == 1
        assert "- system changed in 2 tests: &#43;2,856 input tokens" in text
        searched = replace(change, tokens={"input_tokens": 1428, "web_search_requests": 1})
        text = self.text(changes=(searched, replace(change, name="t.py::b")))
        assert "- system changed in 2 tests: &#43;2,856 input tokens" in text
        # Some of these tokens are those of another call.
        text = self.text(changes=(change, replace(change, name="t.py::b", calls=1)))
        assert "- system changed in 2 tests\n" in text
        other = replace(change, name="t.py::b", parts=("system", "messages.0"))
        text = self.text(changes=(change, other))
        assert "- system changed in 2 tests\n" in text
        assert ", messages.0 |" in text


def rows_in_sight(text: str) -> list[list[str]]:
    """The cells of the table above everything folded, as GitHub renders them, without its heads."""
    html = to_html(text).partition("<details>")[0].replace("<br>", " ")
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    return [
        [re.sub("<.*?>", "", each) for each in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)]
        for row in rows[1:]
    ]


class TestInSight:
    """What failed and what changed have a row each; each test is counted once."""

    def report(self, **fields: Any) -> Ledger:
        calls = {name: make_call(usd) for name, usd in (("over", "2"), ("kept", "1"), ("odd", "1"))}
        report = make_report({a_test(f"t.py::{name}"): [call] for name, call in calls.items()})
        rows = [
            replace(row, verdict=judge(limit, *row.calls))
            for row, limit in zip(report.tests, ("1", "5", "1"), strict=True)
        ]
        assert [row.nodeid for row in rows] == ["t.py::kept", "t.py::odd", "t.py::over"]
        grown = Change(
            name="t.py::over",
            status="changed",
            base_usd=Decimal("0.5"),
            head_usd=Decimal(2),
            usd=Decimal("1.5"),
            tokens={"input_tokens": 2856},
            parts=("system",),
        )
        comparison = Comparison(
            **{"unchanged": 2, "changes": (grown,), "change_usd": Decimal("1.5"), **fields}
        )
        return replace(report, tests=tuple(rows), comparison=comparison)

    def test_a_test_that_grew_and_failed_is_one_row_with_both(self) -> None:
        text = render_markdown(self.report())
        assert rows_in_sight(text)[:-1] == [
            ["❌ over t.py", "$0.5000", "$2.0000", "+$1.5000 (+300 %)", "200% of $1.00",
             "+2,856 input, system"],
        ]  # fmt: skip
        assert "\n1 exceeded · 2 unchanged — against the baseline\n" in text

    def test_the_last_row_is_the_run(self) -> None:
        report = self.report(base_usd=Decimal("2.5"), head_usd=Decimal(4))
        *_, total = rows_in_sight(render_markdown(report))
        assert total == ["total", "$2.5000", "$4.0000", "+$1.5000 (+60 %)", "", ""]

    def test_a_failure_that_is_no_change_says_so(self) -> None:
        report = self.report(changes=(), change_usd=Decimal(0), unchanged=3)
        text = render_markdown(report)
        assert rows_in_sight(text) == [
            ["❌ over t.py", "$2.0000", "$2.0000", "unchanged", "200% of $1.00", ""]
        ]
        assert "\n1 exceeded · 2 unchanged — " in text

    def test_changes_of_every_kind_are_counted_apart(self) -> None:
        (grown,) = self.report().comparison.changes  # type: ignore[union-attr]
        one = {"name": "t.py::kept", "parts": ()}
        changes = (
            replace(grown, **one, usd=Decimal(-1)),
            replace(grown, **{**one, "name": "t.py::odd"}, usd=None),
            replace(grown, **{**one, "name": "t.py::free"}, usd=Decimal(0), calls=1),
            replace(grown, **{**one, "name": "t.py::gone"}, status="removed"),
            replace(grown, **{**one, "name": "t.py::odd", "kind": "fixture"}, status="new"),
        )
        text = render_markdown(self.report(changes=changes, unchanged=9))
        counts = "1 exceeded · 1 of unknown change · 1 new · 1 shrank"
        assert f"\n{counts} · 1 changed at the same cost · 1 removed · 8 unchanged — " in text
        assert len(rows_in_sight(text)) == len(changes) + 2

    def test_an_increase_over_its_limit_is_a_failure_of_its_test(self) -> None:
        (grown,) = self.report().comparison.changes  # type: ignore[union-attr]
        verdict = judge("0.75", make_call("1.5"), scope="increase", origin="ini")
        broken = replace(grown, name="t.py::kept", verdicts=(verdict,))
        row, *_ = rows_in_sight(render_markdown(self.report(changes=(broken,))))
        assert row[0] == "❌ kept t.py"
        assert row[4] == "200% of $0.75 increase"

    @pytest.mark.parametrize(
        ("verdict", "cell", "what"),
        [
            (judge("50", make_call("1"), kind="input_tokens"), "200% of 50 input tokens", ""),
            (judge("1"), "? of $1.00", "no Claude call was seen"),
            (judge("0", make_call("1")), "$0.00", ""),
        ],
    )
    def test_without_a_baseline_what_failed_has_its_cost_and_budget(
        self, verdict: Verdict, cell: str, what: str
    ) -> None:
        report = make_report({a_test("t.py::a"): [make_call("1")], a_test("t.py::b"): []})
        report = replace(report, tests=(replace(report.tests[0], verdict=verdict),))
        ((name, cost, *rest),) = rows_in_sight(render_markdown(report))
        assert (name[2:], cost, rest) == ("a t.py", "$1.0000", [cell, what])

    def test_a_model_that_is_not_allowed_is_named(self) -> None:
        call = make_call("1", model="claude-opus-4-7")
        budget = make_budget("0", kind="models", models=("claude-haiku-*",), origin="ini")
        report = make_report({a_test("t.py::a"): [call]})
        row = replace(report.tests[0], verdict=judge_calls(budget, [call]))
        assert row.verdict
        assert row.verdict.state == "exceeded"
        ((*_, cell, _),) = rows_in_sight(render_markdown(replace(report, tests=(row,))))
        assert cell == "claude-opus-4-7 is not allowed"

    def test_more_than_twenty_are_folded(self) -> None:
        (grown,) = self.report().comparison.changes  # type: ignore[union-attr]
        changes = tuple(replace(grown, name=f"t.py::test_{each}") for each in range(30))
        text = render_markdown(self.report(changes=changes))
        *rows, total = rows_in_sight(text)
        assert (len(rows), total[0]) == (20, "total")
        assert "<summary>11 more that failed or changed</summary>" in text
        text = render_markdown(self.report(changes=changes[:19]))
        assert len(rows_in_sight(text)) == 21
        assert "that failed or changed" not in text


def test_guards_that_vanished_are_a_footnote_and_both_commits_are_named() -> None:
    text = render_markdown(page_run())
    counts = text.splitlines()[3]
    assert counts.endswith(" · 1 guard vanished¹ — 1a2b3c4 against 9f8e7d6")
    _, footnote = text.split("\n\n¹ Guards of the baseline that vanished:\n\n")
    html = to_html(footnote)
    assert "tests/agents/test_support.py::test_escalates: skipped" in unescape(html)
    assert "(baseline: $0.0214 in 2 calls, budget $0.03)" in html
    assert "vanished" not in render_markdown(sample_run())


class TestReproduce:
    def commands(self, *names: str, call: Call | None = None) -> list[str]:
        call = call or make_call("2")
        report = make_report({a_test(name): [call] for name in names})
        html = to_html(render_markdown(judged(report, "1")))
        (block,) = re.findall(r"<pre.*?><code>(.*?)</code></pre>", html, re.DOTALL)
        return unescape(block).splitlines()

    def test_the_command_runs_what_failed_at_the_same_prices(self) -> None:
        assert self.commands("t.py::b[x y]", "t.py::a") == [
            "pytest t.py::a 't.py::b[x y]' --llmcost-price-date=2026-11-22"
        ]

    @pytest.mark.parametrize("origin", ["--llmcost-max-suite", "PYTEST_LLMCOST_MAX_SUITE"])
    def test_a_budget_that_no_file_sets_is_set_by_the_command(self, origin: str) -> None:
        def command(*budgets: Budget) -> str:
            report = make_report({a_test("t.py::a"): [make_call("2")]}, budgets=budgets)
            return render_markdown(report).partition("```sh\n")[2].partition("\n```")[0]

        suite = replace(suite_budget("1234.5"), origin=origin)
        assert command(suite) == (
            "pytest --llmcost-price-date=2026-11-22 --llmcost-max-suite='$1234.5'"
        )
        assert command(replace(suite, origin="llmcost_max_suite")) == (
            "pytest --llmcost-price-date=2026-11-22"
        )

    def test_another_setting_that_no_file_sets_is_named(self) -> None:
        name = "PYTEST_LLMCOST_BUDGETS"
        budgets = [
            make_budget(limit, scope="path", pattern=path, label=path, origin=origin)
            for limit, path, origin in (("1", "a/**", name), ("2", "b/**", name), ("3", "*", "ini"))
        ]
        report = make_report({a_test("t.py::a"): [make_call("2")]}, budgets=budgets)
        assert f"```sh\n# set {name} as in CI\npytest " in render_markdown(report)

    def test_prices_of_the_users_own_are_named(self) -> None:
        report = make_report({a_test("t.py::a"): [make_call("1")]})
        card = replace(report.rate_card, version="2026-11-22+our\n```own.toml")
        text = render_markdown(replace(report, rate_card=card))
        assert "\n# at the prices of our ```own.toml (llmcost_prices)\npytest " in text
        assert "\n````sh\n" in text
        assert "<sub>Prices of 2026-11-22 with our &#96;&#96;&#96;own.toml ·" in text

    def test_many_tests_are_their_files_and_many_files_are_all(self) -> None:
        many = [f"t.py::test_{each}" for each in range(100)]
        assert self.commands(*many) == ["pytest t.py --llmcost-price-date=2026-11-22"]
        many = [f"tests/test_{each}.py::test" for each in range(100)]
        assert self.commands(*many) == ["pytest --llmcost-price-date=2026-11-22"]

    def test_what_is_not_counted_is_counted_first(self) -> None:
        assert self.commands("t.py::a", call=STALE) == [
            "# count what is not counted yet (free)",
            "pytest t.py::a --llmcost-record-mode=rewrite",
            "pytest t.py::a --llmcost-price-date=2026-11-22",
        ]

    @pytest.mark.parametrize(
        ("suite_limit", "counted"),
        [(None, "pytest t.py::open"), ("1", "pytest"), ("0.001", "pytest t.py::open")],
    )
    def test_the_count_is_of_the_tests_that_wait_for_it_and_of_all_if_the_suite_does(
        self, suite_limit: str | None, counted: str
    ) -> None:
        over = make_call("0.02")
        report = make_report(
            {a_test("t.py::over"): [over], a_test("t.py::open"): [STALE]},
            budgets=[suite_budget(suite_limit)] if suite_limit else [],
        )
        text = render_markdown(judged(report, "0.01"))
        assert f"\n# count what is not counted yet (free)\n{counted} --llmcost-record-" in text

    def test_the_count_is_there_if_only_the_suite_waits_for_it(self) -> None:
        report = make_report({a_test("t.py::a"): [STALE]}, budgets=[suite_budget("1")])
        assert "\npytest --llmcost-record-mode=rewrite\n" in render_markdown(report)

    @pytest.mark.parametrize("name", ["````\n# x", "```", "`~~~`", "\x1b[31m", "x" * 9_000])
    def test_no_name_ends_the_block_or_is_a_command_of_its_own(self, name: str) -> None:
        (command,) = self.commands(f"t.py::{name}")
        words = shlex.split(command)
        assert words[1] == (f"t.py::{name}" if name.isprintable() and len(name) < 99 else "t.py")
        assert words[2:] == ["--llmcost-price-date=2026-11-22"]

    def compared(self, **fields: Any) -> list[str]:
        report = make_report({a_test("t.py::a"): [make_call("2")]})
        comparison = Comparison(**{"base_path": "base.json", **fields})
        html = to_html(render_markdown(replace(judged(report, "1"), comparison=comparison)))
        (block,) = re.findall(r"<pre.*?><code>(.*?)</code></pre>", html, re.DOTALL)
        return unescape(block).splitlines()

    def increase(self, state: str, label: str = "max_increase 10%") -> Verdict:
        verdict = judge("1", make_call("2"), scope="increase", label=label)
        return replace(verdict, state=state)

    def test_what_failed_is_run_against_the_baseline_of_the_run(self) -> None:
        assert self.compared(base_commit="9f8e7d6c5b4a", base_fetch="curl -O https://ci/base") == [
            "# base.json is the baseline, measured at 9f8e7d6",
            "curl -O https://ci/base",
            "pytest t.py::a --llmcost-price-date=2026-11-22 --llmcost-baseline=base.json",
        ]

    @pytest.mark.parametrize(
        ("kind", "fetch", "advice"),
        [
            ("usd", "", "reduce it, raise the limit, or accept it in a baseline of the repository"),
            ("usd", "gh run download 1", "reduce it, or raise the limit"),
            ("vanished", "", "bring back what vanished, or accept it"),
            ("vanished", "gh run download 1", "bring back what vanished, or let it pass"),
        ],
    )
    def test_a_baseline_that_is_fetched_is_not_to_be_written(
        self, kind: Any, fetch: str, advice: str
    ) -> None:
        verdict = replace(self.increase("exceeded"), kind=kind)
        comparison = Comparison(base_usd=None, head_usd=None, base_path="b.json", base_fetch=fetch)
        report = replace(make_report({a_test("t.py::a"): []}), comparison=comparison)
        assert run_advice(verdict, report).partition(":")[0] == advice

    @pytest.mark.parametrize("origin", ["--vanished", "--llmcost-vanished", "llmcost_vanished"])
    def test_what_vanished_passes_by_the_setting_that_forbids_it(self, origin: str) -> None:
        verdict = replace(self.increase("exceeded"), kind="vanished", origin=origin)
        comparison = Comparison(base_usd=None, head_usd=None, base_fetch="gh run download 1")
        report = replace(make_report({a_test("t.py::a"): []}), comparison=comparison)
        assert run_advice(verdict, report).endswith(f" or let it pass: {origin}=warn")

    def test_an_increase_needs_all_tests_and_its_limits(self) -> None:
        verdicts = (self.increase("within", "max_increase $5"), self.increase("exceeded"))
        change = Change(name="t.py::a", status="changed", base_usd=None, head_usd=None, usd=None,
                        verdicts=(self.increase("within", "max_test_increase $0.05"),))  # fmt: skip
        *_, command = self.compared(verdicts=verdicts, changes=(change,))
        assert command == (
            "pytest --llmcost-price-date=2026-11-22 --llmcost-baseline=base.json "
            "--llmcost-max-increase='$5' --llmcost-max-increase=10% "
            "--llmcost-max-test-increase='$0.05'"
        )

    @pytest.mark.parametrize(
        "evil", ["a\nrm -rf x", "`````\n# x", "$(rm x)", "\x1b[31m", "a; rm x"]
    )
    def test_no_foreign_text_ends_the_block_or_its_word(self, evil: str) -> None:
        broken = self.increase("exceeded", f"max_increase {evil}")
        lines = self.compared(base_path=evil, base_fetch=evil, verdicts=(broken,))
        assert len(lines) == 3
        _, path, limit = shlex.split(lines[2])[1:]
        assert path.removeprefix("--llmcost-baseline=") == clean(evil)
        assert limit.removeprefix("--llmcost-max-increase=") == clean(evil)

    @pytest.mark.parametrize("name", ["x;rm", "$(rm)", "max_increase;rm", "unheard_of"])
    def test_no_foreign_text_is_an_option(self, name: str) -> None:
        broken = self.increase("exceeded", f"{name} 10%")
        *_, command = self.compared(verdicts=(broken,))
        assert command == "pytest --llmcost-price-date=2026-11-22 --llmcost-baseline=base.json"

    def test_a_guard_that_vanished_fails_again(self) -> None:
        assert self.compared(verdicts=(judge_vanished(1, "ini"),))[-1].endswith(
            " --llmcost-vanished=fail"
        )


class TestOneCause:
    def report(self) -> Ledger:
        report = make_report({a_test(f"t.py::test_{each}"): [STALE] for each in range(12)})
        return judged(report, "1", "failed")

    def test_is_one_entry_with_what_changed_and_the_command(self) -> None:
        lines = render_markdown(self.report()).splitlines()
        entries = [line for line in lines if line.lstrip().startswith(("- ", "| "))]
        assert entries == [
            "- ❓ 12 tests cannot be checked: their prompts changed and are not counted yet.",
            "  - changed: system in all 12",
            "  - count them all (free): pytest t.py --llmcost-record-mode=rewrite",
        ] + [line for line in entries if line.startswith("| ")]
        assert rows_in_sight("\n".join(lines)) == []

    def test_has_a_command_for_all_that_the_budgets_of_the_run_wait_for(self) -> None:

        def command(owner: Any) -> str:
            spent = {a_test("t.py::a"): [STALE], a_test("t.py::b"): [STALE], owner: [STALE]}
            report = make_report(spent, budgets=[suite_budget("1")])
            rows = (*judged(report, "1").tests[:2], *report.tests[2:])
            text = render_markdown(replace(report, tests=rows))
            return text.partition("count them all (free): ")[2].partition("\n")[0]

        assert command(a_test("u.py::c")) == "pytest t.py u.py --llmcost-record-mode=rewrite"
        assert command(a_fixture("client")) == "pytest --llmcost-record-mode=rewrite"

    def test_is_said_once_and_so_is_each_other_cause_of_the_run(self) -> None:
        odd = make_call(None, caveats=sorted_caveats(["unreadable-response"]))
        path = make_budget("1", scope="path", pattern="t.py", origin="llmcost_budgets")
        report = make_report(
            {a_test("t.py::a"): [STALE], a_test("t.py::b"): [STALE], a_test("t.py::c"): [odd]},
            budgets=[suite_budget("1"), path],
        )
        report = judged(report, "1")
        cause = "the usage of a reply cannot be read"
        in_sight = render_markdown(report).partition("<details>")[0]
        assert in_sight.count(f"  - {cause}") == 1
        assert in_sight.count("(free)") == 1
        summary = as_text(render_summary(report, View()))
        assert summary.count(f"\n  {cause}") == summary.count("(free)") == 1
        assert "\n5 budgets could not be checked" in summary
        assert "5 budgets could not be checked" in in_sight

    def test_hides_no_budget_that_is_exceeded_beside_it(self) -> None:
        report = make_report({a_test(f"t.py::test_{each}"): [STALE] for each in "ab"})
        over = judge("0.5", make_call("1"), origin="t.py:9")
        one, other = judged(report, "1", "failed").tests
        other = replace(other, verdict=over, blocks=(judge("1", STALE),))
        text = render_markdown(replace(report, tests=(one, other)))
        assert "1 budget exceeded, 2 not checked" in text
        assert [name for name, *_ in rows_in_sight(text)] == ["❌ test_b t.py"]
        assert "❌ <code>t.py::test_b</code>: $1.00 is $0.50 (100 %) over the $0.50 budget" in text


class TestSize:
    def big(self, number: int, name: str = "`|@" * 50) -> Ledger:
        call = make_call(None, caveats=sorted_caveats((f"odd: {name}",)))
        report = make_report(
            {a_test(f"t.py::test_{each}_{name}"): [call] for each in range(number)},
            notes=[f"{each} {name}" for each in range(number)],
            budgets=[make_budget("0", scope="path", pattern=name, label=name)],
            incomplete=[name],
        )
        change = Change(name=name, status="new", base_usd=Decimal(0), head_usd=Decimal(1), usd=None)
        comparison = Comparison(changes=(change,) * number, notes=(name,) * number)
        return replace(judged(report, "1"), comparison=comparison)

    @pytest.mark.parametrize(
        ("most", "tests"), [(8_000, 100), (20_000, 100), (COMMENT_BYTES, 300), (200_000, 300)]
    )
    def test_is_never_above_what_was_asked_for(self, most: int, tests: int) -> None:
        text = render_markdown(self.big(tests), most_bytes=most)
        assert len(text.encode()) <= most
        assert len(text.encode()) > most / 3
        assert text.count("more left out; the JSON report has all") >= 3
        cut = {line[0] for line in text.splitlines() if "more left out; the JSON" in line}
        assert cut == {"-", "|"}, "each as what it stands below"
        assert text.count("<details>") == text.count("</details>") == 5
        assert to_html(text).count("<summary>") == 5

    def test_counts_the_budgets_that_are_left_out_and_not_their_lines(self) -> None:
        budgets = 300
        call = make_call(None, caveats=sorted_caveats(("unknown-usage: a",)))
        report = make_report({a_test(f"t.py::test_{each}"): [call] for each in range(budgets)})
        text = render_markdown(judged(report, "1"))
        section = text.partition("<summary>Each budget")[2].partition("</details>")[0]
        shown, reasons = section.count("\n- ❓"), section.count("\n  - ")
        assert 0 < shown < reasons
        assert f"\n- … {budgets - shown:,} more left out" in section

    def test_is_nothing_where_not_even_the_verdict_fits(self) -> None:
        assert render_markdown(self.big(1), most_bytes=5_000) == ""

    def test_is_a_comments_by_default(self) -> None:
        assert 20_000 < len(render_markdown(self.big(300))) < 65_536


class TestEscaping:
    def test_shows_a_hostile_name_as_it_is(self) -> None:
        html = to_html(render_markdown(hostile_report()))
        shown = unescape(html.replace("<wbr>", ""))
        assert shown.count(clean(HOSTILE)) == 3  # verdict, increase, row

    def test_lets_no_name_make_markup(self) -> None:
        html = to_html(render_markdown(hostile_report()))
        tags = set(re.findall(r"</?([a-z0-9]+)", html))
        ours = {"h3", "h4", "p", "strong", "ul", "li", "code", "table", "thead", "tbody", "tr"}
        assert tags <= ours | {"th", "td", "details", "summary", "sub", "pre", "br", "wbr"}
        assert html.count("<pre") == 1  # the command

    def test_never_begins_a_line_with_a_workflow_command(self) -> None:
        lines = render_markdown(hostile_report()).splitlines()
        assert not [line for line in lines if line.strip().startswith("::") or "##[" in line]

    @given(NASTY)
    def test_keeps_a_name_in_its_cell_and_mentions_nobody(self, name: str) -> None:
        html = to_html(f"| a | b |\n|---|---|\n| {code(name)} | {prose(name)} |\n")
        cells = re.findall(r"<td>(.*?)</td>", html.replace("<wbr>", ""), re.DOTALL)
        assert len(cells) == 2
        assert re.fullmatch(r"<code>[^<]*</code>", cells[0])
        assert "<" not in cells[1]
        squeezed = " ".join(clean(name).split())
        shown = [unescape(each).replace("\u200b", "") for each in (cells[0][6:-7], cells[1])]
        assert [" ".join(each.split()) for each in shown] == [squeezed, squeezed]
        assert not re.search(r"[@#]\w", unescape(cells[1]))

    def test_makes_no_link_of_an_email_in_the_name_of_a_test(self) -> None:
        assert "<a" not in to_html(code("test_mail[user@example.com]"))
        assert code("t.py::test@group") == "<code>t.py::test&#64;group</code>"

    @pytest.mark.parametrize("text", ["http://e.vil/x", "www.e.vil", "WWW.e.vil", "ftp://e.vil"])
    def test_makes_no_links(self, text: str) -> None:
        assert "<a" not in to_html(f"{code(text)} {prose(text)}")

    def test_shows_what_is_invisible(self) -> None:
        assert clean("a\x1b[31m\u202e\udc80\nb") == "a\\x1b[31m\\u202e\\udc80 b"

    def test_lets_a_long_name_be_broken_so_that_the_figures_beside_it_stay_in_sight(self) -> None:
        name = f"t.py::test_{'x' * 200}"
        written = code(name).removeprefix("<code>").removesuffix("</code>")
        assert written.replace("<wbr>", "") == name
        assert max(map(len, written.split("<wbr>"))) == 40

    def test_cuts_what_nobody_reads(self) -> None:
        assert clean("x" * 301) == f"{'x' * 197}...{'x' * 100}"
        names = {clean(f"t.py::test[{'x' * 10_000}-{number}]", 2_000) for number in range(20)}
        assert len(names) == 20
        assert max(map(len, names)) == 2_000
        assert clean(("\n" * 500).join("abc")) == "a ... c"
        assert clean("x" * 300) == "x" * 300
        assert len(clean("\x00" * 300)) == 300
