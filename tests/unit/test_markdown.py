from __future__ import annotations

import re
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from golden_files import assert_golden
from hostile_report import HOSTILE, hostile_report, judge
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import a_test, make_budget, make_call, make_report, suite_budget

from pytest_llmcost.ledger.ledger import Change, Comparison, Ledger
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.reports.escape import clean, code, prose
from pytest_llmcost.reports.markdown import COMMENT_BYTES, MARKER, render_markdown

NASTY = st.text(alphabet=st.sampled_from("ab/:._*`|<>&@#~[]()!\\$%_-+={}\n\r\t\x00\x1b\u202e "))


def to_html(markdown: str) -> str:
    cmarkgfm = pytest.importorskip("cmarkgfm", reason="GitHub's own Markdown is not installed")
    unsafe = cmarkgfm.Options.CMARK_OPT_UNSAFE
    return str(cmarkgfm.github_flavored_markdown_to_html(markdown, options=unsafe))


def test_a_run_looks_like_this() -> None:
    assert_golden("comment.md", render_markdown(hostile_report()))


def test_a_run_without_budgets_is_short() -> None:
    report = make_report({a_test("t.py::test"): [make_call("0.5")]})
    assert_golden("plain.md", render_markdown(report))


class TestHeading:
    def heading(self, report: Ledger) -> str:
        lines = render_markdown(report).splitlines()
        assert lines[0] == MARKER
        return lines[1]

    def test_comes_first_and_counts_what_is_broken(self) -> None:
        assert self.heading(hostile_report()) == (
            "### ❌ Merging adds $0.0031 (+0.8 %) to the tests that ran · 3 budgets exceeded · "
            "3 budgets could not be checked"
        )

    @pytest.mark.parametrize(
        ("usd", "heading"),
        [
            ("1", "### ✅ The prompts cost $1.00 · within its 1 budget"),
            ("1.000000001", "### ❌ The prompts cost $1.00 · 1 budget exceeded"),
            (None, "### ❓ The prompts cost an unknown amount · 1 budget could not be checked"),
        ],
    )
    def test_says_how_the_suite_stands(self, usd: str | None, heading: str) -> None:
        report = make_report({a_test("t"): [make_call(usd)]}, budgets=[suite_budget("1")])
        assert self.heading(report) == heading

    def test_counts_the_last_attempt_alone(self) -> None:
        call = make_call("2")
        base = make_report({a_test("t"): [call], a_test("t", attempt=2): [make_call("1")]})
        verdicts = (judge("1", call), judge("1", make_call("1")))
        rows = [replace(row, verdict=each) for row, each in zip(base.tests, verdicts, strict=True)]
        assert "within its 1 budget" in self.heading(replace(base, tests=tuple(rows)))

    def test_leaves_expected_breaches_out(self) -> None:
        report = make_report({a_test("t"): [make_call("2")]})
        row = replace(report.tests[0], verdict=judge("1", make_call("2")), outcome="xfailed")
        assert self.heading(replace(report, tests=(row,))) == "### The prompts cost $2.00"


class TestAmounts:
    def test_never_round_to_the_other_side_of_a_ceiling(self) -> None:
        report = make_report(
            {a_test("t.py::test"): [make_call("1.000000001")]}, budgets=[suite_budget("1")]
        )
        call = make_call("1.000000001")
        row = replace(report.tests[0], verdict=judge("1", call))
        text = render_markdown(replace(report, tests=(row,)))
        assert "$1.000000001 is $0.000000001 (under 0.1 %) over the $1.00 suite budget" in text
        assert (
            "| ❌ <code>t.py::test</code> | 1 | 100 | 0 | 0 | 0 | $1.000000001 | $1.00 | 101% |"
            in text
        )

    def test_of_other_kinds_are_whole_numbers_with_their_unit(self) -> None:
        report = make_report({a_test("t.py::test"): [make_call("1")]})
        verdict = judge("8000", make_call("1"), kind="input_tokens")
        text = render_markdown(replace(report, tests=(replace(report.tests[0], verdict=verdict),)))
        assert "| $1.00 | 8,000 input tokens | 1% |" in text


class TestBaseline:
    def text(self, **fields: Any) -> str:
        comparison = Comparison(
            **{"base_usd": Decimal(1), "head_usd": Decimal(1), "unchanged": 3, **fields}
        )
        return render_markdown(replace(make_report({}), comparison=comparison))

    def test_says_what_merging_adds_or_saves(self) -> None:
        assert "Merging does not change the cost of the suite" in self.text()
        grown = self.text(change_usd=Decimal("0.25"), head_usd=Decimal("1.25"))
        assert "### Merging adds $0.25 (+25 %) to the suite" in grown
        assert "**+$0.25** (+25 %): $1.00 → $1.25, 3 unchanged." in grown
        shrunk = self.text(change_usd=Decimal("-0.25"), head_usd=Decimal("0.75"))
        assert "### Merging saves $0.25 (-25 %) in the suite" in shrunk
        tiny = self.text(change_usd=Decimal("0.00001"), head_usd=Decimal("1.00001"))
        assert "**+$0.00001** (+under 0.1 %): " in tiny
        unknown = self.text(change_usd=None)
        assert "### Merging adds an unknown amount to the suite\n" in unknown
        assert "**?**: $1.00 → $1.00" in unknown

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
        other = replace(change, name="t.py::b", parts=("system", "messages.0"))
        text = self.text(changes=(change, other))
        assert "- system changed in 2 tests\n" in text
        assert "<code>messages.0</code>" in text


