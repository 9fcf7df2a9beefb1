"""Calls of the code under test, seen without a word of it in the test."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

APP = """
    import anthropic
    import pytest
    from pytest_llmcost import max_cost

    def ask(words=10, client=None, **more):
        client = client or anthropic.Anthropic(max_retries=0)
        return client.messages.create(
            model="claude-opus-4-7", max_tokens=100,
            messages=[{"role": "user", "content": "word " * words}], **more)
"""


def test_a_live_call_is_seen_priced_and_judged(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=APP
        + """
    @max_cost("$0.000001")
    def test_dear():
        ask()

    @max_cost("$1", calls=1)
    def test_cheap():
        ask()
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_dear - $* > $0.000001 budget*"])
    totals = project.ledger()["totals"]
    assert totals["calls"] == 2
    assert totals["usd"] == totals["live_usd"] != "0"


def test_counted_then_sent_is_one_call(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=APP
        + """
    @max_cost("$1", calls=1)
    def test_one(llmcost):
        llmcost.count(model="claude-opus-4-7", max_tokens=100,
                      messages=[{"role": "user", "content": "word " * 10}])
        ask()
        assert [call.evidence for call in llmcost.calls] == ["billed"]
        assert llmcost.usd == llmcost.calls[0].usd
    """
    )
    project.run("--llmcost-record-mode=once").assert_outcomes(passed=1)


def test_a_wider_fixture_owns_what_it_spends(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=APP
        + """
    @pytest.fixture(scope="module")
    def primed():
        ask(words=50)
        yield
        ask(words=60)

    @max_cost("$1", calls=1)
    def test_first(primed):
        ask()

    @max_cost("$1", calls=1)
    def test_second(primed):
        ask()
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=2)
    ledger = project.ledger()
    (fixture,) = ledger["fixtures"]
    assert (fixture["name"], fixture["scope"]) == ("primed", "module")
    assert [call["phase"] for call in fixture["calls"]] == ["setup", "teardown"]
    assert [len(test["calls"]) for test in ledger["tests"]] == [1, 1]


def test_a_call_from_a_background_thread_is_the_running_test_s(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=APP
        + """
    import threading

    @max_cost("$1", calls=3)
    def test_threads():
        threads = [threading.Thread(target=ask) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    )
    result = project.run()
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_threads - 4 > 3 calls (+33 %)"])


def test_a_call_outside_of_tests_is_nobody_s(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=APP
        + """
    ask()

    def test_nothing():
        pass
    """
    )
    result = project.run("--llmcost-max-suite=$0.000001")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["  outside tests *", "✗ $* over the $0.000001 suite budget *"])


@pytest.mark.parametrize("left", ["stream.close()", "LEFT.append(stream)"], ids=["read", "open"])
def test_a_stream_whose_usage_has_come_is_one_call_although_it_was_looked_at_before_its_end(
    project: Project, standin: StandIn, left: str
) -> None:
    project.online(standin).write(
        test_app=APP
        + f"""
    LEFT = []

    @max_cost("$1", calls=1)
    def test_streams(llmcost):
        stream = ask(stream=True)
        for event in stream:
            if event.type == "message_delta":
                assert [call.usage.output_tokens for call in llmcost.calls] == [5]
            elif event.type == "message_stop":
                break
        {left}
        assert len(llmcost.calls) == 1

    def test_next():
        while LEFT:
            LEFT.pop().close()
    """
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    (row,) = project.ledger()["tests"]
    assert [call["usage"]["output_tokens"] for call in row["calls"]] == [5]
    assert project.ledger()["totals"]["calls"] == 1
