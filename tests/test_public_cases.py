"""Inputs built from public bug reports, beside the repository, where they are there."""

from __future__ import annotations

import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from clean_environment import clean_environment
from warm_python import warm_bin

CASES_PATH = Path(__file__).resolve().parents[1].parent / "shared" / "cases"


def cases() -> list[object]:
    """Return a parameter for each case, or one that is skipped when there are none."""
    names = sorted(path.parent.name for path in CASES_PATH.glob("[0-9]*/cmd.sh"))
    if not names:
        skip = pytest.mark.skip(reason="the public cases are not beside this repository")
        return [pytest.param("none", marks=skip)]
    return [*names]


@pytest.mark.parametrize("name", cases())
def test_a_case_from_a_public_bug_report_has_its_right_value(name: str) -> None:
    env = clean_environment()
    # The case runs the pytest and the llmcost of the environment that runs this test.
    env["VENV"] = str(warm_bin().parent)
    # The cases need no other plugin, and with cassetter and its --record-mode none would start.
    ours = {"llmcost", "recording", "xdist"}
    others = {each.name for each in entry_points(group="pytest11")} - ours
    without = [f"-p no:{name}" for name in sorted(others)]
    env["PYTEST_ADDOPTS"] = " ".join([*without, "-W ignore::pytest.PytestAssertRewriteWarning"])
    done = subprocess.run(
        [str(CASES_PATH / "run.sh"), "-v", name],
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=600,
    )
    assert done.stdout.startswith(f"PASS {name}\n"), done.stdout + done.stderr
