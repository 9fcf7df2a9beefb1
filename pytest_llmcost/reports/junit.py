"""JUnit XML: what each test and the suite cost, as properties that pytest writes itself."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_llmcost.ledger.ledger import Ledger, TestRow, own_verdicts
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.usage import Usage

PROPERTY_PREFIX = "llmcost_"
"""Every property of ours begins with it."""


def test_properties(row: TestRow) -> Iterator[tuple[str, str]]:
    """Yield what one attempt of a test cost and used, and how its ceilings stand."""
    usage = sum((call.billed_usage for call in row.calls), Usage())
    unpriced = sum(call.usd is None for call in row.calls)
    if row.usd is not None:
        yield "llmcost_usd", plain_usd(row.usd)
    if unpriced:
        yield "llmcost_unpriced_calls", str(unpriced)
    yield "llmcost_calls", str(len(row.calls))
    yield "llmcost_input_tokens", str(usage.prompt_tokens)
    yield "llmcost_output_tokens", str(usage.output_tokens)
    for verdict in own_verdicts(row):
        if verdict.scope == "test":
            yield f"llmcost_limit_{verdict.kind}", plain_usd(verdict.limit)
    if row.verdict is not None:
        yield "llmcost_verdict", row.verdict.state


test_properties.__test__ = False  # type: ignore[attr-defined]


def suite_properties(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield the totals of a run, and how the suite's ceiling stands."""
    totals = ledger.totals
    if totals.usd is not None:
        yield "llmcost_usd", plain_usd(totals.usd)
    if totals.live_usd is not None:
        yield "llmcost_live_usd", plain_usd(totals.live_usd)
    yield "llmcost_calls", str(totals.calls)
    yield "llmcost_unpriced_calls", str(totals.unpriced_calls)
    yield "llmcost_input_tokens", str(totals.usage.prompt_tokens)
    yield "llmcost_output_tokens", str(totals.usage.output_tokens)
    yield "llmcost_price_date", ledger.price_date
    for verdict in ledger.verdicts:
        if verdict.scope == "suite":
            yield f"llmcost_limit_{verdict.kind}", plain_usd(verdict.limit)
            yield "llmcost_verdict", verdict.state
