"""The page in a real browser: it sorts, searches, unfolds and prints, and no name runs a script."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from browser import Browser, browser, why_no_browser
from hostile_report import hostile_report
from msgspec.structs import replace
from page_run import big_run, page_history, page_run
from sample_reports import a_test, judge, make_budget, make_call, make_report

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.ledger.ledger import Ledger, PayloadFacts
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.html import render_html
from pytest_llmcost.reports.plain_text import usd_cell

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "-")

NAMES = "return [...document.querySelectorAll('#rows .unfold .name')].map(each => each.textContent)"
CELLS = "return [...document.querySelectorAll('#rows tr:not(.inner) .c-{}')].map(e => e.innerText)"
WHITE = "rgb(255, 255, 255)"
ATTACKS = (
    "<script>document.title='run'</script>",
    "</script><script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "\" autofocus onfocus=\"document.title='run'",
    "<style>body{display:none}</style>",
    "{{ 7 * 7 }}",
    "W" * 400,
    "\u202eesrever",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


class Pages:
    """Opens runs as pages, on a wide light screen."""

    def __init__(self, chromium: Browser, folder: Path) -> None:
        self.chromium, self.folder = chromium, folder

    def __call__(self, ledger: Ledger, history: Sequence[Run] = ()) -> Browser:
        page = self.folder / "cost.html"
        page.write_bytes(render_html(ledger, history).encode())
        self.chromium.look(1200)
        self.chromium.open(page)
        return self.chromium


@pytest.fixture
def opened(chromium: Browser, tmp_path: Path) -> Pages:
    return Pages(chromium, tmp_path)


def click(page: Browser, selector: str) -> None:
    page.run("document.querySelector(arguments[0]).click()", selector)


def sort_by(page: Browser, key: str) -> str:
    """Press the head of a column; return which way it is sorted, as a screen reader says it."""
    click(page, f"#heads .c-{key} button")
    sort: str = page.run(f"return document.querySelector('#heads .c-{key}').ariaSort")
    return sort


def search(page: Browser, text: str) -> list[str]:
    box = page.driver.find_element("id", "search")
    box.clear()
    box.send_keys(text)
    page.run("document.querySelector('#search').dispatchEvent(new Event('input'))")
    names: list[str] = page.run(NAMES)
    return names


@pytest.mark.parametrize("run", [page_run, hostile_report, lambda: make_report({})])
def test_a_page_opens_without_a_word_in_the_console(opened: Pages, run: object) -> None:
    assert callable(run)
    page = opened(run())
    assert page.console() == []


def test_every_column_sorts_both_ways(opened: Pages) -> None:
    page = opened(page_run())
    assert page.run(CELLS.format("cost"))[:2] == ["$0.1892", "$0.0734"]
    assert sort_by(page, "cost") == "ascending"
    assert page.run(CELLS.format("cost"))[0] == "$0.0004"
    assert page.run(CELLS.format("cost"))[-1] == "?", "what is unknown comes last, either way"
    assert sort_by(page, "tokens-input") == "descending"
    inputs = [int(each.replace(",", "")) for each in page.run(CELLS.format("tokens-input"))[:-1]]
    assert inputs == sorted(inputs, reverse=True)
    assert sort_by(page, "share") == "descending"
    assert page.run(CELLS.format("share"))[0].startswith("113%")
    assert sort_by(page, "name") == "ascending"
    assert page.run("return document.querySelectorAll('[aria-sort$=ending]').length") == 1


def test_what_breaks_a_limit_of_nothing_uses_more_of_it_than_any_share(opened: Pages) -> None:
    call = make_call("0.1")
    limits = {"t.py::kept": "1", "t.py::over": "0.05", "t.py::none": "0", "t.py::near": "0.11"}
    run = make_report({a_test(name): [call] for name in limits})
    tests = (
        replace(test, verdict=judge(limits[test.nodeid], call), outcome="failed")
        for test in run.tests
    )
    page = opened(replace(run, tests=tuple(tests)))
    assert sort_by(page, "share") == "descending"
    names = [each.rpartition(" ")[2] for each in page.run(NAMES)]
    assert names == ["none", "over", "near", "kept"]


def test_search_finds_tests_files_and_models_and_the_count_is_said(opened: Pages) -> None:
    page = opened(page_run())
    assert len(search(page, "rag rerank")) == 2
    assert len(search(page, "claude-haiku")) == 5
    assert search(page, "no such test") == []
    status = page.run("return document.querySelector('[role=status]').innerText")
    assert status == "0 of 21 rows"


def test_a_filter_shows_the_tests_over_budget(opened: Pages) -> None:
    page = opened(page_run())
    click(page, "#filters button:nth-child(2)")
    assert page.run(NAMES) == ["✗ over budget or against a rule: test_answer_with_sources"]
    pressed = "return [...document.querySelectorAll('#filters button')].map(e => e.ariaPressed)"
    assert page.run(pressed) == ["false", "true", "false", "false"]


def test_a_row_unfolds_to_its_budget_and_its_calls_by_keyboard(opened: Pages) -> None:
    page = opened(page_run())
    search(page, "test_answer_with_sources")
    page.run("document.querySelector('#rows .unfold').focus()")
    page.press("ENTER")
    assert page.run("return document.activeElement.ariaExpanded") == "true"
    inner = page.run("return [...document.querySelectorAll('tr.inner')].map(e => e.innerText)")
    assert "$0.0113 is $0.0013 (13 %) over the $0.01 budget set at" in inner[0]
    assert "system 1,428 tokens (new)" in inner[1]
    assert [re.split(r"\s+", each.strip()) for each in inner[2:]] == [
        ["claude-opus-4-7", "$0.0056", "2,810", "0", "0", "206"]
    ] * 2
    page.press("ENTER")
    assert page.run("return document.querySelectorAll('tr.inner').length") == 0


def test_a_test_has_its_parts_in_the_tree_and_below_its_row(opened: Pages) -> None:
    run = page_run()
    page = opened(run)
    cells = "return [...document.querySelectorAll('.cell.part')].map(each => each.ariaLabel)"
    test = "tests/agents/test_research.py::test_plan_search_write"
    assert page.run(cells)[0] == f"{test}: system 5,214 tokens (unchanged)"
    (row,) = (each for each in run.tests if each.nodeid == test)
    output = usd_cell(Amounts.of(row.calls).by_category.output_usd)
    assert f"{test}: output {output}" in page.run(cells)
    click(page, ".cell.part")
    parts = "return [...document.querySelectorAll('.parts li')].map(each => each.innerText)"
    assert page.run(parts)[:3] == [
        "system 5,214 tokens (unchanged)",
        "messages.1 2,119 tokens (unchanged)",
        "tools.search 480 → 948 tokens (+98 %)",
    ]
    assert page.run("return document.activeElement.innerText").startswith("test_plan_search_write")
    assert page.console() == []


def test_the_tree_is_walked_by_keyboard_and_leads_to_the_table(opened: Pages) -> None:
    page = opened(page_run())
    label = "return document.activeElement.ariaLabel"
    page.run("document.querySelector('.cell').focus()")
    assert page.run(label) == "all tests at least $0.5416, 100 % of all"
    page.press("TAB")
    page.press("TAB")
    assert page.run(label) == "tests/agents/ ≥$0.3358, 62 % of all"
    for _ in range(20):
        if not page.run(label).startswith("tests/test_summary.py $0.0734"):
            page.press("TAB")
    page.press("ENTER")
    assert page.run(label).startswith("tests/test_summary.py $0.0734")
    page.press("TAB")
    page.press("ENTER")
    assert page.run("return document.activeElement.innerText").startswith("test_summary_of_a_contr")
    assert page.run("return document.activeElement.ariaExpanded") == "true"
    assert page.console() == []


def test_a_test_of_the_tree_is_found_whatever_the_table_shows(opened: Pages) -> None:
    """Also among more rows than are drawn at once whose names begin with its own."""
    names = ["t.py::test_it", *(f"t.py::test_it_{number}" for number in range(300))]
    calls = [make_call("0.25"), *(make_call("0.3") for _ in range(300))]
    ledger = make_report({a_test(name): [call] for name, call in zip(names, calls, strict=True)})
    over = replace(ledger.tests[-1], verdict=judge_calls(make_budget("0.01"), [calls[-1]]))
    page = opened(replace(ledger, tests=(*ledger.tests[:-1], over)))
    click(page, "#filters button:nth-child(2)")
    assert len(page.run(NAMES)) == 1
    click(page, f"[aria-label='{names[0]} $0.2500']")
    assert page.run(NAMES) == ["test_it"]
    assert page.run("return document.activeElement.innerText").startswith("test_it\n")
    pressed = "return [...document.querySelectorAll('#filters button')].map(e => e.ariaPressed)"
    assert page.run(pressed) == ["true", "false"]


def test_what_can_be_pressed_is_a_button_with_a_name(opened: Pages) -> None:
    page = opened(page_run())
    nameless = """
        return [...document.querySelectorAll('button, input, a')].filter(each =>
            !(each.innerText.trim() || each.ariaLabel || each.labels?.[0]?.innerText.trim()))
            .map(each => each.outerHTML)
    """
    assert page.run(nameless) == []
    assert page.run("return document.querySelectorAll('[onclick], div[tabindex]').length") == 0


def a_long_limit() -> Ledger:
    """A budget of a part of a prompt, whose limit is longer than its column."""
    call, part = make_call("0.01", fingerprint="1:a"), "tools.search_orders_by_customer"
    ledger = make_report({a_test("tests/t.py::test_the_tools"): [call]})
    budget = make_budget("300", kind="parts", part=part)
    verdict = judge_calls(budget, [call], parts={"1:a": {part: 687}})
    return replace(ledger, tests=(replace(ledger.tests[0], verdict=verdict, outcome="failed"),))


def a_lower_bound() -> Ledger:
    """A run of which not everything is known, and what is known is a long number."""
    usage = Usage(input_tokens=9_000_000, cache_read_tokens=40_000_000, output_tokens=100)
    calls = [make_call("1234.5678", usage=usage), make_call("0.0001"), make_call(None)]
    return make_report({a_test("tests/t.py::test_a"): calls})


@pytest.mark.parametrize("width", [320, 400, 640, 1001, 1200])
@pytest.mark.parametrize("run", [page_run, hostile_report, a_long_limit, a_lower_bound])
def test_a_page_never_scrolls_sideways(opened: Pages, run: object, width: int) -> None:
    assert callable(run)
    page = opened(run())
    page.look(width)
    page.run("document.querySelectorAll('#rows .unfold').forEach(each => each.click())")
    assert page.run("return document.documentElement.scrollWidth") <= width
    cut = """
        return [...document.querySelectorAll('td, #table th, dd, .used, .limit-text')]
            .filter(each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth)
            .map(each => each.innerText)
    """
    assert page.run(cut) == []


def contrast(page: Browser, selector: str) -> float:
    """The contrast of a text with the page, by the formula of WCAG 2."""
    script = """
        const rgb = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        return [rgb(getComputedStyle(document.querySelector(arguments[0])).color),
                rgb(getComputedStyle(document.body).backgroundColor)];
    """

    def luminance(colour: list[float]) -> float:
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in (each / 255 for each in colour)
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    least, most = sorted(map(luminance, page.run(script, selector)))
    return (most + 0.05) / (least + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_are_readable(opened: Pages, dark: bool) -> None:
    page = opened(page_run())
    page.look(1200, dark=dark)
    signs = ("h1 .sign", ".near .sign", ".within .sign")
    texts = ("h1", ".muted", ".hint", *signs, "tr.exceeded .used")
    assert all(contrast(page, selector) >= 4.5 for selector in texts)
    background = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == WHITE) is not dark


def test_the_line_from_run_to_run_has_a_text_and_a_table(opened: Pages) -> None:
    page = opened(page_run(), page_history())
    summary = page.driver.find_element("css selector", ".history svg").accessible_name
    assert summary.startswith("All runs, from 2026-11-14 09:14:21 ($0.4102) to 2026-11-25")
    page.run("document.querySelector('details').open = true")
    box = "const box = document.querySelector('.history svg').getBoundingClientRect();"
    for width in (400, 1200):
        page.look(width)
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert page.run(f"{box} return [box.left >= 0, box.right <= innerWidth, box.height]") == [
            *(True, True, 120)
        ]
    rows = "return document.querySelectorAll('details tbody tr').length"
    assert page.run(rows) == 12
    assert page.console() == []


def test_a_page_prints_in_light_without_its_controls(opened: Pages) -> None:
    page = opened(page_run())
    page.look(1200, dark=True, media="print")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == WHITE
    shown = "return document.querySelector('.controls').offsetParent !== null"
    assert page.run(shown) is False
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_a_hostile_name_runs_no_script_and_breaks_no_layout(opened: Pages, attack: str) -> None:
    calls = [make_call("0.1", model=attack, fingerprint="1:a")]
    nodeid = f"tests/{attack}/t.py::test[{attack}]"
    parts = {"1:a": PayloadFacts(model=attack, parts_tokens={attack: 5, "rest": 1})}
    page = opened(make_report({a_test(nodeid): calls}, payloads=parts, notes=[attack]))
    page.look(400)
    page.run("document.querySelectorAll('#rows .unfold').forEach(each => each.click())")
    assert page.run("return document.title") == "$0.10 · llmcost"
    assert page.run("return document.querySelectorAll('script, style, img').length") == 3
    assert page.run("return document.documentElement.scrollWidth") <= 400
    assert page.run("return document.body.offsetHeight") > 500
    assert page.console() == []


def test_ten_thousand_tests_open_with_the_first_200_shown(opened: Pages) -> None:
    page = opened(big_run())
    assert len(page.run(NAMES)) == 200
    status = page.run("return document.querySelector('[role=status]').innerText")
    assert status == "10,000 rows, the first 200 shown"
    assert len(search(page, "case-4711-of")) == 1
    click(page, "#filters button")
    search(page, "")
    click(page, "#more")
    assert len(page.run(NAMES)) == 400
    assert page.console() == []


def test_without_scripts_the_page_has_its_verdicts_and_says_what_is_missing(
    chromium: Browser, opened: Pages
) -> None:
    chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page = opened(page_run())
        text = page.driver.find_element("css selector", "body").text
    finally:
        chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "1 budget exceeded" in text
    assert "need JavaScript" in text
    assert "Search tests" not in text
