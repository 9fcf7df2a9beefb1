"""The page of a run: complete in itself, the same figures as everywhere, safe with any name."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from hostile_report import hostile_report
from msgspec.structs import replace
from page_run import big_run, page_history, page_run
from sample_reports import a_test, judge, make_call, make_report, suite_budget
from sample_run import sample_run

from pytest_llmcost.ledger.ledger import (
    Change,
    Comparison,
    Ledger,
    PartChange,
    PayloadFacts,
    RunRecord,
)
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import ByCategory
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.comparisons import COMPARED_WITH, compare_runs, run_cells
from pytest_llmcost.reports.html import _HEIGHT, render_html
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.plain_text import clean
from pytest_llmcost.reports.rows import categories_of
from pytest_llmcost.reports.run_wording import describe_total, marks_of, notes_of
from pytest_llmcost.reports.terminal import View, render_summary
from pytest_llmcost.reports.wording import sentence


class Page(HTMLParser):
    """What a page is made of, as a parser of HTML reads it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def section_of(html: str, name: str) -> str:
    """The text of one section."""
    (found,) = re.findall(
        rf'<section [^>]*aria-labelledby="{name}-title">.*?</section>', html, re.S
    )
    return Page(found).text


def data_of(html: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    data: dict[str, Any] = json.loads(found)
    return data


def rows_of_page(html: str) -> list[dict[str, Any]]:
    data = data_of(html)
    return [dict(zip(data["rowFields"], row, strict=True)) for row in data["rows"]]


@pytest.mark.parametrize("run", [sample_run, hostile_report, page_run])
def test_the_page_says_the_total_and_every_broken_budget_as_all_reports_do(run: Any) -> None:
    ledger = run()
    text = Page(render_html(ledger)).text
    assert describe_total(ledger) in text
    for mark in marks_of(ledger):
        if mark.verdict.state != "within" or mark.verdict.is_near:
            assert sentence(mark.verdict) in text


def test_a_row_has_the_figures_of_the_terminal() -> None:
    ledger = sample_run()
    lines = [line.text for line in render_summary(ledger, View(width=200, rows=0))]
    for row in rows_of_page(render_html(ledger)):
        name = row["name"].partition("[")[0]
        (line, *_) = [line for line in lines if f" {name}" in line]
        if "[" not in row["name"]:
            assert row["cost"] in line
            assert row["used"] in line
            assert row["tokens-input"] in line if row["cost"] != "?" else "?" in line


def test_tags_stand_beside_models_where_there_are_any() -> None:
    calls = [make_call("1", tags=("judge",)), make_call("2", tags=("judge", "slow"))]
    text = Page(render_html(make_report({a_test("t.py::t"): calls}))).text
    assert re.search(r"By tag and token category .* judge \$3\.00 .* slow \$2\.00 ", text)
    assert "By tag" not in Page(render_html(sample_run())).text


@pytest.mark.parametrize("run", [sample_run, hostile_report, page_run])
def test_each_token_category_has_the_figures_of_the_ledger_in_page_and_comment(run: Any) -> None:
    ledger = run()
    section = section_of(render_html(ledger), "categories")
    comment = render_markdown(ledger)
    found = categories_of(ledger.totals)
    assert EXACT.plus(sum(each.usd or 0 for each in found)) == ledger.totals.usd
    for each in found:
        is_lower = amounts_of(ledger).is_least
        cells = each.cells(ledger.totals.usd, is_least=is_lower)
        assert " ".join([each.name, *cells]).strip() in section
        assert f"| {' | '.join([each.name, *cells])} |" in comment
    assert section.endswith(f"total {describe_total(ledger)}")


def test_a_ledger_without_prices_by_category_shows_their_tokens_alone() -> None:
    ledger = make_report({a_test("t.py::t"): [make_call("1")]})
    old = replace(ledger, totals=replace(ledger.totals, by_category=ByCategory()))
    assert section_of(render_html(old), "categories") == (
        "By token category Category Tokens input, not cached 100"
    )
    assert "By token category" not in render_markdown(old)


def test_a_category_of_which_the_price_is_unknown_is_never_zero() -> None:
    calls = [make_call("1"), make_call(None, usage=Usage(input_tokens=5, output_tokens=7))]
    section = section_of(render_html(make_report({a_test("t.py::t"): calls})), "categories")
    assert section.endswith("≥105 ≥$1.0000 100 % output ≥7 ? total at least $1.00")


@pytest.mark.parametrize("run", [sample_run, hostile_report, page_run])
def test_the_root_of_the_tree_is_the_total_of_the_run(run: Any) -> None:
    ledger = run()
    assert data_of(render_html(ledger))["tree"][1] == float(ledger.totals.usd)


def test_the_sums_of_the_tree_are_the_total() -> None:
    ledger = page_run()
    data = data_of(render_html(ledger))
    name, _, cost, share, children = data["tree"]
    assert (name, cost, share) == ("all tests", describe_total(ledger), "100 %")
    tests = next(child for child in children if child[0] == "tests/")
    outside = next(child for child in children if child[0] != "tests/")
    assert [child[2] for child in (tests, outside)] == ["≥$0.4993", "$0.0423"]

    def leaves(node: Any) -> list[int]:
        if isinstance(node, int):
            return [node]
        return [leaf for each in node[4] for leaf in leaves(each)]

    drawn = sorted(leaves(data["tree"]))
    assert drawn == [number for number, row in enumerate(data["rows"]) if row[4]]


def test_what_is_unknown_is_never_zero() -> None:
    (row,) = rows_of_page(render_html(make_report({a_test("t.py::test"): [make_call(None)]})))
    assert (row["usd"], row["cost"]) == (None, "?")


def test_the_notes_are_those_of_the_comment() -> None:
    caveats = sorted_caveats(["cache-miss: system_changed (4,200 tokens)"])
    ledger = make_report({a_test("t.py::t"): [make_call("1", usd_high=None, caveats=caveats)]})
    ledger = replace(ledger, notes=("a prompt is near a length band",))
    notes = list(notes_of(ledger))
    assert len(notes) == 3
    assert all(note in Page(render_html(ledger)).text for note in notes)


def test_every_attempt_is_a_row_and_the_last_one_has_the_budget() -> None:
    rows = {row["name"]: row for row in rows_of_page(render_html(hostile_report()))}
    assert rows["test_fix (attempt 1)"]["verdicts"] == []
    assert rows["test_fix"]["mark"] == "unverified"


def test_the_budgets_have_no_section_where_tests_alone_have_limits_and_keep_them() -> None:
    kept = judge("1", make_call("0.1"), scope="increase")
    change = Change(kind="test", name="t.py::a", status="changed", usd=None, verdicts=(kept,))
    html = render_html(replace(make_report({}), comparison=Comparison(changes=(change,))))
    assert "Within its budget" in Page(html).text
    assert "budgets-title" not in html


def test_a_run_without_calls_is_a_page_too() -> None:
    assert "No budgets are set" in Page(render_html(make_report({}))).text
    kept = make_report({}, budgets=[suite_budget("1")])
    assert "Within its budget" in Page(render_html(kept)).text
    failed = Page(render_html(replace(kept, run=RunRecord(exit_status=1)))).text
    assert "Within its budget, but the run failed" in failed
    assert "✓ Within" not in failed
    text = Page(render_html(replace(kept, run=RunRecord(has_tests=False)))).text
    assert "No test ran" in text
    assert "Within its" not in text


def test_a_page_needs_no_network_whatever_names_try() -> None:
    for tag, attributes in Page(render_html(hostile_report())).tags:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


@pytest.mark.parametrize(
    "name",
    [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "\u2028\u202e\x00",
        "a\udc80b",
        "{{ 7*7 }}",
    ],
)
def test_no_name_ends_the_data_or_is_run_as_a_template(name: str) -> None:
    html = render_html(make_report({a_test(f"t.py::test[{name}]"): [make_call("0.1", model=name)]}))
    html.encode()
    (row,) = rows_of_page(html)
    assert row["name"] == clean(f"test[{name}]")
    assert [tag for tag, _ in Page(html).tags].count("script") == 2


def page_parts(run: Ledger) -> dict[str, dict[str, tuple[float, str]]]:
    """Test -> part -> its width in the tree, and what is said of it."""
    html = render_html(run)
    texts = data_of(html)["texts"]
    return {
        row["name"]: {texts[name]: (width, texts[figure]) for name, width, figure in row["parts"]}
        for row in rows_of_page(html)
        if row["parts"]
    }


def test_the_parts_of_a_prompt_have_the_figures_of_the_comment() -> None:
    ledger = page_run()
    comment = render_markdown(ledger).replace("<wbr>", "")
    found = page_parts(ledger)["test_answer_with_sources"]
    assert {name: figure for name, (_, figure) in found.items()} == {
        "system": "1,428 tokens (new)",
        "messages.0 (document)": "702 tokens (unchanged)",
        "messages.0 (text)": "668 tokens (unchanged)",
        "rest": "12 tokens (unchanged)",
        "messages.1": "31 → 0 tokens (removed)",
    }
    name = "<code>tests/rag/test&#95;answers.py::test&#95;answer&#95;with&#95;sources</code>"
    for part in (
        "<code>system.0</code> | 1,428 tokens (new) |",
        "<code>rest</code> | 12 tokens (unchanged) |",
    ):
        assert f"| {name} | {part}" in comment or f"| {unescape(name)} | {part}" in comment


def test_parts_are_as_wide_as_their_share_of_what_the_prompts_cost() -> None:
    usage = Usage(input_tokens=100, output_tokens=20)  # half of it is output
    call = make_call("2", usage=usage, fingerprint="1:a")
    facts = PayloadFacts(model="m", parts_tokens={"system": 75, "rest": 25})
    run = make_report({a_test("t.py::test"): [call]}, payloads={"1:a": facts})
    assert page_parts(run)["test"] == {
        "system": (0.375, "75 tokens"),
        "rest": (0.125, "25 tokens"),
    }
    html = render_html(run)
    name, width, figure = rows_of_page(html)[0]["answer"]
    texts = data_of(html)["texts"]
    assert (texts[name], width, texts[figure]) == ("output", 0.5, "$1.0000")


def test_ten_thousand_tests_with_parts_stay_under_five_megabytes() -> None:
    ledger = big_run()
    parts = tuple(
        PartChange(name=test.nodeid, part=f"messages.{number}", before=number, after=number + 1)
        for test in ledger.tests
        for number in range(10)
    )
    html = render_html(replace(ledger, comparison=Comparison(parts=parts)))
    assert len(html.encode()) < 5_000_000
    row = rows_of_page(html)[0]
    assert (len(row["parts"]), row["more_parts"]) == (5, 5)


def test_the_runs_before_are_a_line_with_the_figures_of_llmcost_history() -> None:
    ledger, runs = page_run(), page_history()
    html = render_html(ledger, runs)
    text = section_of(html, "history")
    for run in runs:
        at, commit, calls, cost, partial = run_cells(run)
        assert " ".join(filter(None, (at, partial, commit, calls, cost))) in text
    assert all(line in text for line in compare_runs(runs[-1], runs[:-1], COMPARED_WITH))
    assert describe_total(ledger).removeprefix("at least ") in text
    svg = re.search(r'<svg [^>]*role="img".*?</svg>', html)
    assert svg
    assert svg[0].count('class="run') == 11, "the run of unknown cost is no point"
    assert svg[0].count('class="run partial"') == svg[0].count('class="hole"') == 1
    assert svg[0].count('class="run this"') == 1
    way = re.search(r'class="way" d="(.*?)"', svg[0])
    assert way
    assert (way[1].count("M"), way[1].count("L")) == (2, 8), "the line is interrupted where it is"


def test_guards_that_vanished_are_a_footnote_and_both_commits_are_named() -> None:
    html = render_html(page_run())
    text = Page(html).text
    assert "What the prompts cost at 1a2b3c4" in text
    assert "Against the baseline 9f8e7d6" in text
    assert ', <a href="#vanished">1 guard vanished¹</a>' in html
    note = section_of(html, "vanished")
    assert note == (
        "¹ Guards of the baseline that vanished tests/agents/test_support.py::test_escalates: "
        "skipped (baseline: $0.0214 in 2 calls, budget $0.03)"
    )
    assert note.partition("vanished ")[2] in unescape(render_markdown(page_run()))


@pytest.mark.parametrize("runs", [[], page_history()[-1:], page_history()[5:7]])
def test_fewer_than_two_known_runs_are_no_line(runs: list[Run]) -> None:
    assert "From run to run" not in render_html(page_run(), runs)


@pytest.mark.parametrize(("most", "ys"), [("0", ["H", "H"]), ("0.5", ["H", "0.0"])])
def test_the_most_expensive_run_is_at_the_top_and_one_that_is_free_at_the_foot(
    most: str, ys: list[str]
) -> None:
    run = replace(page_history()[0], incomplete=())
    runs = [replace(run, usd=Decimal(usd)) for usd in ("0", most)]
    html = render_html(page_run(), runs)
    assert "All runs, from" in section_of(html, "history")
    assert 'class="run this"' not in html, "the page is of none of them"
    way = re.search(r'class="way" d="(.*?)"', html)
    assert way
    foot = f"{_HEIGHT:.1f}"
    assert re.findall(r" ([\d.]+)", way[1]) == [foot if y == "H" else y for y in ys]


def test_of_two_runs_that_end_within_a_second_the_later_one_is_that_of_the_page() -> None:
    *before, last = page_history()
    html = render_html(page_run(), [*before, last, last])
    assert html.count('class="run this"') == 1


def test_of_a_long_history_the_last_runs_are_drawn_and_no_text_is_markup() -> None:
    evil = "<script>alert(1)</script>"
    runs = [replace(page_history()[0], at=evil, commit=evil, incomplete=(evil,))] * 100
    html = render_html(page_run(), runs)
    assert "The last 60 of 100 runs, from" in section_of(html, "history")
    assert [tag for tag, _ in Page(html).tags].count("script") == 2


def test_a_test_of_many_calls_shows_the_most_expensive_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_llmcost.reports.html._MOST_INNER", 2)
    calls = [make_call(usd) for usd in ("0.1", "0.3", "0.2")]
    (row,) = rows_of_page(render_html(make_report({a_test("t.py::test"): calls})))
    assert row["calls"] == 3
    assert [call[1] for call in row["found"]] == ["$0.3000", "$0.2000"]
