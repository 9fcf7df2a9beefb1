"""`max_cost`: where it may stand, what it takes, how it fails."""

from __future__ import annotations

import re

import pytest
from conftest import Project
from doc_pages import DOCS
from standin import StandIn

from pytest_llmcost.plugin.options import ARGUMENTS

PAYLOAD = """
    from pytest_llmcost import max_cost
    import pytest

    def payload(words=100, model="claude-opus-4-7"):
        return {
            "model": model,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "word " * words}],
        }
"""


def test_every_argument_is_documented() -> None:
    page = (DOCS / "reference" / "marker.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`|the first) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall("`(.*?)`", row)}
    assert named == {*ARGUMENTS, "cache", "reason"} - {"usd"}


def test_a_prompt_over_its_ceiling_fails_its_test_and_says_why(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @max_cost("$0.0001", reason="triage is cheap")
    def test_dear(llmcost):
        llmcost.count(payload(words=1000))

    @max_cost("$0.10")
    def test_cheap(llmcost):
        llmcost.count(payload())
    """
    )
    result = project.record()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines(
        [
            r"\$0\.\d+ is \$0\.\d+ \(.*\) over the \$0\.0001 budget set at .* \(triage is cheap\)",
            r"  the call +claude-opus-4-7, 3,\d+ input tokens, \$0\.\d+ \(counted\)",
            r"FAILED test_app\.py::test_dear - \$0\.\d+ > \$0\.0001 budget \(\+[\d,]+ %\)",
        ]
    )


def test_a_recorded_count_needs_neither_key_nor_network(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @max_cost("$0.10")
    def test_cheap(llmcost):
        assert llmcost.count(payload()).evidence == "counted"
    """
    )
    project.record()
    seen = len(standin.requests)
    result = project.run()
    result.assert_outcomes(passed=1)
    assert len(standin.requests) == seen


WRONG = [
    ("max_cost", "takes an amount"),
    ("max_cost()", "takes an amount"),
    ("max_cost(None)", "None is not an amount of money"),
    ("max_cost(10**5_000)", "a number of thousands of digits is not an amount of money"),
    ("max_cost('$1', reason=10**5_000)", "reason=a number of thousands of digits is not text"),
    ("max_cost(None, calls=3)", "None is not an amount of money"),
    ("max_cost(usd=None)", "None is not an amount of money"),
    ("max_cost('$1', input_tokens=None)", "input_tokens=None is not a whole number"),
    ("max_cost('$1', worst=None)", "worst=None is not an amount of money"),
    ("max_cost('$1', parts=None)", "parts=None is not a mapping"),
    ("max_cost('$1', models=None)", "models=None is not a list"),
    ("max_cost('$1', live=None)", "live=None is neither True nor False"),
    ("max_cost('$1', stable_prefix=None)", "stable_prefix=None is not True"),
    ("max_cost('cheap')", "'cheap' is not an amount"),
    ("max_cost(-1)", "-1 is not an amount"),
    ("max_cost('$1', '$2')", "takes an amount"),
    ("max_cost('$1', usd='$2')", "takes an amount"),
    ("max_cost(tokens=3)", "has no argument tokens=; it takes an amount"),
    ("max_cost(input_tokens='many')", "input_tokens='many' is not a whole number"),
    ("max_cost('$1', reason=3)", "reason=3 is not text"),
    ("max_cost('$1', cache='hot')", "cache='hot' is not one of"),
    ("max_cost(reason=3)", "reason=3 is not text"),
    ("max_cost(cache='hot')", "cache='hot' is not one of"),
    ("max_cost(cache='cold')", "takes an amount"),
    ("max_cost(float('nan'))", "is not an amount"),
]


def test_a_wrong_marker_is_a_collection_error_that_names_the_test(project: Project) -> None:
    for number, (marker, _) in enumerate(WRONG):
        text = f"""
    from pytest_llmcost import max_cost

    @{marker}
    def test_wrong():
        pass
    """
        project.write(**{f"test_{number}": text})
    result = project.run("--strict-markers")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=len(WRONG))
    for number, (_, message) in enumerate(WRONG):
        where = f"test_{number}.py"
        result.stdout.fnmatch_lines([f"*{where}::test_wrong: {where}:4: max_cost: *{message}*"])


