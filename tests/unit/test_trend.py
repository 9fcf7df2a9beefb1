from __future__ import annotations

from decimal import Decimal

from pytest_llmcost.ledger.ledger import Change, Comparison
from pytest_llmcost.reports.comparisons import render_comparison
from pytest_llmcost.reports.plain_text import Screen


def change(name: str, usd: str | None, **fields: object) -> Change:
    given = {"status": "changed", "base_usd": Decimal(1), "head_usd": Decimal(2), **fields}
    return Change(name=name, usd=None if usd is None else Decimal(usd), **given)  # type: ignore[arg-type]


def a_comparison() -> Comparison:
    return Comparison(
        base_usd=Decimal("0.40"),
        head_usd=Decimal("0.45"),
        change_usd=Decimal("0.05"),
        price_change_usd=Decimal("-0.1"),
        base_price_date="2026-10-06",
        changes=(
            change("t.py::a", "0.04", tokens={"input_tokens": 8000}, calls=2, parts=("system",)),
            change("u.py::b", "0.02", status="new"),
            change("t.py::c", None, parts=tuple(f"messages.{n}" for n in range(8))),
            *(change(f"t.py::d{n}", "-0.001", status="removed") for n in range(4)),
        ),
        notes=("a partial run",),
    )


def test_the_difference_then_the_changes_that_add_most() -> None:
    assert [line.text for line in render_comparison(a_comparison(), Screen(80))] == [
        "+$0.05 against the baseline (+12 %): $0.40 → $0.45, 0 unchanged",
        "  new prices since 2026-10-06 changed the same calls by -$0.10, which these",
        "    figures leave out",
        "t.py   before    after    change",
        "  a   $1.0000  $2.0000  +$0.0400",
        "    +8,000 input, +2 calls, system",
        "  c   $1.0000  $2.0000         ?",
        "    messages.0, messages.1, messages.2, messages.3, messages.4, messages.5 and 2",
        "      more",
        "  d0  $1.0000  removed  -$0.0010",
        "  d1  $1.0000  removed  -$0.0010",
        "u.py",
        "  b       new  $2.0000  +$0.0200",
        "… 2 more changes",
        "  a partial run",
    ]


def test_all_changes_where_they_are_asked_for() -> None:
    lines = [line.text for line in render_comparison(a_comparison(), Screen(80), most=0)]
    assert sum("removed" in line for line in lines) == 4
    assert not any("more changes" in line for line in lines)


def test_a_part_that_changed_in_several_tests_is_named_once() -> None:
    changes = [
        change(f"t.py::{name}", "1", parts=("system",), tokens={"input_tokens": 100})
        for name in "abc"
    ]
    comparison = Comparison(changes=tuple(changes))
    lines = [line.text for line in render_comparison(comparison, Screen(80))]
    assert "  system changed in 3 tests: +300 input tokens" in lines
    assert sum("system" in line for line in lines) == 1
