"""Attempts of a test and set-ups of a fixture: rerun, repeated, shuffled, or left out."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from spending_suite import APP, without_workers
from standin import StandIn, Step

RERUNNERS: dict[str, tuple[str, ...]] = {
    "rerunfailures": ("--reruns=2",),
    "flaky": ("--force-flaky", "--max-runs=3"),
}
SPEND = """
    import pytest
    from pytest_llmcost import max_cost

    def spend(llmcost, cents):
        usage = {"input_tokens": 2000 * cents, "output_tokens": 0}
        llmcost.record(usage, model="claude-opus-4-7")

    def attempts(seen=[]):
        seen.append(1)
        return len(seen)
"""


def rerun(project: Project, rerunner: str, *args: str) -> pytest.RunResult:
    more = ("xdist",) if "-n2" in args else ()
    given = ("--llmcost-report=ledger.json", *RERUNNERS[rerunner], *args)
    return project.run(*given, plugins=(rerunner, *more))


def rows(project: Project, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(row[key] for key in keys) for row in project.ledger()["tests"]]


def states(project: Project) -> list[str | None]:
    return [row["verdict"] and row["verdict"]["state"] for row in project.ledger()["tests"]]


@pytest.mark.parametrize("rerunner", RERUNNERS)
class TestReruns:
    @pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two workers"])
    def test_all_count_for_the_suite_and_the_last_for_the_baseline(
        self, project: Project, rerunner: str, workers: tuple[str, ...]
    ) -> None:
        app = """
    @max_cost("$0.04")
    def test_settles(llmcost):
        number = attempts()
        spend(llmcost, {cents})
        assert number == {passes_at}
    """
        baseline = "--llmcost-baseline=base.json"
        project.write(test_app=SPEND + app.format(cents="2", passes_at=1))
        result = rerun(project, rerunner, baseline, "--llmcost-update-baseline")
        assert result.ret == pytest.ExitCode.OK
        project.write(test_app=SPEND + app.format(cents="5 - number", passes_at=3))
        limits = ("--llmcost-max-increase=0%", "--llmcost-max-test-increase=0%")
        args = (baseline, *limits, *workers)
        result = rerun(project, rerunner, "--llmcost-max-suite=$0.09", *args)
        assert result.ret == pytest.ExitCode.OK, result.stdout.str()
        assert rows(project, "attempt", "outcome", "usd") == [
            *[(1, "failed", "0.04"), (2, "failed", "0.03"), (3, "passed", "0.02")]
        ]
        assert states(project) == ["within"] * 3
        ledger = project.ledger()
        assert (ledger["totals"]["usd"], ledger["comparison"]["change_usd"]) == ("0.09", "0")
        result = rerun(project, rerunner, "--llmcost-max-suite=$0.089", *args)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        assert result.parseoutcomes()["failed"] == 1, "the suite alone"

    def test_that_set_up_a_shared_fixture_anew_count_it_once_and_pay_for_it_each_time(
        self, project: Project, standin: StandIn, rerunner: str
    ) -> None:
        project.online(standin).write(
            app=APP,
            test_app=SPEND
            + """
    from app import ask_live

    @pytest.fixture(scope="module")
    def primed():
        ask_live(100)
        yield
        ask_live(50)

    @pytest.fixture(scope="module")
    def breaks(primed):
        ask_live(10)
        assert attempts() == 3, "not yet"

    def test_last(breaks, llmcost):
        spend(llmcost, 1)
    """,
        )
        result = rerun(project, rerunner)
        assert result.ret == pytest.ExitCode.OK, result.stdout.str()
        ledger = project.ledger()
        found = [(row["name"], Decimal(row["usd"])) for row in ledger["fixtures"]]
        assert len(set(found)) == 2, "every set-up of each costs the same"
        assert [name for name, _ in found].count("breaks") == 3
        once = sum(usd for _, usd in set(found))
        assert Decimal(ledger["totals"]["usd"]) == once + Decimal("0.01")
        assert Decimal(ledger["totals"]["live_usd"]) == sum(usd for _, usd in found) > once
        result.stdout.fnmatch_lines(
            ["  breaks (module fixture of test_app.py, most expensive of 3) *"]
        )

    def test_for_a_set_up_that_failed_have_spent_in_it_and_are_an_error(
        self, project: Project, rerunner: str
    ) -> None:
        project.write(
            app=APP,
            test_app=SPEND
            + """
    from app import ask

    @pytest.fixture
    def breaks():
        ask(2000)
        assert attempts() == 2, "not yet"

    def test_it(breaks, llmcost):
        spend(llmcost, 1)
    """,
        )
        assert rerun(project, rerunner).ret == pytest.ExitCode.OK
        assert rows(project, "attempt", "outcome", "usd") == [
            (1, "error", "0.01025"),
            (2, "passed", "0.02025"),
        ]


AS_PYTEST_RETRY_DOES = """
    import pytest

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        for attempt in (2, 3):
            if call.when != "call" or not report.failed:
                break
            hook = item.ihook
            hook.pytest_runtest_teardown(item=item, nextitem=None)
            item._initrequest()
            hook.pytest_runtest_setup(item=item)
            call = pytest.CallInfo.from_call(
                lambda: hook.pytest_runtest_call(item=item), when="call")
            again = pytest.TestReport.from_item_and_call(item, call)
            report.outcome, report.longrepr = again.outcome, again.longrepr
        return report
