"""Every kind of test that pytest runs: subtests, doctests, unittest's, and items of one's own."""

from __future__ import annotations

from textwrap import dedent

import pytest
from conftest import Project
from standin import StandIn

SPENDS = """
    import unittest
    import pytest
    from pytest_llmcost import max_cost

    def spend(llmcost, tokens=1000):
        llmcost.record({"input_tokens": tokens, "output_tokens": 0}, model="claude-opus-4-7")
"""
INSIDE = """
@max_cost("$0.001")
def test_inside(llmcost):
    spend(llmcost)
"""


def test_subtests_are_part_of_their_test(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @max_cost("$0.012")
    def test_all_pass_and_together_cost_too_much(subtests, llmcost):
        for number in range(3):
            with subtests.test(number=number):
                spend(llmcost)

    @max_cost("$0.001")
    def test_one_fails(subtests, llmcost):
        with subtests.test("first"):
            spend(llmcost)
            assert 0
        with subtests.test("second"):
            spend(llmcost)

    def test_a_block_in_one(subtests, llmcost):
        with subtests.test("dear"):
            with llmcost.budget("$0.001"):
                spend(llmcost)
        with subtests.test("cheap"):
            with llmcost.budget("$0.005"):
                spend(llmcost)

    def test_skipped_in_part(subtests, llmcost):
        with subtests.test("skipped"):
            pytest.skip("not today")
        spend(llmcost)
    """
    )
    for args, plugins in (((), ()), (("-n1",), ("xdist",))):
        result = project.run("--llmcost-report=ledger.json", *args, plugins=plugins)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        found = {
            test["nodeid"].rpartition("::")[2]: (
                test["usd"],
                test["verdict"] and test["verdict"]["state"],
                [block["state"] for block in test.get("blocks", [])],
                test["outcome"],
            )
            for test in project.ledger()["tests"]
        }
        assert found == {
            "test_all_pass_and_together_cost_too_much": ("0.015", "exceeded", [], "failed"),
            "test_one_fails": ("0.01", "exceeded", [], "failed"),
            "test_a_block_in_one": ("0.01", None, ["exceeded", "within"], "failed"),
            "test_skipped_in_part": ("0.005", None, [], "passed"),
        }
        result.stdout.fnmatch_lines(["*test_all_pass_and_together* - $0.015 > $0.012 budget*"])


def test_a_subtest_that_fails_before_anything_is_spent_fails_its_test(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    def test_one(subtests, llmcost):
        with subtests.test("first"):
            assert 0
        spend(llmcost)
    """
    )
    project.run("--llmcost-report=ledger.json")
    assert [test["outcome"] for test in project.ledger()["tests"]] == ["failed"]


