"""The hooks, as plugins and initial conftests implement them."""

from __future__ import annotations

import json

import pytest
from conftest import Project
from spending_suite import APP
from standin import StandIn

COUNTING = """
    from pytest_llmcost import max_cost

    @max_cost("$1")
    def test_counting(llmcost):
        llmcost.count(model="claude-opus-4-7", system="Today is {day}",
                      messages=[{{"role": "user", "content": "Hello"}}])
"""


def count(project: Project, standin: StandIn, conftest: str, day: str = "Monday") -> None:
    project.online(standin).write(conftest=conftest, test_app=COUNTING.format(day=day))
    project.record("--llmcost-report=ledger.json").assert_outcomes(passed=1)


def test_a_rate_card_of_ones_own_prices_the_whole_run(project: Project, standin: StandIn) -> None:
    (project.path / "ours.toml").write_text(
        "[models.claude-opus-4-7]\nrates = [{ from = 2026-01-01, factor = 0.5 }]\n",
        encoding="utf-8",
    )
    count(project, standin, "")
    full = json.loads((project.path / "ledger.json").read_text())["totals"]["usd"]
    count(
        project,
        standin,
        """
    def pytest_llmcost_rate_card(config, card):
        return card.with_overrides(config.rootpath / "ours.toml")
    """,
    )
    ledger = project.ledger()
    assert float(ledger["totals"]["usd"]) == float(full) / 2
    assert "ours" in ledger["rate_card"]["version"]


def test_what_is_no_rate_card_is_a_usage_error(project: Project) -> None:
    project.write(
        conftest="def pytest_llmcost_rate_card(config, card): return 3",
        test_app="def test_nothing(): pass",
    )
    result = project.run()
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*pytest_llmcost_rate_card returned int, not a RateCard*"])


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_a_rate_card_that_cannot_be_made_is_a_usage_error_that_names_the_hook(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.write(
        conftest="""
        def pytest_llmcost_rate_card(config, card):
            return card.with_overrides({}["rates"])
        """,
        test_app="def test_nothing(): pass",
    )
    result = project.run(*workers, plugins=("xdist",) if workers else ())
    assert result.ret == 4
    result.stderr.fnmatch_lines(
        ["ERROR: *conftest.py:3: pytest_llmcost_rate_card raised KeyError: 'rates'"]
    )
    result.stderr.no_fnmatch_line("*INTERNALERROR*")


def test_a_normalised_payload_is_the_same_on_every_day(project: Project, standin: StandIn) -> None:
    conftest = """
    import re

    def pytest_llmcost_normalize_payload(payload, item):
        assert item.name == "test_counting"
        return {**payload, "system": re.sub("Today is .*", "Today", payload["system"])}
    """
    count(project, standin, conftest)
    seen = standin.counted[-1].body["system"]
    assert seen == "Today is Monday", "what is counted is the payload itself"
    project.write(test_app=COUNTING.format(day="Tuesday"))
    project.run().assert_outcomes(passed=1)


def test_a_payload_that_is_normalised_without_its_model_is_still_of_that_model(
    project: Project, standin: StandIn
) -> None:
    conftest = """
    def pytest_llmcost_normalize_payload(payload, item):
        return {key: payload[key] for key in ("messages", "system")}
    """
    count(project, standin, conftest)
    project.write(test_app=COUNTING.format(day="Monday").replace("opus-4-7", "haiku-4-5"))
    project.run().assert_outcomes(failed=1)


def test_each_call_and_the_report_are_observed(project: Project, standin: StandIn) -> None:
    count(
        project,
        standin,
        """
    def pytest_llmcost_call(call, item):
        print(f"CALL {call.model} {call.usd} {item.name}")

    def pytest_llmcost_report(report, config):
        print(f"REPORT {report.totals.calls} {report.run.exit_status}")
    """,
    )
    result = project.run("-s")
    result.stdout.re_match_lines([r".*CALL claude-opus-4-7 0\.\d+ test_counting", r"\.REPORT 1 0"])


def test_a_hook_that_fails_fails_the_test_it_was_called_for(
    project: Project, standin: StandIn
) -> None:
    count(project, standin, "")
    project.write(conftest="def pytest_llmcost_call(call, item): raise ValueError('no')")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: no*"])


@pytest.mark.parametrize(
    ("raised", "shown"),
    [("raise ValueError('no')", "ValueError('no')"), ("pytest.fail('no')", "no")],
)
def test_a_report_hook_that_fails_fails_the_run_and_leaves_the_summary(
    project: Project, standin: StandIn, raised: str, shown: str
) -> None:
    count(project, standin, "")
    hook = f"def pytest_llmcost_report(report, config): {raised}"
    project.write(conftest=f"import pytest\n{hook}")
    result = project.run("--llmcost-report=cost.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*= llmcost =*", f"pytest_llmcost_report failed: {shown}"])
    assert project.ledger("cost.json")["run"]["exit_status"] == 1