def test_a_budget_of_a_module_is_named_with_its_line(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    pytestmark = [
        max_cost("$0.00001"),
    ]

    def test_over(llmcost):
        llmcost.count(payload())
    """
    )
    result = project.record()
    result.assert_outcomes(failed=1)
    lines = (project.pytester.path / "test_app.py").read_text("utf-8").splitlines()
    line = lines.index("pytestmark = [") + 1
    result.stdout.fnmatch_lines([f"*over the $0.00001 budget set at test_app.py:{line}"])


def test_markers_combine_by_quantity_and_the_nearest_that_states_it_wins(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    pytestmark = max_cost("$0.00001", calls=1)

    @max_cost(input_tokens="1k")
    class TestTriage:
        @max_cost("$1")
        def test_money_is_its_own(self, llmcost):
            llmcost.count(payload())

        @max_cost("$1")
        def test_tokens_are_the_class_s(self, llmcost):
            llmcost.count(payload(words=2000))

        @max_cost("$1")
        def test_calls_are_the_module_s(self, llmcost):
            llmcost.count(payload(words=10))
            llmcost.count(payload(words=11))

        def test_money_is_the_module_s(self, llmcost):
            llmcost.count(payload())
    """
    )
    result = project.record()
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.re_match_lines(
        [
            r"FAILED .*test_tokens_are_the_class_s - 6,\d+ > 1,000 input tokens .*",
            r"FAILED .*test_calls_are_the_module_s - 2 > 1 call \(\+100 %\)",
            r"FAILED .*test_money_is_the_module_s - \$0\.\d+ > \$0\.00001 budget \(\+[\d,]+ %\)",
        ]
    )


def test_a_breach_under_xfail_is_an_xfail_also_when_strict(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @max_cost("$0.00001")
    @pytest.mark.xfail(reason="on purpose")
    def test_lax(llmcost):
        llmcost.count(payload())

    @max_cost("$0.00001")
    @pytest.mark.xfail(strict=True)
    def test_strict(llmcost):
        llmcost.count(payload())
    """
    )
    result = project.record("--llmcost-report=ledger.json")
    result.assert_outcomes(xfailed=2)
    tests = project.ledger()["tests"]
    assert [each["verdict"]["state"] for each in tests] == ["exceeded", "exceeded"]
    assert [each["outcome"] for each in tests] == ["xfailed", "xfailed"]


def test_a_marked_test_that_makes_no_call_is_unverified(project: Project) -> None:
    project.write(
        test_app="""
    from pytest_llmcost import max_cost
    import pytest

    @max_cost("$1")
    def test_nothing():
        pass

    @max_cost("$1")
    def test_skipped():
        pytest.skip("not today")

    @max_cost("$1")
    class TestInherited:
        def test_nothing_either(self):
            pass
    """
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        ["FAILED test_app.py::test_nothing - not checked: $1.00 budget, no Claude call*"]
    )
    project.run("--llmcost-unverified=warn").assert_outcomes(passed=2, skipped=1)


def test_without_a_call_an_amount_is_unverified_and_a_rule_on_calls_is_kept(
    project: Project,
) -> None:
    amounts = ("worst='$1'", "output_tokens=1", "call_usd='$1'", "parts={'tools': 9}")
    rules = ("calls=0", "calls=3", "models=['claude-*']", "live=False", "stable_prefix=True")
    both = ("'$1', models=['claude-*'], live=False",)
    project.write(
        test_app="from pytest_llmcost import max_cost\n"
        + "".join(
            f"\n@max_cost({limit})\ndef test_{name}_{number}():\n    pass\n"
            for name, limits in (("fails", amounts + both), ("passes", rules))
            for number, limit in enumerate(limits)
        )
    )
    result = project.run()
    result.assert_outcomes(passed=len(rules), failed=len(amounts + both))
    shown = result.stdout.str()
    assert shown.count("FAILED test_app.py::test_fails_") == len(amounts + both)
    assert shown.count(", no Claude call was seen") == len(amounts + both)


def test_a_test_that_fails_by_itself_gets_no_second_failure_but_the_figures(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @max_cost("$0.00001")
    def test_wrong(llmcost):
        llmcost.count(payload())
        assert 1 == 2
    """
    )
    result = project.record()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*assert 1 == 2*", "*- llmcost -*", "claude-opus-4-7, *input tokens, $*", "$* over the *"]
    )
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_wrong - assert 1 == 2"])


