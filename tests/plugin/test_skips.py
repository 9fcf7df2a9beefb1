"""A test that ends early: a skip, an xfail or an exit does not undo what it has spent."""

from __future__ import annotations

import pytest
from conftest import Project

SPENDS = """
    import unittest

    import pytest
    from pytest_llmcost import max_cost

    USAGE = {"input_tokens": 1000, "output_tokens": 0}  # half a cent

    def spend(llmcost, times=1, model="claude-opus-4-7"):
        for _ in range(times):
            llmcost.record(USAGE, model=model)
"""
LIMITED = '@max_cost("$0.001")'
SKIPS = {
    "skip": (LIMITED, 'pytest.skip("late")'),
    "importorskip": (LIMITED, 'pytest.importorskip("no_such_module")'),
    "unittest's": (LIMITED, 'raise unittest.SkipTest("late")'),
    "under a marker on calls": ("@max_cost(calls=0)", 'pytest.skip("late")'),
    "under the option": ("", 'pytest.skip("late")'),
    "out of a block": (
        '@max_cost("$1")',
        'with llmcost.budget("$0.001"): spend(llmcost); pytest.skip("late")',
    ),
    "after a block whose failure was caught": (
        '@max_cost("$1")',
        'pytest.raises(BaseException, block, llmcost); pytest.skip("late")',
    ),
}
BLOCK = """
    def block(llmcost):
        with llmcost.budget("$0.001"):
            spend(llmcost)
"""


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_what_a_test_exceeded_before_it_skipped_fails_it(
    project: Project, workers: tuple[str, ...]
) -> None:
    tests = [
        f"""
    {ceiling}
    def test_{number}(llmcost):
        spend(llmcost)
        {way_out}
"""
        for number, (ceiling, way_out) in enumerate(SKIPS.values())
    ]
    project.write(test_app=SPENDS + BLOCK + "".join(tests))
    result = project.run(
        "--llmcost-report=ledger.json",
        "--llmcost-max-test=$0.001",
        *workers,
        plugins=("xdist",) if workers else (),
    )
    result.assert_outcomes(failed=len(SKIPS))
    result.stdout.fnmatch_lines_random(
        [
            "FAILED test_app.py::test_0 - $0.005 > $0.001 budget*",
            "  also *1 call is 1 over the budget of 0 calls*",
            "FAILED test_app.py::test_4 - $0.005 > $0.001 budget*",
            "FAILED test_app.py::test_5 - $0.005 > $0.001 budget*",
        ]
    )
    result.stdout.no_fnmatch_line("*During handling*")
    assert {test["outcome"] for test in project.ledger()["tests"]} == {"failed"}


