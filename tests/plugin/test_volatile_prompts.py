"""A prompt that differs in every run is recognised, and an ordinary edit is not taken for one."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

CONFTEST = """
    import pytest

    @pytest.fixture(scope="session")
    def vcr_config():
        return {"filter_headers": ["authorization", "x-api-key"]}
"""
APP = """
    import time
    import uuid
    from datetime import datetime

    def payload(system, question="My bell is broken."):
        return {"model": "claude-opus-4-7", "max_tokens": 50, "system": system,
                "messages": [{"role": "user", "content": question}]}
"""
REPLAYED = """
    import anthropic
    import pytest
    from app import *
    from pytest_llmcost import max_cost

    @pytest.mark.vcr
    @max_cost("$0.01")
    def test_replayed():
        with anthropic.Anthropic(max_retries=0) as client:
            client.messages.create(**payload(%s))
"""
COUNTED = """
    from app import *
    from pytest_llmcost import max_cost

    @max_cost("$0.01")
    def test_counted(llmcost):
        llmcost.count(payload(%s))
"""
CLOCK = 'f"You triage tickets. The time: {datetime.now()}"'
HOOK = """
    import re

    def pytest_llmcost_normalize_payload(payload, item):
        return {**payload, "system": re.sub("The time: .*", "", payload["system"])}
"""


@pytest.fixture
def online(project: Project, standin: StandIn) -> Project:
    return project.online(standin).write(conftest=CONFTEST, app=APP)


def first_and_second(project: Project, test: str, *values: str) -> pytest.RunResult:
    """Record one prompt, and run again with the other, or with the same code."""
    project.write(test_app=test % values[0])
    modes = ("--record-mode=once", "--llmcost-record-mode=rewrite")
    project.run(*modes, plugins=("recording",)).assert_outcomes(passed=1)
    project.write(test_app=test % values[-1])
    return project.run("--llmcost-report=ledger.json", "-vv", plugins=("recording",))


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        (CLOCK, r"system, characters 31-56 \(a time\)"),
        ('f"Session {uuid.uuid4()}."', r"system, characters 9-44 \(an id\)"),
        ('"Be kind.", f"Now {time.time_ns()}"', r"messages\.0, characters 5-23 \(a time\)"),
    ],
)
def test_a_replayed_prompt_that_differs_in_every_run_is_recognised(
    online: Project, argument: str, place: str
) -> None:
    result = first_and_second(online, REPLAYED, argument)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"  changed  .*",
            rf"  cause +differs in every run: {place}",
            r"  remove it +in the hook pytest_llmcost_normalize_payload.*",
        ]
    )
    (call,) = online.ledger()["tests"][0]["calls"]
    assert [each for each in call["caveats"] if each.startswith("volatile: ")]


def test_what_the_message_says_helps(online: Project) -> None:
    first_and_second(online, REPLAYED, CLOCK).assert_outcomes(failed=1)
    online.write(conftest=CONFTEST + HOOK)
    online.run(plugins=("recording",)).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "edit",
    [
        ('"Today is 2026-11-25. Be kind."', '"Today is 2026-11-25. Be brief."'),
        ('"You know all until 2025-01-31."', '"You know all until 2025-06-30."'),
        ('f"{datetime.now()} Be kind."', 'f"{datetime.now()} Be brief."'),
    ],
)
def test_an_ordinary_edit_is_not_called_volatile(online: Project, edit: tuple[str, str]) -> None:
    result = first_and_second(online, REPLAYED, *edit)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"  changed +system .*"])
    assert "every run" not in result.stdout.str()


def test_a_count_that_is_missing_for_the_date_of_today_names_a_possible_cause(
    online: Project,
) -> None:
    result = first_and_second(online, COUNTED, CLOCK)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"  possible cause +may differ in every run: system, characters 31-56 \(a time\)",
            r"  if so, remove it  in the hook pytest_llmcost_normalize_payload.*",
        ]
    )


def test_a_count_that_is_missing_for_an_edit_names_no_cause(online: Project) -> None:
    edit = ('"Known until 2025-01-31. Be kind."', '"Known until 2025-01-31. Be brief."')
    result = first_and_second(online, COUNTED, *edit)
    result.assert_outcomes(failed=1)
    assert "every run" not in result.stdout.str()


def test_an_edit_of_another_part_names_no_cause_either(online: Project) -> None:
    now = 'f"It is {datetime.now().date()}."'
    result = first_and_second(online, COUNTED, f'{now}, "How?"', f'{now}, "Why?"')
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"  changed +messages\.0 .*"])
    assert "every run" not in result.stdout.str()


def test_the_summary_says_it_once_for_all_tests_with_this_cause(online: Project) -> None:
    each = "@pytest.mark.parametrize('number', range(3))\n    @pytest.mark.vcr"
    test = (REPLAYED % CLOCK).replace("@pytest.mark.vcr", each).replace("d()", "d(number)")
    online.write(test_app=test)
    online.run("--record-mode=once", plugins=("recording",)).assert_outcomes(passed=3)
    result = online.run(plugins=("recording",))
    result.assert_outcomes(failed=3)
    result.stdout.re_match_lines(
        ["  changed: system in all 3; differs in every run in all 3: see .*"]
    )
