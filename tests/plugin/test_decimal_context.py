"""The code under test may set a decimal context of its own; no figure and no run hangs on it."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from spending_suite import APP, EVERYTHING, Ran, run_suite, without_workers, write_files

HOSTILE = """
    import decimal
    import pytest

    signals = [decimal.Inexact, decimal.Rounded, decimal.Overflow, decimal.Clamped]
    decimal.setcontext(decimal.Context(prec=1, Emin=0, Emax=0, capitals=0, traps=signals))
"""
MORE = """
    import pytest
    from app import ask
    from pytest_llmcost import max_cost

    BODY = {"model": "claude-opus-4-7", "max_tokens": 10,
            "messages": [{"role": "user", "content": "hi"}]}

    @max_cost("$0.000123", call_usd="$0.0001")
    def test_call(): ask(123)

    @max_cost("$1", worst="$0.00001", calls=1)
    def test_worst(): ask(124); ask(11)

    def test_sum(llmcost):
        ask(10)
        ask(77)
        assert str(llmcost.usd) == "0.000935"
        assert llmcost.usage.input_tokens == 87
"""
OPTIONS = (
    *("--llmcost-max-suite=$0.01", "--llmcost-report=cost.md", "--llmcost-report=cost.html"),
    *("--llmcost-history=history.jsonl", "--llmcost-baseline=base.json", "--llmcost-per=3000"),
    *("--llmcost-columns=cold", "--junitxml=junit.xml"),
    *("--llmcost-max-increase=1%", "--llmcost-max-test-increase=$0.00001"),
)
GITHUB = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md"}


BASE = """
    from app import ask

    def test_call(): ask(7)
    def test_sum(): ask(87)
"""


def run(path: Path, head: str, *args: str) -> tuple[Ran, dict[str, Any]]:
    write_files(path, {"app.py": APP, "tests/test_more.py": BASE})
    run_suite(path, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    conftest = dedent(head) + dedent(EVERYTHING["conftest.py"])
    # Its note names the folder.
    files = {name: text for name, text in EVERYTHING.items() if "agents/conftest" not in name}
    write_files(path, {**files, "conftest.py": conftest, "tests/test_more.py": MORE})
    ran = run_suite(path, *OPTIONS, *args, plugins=("xdist",), env=GITHUB)
    return ran, without_workers(ran.ledger())


@pytest.mark.parametrize("workers", [(), ("-n2", "--dist=loadfile")], ids=["alone", "workers"])
def test_a_run_under_a_context_that_cannot_compute_says_the_same(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    usual, expected = run(tmp_path / "usual", "", *workers)
    assert {each["state"] for each in expected["verdicts"]} == {"within", "exceeded"}
    hostile, ledger = run(tmp_path / "hostile", HOSTILE, *workers)
    assert "decimal" not in hostile.out, hostile.out  # of a traceback
    assert (hostile.status, ledger) == (usual.status, expected)
    for name in ("cost.md", "summary.md"):
        usual_page, page = ((ran.path / name).read_text("utf-8") for ran in (usual, hostile))
        assert page == usual_page
