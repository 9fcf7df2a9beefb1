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
from pytest_llmcost.budgeting.increase import IncreaseLimit, parse_increase
from pytest_llmcost.budgeting.ledger import Report, read_report
from pytest_llmcost.budgeting.ledger import Run as RunRecord
from pytest_llmcost.budgeting.report import own_verdicts, run_verdicts
from pytest_llmcost.budgeting.taskbudgets import task_budget_notes
from pytest_llmcost.plugin.marker import budgets_of
from pytest_llmcost.plugin.run import Run, utc_now
from pytest_llmcost.plugin.whatif import with_what_if
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
        lost_calls=run.lost_calls,
        budgets=[
            replace(budget, idle=budget.pattern in run.idle_places)
            for budget in budgets_of(run.settings)
        ],
        notes=[*run.all_notes, *_notes(run)],
    )
    if run.settings.model:
        report = with_what_if(run, report)
    near = cliff_notes(report, run.books.card, run.price_date) if run.books.ledger else ()
    budgets = task_budget_notes(report, run.books.card, on=run.price_date)
    cut_off = [
        f"{nodeid} exceeded its ceiling, and the run ended before this could fail it"
        for nodeid in _cut_off(report)
    ]
    report = replace(report, notes=(*report.notes, *near, *budgets, *cut_off))
    if run.baseline is None:
        return report
    return _compared(run.settings, run.books.card, report, run.baseline)


def _compared(settings: Settings, card: RateCard, report: Report, baseline: Path) -> Report:
    from pytest_llmcost.budgeting.baseline import compare

    comparison = compare(
        read_report(baseline),
        report,
        card,
        limits=_increase_limits(settings, "max_increase"),
        test_limits=_increase_limits(settings, "max_test_increase"),
    )
    return replace(report, comparison=comparison)


def _increase_limits(settings: Settings, label: str) -> list[IncreaseLimit]:
    """What may be added to the baseline; whatever it is, where it is being accepted."""
    if settings.update_baseline:
        return []
    origin = settings.origin(label)
    return [parse_increase(text, origin=origin, label=label) for text in getattr(settings, label)]


def is_broken(run: Run, report: Report) -> bool:
    """Whether a ceiling over several tests fails the run, or one that its test had no time to."""
    return any(map(run.books.is_broken, run_verdicts(report))) or bool(_cut_off(report))


def _cut_off(report: Report) -> list[str]:
    """The tests that exceeded a ceiling and did not fail: `pytest.exit()` ended the run in them."""
    last = {test.nodeid: test for test in report.tests}
    return [
        test.nodeid
        for test in last.values()
        if test.outcome in ("", "passed", "skipped")
        and any(verdict.state == "exceeded" for verdict in own_verdicts(test))
    ]


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
    if not _covers_suite(session.config):
        yield "selected"


def _covers_suite(config: pytest.Config) -> bool:
    """Whether what pytest was told to run is all that it would run by itself.

    Without `testpaths` nobody knows what that is, and folders are taken for all of it.
    """
    here, told = config.invocation_params.dir, config.invocation_params.args
    if config.getoption("lf", False) or any(str(arg).startswith("--ignore") for arg in told):
        return False  # neither is told to `pytest_deselected`
    if any("::" in arg or (here / arg).is_file() for arg in config.args):
        return False
    given = [(here / arg).resolve() for arg in config.args]
    whole = [(config.rootpath / path).resolve() for path in config.getini("testpaths")]
    return all(any(path.is_relative_to(folder) for folder in given) for path in whole)


def _notes(run: Run) -> Iterator[str]:
    age = (run.price_date - run.books.card.checked_on).days if run.books.ledger else 0
    if age > _STALE_CARD_DAYS:
        yield (
            f"the rate card was checked {age} days before the price date "
            f"({run.books.card.checked_on}): update pytest-llmcost, or see `llmcost rates`"
        )
