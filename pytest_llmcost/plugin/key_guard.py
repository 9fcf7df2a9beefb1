"""Key guard: the cassettes that VCR wrote in a run are searched for credentials at its end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from pytest_llmcost.credentials import keys_in_cassette
from pytest_llmcost.files import show_path
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.reports.run_wording import describe_keys


def find_keys(session: Session) -> dict[str, list[str]]:
    """Return where each cassette that was written holds what looks like a key."""
    found = {}
    for path in map(Path, sorted(session.saved_cassettes)):
        with suppress(OSError):  # removed since, or kept elsewhere by a persister of the user's
            found[show_path(path)] = keys_in_cassette(path)
    return {shown: keys for shown, keys in found.items() if keys}


def write_keys(session: Session, terminal: pytest.TerminalReporter) -> list[str]:
    """Name each cassette with its headers, and what keeps keys out of it.

    Returns what fails the run by that, as lines of pytest's short summary.
    """
    found = find_keys(session)
    if not found:
        return []
    is_failure = session.settings.key_guard == "fail"
    terminal.write_sep("=", "llmcost: keys in cassettes", bold=True, red=is_failure)
    for line in describe_keys(found):
        terminal.write_line(line)
    files = "1 cassette" if len(found) == 1 else f"{len(found):,} cassettes"
    return [f"FAILED llmcost_key_guard - keys in {files}"] if is_failure else []
