"""The demonstration on the page about capture, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import Project
from standin import StandIn

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "capture.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_page_shows_what_a_grown_prompt_prints(project: Project, standin: StandIn) -> None:
    app = block("example: app")
    project.online(standin).write(app=app, test_triage=block("example: test"))
    recorded = project.run("--record-mode=once", plugins=("recording",))
    recorded.assert_outcomes(passed=1)
    recorded.stdout.fnmatch_lines(["*$0.0009*$0.002*"])
    assert "costs $0.0009 and passes" in PAGE
    project.write(app=app.replace("* 10\n", "* 100\n"))
    for name, options in (
        ("output: grown", ()),
        ("output: counted", ("--llmcost-record-mode=new_episodes",)),
        ("output: counted", ()),
    ):
        result = project.run(*options, plugins=("recording",))
        result.assert_outcomes(failed=1)
        for line in block(name).splitlines():
            assert line in result.stdout.lines, line
