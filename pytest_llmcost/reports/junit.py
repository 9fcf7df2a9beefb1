"""JUnit XML: what each test and the suite cost, as properties that pytest writes itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from pytest_llmcost.amounts import Amounts, Kind
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.ledger.ledger import Ledger, TestRow, own_verdicts
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.money import plain_usd
from pytest_llmcost.reports.plain_text import UNKNOWN
from pytest_llmcost.reports.run_wording import marks_of_run
from pytest_llmcost.reports.wording import urgency


def test_properties(row: TestRow) -> Iterator[tuple[str, str]]:
    """Yield what one attempt of a test cost and used, and whether it kept its budgets."""
    amounts = Amounts.of(row.calls)
    yield from _spent(amounts)
    if amounts.unpriced:
        yield "llmcost_unpriced_calls", str(amounts.unpriced)
    yield from (_limit(verdict) for verdict in own_verdicts(row) if verdict.scope == "test")
    yield from _worst(own_verdicts(row))


test_properties.__test__ = False  # type: ignore[attr-defined]


def with_properties(
    known: Iterable[tuple[str, object]], added: Iterable[tuple[str, object]]
) -> list[tuple[str, object]]:
    """Return properties of a test with ours as they are now; those of before are no longer true."""
    return [*(each for each in known if not each[0].startswith("llmcost_")), *added]


def suite_properties(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield the totals of a run, and whether all budgets over several tests were kept."""
    yield from _spent(amounts_of(ledger))
    yield "llmcost_live_usd", _known(ledger.totals.live_usd)
    yield "llmcost_unpriced_calls", str(ledger.totals.unpriced_calls)
    yield "llmcost_price_date", ledger.price_date
    yield from (_limit(verdict) for verdict in ledger.verdicts if verdict.scope == "suite")
    yield from _worst([mark.verdict for mark in marks_of_run(ledger)])


def _spent(amounts: Amounts) -> Iterator[tuple[str, str]]:
    yield "llmcost_usd", _known(amounts.usd)
    yield "llmcost_calls", str(amounts.calls)
    tokens: dict[Kind, int] = {
        "input_tokens": amounts.usage.prompt_tokens,
        "output_tokens": amounts.usage.output_tokens,
    }
    for kind, number in tokens.items():
        is_unknown = amounts[kind].best is None and not number
        yield f"llmcost_{kind}", UNKNOWN if is_unknown else str(number)


def _worst(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, str]]:
    """Yield the worst state alone, because a name that comes twice has one value to most tools."""
    if verdicts:
        yield "llmcost_verdict", min((each.state for each in verdicts), key=urgency)


def _known(usd: Decimal | None) -> str:
    return UNKNOWN if usd is None else plain_usd(usd)


def _limit(verdict: Verdict) -> tuple[str, str]:
    kind = f"{verdict.kind}.{verdict.part}" if verdict.part else verdict.kind
    return f"llmcost_limit_{kind}", " ".join(verdict.models) or plain_usd(verdict.limit)
