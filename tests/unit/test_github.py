from __future__ import annotations

from decimal import Decimal

import pytest
from golden_files import assert_golden
from hostile_report import HOSTILE, hostile_report
from msgspec.structs import replace
from sample_reports import STALE, a_test, judged, make_call, make_report, suite_budget

from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.reports.github import MOST_ANNOTATIONS, render_annotations, render_job_summary


def many(usds: list[str | None], outcome: str = "failed", **fields: object) -> Ledger:
    report = make_report(
        {a_test(f"t.py::test_{n:02}"): [make_call(usd)] for n, usd in enumerate(usds)},
        budgets=[suite_budget("0.01")],
    )
    return judged(report, "0.001", outcome, **fields)


def test_annotations_look_like_this() -> None:
    assert_golden("annotations.txt", "\n".join(render_annotations(hostile_report())) + "\n")


class TestAnnotations:
    def test_are_at_most_ten_the_run_first_then_the_most_expensive(self) -> None:
        lines = render_annotations(many([str(Decimal(n) / 100) for n in range(1, 20)]))
        assert len(lines) == MOST_ANNOTATIONS
        assert lines[0].startswith("::error title=LLM cost over budget::$1.90 is $1.89 ")
        assert "test_18: $0.19 is" in lines[1]
        assert "test_10: $0.11 is" in lines[9]

    def test_stand_on_the_tests_line(self) -> None:
        line = render_annotations(many(["0.02"]))[1]
        assert line.startswith(
            "::error file=t.py,line=7,title=LLM cost over budget::t.py::test_00: "
        )

    def test_call_a_broken_rule_no_budget(self) -> None:
        line = render_annotations(many(["1"], kind="unbudgeted"))[1]
        assert "title=LLM cost rule broken::t.py::test_00: 1 call without a budget" in line

    @pytest.mark.parametrize(
        ("root", "path"),
        [("", "t.py"), (".", "t.py"), ("services/api", "services/api/t.py"), ("a/", "a/t.py")],
    )
    def test_name_files_as_the_repository_does(self, root: str, path: str) -> None:
        assert f"file={path},line=7," in render_annotations(many(["0.02"]), root=root)[1]

    def test_have_a_line_even_where_it_is_unknown(self) -> None:
        report = many(["0.02"])
        row = replace(report.tests[0], line=None)
        assert "line=1," in render_annotations(replace(report, tests=(row,)))[1]

    def test_say_what_would_verify(self) -> None:
        line = render_annotations(many([None]))[1]
        assert "%0A" in line
        assert line.endswith("state it with llmcost.record(...)")

    def test_warn_of_the_unverified_where_it_does_not_fail(self) -> None:
        report = many([None, "0.02"])
        assert [line.split()[0] for line in render_annotations(report)] == ["::error"] * 3
        softened = render_annotations(replace(report, unverified="warn"))
        assert [line.split()[0] for line in softened] == ["::error", "::error", "::warning"]

    def test_are_none_for_breaches_that_are_expected(self) -> None:
        report = replace(many(["0.02"], outcome="xfailed"), verdicts=())
        assert render_annotations(report) == []

    def test_are_none_when_all_is_well(self) -> None:
        assert render_annotations(make_report({a_test("t"): [make_call("1")]})) == []

    def test_are_one_line_each_whatever_the_name(self) -> None:
        for line in render_annotations(hostile_report()):
            assert line.isprintable()
            command, _, message = line.removeprefix("::").partition("::")
            assert command.split(" ", 1)[0] in ("error", "warning")
            assert "\n" not in message

    def test_of_one_cause_are_one_on_the_first_test(self) -> None:
        report = make_report({a_test(f"t.py::test_{each}"): [STALE] for each in range(12)})
        (line,) = render_annotations(judged(report, "1", "failed"))
        assert line.startswith(
            "::error file=t.py,line=7,title=LLM cost could not be checked::12 tests cannot be "
            "checked: their prompts changed and are not counted yet.%0Achanged: system in all 12"
        )
        assert line.endswith("pytest t.py --llmcost-record-mode=rewrite")

    def test_escape_what_would_end_a_property(self) -> None:
        odd = a_test("a,b:c%.py::test", line=3)
        report = make_report({odd: [make_call("1")]})
        (line,) = render_annotations(judged(report, "0.1"))
        assert line.startswith("::error file=a%2Cb%3Ac%25.py,line=3,")
        assert "a,b:c%25.py::test: $1.00 is" in line

    def test_show_the_hostile_name_without_its_control_characters(self) -> None:
        lines = [line for line in render_annotations(hostile_report()) if "octocat" in line]
        assert lines
        assert "\x1b" in HOSTILE
        assert not [line for line in lines if "\x1b" in line or "%250A" not in line]


class TestJobSummary:
    def test_is_the_comment_with_more_room(self) -> None:
        assert "### ❌ Merging adds" in render_job_summary(hostile_report())

    def test_leaves_room_for_what_is_there_already(self) -> None:
        report = many(["0.01"] * 1500)
        assert len(render_job_summary(report).encode()) > 130_000
        assert len(render_job_summary(report, used_bytes=900_000).encode()) <= 100_000
        assert render_job_summary(report, used_bytes=1_000_000) == ""