def test_rewriting_keeps_what_a_subtest_that_failed_did_not_come_to(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.online(standin).write(
        test_app="""
    import os

    def count(llmcost, words):
        message = {"role": "user", "content": "word " * words}
        llmcost.count(model="claude-opus-4-7", max_tokens=9, messages=[message])

    def test_one(subtests, llmcost):
        with subtests.test("first"):
            assert "FAILS" not in os.environ
            count(llmcost, 1)
        count(llmcost, 2)
    """
    )
    project.record().assert_outcomes(passed=1)
    cassette = project.path / "cassettes" / "test_app" / "test_one.llmcost.yaml"
    before = cassette.read_bytes()
    monkeypatch.setenv("FAILS", "1")
    assert project.run("--llmcost-record-mode=rewrite").ret == pytest.ExitCode.TESTS_FAILED
    assert cassette.read_bytes() == before


def test_unittest_s_own_kinds(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @max_cost("$0.001")
    class TestOld(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _given(self, llmcost):
            self.llmcost = llmcost

        def test_subtests(self):
            for number in range(2):
                with self.subTest(number=number):
                    spend(self.llmcost)

        def test_a_subtest_fails(self):
            with self.subTest("wrong"):
                spend(self.llmcost)
                self.fail("by itself")

        def test_skips(self):
            spend(self.llmcost)
            self.skipTest("not today")

        @unittest.expectedFailure
        def test_expected(self):
            spend(self.llmcost)
            self.fail("by itself")

        @unittest.expectedFailure
        def test_unexpected(self):
            spend(self.llmcost)

        @unittest.skip("never")
        def test_never(self):
            pass

    class TestAsync(unittest.IsolatedAsyncioTestCase):
        @pytest.fixture(autouse=True)
        def _given(self, llmcost):
            self.llmcost = llmcost

        @max_cost("$0.001")
        async def test_async(self):
            spend(self.llmcost)

        @max_cost("$0.001")
        async def test_cleans_up(self):
            async def clean_up():
                spend(self.llmcost)
            self.addAsyncCleanup(clean_up)
    """
    )
    result = project.run("-rA", "--llmcost-report=ledger.json")
    found = {
        test["nodeid"].rpartition("::")[2]: (test["verdict"]["state"], test["outcome"])
        for test in project.ledger()["tests"]
    }
    assert found == {
        "test_subtests": ("exceeded", "failed"),
        "test_a_subtest_fails": ("exceeded", "failed"),
        "test_skips": ("exceeded", "failed"),
        "test_expected": ("exceeded", "xfailed"),
        "test_unexpected": ("exceeded", "failed"),
        "test_never": ("within", "skipped"),
        "test_async": ("exceeded", "failed"),
        "test_cleans_up": ("exceeded", "failed"),
    }
    result.stdout.fnmatch_lines_random(
        [
            "FAILED test_app.py::TestOld::test_subtests - $0.01 > $0.001 budget*",
            "FAILED test_app.py::TestAsync::test_cleans_up - $0.005 > $0.001 budget*",
        ]
    )


def test_doctests_can_count_and_have_the_ceiling_of_the_settings(project: Project) -> None:
    project.write(
        app='''
    def triage():
        """
        >>> llmcost = getfixture("llmcost")
        >>> spent = llmcost.record({"input_tokens": 1000, "output_tokens": 0},
        ...                        model="claude-opus-4-7")
        >>> print(f"{llmcost.usd:.4f}")
        0.0050
        """
    ''',
    )
    (project.path / "guide.txt").write_text(
        ">>> llmcost = getfixture('llmcost')\n"
        ">>> _ = llmcost.record({'input_tokens': 1, 'output_tokens': 0}, model='claude-opus-4-7')\n"
    )
    (project.path / "test_guide.txt").write_bytes((project.path / "guide.txt").read_bytes())
    result = project.run("--doctest-modules", "--llmcost-max-test=$0.001")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED app.py::app.triage - $0.005 > $0.001 budget*"])


YAML = """
    import httpx
    import pytest

    def pytest_collect_file(parent, file_path):
        if file_path.suffix == ".yaml" and file_path.name.startswith("test"):
            return YamlFile.from_parent(parent, path=file_path)

    class YamlFile(pytest.File):
        def collect(self):
            for name in ("cheap", "dear", "idle"):
                item = YamlItem.from_parent(self, name=name)
                if name != "cheap":
                    item.add_marker(pytest.mark.max_cost("$0.0000001"))
                yield item

    class YamlItem(pytest.Item):
        def runtest(self):
            if self.name != "idle":
                httpx.Client(transport=httpx.MockTransport(answer)).post(
                    "https://api.anthropic.com/v1/messages",
                    json={"model": "claude-opus-4-7", "max_tokens": 10,
                          "messages": [{"role": "user", "content": self.name}]})

        def repr_failure(self, excinfo):
            return f"our own words: {excinfo.value}"

        def reportinfo(self):
            return self.path, None, f"case {self.name}"

    def answer(request):
        return httpx.Response(200, json={
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-7",
            "content": [], "stop_reason": "end_turn",
            "usage": {"input_tokens": 1000, "output_tokens": 0}})
"""


def test_items_that_are_no_functions(project: Project) -> None:
    project.write(conftest=YAML)
    (project.path / "test_cases.yaml").write_text("")
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=2)
    tests = project.ledger()["tests"]
    assert [(test["nodeid"], test["line"]) for test in tests] == [
        ("test_cases.yaml::cheap", None),
        ("test_cases.yaml::dear", None),
        ("test_cases.yaml::idle", None),
    ]
    assert tests[1]["verdict"]["origin"] == "test_cases.yaml"
    result.stdout.fnmatch_lines(
        ["our own words: $0.005 is * over the $0.0000001 budget set by test_cases.yaml"]
    )


def test_a_test_that_a_package_has_made_stands_in_its_own_file(project: Project) -> None:
    """pytest-bdd makes a function of its own of each scenario."""
    package = """
        def scenario(test):
            def made(llmcost):
                test(llmcost)
            return made
    """
    app = """
        from scenarios import scenario

        @max_cost("$0.001")
        @scenario
        def test_made(llmcost):
            spend(llmcost)
    """
    files = {"venv__site-packages__scenarios": package, "test_app": dedent(SPENDS) + dedent(app)}
    project.write(**files)
    project.pytester.syspathinsert(project.path / "venv" / "site-packages")
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(failed=1)
    (test,) = project.ledger()["tests"]
    assert (test["path"], test["line"]) == ("test_app.py", None)
    result.stdout.fnmatch_lines(["*over the $0.001 budget set at test_app.py"])


def test_a_test_of_an_installed_package_keeps_its_file_and_line(project: Project) -> None:
    """As with `--pyargs`."""
    file = "venv/site-packages/pack/test_inside.py"
    project.write(**{file.removesuffix(".py").replace("/", "__"): dedent(SPENDS) + INSIDE})
    result = project.run("--llmcost-report=ledger.json", file)
    result.assert_outcomes(failed=1)
    (test,) = project.ledger()["tests"]
    assert test["path"] == file
    result.stdout.fnmatch_lines([f"*over the $0.001 budget set at {file}:{test['line']}"])


def test_a_marker_that_is_added_while_the_test_is_set_up_holds(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @pytest.fixture
    def limited(request):
        request.node.add_marker(max_cost("$0.001"))

    @pytest.fixture
    def wrongly_limited(request):
        request.node.add_marker(pytest.mark.max_cost("cheap"))

    def test_dear(limited, llmcost):
        spend(llmcost)

    def test_wrong(wrongly_limited, llmcost):
        spend(llmcost)
    """
    )
    result = project.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "FAILED test_app.py::test_dear - $0.005 > $0.001 budget*",
            "FAILED test_app.py::test_wrong - *max_cost: 'cheap' is not an amount*",
        ]
    )
    assert result.stdout.str().count("'cheap' is not an amount of money; write") == 1