def test_a_hook_in_a_conftest_that_comes_with_the_collection_is_an_error(project: Project) -> None:
    project.write(
        deep__deeper__conftest="def pytest_llmcost_call(call, item): raise ValueError",
        deep__deeper__test_app="def test_plain(): pass",
    )
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*conftest.py: pytest_llmcost_call must be in a plugin or in the rootdir conftest; *"]
    )
    project.run("deep/deeper").assert_outcomes(passed=1)


def test_a_hook_that_fails_where_no_test_is_left_is_told_of(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
    import anthropic

    HELLO = {"role": "user", "content": "Hi"}

    def pytest_llmcost_call(call, item):
        assert item is None
        raise ValueError("no")

    def pytest_sessionfinish():
        with anthropic.Anthropic() as client:
            client.messages.create(model="claude-opus-4-7", max_tokens=10, messages=[HELLO])
    """,
        test_app="def test_plain(): pass",
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["  outside tests *", "a pytest_llmcost hook failed outside of tests: ValueError('no')"]
    )
    assert project.ledger()["notes"] == [
        "a pytest_llmcost hook failed outside of tests: ValueError"
    ]


def test_a_rate_card_that_fails_leaves_no_budget_checked(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
    import copy

    def price_list(*given):
        raise LookupError("no contract today")

    def pytest_llmcost_rate_card(config, card):
        ours = copy.copy(card)
        ours.price_list = price_list
        return ours
    """,
        test_app="""
    import anthropic
    from pytest_llmcost import max_cost

    @max_cost("$1")
    def test_it():
        with anthropic.Anthropic() as client:
            client.messages.create(
                model="claude-opus-4-7", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
            )
    """,
    )
    result = project.run("--llmcost-report=ledger.json", "--llmcost-max-suite=$1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    ledger = project.ledger()
    assert ledger["tests"][0]["verdict"]["state"] == "unverified"
    assert ledger["verdicts"][0]["state"] == "unverified"
    result.stdout.fnmatch_lines(
        ["*a call could not be recorded because of *internal error*", "*no contract today*"]
    )
    assert any(note.endswith("its cost is unknown: LookupError") for note in ledger["notes"])


@pytest.mark.parametrize("raised", ["pytest.fail('dear')", "pytest.skip('dear')", "1 / 0"])
def test_a_hook_that_fails_a_test_loses_none_of_its_calls(project: Project, raised: str) -> None:
    project.write(
        app=APP,
        conftest=f"""
    import pytest

    def pytest_llmcost_call(call, item):
        {raised}
    """,
        test_app="""
    from app import ask

    def test_it():
        for words in (1, 2, 3):
            ask(words)
    """,
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(
        **{"skipped" if "skip" in raised else "failed": 1}
    )
    assert [len(row["calls"]) for row in project.ledger()["tests"]] == [3]


@pytest.mark.parametrize("raised", ["pytest.fail('no')", "1 / 0"])
def test_a_replayed_call_that_a_hook_kept_from_being_compared_has_no_exact_price(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    project.online(standin).write(
        app=APP,
        conftest=f"""
    import os
    import pytest

    def pytest_llmcost_normalize_payload(payload, item):
        if "FAILS" in os.environ:
            {raised}
    """,
        test_app="""
    import os
    import vcr
    from app import ask_live

    def test_it():
        with vcr.use_cassette("one.yaml"):
            ask_live(1000 if "FAILS" in os.environ else 1)
        ask_live(1)
    """,
    )
    project.run().assert_outcomes(passed=1)
    monkeypatch.setenv("FAILS", "1")
    args = ("--llmcost-report=ledger.json", "--llmcost-max-suite=$1")
    assert project.run(*args).ret == pytest.ExitCode.TESTS_FAILED
    (verdict,) = project.ledger()["verdicts"]
    assert verdict["state"] == "unverified"
    (test,) = project.ledger()["tests"]
    caveats = {each["live"]: each.get("caveats", []) for each in test["calls"]}
    (why,) = caveats[False]
    assert why.endswith(" while the request was compared")
    assert caveats == {False: [why], True: []}  # the live one has been billed as it says


@pytest.mark.parametrize("leaves", ["pytest.exit('enough')", "raise KeyboardInterrupt"])
@pytest.mark.parametrize("where", ["set_up", "body"])
def test_a_hook_that_fails_keeps_no_run_from_ending(
    project: Project, leaves: str, where: str
) -> None:
    project.write(
        app=APP,
        conftest="def pytest_llmcost_call(call, item): 1 / 0",
        test_app=f"""
    import pytest
    from app import ask

    def leave():
        ask(1)
        {leaves}

    @pytest.fixture(scope="session")
    def wide():  # torn down when pytest ends the session
        yield

    @pytest.fixture
    def around(wide):
        leave() if "{where}" == "set_up" else None

    def test_leaves(around):
        leave()

    def test_after():
        ask(2)
    """,
    )
    result = project.run("--llmcost-report=ledger.json")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    ledger = project.ledger()
    assert [row["nodeid"] for row in ledger["tests"]] == ["test_app.py::test_leaves"]
    assert [each for each in ledger["notes"] if "hook failed" in each and "Zero" in each]


def test_a_hook_that_fails_is_told_beside_a_skip_over_its_budget(project: Project) -> None:
    project.write(
        conftest="def pytest_llmcost_call(call): raise RuntimeError('the hook')\n",
        test_app="""
    import pytest
    from pytest_llmcost import max_cost

    @max_cost("$0.01")
    def test_skips(llmcost):
        llmcost.record({"input_tokens": 9, "output_tokens": 0}, model="claude-opus-4-7", usd="$1")
        pytest.skip("later")
    """,
    )
    result = project.run()
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines_random(
        ["FAILED test_app.py::test_skips - $1.00 > $0.01 budget*", "*RuntimeError: the hook"]
    )


def test_a_hook_that_fails_keeps_no_worker_from_telling_what_it_spent(project: Project) -> None:
    project.write(
        conftest="def pytest_llmcost_call(call, item): 1 / 0",
        test_app="""
    import pytest

    @pytest.fixture(scope="session")
    def wide():
        yield

    def test_leaves(wide, llmcost):
        llmcost.record({"input_tokens": 9, "output_tokens": 1}, model="claude-opus-4-7")
        raise KeyboardInterrupt
    """,
    )
    project.run_apart("-n1", "--llmcost-report=ledger.json", plugins=("xdist",))
    ledger = project.ledger()
    assert [row["nodeid"] for row in ledger["tests"]] == ["test_app.py::test_leaves"]
    assert [each for each in ledger["notes"] if "hook failed" in each and "Zero" in each]