def test_a_comparison_without_changes_is_one_sentence() -> None:
    report = replace(make_report({}), comparison=Comparison(unchanged=3))
    assert "#### Against the baseline\n\n**±$0.00**: $0.00 → $0.00, 3 unchanged.\n\n<sub>" in (
        render_markdown(report)
    )


class TestOneCause:
    def report(self) -> Ledger:
        stale = make_call(None, caveats=sorted_caveats(["stale: system"]), sampling_calls=())
        report = make_report({a_test(f"t.py::test_{each}"): [stale] for each in range(12)})
        rows = [replace(row, outcome="failed", verdict=judge("1", stale)) for row in report.tests]
        return replace(report, tests=tuple(rows))

    def test_is_one_entry_with_what_changed_and_the_command(self) -> None:
        lines = render_markdown(self.report()).splitlines()
        entries = [line for line in lines if line.lstrip().startswith("- ")]
        assert entries == [
            "- ❓ 12 tests cannot be checked: their prompts changed and are not counted yet.",
            "  - changed: system in all 12",
            "  - count them all (free): pytest t.py --llmcost-record-mode=rewrite",
        ]


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
        rows = [replace(row, verdict=judge("1", call)) for row in report.tests]
        comparison = Comparison(changes=(change,) * number, notes=(name,) * number)
        return replace(report, tests=tuple(rows), comparison=comparison)

    @pytest.mark.parametrize(
        ("most", "tests"), [(8_000, 100), (20_000, 100), (COMMENT_BYTES, 300), (1_000_000, 1_500)]
    )
    def test_is_never_above_what_was_asked_for(self, most: int, tests: int) -> None:
        text = render_markdown(self.big(tests), most_bytes=most)
        assert len(text.encode()) <= most
        assert len(text.encode()) > most / 3
        assert text.count("more left out; the JSON report has all") >= 3
        assert text.count("<details>") == text.count("</details>") == 2

    def test_is_nothing_where_not_even_the_verdict_fits(self) -> None:
        assert render_markdown(self.big(1), most_bytes=5_000) == ""

    def test_is_a_comments_by_default(self) -> None:
        assert 20_000 < len(render_markdown(self.big(300))) < 65_536


class TestEscaping:
    def test_shows_a_hostile_name_as_it_is(self) -> None:
        html = to_html(render_markdown(hostile_report()))
        assert unescape(html).count(clean(HOSTILE)) == 4  # verdict, increase, change, row

    def test_lets_no_name_make_markup(self) -> None:
        html = to_html(render_markdown(hostile_report()))
        tags = set(re.findall(r"</?([a-z0-9]+)", html))
        ours = {"h3", "h4", "p", "strong", "ul", "li", "code", "table", "thead", "tbody", "tr"}
        assert tags <= ours | {"th", "td", "details", "summary", "sub", "pre"}
        assert "<pre" not in html

    def test_never_begins_a_line_with_a_workflow_command(self) -> None:
        lines = render_markdown(hostile_report()).splitlines()
        assert not [line for line in lines if line.strip().startswith("::") or "##[" in line]

    @given(NASTY)
    def test_keeps_a_name_in_its_cell_and_mentions_nobody(self, name: str) -> None:
        html = to_html(f"| a | b |\n|---|---|\n| {code(name)} | {prose(name)} |\n")
        cells = re.findall(r"<td>(.*?)</td>", html, re.DOTALL)
        assert len(cells) == 2
        assert re.fullmatch(r"<code>[^<]*</code>", cells[0])
        assert "<" not in cells[1]
        squeezed = " ".join(clean(name).split())
        assert " ".join(unescape(cells[0][6:-7]).split()) == squeezed
        assert " ".join(unescape(cells[1]).replace("\u200b", "").split()) == squeezed
        assert not re.search(r"[@#]\w", unescape(cells[1]))

    @pytest.mark.parametrize("text", ["http://e.vil/x", "www.e.vil", "WWW.e.vil", "ftp://e.vil"])
    def test_makes_no_links(self, text: str) -> None:
        assert "<a" not in to_html(f"{code(text)} {prose(text)}")

    def test_shows_what_is_invisible(self) -> None:
        assert clean("a\x1b[31m\u202e\udc80\nb") == "a\\x1b[31m\\u202e\\udc80 b"

    def test_cuts_what_nobody_reads(self) -> None:
        assert clean("x" * 301) == "x" * 297 + "..."
        assert clean("x" * 300) == "x" * 300
        assert len(clean("\x00" * 300)) == 300
