"""Calls, reports and verdicts for tests of what is made of them: small, exact, and readable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Budget, Verdict
from pytest_llmcost.budgets.budget import judge as judge_budget
from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.ledger.builder import OUTSIDE, FixtureOwner, LedgerBuilder, Owner, TestOwner
from pytest_llmcost.ledger.ledger import CardId, Ledger, PayloadFacts
from pytest_llmcost.prices.bill import ByCategory
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage

MODEL = "claude-opus-4-7"
CARD = CardId(version="2026-11-20", sha256="c0ffee", sources=("built in",))


_WEIGHTS = {"cache_write_5m": 125, "cache_write_1h": 200, "cache_read": 10, "output": 500}


def by_category(usage: Usage, usd: Decimal | None) -> ByCategory:
    """Split a price as the usual rates do, with what is left over for the input."""
    if usd is None:
        return ByCategory()
    weights = {name: getattr(usage, f"{name}_tokens") * each for name, each in _WEIGHTS.items()}
    whole = sum(weights.values()) + usage.input_tokens * 100
    parts = {f"{name}_usd": round(usd * each / (whole or 1), 6) for name, each in weights.items()}
    rest = usd - sum(parts.values())
    return ByCategory.sum([*parts.items(), ("input_usd", rest)])


def make_call(usd: str | None, **fields: Any) -> Call:
    """A call of an exact price, or of none at all; its one leg costs all of it."""
    amount = None if usd is None else Decimal(usd)
    model = fields.get("model", MODEL)
    usage = fields.pop("usage", Usage(input_tokens=100))
    whole: dict[str, Any] = {
        "model": model,
        "evidence": "billed",
        "phase": "call",
        "usage": usage,
        "sampling_calls": (
            PricedSamplingCall(
                model=model, usage=usage, usd=amount, by_category=by_category(usage, amount)
            ),
        ),
        "usd": amount,
        "usd_low": amount or Decimal(0),
        "usd_high": amount,
    }
    return Call(**{**whole, **fields})


def doubtful(*caveats: str, **fields: Any) -> Call:
    """A call of unknown cost, and why it is."""
    return make_call(None, caveats=sorted_caveats(caveats), sampling_calls=(), **fields)


STALE = doubtful("stale: system", evidence="stale")
"""A call whose prompt changed and is not counted."""
VOLATILE = doubtful("stale: system", "volatile: system, a time", evidence="stale")
"""The same, of a prompt that differs in every run."""


def make_budget(limit: str, **fields: Any) -> Budget:
    """A ceiling on a test in dollars, unless said otherwise."""
    whole: dict[str, Any] = {"scope": "test", "limit": Decimal(limit), "origin": "t.py:3"}
    return Budget(**{**whole, **fields})


def suite_budget(limit: str) -> Budget:
    return make_budget(limit, scope="suite", origin="--llmcost-max-suite", label="max_suite")


def judge(limit: str, *calls: Call, **fields: object) -> Verdict:
    budget = make_budget(limit, **{"origin": "tests/t.py:12", "required": True, **fields})
    return judge_budget(budget, Amounts.of(calls))


def judged(report: Ledger, limit: str, outcome: str | None = None, **fields: object) -> Ledger:
    """The same run, as if each of its tests had this budget, and that outcome if one is given."""
    rows = [replace(row, verdict=judge(limit, *row.calls, **fields)) for row in report.tests]
    return replace(report, tests=tuple(replace(r, outcome=outcome or r.outcome) for r in rows))


def a_test(nodeid: str, **fields: Any) -> TestOwner:
    path = nodeid.partition("::")[0]
    return TestOwner(**{"nodeid": nodeid, "path": path, "line": 7, **fields})


def a_fixture(name: str = "client", **fields: Any) -> FixtureOwner:
    return FixtureOwner(**{"name": name, "scope": "session", **fields})


def make_report(
    spent: Mapping[Owner, Iterable[Call]],
    *,
    budgets: Iterable[Budget] = (),
    payloads: Mapping[str, PayloadFacts] | None = None,
    **fields: Any,
) -> Ledger:
    """Book calls on their owners and close the books."""
    ledger = LedgerBuilder()
    for owner, calls in spent.items():
        for call in calls:
            ledger.add(owner, call, (payloads or {}).get(call.fingerprint or ""))
    whole: dict[str, Any] = {"price_date": "2026-11-22", "rate_card": CARD}
    return ledger.ledger(budgets=budgets, **{**whole, **fields})


__all__ = [
    "CARD",
    "MODEL",
    "OUTSIDE",
    "STALE",
    "VOLATILE",
    "a_fixture",
    "a_test",
    "doubtful",
    "judge",
    "judged",
    "make_budget",
    "make_call",
    "make_report",
    "suite_budget",
]