def test_unittest_and_parameters_and_async_tests_have_ceilings_too(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    import unittest

    class TestOld(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def _llmcost(self, llmcost):
            self.llmcost = llmcost

        @max_cost("$0.00001")
        def test_dear(self):
            self.llmcost.count(payload())

        @max_cost("$0.00001")
        def test_wrong(self):
            self.llmcost.count(payload())
            self.fail("by itself")

        @max_cost("$1")
        def test_cheap(self):
            self.llmcost.count(payload())

    @pytest.mark.parametrize("words", [
        pytest.param(10, marks=max_cost("$1")),
        pytest.param(1000, marks=max_cost("$0.00001")),
    ])
    def test_each(llmcost, words):
        llmcost.count(payload(words))

    @pytest.mark.anyio
    @max_cost("$0.00001")
    async def test_async(llmcost):
        await llmcost.acount(payload())

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param
    """
    )
    result = project.record(plugins=("anyio",))
    result.assert_outcomes(passed=2, failed=5)
    result.stdout.fnmatch_lines(
        [
            "FAILED test_app.py::TestOld::test_dear - $* > $* budget*",
            "FAILED test_app.py::TestOld::test_wrong - AssertionError: by itself",
            "FAILED test_app.py::test_each[[]1000[]] - $* > $* budget*",
            "FAILED test_app.py::test_async[[]asyncio[]] - $* > $* budget*",
            "FAILED test_app.py::test_async[[]trio[]] - $* > $* budget*",
        ]
    )


def test_money_spent_in_teardown_fails_the_teardown(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @pytest.fixture
    def late(llmcost):
        yield
        llmcost.count(payload(words=1000))

    @max_cost("$0.001")
    def test_early(llmcost, late):
        llmcost.count(payload(words=10))
    """
    )
    result = project.run("--llmcost-record-mode=once")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_app.py::test_early - $* > $0.001 budget*"])


def test_a_missing_count_shows_in_the_short_summary_as_what_it_is(project: Project) -> None:
    project.write(
        test_app=PAYLOAD
        + """
    def test_missing(llmcost):
        llmcost.count(payload())
    """
    )
    result = project.run()
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_missing - not counted yet"])
    assert "counter.py" not in result.stdout.str(), "our own frames only hide the user's line"


@pytest.mark.parametrize("decorators", [("words", "ceiling"), ("ceiling", "words")])
def test_a_parameter_s_ceiling_is_nearer_than_its_function_s(
    project: Project, standin: StandIn, decorators: tuple[str, str]
) -> None:
    stated = {
        "words": '@pytest.mark.parametrize("n", [pytest.param(1, marks=max_cost("$0.00001")), 2])',
        "ceiling": '@max_cost("$1", calls=1)',
    }
    first, second = (stated[each] for each in decorators)
    project.online(standin).write(
        test_app=f"""{PAYLOAD}
    {first}
    {second}
    def test_each(llmcost, n):
        llmcost.count(payload())
    """
    )
    result = project.record()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_each[[]1[]] - $* > $0.00001 budget*"])


@pytest.mark.parametrize("mark", ['pytest.mark.max_cost("$1")', '[pytest.mark.llmcost_tag("a")]'])
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("conftest.py", pytest.ExitCode.USAGE_ERROR),
        ("suite/conftest.py", pytest.ExitCode.INTERRUPTED),
        ("suite/__init__.py", pytest.ExitCode.INTERRUPTED),
        ("suite/sub/__init__.py", pytest.ExitCode.INTERRUPTED),
    ],
)
def test_a_marker_where_pytest_ignores_it_is_an_error_that_names_the_file(
    project: Project, mark: str, name: str, status: pytest.ExitCode
) -> None:
    project.write(suite__sub__test_app="def test_one(): pass")
    for package in ("suite", "suite/sub"):
        (project.path / package / "__init__.py").touch()
    (project.path / name).write_text(f"import pytest\npytestmark = {mark}")
    result = project.run()
    assert result.ret == status
    said = result.stdout.str() + result.stderr.str()
    assert f"{project.path / name}: pytest ignores pytestmark here; write it in the" in said


def test_a_package_that_imports_its_attributes_when_asked_is_not_asked_for_one(
    project: Project,
) -> None:
    """Above the rootdir, for pytest itself asks the packages of the tests."""
    project.write(lazy__tests__test_app="def test_one(): pass")
    (project.path / "lazy" / "tests" / "__init__.py").touch()
    (project.path / "lazy" / "__init__.py").write_text(
        "from importlib import import_module\n"
        "def __getattr__(name): return import_module(f'.{name}', __name__)\n"
    )
    project.run("--rootdir=lazy/tests", "lazy/tests").assert_outcomes(passed=1)
