from __future__ import annotations

from decimal import Decimal

from pytest_llmcost.ledger.ledger import Change, Comparison
from pytest_llmcost.reports.comparisons import render_trend


def change(name: str, usd: str | None, **fields: object) -> Change:
    given = {"status": "changed", "base_usd": Decimal(1), "head_usd": Decimal(2), **fields}
    return Change(name=name, usd=None if usd is None else Decimal(usd), **given)  # type: ignore[arg-type]


def test_the_difference_then_the_changes_that_add_most() -> None:
    comparison = Comparison(
        base_usd=Decimal("0.40"),
        head_usd=Decimal("0.45"),
        change_usd=Decimal("0.05"),
        price_change_usd=Decimal("-0.1"),
        changes=(
            change("t.py::a", "0.04", tokens={"input_tokens": 8000}, calls=2, parts=("system",)),
            change("t.py::b", "0.02", status="new"),
            change("t.py::c", None, parts=tuple(f"messages.{n}" for n in range(8))),
            *(change(f"t.py::d{n}", "-0.001", status="removed") for n in range(4)),
        ),
        notes=("a partial run",),
    )
    assert [line.text for line in render_trend(comparison)] == [
        "against the baseline +$0.05: $0.40 -> $0.45; new prices alone -$0.10, not in it",
        "  +$0.04 t.py::a: +8,000 input, +2 calls, system",
        "  +$0.02 t.py::b: new",
        "  unknown t.py::c: messages.0, messages.1, messages.2, messages.3, messages.4, "
        "messages.5, 2 more parts",
        "  -$0.001 t.py::d0: removed",
        "  -$0.001 t.py::d1: removed",
        "  ... 2 more changes",
        "  a partial run",
    ]
