"""A report as a file, in the format that the suffix of its name chooses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_llmcost.ledger.ledger import Ledger, write_file, write_ledger
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.reports.markdown import render_markdown


def write_report(ledger: Ledger, path: Path, history: Sequence[Run] = ()) -> None:
    """Write the ledger, a page for `.html`, or a comment for `.md`; the page draws the history.

    Raises:
        LedgerError: the file cannot be written.
    """
    if path.suffix == ".json":
        write_ledger(ledger, path)
    elif path.suffix == ".html":
        # Most runs write no page, and what draws one takes as long to import as all other reports.
        from pytest_llmcost.reports.html import render_html

        write_file(path, [render_html(ledger, history).encode()])
    else:
        write_file(path, [render_markdown(ledger).encode()])
