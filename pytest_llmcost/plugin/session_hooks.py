"""The hooks around a whole session: budgets over several tests, report files, the summary.

Only in the process that owns the run, never in a worker.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.plugin.session import Session

if TYPE_CHECKING:
    from pytest_llmcost.ledger.ledger import Ledger


class SessionHooks:
    """The hooks of one session at its end."""

    def __init__(self, session: Session) -> None:
        """Close this session when its tests have run."""
        self.session = session
        self.ledger: Ledger | None = None
        self.problems: list[str] = []
        """What went wrong at the end, a line each: a file that could not be written, a hook."""
        self._closed_with: tuple[object, ...] = ()
        self._finished: pytest.Session | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the suite when all tests have run, while a failure still sets the exit status."""
        try:
            result = yield
        except BaseException as error:
            # `-x`, `--maxfail` and `pytest.exit()` end a run between two tests, calls complete.
            is_orderly = session.shouldstop or session.shouldfail
            is_orderly = is_orderly or isinstance(error, pytest.exit.Exception)
            # pytest itself raises this only if the collection had errors.
            is_uncollected = isinstance(error, session.Interrupted) and not is_orderly
            why = "collection-errors" if is_uncollected else "interrupted"
            self.session.incomplete.add(why)
            if not is_orderly:
                self.session.lost_calls.add(why)
            raise
        # The exit status and other plugins read this; it only turns success into failure.
        session.testsfailed += self._close(session) and self._is_broken(session)
        session.testsfailed += self._has_keys()
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Write every file when the last fixtures are torn down, however the session ends.

        The innermost wrapper: pytest's own prints the summary after this.
        """
        # Also what the last fixtures have written; runs that were stopped come here, too.
        if session.exitstatus == pytest.ExitCode.OK and self._has_keys():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        is_interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        if is_interrupted and "collection-errors" not in self.session.lost_calls:
            self.session.incomplete.add("interrupted")
        if self._close(session):
            from pytest_llmcost.plugin.run_end import add_junit_properties

            assert self.ledger is not None
            add_junit_properties(self.session.config, self.ledger)  # pytest is about to write it
        try:
            return (yield)
        finally:  # another plugin may call `pytest.exit()` here
            self._finished = session
            if self._close(session):
                self._publish(session)
                hook = self.session.hook("pytest_llmcost_report")
                try:
                    hook(report=self.ledger, config=self.session.config)
                except Exception as error:  # noqa: BLE001 - or pytest ends without its summary
                    self.problems.append(f"pytest_llmcost_report failed: {error!r}")
                    self._settle_status(session)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Have the last word on the exit status, and let the ledger name the final one."""
        if self._finished is None:
            return
        before = self.ledger
        if self._close(self._finished):
            if self.ledger is not before:  # another plugin has spent since
                self._publish(self._finished)
            self._settle_status(self._finished)

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary; nothing if nothing was counted."""
        if self.ledger is not None:
            from pytest_llmcost.plugin.run_end import write_summary

            write_summary(self.session, self.ledger, self.problems, terminalreporter)
        if number := len(self.session.skipped_budgets):
            what = "test with a budget was" if number == 1 else "tests with a budget were"
            terminalreporter.write_line(f"llmcost: {number:,} {what} skipped")
        if self.session.saved_cassettes and self.session.settings.key_guard != "off":
            from pytest_llmcost.plugin.key_guard import write_keys

            write_keys(self.session, terminalreporter)

    def _close(self, session: pytest.Session) -> bool:
        """Make the ledger of the run, again if there is news; return whether there is one."""
        if session.config.option.collectonly:
            return False
        self.session.catch_up()
        if failure := self.session.take_failure():
            self.session.notes.add(f"a pytest_llmcost hook failed outside of tests: {failure!r}")
        settings = self.session.settings
        asked = (
            *(settings.max_suite, settings.budgets, settings.report),
            *(settings.baseline, settings.history, tuple(self.session.unmatched_globs)),
        )
        has_calls = self.session.has_spending and bool(self.session.ledger)
        if not has_calls and all(each in (None, ()) for each in asked):
            return self.ledger is not None
        news = (self.session.changes, *sorted(self.session.incomplete | self.session.notes))
        if self.ledger is None or self._closed_with != news:
            from pytest_llmcost.plugin.run_end import close

            self.ledger = close(self.session, session)
            self._closed_with = news
        return True

    @pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)
    def pytest_terminal_summary_ends(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, object, object]:
        """Write what fails the run by itself beside the failed tests, where people look last.

        Outside of all wrappers: pytest's own writes the short summary once the hooks are through.
        """
        result = yield
        if self.ledger is not None or self.session.failures:
            from pytest_llmcost.plugin.run_end import write_run_failures

            write_run_failures(self.ledger, self.session.failures, terminalreporter)
        return result

    def _has_keys(self) -> bool:
        """Return whether the run fails by credentials in a cassette that it has written."""
        if not self.session.saved_cassettes or self.session.settings.key_guard != "fail":
            return False
        from pytest_llmcost.plugin.key_guard import find_keys

        return bool(find_keys(self.session))

    def _is_broken(self, session: pytest.Session) -> bool:
        """Return whether a budget fails the run; one without tests can only exceed some."""
        from pytest_llmcost.plugin.run_end import is_run_broken

        assert self.ledger is not None
        unverified = self.session.settings.unverified if session.testscollected else "warn"
        return is_run_broken(self.ledger, unverified)

    def _publish(self, session: pytest.Session) -> None:
        from pytest_llmcost.plugin.run_end import publish, with_exit_status

        assert self.ledger is not None
        self.problems = []
        self.ledger = with_exit_status(self.ledger, self._exit_status(session))
        self.problems = publish(self.session, self.ledger)
        self._settle_status(session)

    def _exit_status(self, session: pytest.Session) -> int:
        """Return the status, with success turned into failure by a budget or an unwritten file."""
        status = int(session.exitstatus)
        may_fail = status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if (may_fail and self._is_broken(session)) or (not status and self.problems):
            return int(pytest.ExitCode.TESTS_FAILED)
        return status

    def _settle_status(self, session: pytest.Session) -> None:
        """Set the exit status; write the ledger again if it names another one."""
        from pytest_llmcost.plugin.run_end import with_exit_status, write_ledgers

        assert self.ledger is not None
        status = self._exit_status(session)
        if session.exitstatus != status:
            session.exitstatus = status
        if self.ledger.run.exit_status != status:
            self.ledger = with_exit_status(self.ledger, status)
            again = write_ledgers(self.session, self.ledger)
            self.problems += [each for each in again if each not in self.problems]
