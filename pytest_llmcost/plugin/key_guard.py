"""Key guard: the cassettes that VCR wrote in a run are searched for credentials at its end."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from pytest_llmcost.plugin.session import Session


class KeyGuard:
    """The hooks at the end of a run, in the process that owns it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._found: dict[str, list[str]] = {}
        """Cassette -> where it holds what looks like a key."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Fail the run while a failure still sets the exit status."""
        result = yield
        session.testsfailed += self._is_broken()
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Search what the last fixtures have written; runs that were stopped come here, too."""
        if self._is_broken() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name each cassette with its headers, and what keeps keys out of it."""
        if not self._found:
            return
        from pytest_llmcost.files import show_path
        from pytest_llmcost.reports.run_wording import describe_keys

        is_failure = self.session.settings.key_guard == "fail"
        terminalreporter.write_sep("=", "llmcost: keys in cassettes", bold=True, red=is_failure)
        found = {show_path(Path(path)): keys for path, keys in sorted(self._found.items())}
        for line in describe_keys(found):
            terminalreporter.write_line(line)
        if is_failure:
            files = "1 cassette" if len(found) == 1 else f"{len(found):,} cassettes"
            self.session.failures.append(f"FAILED llmcost_key_guard - keys in {files}")

    def _is_broken(self) -> bool:
        if self.session.saved_cassettes:
            from pytest_llmcost.credentials import keys_in_cassette

            searched = {path: keys_in_cassette(Path(path)) for path in self.session.saved_cassettes}
            self._found = {path: found for path, found in searched.items() if found}
        return bool(self._found) and self.session.settings.key_guard == "fail"
