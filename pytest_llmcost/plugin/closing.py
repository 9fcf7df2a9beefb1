"""Closing the books: from a run's ledger to the one Report that everything else shows.

Data flow: ledger, settings, baseline -> `close` -> Report with verdicts, decided once.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from msgspec.structs import replace

from pytest_llmcost.budgeting.cliffs import cliff_notes
from pytest_llmcost.budgeting.ledger import Report, read_report
from pytest_llmcost.budgeting.ledger import Run as RunRecord
from pytest_llmcost.budgeting.report import run_verdicts
from pytest_llmcost.plugin.marker import budgets_of
from pytest_llmcost.plugin.run import Run, utc_now
from pytest_llmcost.pricing.ratecard import RateCard
from pytest_llmcost.settings import Settings

_STALE_CARD_DAYS = 90


def close(run: Run, session: pytest.Session) -> Report:
    """Sum up a run and decide every ceiling over several tests."""
    run.settle()
    run.books.put_all_away()
    run.incomplete.update(_what_is_missing(session))
    report = run.books.ledger.report(
        price_date=run.price_date.isoformat(),
        rate_card=run.books.card_id,
        run=_record(run, None),
        generator={name: version(name) for name in ("pytest-llmcost", "pytest")},
        cache_basis=run.settings.cache,
        incomplete=run.incomplete,
        budgets=budgets_of(run.settings),
        notes=[*run.notes, *_notes(run)],
    )
    near = cliff_notes(report, run.books.card, run.price_date) if run.books.ledger else ()
    report = replace(report, notes=(*report.notes, *near))
    if run.baseline is None:
        return report
    return _compared(run.settings, run.books.card, report, run.baseline)


def _compared(settings: Settings, card: RateCard, report: Report, baseline: Path) -> Report:
    from pytest_llmcost.budgeting.baseline import compare
    from pytest_llmcost.budgeting.increase import parse_increase

    limits = {
        label: [
            parse_increase(text, origin=settings.origin(label), label=label)
            for text in getattr(settings, label)
        ]
        for label in ("max_increase", "max_test_increase")
    }
    comparison = compare(
        read_report(baseline),
        report,
        card,
        limits=limits["max_increase"],
        test_limits=limits["max_test_increase"],
    )
    return replace(report, comparison=comparison)


def is_broken(run: Run, report: Report) -> bool:
    """Whether a ceiling over several tests fails the run."""
    return any(map(run.books.is_broken, run_verdicts(report)))


def finish(run: Run, report: Report, exit_status: int) -> Report:
    """Note how the run ended."""
    return replace(report, run=_record(run, exit_status))


def _record(run: Run, exit_status: int | None) -> RunRecord:
    return RunRecord(
        started_at=run.started_at,
        finished_at=utc_now(),
        exit_status=exit_status,
        workers=run.workers,
    )


def _what_is_missing(session: pytest.Session) -> Iterator[str]:
    """Why the run may not stand for the whole suite."""
    if session.shouldstop or session.shouldfail:
        yield "stopped"
    given = [Path(arg.partition("::")[0]) for arg in session.config.args]
    if any("::" in arg for arg in session.config.args) or any(path.is_file() for path in given):
        yield "selected"


def _notes(run: Run) -> Iterator[str]:
    yield from (f"not understood, so of unknown cost: {each}" for each in run.failures)
    age = (run.price_date - run.books.card.checked_on).days if run.books.ledger else 0
    if age > _STALE_CARD_DAYS:
        yield (
            f"the rate card was checked {age} days before the price date "
            f"({run.books.card.checked_on}): update pytest-llmcost, or see `llmcost rates`"
        )