def test_unittest_s_ways_to_skip_do_not_hide_a_breach(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    class Old(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _given(self, llmcost):
            self.llmcost = llmcost

    @max_cost("$0.001")
    class TestBodies(Old):
        def test_skip_test(self):
            spend(self.llmcost)
            self.skipTest("late")

        def test_skip_and_then_an_error_on_the_way_out(self):
            self.addCleanup(int, "no number")
            spend(self.llmcost)
            self.skipTest("late")

        def test_skip_on_the_way_out(self):
            self.addCleanup(self.skipTest, "late")
            spend(self.llmcost)

        @unittest.skip("never")
        def test_marked(self):
            pass

    @max_cost("$0.001")
    class TestSetUp(Old):
        def setUp(self):
            spend(self.llmcost)
            self.skipTest("late")

        def test_set_up(self):
            pass

    @max_cost("$0.001")
    class TestAsync(Old, unittest.IsolatedAsyncioTestCase):
        async def test_async(self):
            spend(self.llmcost)
            self.skipTest("late")
    """
    )
    result = project.run()
    result.assert_outcomes(failed=5, skipped=1)
    result.stdout.fnmatch_lines(["FAILED *::test_skip_test - $0.005 > $0.001 budget*"])


def test_a_fixture_that_skips_after_it_spent_is_an_error(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @pytest.fixture
    def dear(llmcost):
        spend(llmcost)
        pytest.skip("late")

    @pytest.fixture
    def block(llmcost):
        with llmcost.budget("$0.001"):
            spend(llmcost)
            pytest.skip("late")

    @pytest.fixture
    def spender(llmcost):
        yield
        spend(llmcost)

    @pytest.fixture
    def skips(spender):
        pytest.skip("early")

    @max_cost("$0.001")
    def test_dear(dear):
        pass

    def test_block(block):
        pass

    @max_cost("$0.001")
    def test_spends_on_the_way_out(skips):
        pass

    @max_cost("$1")
    def test_within(dear):
        pass
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(errors=3, skipped=2)
    result.stdout.fnmatch_lines_random(
        [
            "ERROR test_app.py::test_dear - $0.005 > $0.001 budget*",
            "ERROR test_app.py::test_block - $0.005 > $0.001 budget*",
            "ERROR test_app.py::test_spends_on_the_way_out - $0.005 > $0.001 budget*",
        ]
    )
    outcomes = {test["nodeid"].rpartition("::")[2]: test for test in project.ledger()["tests"]}
    assert outcomes["test_dear"]["verdict"]["state"] == "exceeded"
    assert outcomes["test_within"]["verdict"]["state"] == "within"


def test_an_exceeded_ceiling_under_xfail_stays_an_xfail(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    pytestmark = max_cost("$0.001")

    @pytest.mark.xfail
    def test_marked_and_skips(llmcost):
        spend(llmcost)
        pytest.skip("late")

    def test_in_the_body(llmcost):
        spend(llmcost)
        pytest.xfail("known")

    @pytest.fixture
    def known(llmcost):
        spend(llmcost)
        pytest.xfail("known")

    def test_in_a_fixture(known):
        pass

    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost)

    def test_in_the_body_and_spends_on_the_way_out(late):
        pytest.xfail("known")

    class TestOld(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _given(self, llmcost):
            self.llmcost = llmcost

        def test_in_the_body(self):
            spend(self.llmcost)
            pytest.xfail("known")
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(xfailed=5)
    tests = project.ledger()["tests"]
    assert {(test["verdict"]["state"], test["outcome"]) for test in tests} == {
        ("exceeded", "xfailed")
    }
    project.run("--runxfail").assert_outcomes(failed=4, passed=1, errors=1)


def test_a_skipped_test_whose_budget_is_only_unverified_stays_skipped(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost)

    @max_cost("$1")
    def test_spends_nothing():
        pytest.skip("early")

    @max_cost("$1")
    @pytest.mark.skip
    def test_marked():
        pass

    @max_cost("$1")
    def test_misses_a_count(llmcost):
        with pytest.raises(Exception):
            llmcost.count(model="claude-opus-4-7", messages=[])
        pytest.skip("no count")

    @max_cost("$0.001")
    def test_unverified_until_its_teardown_exceeds_it(llmcost, late):
        spend(llmcost, model="claude-opus-99")
        pytest.skip("late")
    """
    )
    result = project.run()
    result.assert_outcomes(skipped=4, errors=1)
    result.stdout.fnmatch_lines(["ERROR *::test_unverified_until_* - at least $0.005 > *"])


@pytest.mark.parametrize("where", ["body", "block", "set-up", "teardown"])
@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_leaving_with_status_0_does_not_get_round_a_test_s_ceiling(
    project: Project, where: str, workers: tuple[str, ...]
) -> None:
    leave = 'spend(llmcost); pytest.exit("done", returncode=0)'
    lines = {
        "body": ("pass", leave, "pass"),
        "block": ("pass", f'with llmcost.budget("$0.001"): {leave}', "pass"),
        "set-up": (leave, "pass", "pass"),
        "teardown": ("pass", "spend(llmcost)", leave),
    }
    set_up, body, teardown = lines[where]
    source = f"""{SPENDS}
    @pytest.fixture
    def around(llmcost):
        {set_up}
        yield
        {teardown}

    @max_cost("LIMIT")
    def test_leaves(llmcost, around):
        {body}
    """
    project.write(test_app=source.replace("LIMIT", "$0.006" if where == "teardown" else "$0.001"))
    if workers:  # xdist itself takes a worker that left for an internal error
        assert project.run(*workers, plugins=("xdist",)).ret != pytest.ExitCode.OK
        return
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*::test_leaves exceeded its budget too late to fail*"])
    if where != "block":
        project.write(test_app=source.replace("LIMIT", "$1"))
        assert project.run().ret == pytest.ExitCode.OK


def test_leaving_in_the_teardown_of_a_test_that_has_failed_by_its_budget_does_not_either(
    project: Project,
) -> None:
    source = f"""{SPENDS}
    @pytest.fixture
    def leaves():
        yield
        pytest.exit("done", returncode=0)

    @max_cost("LIMIT")
    def test_leaves(llmcost, leaves):
        spend(llmcost)
    """
    for limit, status in (("$0.001", pytest.ExitCode.TESTS_FAILED), ("$1", pytest.ExitCode.OK)):
        project.write(test_app=source.replace("LIMIT", limit))
        assert project.run().ret == status


@pytest.mark.parametrize("why", ["exceeded", "unverified"])
@pytest.mark.parametrize("where", ["in the test", "in the next test"])
def test_leaving_with_status_0_hides_no_test_that_a_budget_fails(
    project: Project, where: str, why: str
) -> None:
    leave = 'pytest.exit("done", returncode=0)'
    spent = "" if why == "exceeded" else ', model="claude-opus-99"'
    project.write(
        test_app=f"""{SPENDS}
    def test_passes():
        pass

    @max_cost("$0.001")
    def test_spends(llmcost):
        spend(llmcost{spent})
        {leave if where == "in the test" else ""}

    def test_leaves():
        {leave}
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    assert result.ret == project.ledger()["run"]["exit_status"] == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    assert project.run("--llmcost-unverified=warn").ret == (why == "exceeded")