"""


def test_a_test_that_runs_again_while_its_report_is_made_ends_as_its_last_attempt(
    project: Project,
) -> None:
    project.write(
        conftest=AS_PYTEST_RETRY_DOES,
        test_app=SPEND
        + """
    @max_cost("$0.02")
    def test_gets_cheaper(llmcost, seen=[]):
        seen.append(1)
        spend(llmcost, 4 - len(seen))

    @max_cost("$0.01")
    def test_stays_dear(llmcost):
        spend(llmcost, 2)

    def test_stays_wrong(llmcost):
        spend(llmcost, 1)
        assert 0
    """,
    )
    result = project.run(
        "--llmcost-report=ledger.json",
        *("--llmcost-baseline=base.json", "--llmcost-update-baseline"),
    )
    result.assert_outcomes(passed=1, failed=2)
    assert rows(project, "attempt", "outcome", "usd") == [
        *[(1, "failed", "0.03"), (2, "passed", "0.02")],
        *[(1, "failed", "0.02"), (2, "failed", "0.02"), (3, "failed", "0.02")],
        *[(1, "failed", "0.01"), (2, "failed", "0.01"), (3, "failed", "0.01")],
    ]
    result.stdout.no_fnmatch_line("*too late to fail*")
    result.stdout.fnmatch_lines(["not written: *base.json: *test_stays_wrong failed*"])


def test_a_body_that_a_plugin_runs_again_without_a_set_up_fails_by_its_budget_again(
    project: Project,
) -> None:
    project.write(
        conftest="""
    import pytest

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if call.when == "call" and report.failed:
            again = pytest.CallInfo.from_call(
                lambda: item.ihook.pytest_runtest_call(item=item), when="call")
            report = pytest.TestReport.from_item_and_call(item, again)
        return report
    """,
        test_app=SPEND
        + """
    @max_cost("$0.01")
    def test_stays_dear(llmcost):
        spend(llmcost, 2)
    """,
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*too late to fail*")


def test_a_fixture_is_another_for_every_parameter_of_what_it_needs(project: Project) -> None:
    project.write(
        app=APP,
        test_app="""
    import pytest
    from app import ask

    @pytest.fixture(scope="session", params=["small", "large"])
    def engine(request):
        return request.param

    @pytest.fixture(scope="session", params=[object(), object()])
    def way(request):
        return request.param

    @pytest.fixture(scope="session")
    def between(engine):
        return engine

    @pytest.fixture(scope="module", params=[None, 1.5])
    def primed(between, way, request):
        ask(100)

    @pytest.mark.parametrize("words", [1, 2])
    def test_it(primed, words):
        pass
    """,
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=16)
    ledger = project.ledger()
    assert [row["param"] for row in ledger["fixtures"]] == [
        f"{own}, engine='{engine}', way=way{way}"
        for own in ("1.5", "None")
        for engine in ("large", "small")
        for way in (0, 1)
    ]
    assert ledger["totals"]["calls"] == 8


def test_a_fixture_that_a_test_asks_for_as_it_runs_is_another_one_for_each_parameter(
    project: Project,
) -> None:
    project.write(
        app=APP,
        test_app="""
    import pytest
    from app import ask

    @pytest.fixture(scope="module", params=["small", "large"])
    def engine(request):
        return request.param

    @pytest.fixture(scope="module")
    def between(engine):
        return engine

    @pytest.fixture(scope="module")
    def primed(between):
        ask(100)

    def test_it(engine, request):
        request.getfixturevalue("primed")
    """,
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    ledger = project.ledger()
    params = [row["param"] for row in ledger["fixtures"]]
    assert params == ["engine='large'", "engine='small'"]
    assert ledger["totals"]["calls"] == 2


def test_flaky_may_want_more_than_one_success(project: Project) -> None:
    project.write(
        test_app=SPEND
        + """
    @max_cost("$0.02")
    @pytest.mark.flaky(max_runs=3, min_passes=2)
    def test_twice(llmcost):
        spend(llmcost, attempts())
    """
    )
    project.run("--llmcost-report=ledger.json", plugins=("flaky",)).assert_outcomes(passed=1)
    assert rows(project, "attempt", "outcome", "usd") == [
        (1, "passed", "0.01"),
        (2, "passed", "0.02"),
    ]


@pytest.mark.parametrize(
    ("option", "attempts"),
    [("--only-rerun=over the .* budget", 3), ("--rerun-except=over the .* budget", 1)],
)
def test_a_broken_ceiling_can_be_told_from_other_failures_by_its_words(
    project: Project, option: str, attempts: int
) -> None:
    project.write(
        test_app=SPEND
        + """
    @max_cost("$0.01")
    def test_dear(llmcost):
        spend(llmcost, 2)
    """
    )
    assert rerun(project, "rerunfailures", option).ret == pytest.ExitCode.TESTS_FAILED
    assert rows(project, "attempt") == [(number + 1,) for number in range(attempts)]


def test_a_ceiling_broken_in_teardown_is_rerun_and_every_attempt_is_judged_anew(
    project: Project,
) -> None:
    project.write(
        test_app=SPEND
        + """
    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost, 3 - attempts())

    @max_cost("$0.02", calls=2)
    def test_it(late, llmcost):
        with llmcost.budget("$0.01"):
            spend(llmcost, 1)
    """
    )
    assert rerun(project, "rerunfailures").ret == pytest.ExitCode.OK
    assert rows(project, "attempt", "outcome") == [(1, "error"), (2, "passed")]
    assert states(project) == ["exceeded", "within"]
    assert [len(row["blocks"]) for row in project.ledger()["tests"]] == [2, 2]


@pytest.mark.parametrize("body", ["pass", "assert False"])
def test_a_teardown_makes_no_verdict_better_by_which_its_test_has_failed(
    project: Project, body: str
) -> None:
    project.write(
        test_app=SPEND
        + f"""
    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost, 1)

    @max_cost("$0.02")
    def test_it(late):
        {body}
    """
    )
    result = rerun(project, "rerunfailures", "--reruns=0")
    result.assert_outcomes(failed=1)
    by_budget = body == "pass"
    assert states(project) == ["unverified" if by_budget else "within"]
    verdict = project.ledger()["tests"][0]["verdict"]
    assert (verdict["low"], verdict["high"]) == (("0", None) if by_budget else ("0.01", "0.01"))
    result.stdout.re_match_lines([rf"{'[?]' if by_budget else ' '} test_it .*"])


@pytest.mark.parametrize("rerunner", [None, "rerunfailures"], ids=["alone", "rerunner"])
def test_a_test_that_spends_in_its_teardown_alone_has_the_outcome_of_its_body(
    project: Project, rerunner: str | None
) -> None:
    project.write(
        test_app=SPEND
        + """
    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost, 1)

    def test_fails(late):
        assert False

    def test_passes(late):
        pass

    def test_skips(late):
        pytest.skip("late")

    def test_skips_late(request, llmcost):
        request.addfinalizer(lambda: pytest.skip("late"))
        request.addfinalizer(lambda: spend(llmcost, 1))

    @pytest.mark.xfail
    def test_xfails(late):
        assert False
    """
    )
    update = ("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    if rerunner is None:
        result = project.run("--llmcost-report=ledger.json", *update)
    else:
        result = rerun(project, rerunner, "--reruns=0", *update)
    outcomes = [(each,) for each in ("failed", "passed", "skipped", "skipped", "xfailed")]
    assert rows(project, "outcome") == outcomes
    result.stdout.fnmatch_lines(["not written: base.json: test_app.py::test_fails failed*"])


def test_a_failed_subtest_is_a_failure_of_its_attempt(project: Project) -> None:
    project.write(
        test_app=SPEND
        + """
    import unittest

    class TestParts(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _llmcost(self, llmcost):
            self.llmcost = llmcost

        def test_it(self):
            with self.subTest("one"):
                assert False
            spend(self.llmcost, 1)

        def test_other(self):
            spend(self.llmcost, 1)
            with self.subTest("one"):
                assert False
    """
    )
    result = project.run(
        "--llmcost-report=ledger.json",
        "--llmcost-baseline=base.json",
        "--llmcost-update-baseline",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert {row[0] for row in rows(project, "outcome")} == {"failed"}
    result.stdout.fnmatch_lines(["not written: *base.json: *test_* failed*"])


def test_a_rerun_may_record_what_the_attempt_before_did_not_come_to(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=SPEND
        + """
    def test_it(llmcost):
        for words in range(attempts()):
            llmcost.count(model="claude-opus-4-7", messages=[
                {"role": "user", "content": "word " * (words + 1)}])
        assert words == 1, "not yet"
    """
    )
    result = rerun(project, "rerunfailures", "--llmcost-record-mode=once")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    assert len(standin.counted) == 2
    assert [len(row["calls"]) for row in project.ledger()["tests"]] == [1, 2]


def test_rewriting_keeps_what_every_attempt_of_a_test_has_counted(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=SPEND
        + """
    def test_it(llmcost):
        number = attempts()
        llmcost.count(model="claude-opus-4-7", messages=[
            {"role": "user", "content": "word " * number}])
        assert number == 2, "not yet"
    """
    )
    assert rerun(project, "rerunfailures", "--llmcost-record-mode=rewrite").ret == 0
    assert rerun(project, "rerunfailures").ret == 0
    assert [len(row["calls"]) for row in project.ledger()["tests"]] == [1, 1]


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two workers"])
def test_rewriting_keeps_what_every_set_up_of_a_fixture_has_counted(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
) -> None:
    """Two modules and two parameters share the fixture, and so its count cassette."""
    test = """
    def test_one(primed): pass
    def test_two(primed): pass
    """
    project.online(standin).write(
        app=APP,
        conftest="""
    import os
    import pytest
    import vcr
    from app import ask_live

    @pytest.fixture(scope="module", params=[1, 2])
    def primed(request):
        name = f"{request.node.name}.{request.param}"
        words = 10 * request.param + len(request.node.name) + int(os.environ["GROWN"])
        with vcr.use_cassette(f"{name}.yaml", match_on=["method"]):
            ask_live(words)
    """,
        test_a=test,
        test_ab=test,
    )
    monkeypatch.setenv("GROWN", "0")
    project.run().assert_outcomes(passed=8)
    monkeypatch.setenv("GROWN", "100")
    for mode in ("--llmcost-record-mode=rewrite", "--llmcost-record-mode=none"):
        args = (mode, "--llmcost-report=ledger.json", *workers)
        project.run(*args, plugins=("xdist",)).assert_outcomes(passed=8)
        found = project.ledger()["fixtures"]
        assert {call["evidence"] for row in found for call in row["calls"]} == {"recounted"}
        assert {(row["node"], row["param"]) for row in found} == {
            (node, param) for node in ("test_a.py", "test_ab.py") for param in ("1", "2")
        }


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two workers"])
@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_repeated_test_is_as_many_tests_that_share_their_fixtures(
    project: Project, workers: tuple[str, ...], scope: str
) -> None:
    project.write(
        app=APP,
        test_app=SPEND
        + """
    from app import ask

    @pytest.fixture(scope="module")
    def primed():
        ask(1990)

    @max_cost("$0.01")
    def test_often(llmcost, primed):
        spend(llmcost, 1)

    @max_cost("$0.01")
    def test_dear(llmcost, primed):
        spend(llmcost, 2)
    """,
    )
    args = ("--count=3", f"--repeat-scope={scope}", "--llmcost-report=ledger.json", *workers)
    project.run(*args, plugins=("repeat", "xdist")).assert_outcomes(passed=3, failed=3)
    repeats = [f"{number}-3" for number in (1, 2, 3)]
    assert rows(project, "nodeid", "attempt", "usd") == [
        *[(f"test_app.py::test_dear[{each}]", 1, "0.02") for each in repeats],
        *[(f"test_app.py::test_often[{each}]", 1, "0.01") for each in repeats],
    ]
    assert states(project) == ["exceeded"] * 3 + ["within"] * 3
    assert project.ledger()["totals"]["usd"] == "0.1002", "the fixture once"


SHUFFLED = """
    import pytest
    from app import ask
    from pytest_llmcost import max_cost

    @pytest.fixture(scope="module")
    def primed():
        ask({first})
        yield
        ask({first} + 1)

    @pytest.mark.parametrize("words", [1, 2, 3])
    @max_cost("$0.00026")
    def test_it(primed, together, words):
        ask(words)
"""


@pytest.mark.parametrize("how", ["by randomly", "across modules"])
def test_no_order_changes_a_byte_of_what_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    project.write(
        app=APP,
        conftest="""
    import os
    import random
    import pytest
    from app import ask

    @pytest.fixture(scope="session", params=["one", "other"])
    def together(request):
        ask(50 if request.param == "one" else 60)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(items):
        if os.environ.get("SEED"):
            random.Random(int(os.environ["SEED"])).shuffle(items)
    """,
        test_one=SHUFFLED.format(first=1000),
        test_two=SHUFFLED.format(first=2000),
    )
    reported = {tell(project)}
    for seed in ("1", "2", "3"):
        if how == "across modules":
            monkeypatch.setenv("SEED", seed)
            reported.add(tell(project))
        else:
            reported.add(tell(project, "-p", "randomly", f"--randomly-seed={seed}"))
    assert len(reported) == 1


def tell(project: Project, *args: str) -> str:
    """The ledger but for `run` and how often a fixture was set up, and the verdicts' lines."""
    result = project.run("--llmcost-report=ledger.json", "--llmcost-max-suite=$0.01", *args)
    result.assert_outcomes(passed=8, failed=5)
    lines = [line for line in result.outlines if line.startswith(("total ", "suite "))]
    return json.dumps([without_workers(project.ledger()), lines], sort_keys=True)


@pytest.mark.parametrize(
    ("args", "reasons"),
    [
        ((), []),
        (("-k", "first or second"), ["deselected"]),
        (("-m", "slow"), ["deselected"]),
        (("-x",), ["interrupted", "stopped"]),
        (("-p", "stepwise", "-p", "cacheprovider", "--sw"), ["interrupted", "stopped"]),
        (("-n2", "-k", "first or second"), ["deselected"]),
        (("-n2", "--maxfail=1", "-k", "not first"), ["deselected", "interrupted", "stopped"]),
    ],
)
def test_a_run_that_left_tests_out_says_why_and_is_no_baseline(
    project: Project, args: tuple[str, ...], reasons: list[str]
) -> None:
    project.write(
        pytest_ini="[pytest]\nmarkers = slow",
        test_app=SPEND
        + """
    def test_first(llmcost):
        spend(llmcost, 1)

    @pytest.mark.slow
    @max_cost("$0.01")
    def test_second(llmcost):
        spend(llmcost, 2)

    def test_third(llmcost):
        spend(llmcost, 3)
    """,
    )
    update = ("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    result = project.run("--llmcost-report=ledger.json", *update, *args, plugins=("xdist",))
    ledger = project.ledger()
    assert (ledger["complete"], ledger["incomplete"]) == (not reasons, reasons)
    assert (project.path / "base.json").exists() == (not reasons)
    if reasons:
        result.stdout.fnmatch_lines(["not written: *base.json: this run is not complete (*"])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two workers"])
def test_two_tests_of_one_node_id_are_not_taken_for_attempts_of_one(
    project: Project, workers: tuple[str, ...]
) -> None:
    for name, cents in (("one", 1), ("two", 8)):
        app = f"{SPEND}\n    def test_pays(llmcost):\n        spend(llmcost, {cents})\n"
        project.write(**{f"{name}__tests__test_app": app})
        (project.path / name / "pytest.ini").write_text(
            "[pytest]\naddopts = --import-mode=importlib"
        )
    given = ("two", "one", "--llmcost-report=ledger.json", "--llmcost-report=comment.md", *workers)
    accept = ("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    result = project.run(*given, *accept, plugins=("xdist",))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    why = "tests in ../one/tests/test_app.py and tests/test_app.py have the same node id*by itself"
    result.stdout.fnmatch_lines([f"not written: *{why}", f"FAILED llmcost - {why}"])
    assert not (project.path / "base.json").exists()
    assert "have the same node id" in (project.path / "comment.md").read_text(encoding="utf-8")
    # Each by itself, or if only one of them spends, there is nothing to confuse.
    assert project.run("one", *accept).ret == pytest.ExitCode.OK
    project.write(one__tests__test_app="def test_pays(): pass")
    assert project.run(*given, plugins=("xdist",)).ret == pytest.ExitCode.OK


@pytest.mark.parametrize(("limit", "state"), [("$0.01", "within"), ("$0.0005", "unverified")])
def test_a_lost_attempt_before_an_answer_costs_its_prompt_and_max_tokens_at_most(
    project: Project, standin: StandIn, limit: str, state: str
) -> None:
    standin.script(Step(cut_after_bytes=0))
    project.online(standin).write(
        test_app="""
    import anthropic

    def test_a():
        with anthropic.Anthropic() as client:
            client.messages.create(model="claude-opus-4-7", max_tokens=50, messages=[
                {"role": "user", "content": "Hi"}])
    """
    )
    project.run(f"--llmcost-max-suite={limit}", "--llmcost-report=ledger.json")
    ledger = project.ledger()
    (verdict,) = ledger["verdicts"]
    (call,) = ledger["tests"][0]["calls"]
    assert (call["attempts"], call["lost_attempts"]) == (2, 1)
    assert (verdict["state"], verdict["low"], verdict["high"]) == (
        state,
        call["usd"],
        call["usd_high"],
    )
    assert Decimal(call["usd_high"]) >= Decimal(call["usd"]) + 50 * Decimal("0.000025")


@pytest.mark.parametrize("looks", ["under way", "before the retry"])
@pytest.mark.parametrize("lost", [1, 2])
def test_a_call_that_is_looked_at_between_its_attempts_is_one(
    project: Project, standin: StandIn, looks: str, lost: int
) -> None:
    """As by another thread or task, where a block ends."""
    standin.script(*[Step(cut_after_bytes=0)] * lost)
    project.online(standin).write(
        test_app=f"""
    import anthropic
    import time
    from pytest_llmcost import max_cost

    @max_cost("$1", calls=1)
    def test_a(llmcost, monkeypatch):
        seen = []

        def look(*_):
            seen.extend(call.caveats for call in llmcost.calls)

        hooks = {{"request": [look]}} if {looks == "under way"} else {{}}
        if not hooks:
            monkeypatch.setattr(time, "sleep", look)
        transport = anthropic.DefaultHttpxClient(event_hooks=hooks)
        with anthropic.Anthropic(http_client=transport) as client:
            client.messages.create(model="claude-opus-4-7", max_tokens=50, messages=[
                {{"role": "user", "content": "Hi"}}])
        assert seen
        (call,) = llmcost.calls
        assert (call.attempts, call.lost_attempts) == ({lost + 1}, {lost})
    """
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (row,) = project.ledger()["tests"]
    assert [call["lost_attempts"] for call in row["calls"]] == [lost]
