"""JUnit XML: what each test and the suite cost, as properties that pytest writes itself."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from pytest_llmcost.amounts import Amounts, Kind
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.ledger.ledger import Ledger, TestRow, own_verdicts
from pytest_llmcost.money import plain_usd
from pytest_llmcost.reports.numbers import UNKNOWN

PROPERTY_PREFIX = "llmcost_"
"""Every property of ours begins with it."""


def test_properties(row: TestRow) -> Iterator[tuple[str, str]]:
    """Yield what one attempt of a test cost and used, and whether it kept its budgets."""
    amounts = Amounts.of(row.calls)
    yield "llmcost_usd", _known(amounts.usd)
    if amounts.unpriced:
        yield "llmcost_unpriced_calls", str(amounts.unpriced)
    yield "llmcost_calls", str(amounts.calls)
    tokens: dict[Kind, int] = {
        "input_tokens": amounts.usage.prompt_tokens,
        "output_tokens": amounts.usage.output_tokens,
    }
    for kind, number in tokens.items():
        is_unknown = amounts[kind].best is None and not number
        yield f"llmcost_{kind}", UNKNOWN if is_unknown else str(number)
    yield from (_limit(verdict) for verdict in own_verdicts(row) if verdict.scope == "test")
    if row.verdict is not None:
        yield "llmcost_verdict", row.verdict.state


test_properties.__test__ = False  # type: ignore[attr-defined]


def suite_properties(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield the totals of a run, and whether the suite kept its budget."""
    totals = ledger.totals
    yield "llmcost_usd", _known(totals.usd)
    yield "llmcost_live_usd", _known(totals.live_usd)
    yield "llmcost_calls", str(totals.calls)
    yield "llmcost_unpriced_calls", str(totals.unpriced_calls)
    yield "llmcost_input_tokens", str(totals.usage.prompt_tokens)
    yield "llmcost_output_tokens", str(totals.usage.output_tokens)
    yield "llmcost_price_date", ledger.price_date
    for verdict in ledger.verdicts:
        if verdict.scope == "suite":
            yield _limit(verdict)
            yield "llmcost_verdict", verdict.state


def _known(usd: Decimal | None) -> str:
    return UNKNOWN if usd is None else plain_usd(usd)


def _limit(verdict: Verdict) -> tuple[str, str]:
    kind = f"{verdict.kind}.{verdict.part}" if verdict.part else verdict.kind
    return f"llmcost_limit_{kind}", " ".join(verdict.models) or plain_usd(verdict.limit)