def test_what_is_expected_to_fail_or_is_not_run_after_spending_gets_no_failure(
    project: Project,
) -> None:
    project.write(
        test_app=SPENDS
        + """
    pytestmark = max_cost("$0.001")

    def test_expects(llmcost):
        spend(llmcost)
        pytest.xfail("known")

    @pytest.mark.xfail(run=False)
    def test_not_run(llmcost):
        spend(llmcost)

    @pytest.mark.xfail(raises=ZeroDivisionError)
    def test_fails_otherwise_than_expected(llmcost):
        spend(llmcost)
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(xfailed=2, failed=1)
    states = {
        test["nodeid"].rpartition("::")[2]: (test["verdict"]["state"], test["outcome"])
        for test in project.ledger()["tests"]
    }
    assert states == {
        "test_expects": ("exceeded", "xfailed"),
        "test_fails_otherwise_than_expected": ("exceeded", "failed"),
    }


def test_a_failure_of_ours_can_be_caught_like_any_other(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    from pytest_llmcost import LlmCostError
    from pytest_llmcost.errors import CountError, CountMissingError

    def test_count(llmcost):
        with pytest.raises(CountError, match="is not counted yet for") as caught:
            llmcost.count(model="claude-opus-4-7", messages=[])
        assert isinstance(caught.value, CountMissingError)
        assert caught.value.command.startswith("pytest test_app.py::test_count ")

    def test_fails_by_itself_after_a_caught_block(llmcost):
        with pytest.raises(pytest.fail.Exception):
            with llmcost.budget("$0.001"):
                spend(llmcost)
        pytest.fail("by itself")
    """
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*- llmcost -*", "FAILED test_app.py::test_fails_by_itself_* - Failed: by itself"]
    )


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_every_import_mode_and_warnings_as_errors(project: Project, mode: str) -> None:
    source = (
        SPENDS
        + """
    @max_cost("$1")
    class TestIt:
        def test_it(self, llmcost):
            spend(llmcost)
    """
    )
    project.write(one__test_app=source)
    if mode == "importlib":
        project.write(two__test_app=source)
    result = project.run(f"--import-mode={mode}", "-W", "error", "--strict-markers")
    result.assert_outcomes(passed=2 if mode == "importlib" else 1, warnings=0)


def test_pdb_and_tracebacks_of_every_style_are_no_trouble(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @max_cost("$0.001")
    def test_dear(llmcost):
        spend(llmcost)
    """
    )
    for style in ("auto", "long", "short", "line", "native", "no"):
        result = project.run(f"--tb={style}")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["FAILED *test_dear - $0.005 > $0.001 budget*"])
        assert "item_hooks.py" not in result.stdout.str()
        assert "verdicts.py" not in result.stdout.str()


def test_a_working_directory_that_is_gone_is_no_trouble(project: Project) -> None:
    project.write(
        test_app=f"""{SPENDS}
    import os

    def test_gone(tmp_path):
        os.chdir(tmp_path)
        tmp_path.rmdir()

    def test_uncounted(llmcost):
        message = dict(role="user", content="hi")
        llmcost.count(model="claude-opus-4-7", max_tokens=9, messages=[message])

    def test_block(llmcost):
        with llmcost.budget("$0.001"):
            spend(llmcost)
    """,
    )
    result = project.run_apart("--llmcost-report=cost.json", "--llmcost-max-suite=$1")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        ["*asked for at *test_app.py:*", "*over the $0.001 budget set at test_app.py:*"]
    )
    assert len(project.ledger("cost.json")["tests"]) == 2
