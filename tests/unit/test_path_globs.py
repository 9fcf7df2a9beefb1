from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.budgets.path_globs import (
    fixture_names,
    matches,
    parse_path_budget,
    rule_for,
)
from pytest_llmcost.errors import SettingsError

DEEP = "tests/agents/triage/test_a.py::TestX::test_y[p/q-::]"


class TestGlob:
    @pytest.mark.parametrize(
        "pattern",
        [
            "**",
            "tests/**",
            "tests/agents/**",
            "tests/agents/",
            "tests/agents",
            "**/test_a.py",
            "**/test_?.py",
            "tests/*/triage/test_*.py",
            "tests/agents/triage/test_a.py::TestX",
            "tests/agents/triage/test_a.py::*::test_y",
            "tests/agents/triage/test_a.py::TestX::test_y",
            DEEP,
            "tests/**::test_y*",
        ],
    )
    def test_holds_for_what_it_names_and_for_all_that_is_in_it(self, pattern: str) -> None:
        assert matches(pattern, DEEP)

    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            "tests/*",
            "tests/*/test_a.py",
            "tests/agent",
            "tests/agents/triage/test_a",
            "agents/**",
            "tests/agents/triage/test_a.py::Test",
            "tests/agents/triage/test_a.py::TestX::test_z",
            "tests/agents/triage/test_a.py::TestX::test_y[p]",
            "tests?agents/**",
            "TESTS/**",
        ],
    )
    def test_holds_for_nothing_else(self, pattern: str) -> None:
        assert not matches(pattern, DEEP)

    @given(st.text(min_size=1))
    def test_takes_every_other_character_for_itself(self, text: str) -> None:
        literal = text.replace("*", "").replace("?", "")
        assert matches(literal, literal)
        assert not matches(literal, f"x{literal}") or literal.startswith("x")

    def test_stays_within_a_folder_and_a_name(self) -> None:
        assert matches("tests/*.py", "tests/test_a.py::test")
        assert not matches("tests/*.py", "tests/sub/test_a.py::test")
        assert not matches("tests/a", "tests/ab/test.py::t")

    @pytest.mark.parametrize("pattern", ["te*/*", "te*/", "te**/*.py", "t?st.py*/x*", "**/x*"])
    def test_takes_a_slash_in_the_parameters_for_no_folder(self, pattern: str) -> None:
        assert not matches(pattern, "test.py::test_a[x/x.py]")


class TestFixtures:
    @pytest.mark.parametrize(
        ("glob", "node", "expected"),
        [
            ("tests/a/**", "tests/a/test_x.py", True),
            ("tests/a/test_x.py", "tests/a/test_x.py", True),
            ("tests/a/**", "tests/a", True),
            ("tests/b/**", "tests/a", False),
            ("**", "", True),
            ("tests/**", "", False),
        ],
    )
    def test_belong_to_the_node_they_are_set_up_for_else_where_they_are_defined(
        self, glob: str, node: str, expected: bool
    ) -> None:
        assert any(matches(glob, name) for name in fixture_names("f", node)) is expected


class TestLines:
    def test_are_a_glob_and_an_amount(self) -> None:
        budget = parse_path_budget(
            " tests/agents/** = $0.50 ", "llmcost_budgets", warn_at=Decimal("0.8")
        )
        assert (budget.scope, budget.kind, budget.limit) == ("path", "usd", Decimal("0.50"))
        assert (budget.pattern, budget.label) == ("tests/agents/**", "tests/agents/**")
        assert (budget.origin, budget.warn_at) == ("llmcost_budgets", Decimal("0.8"))

    def test_may_have_an_equals_sign_in_the_glob(self) -> None:
        assert parse_path_budget("t.py::test[a=b] = 5c", "ini").pattern == "t.py::test[a=b]"

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("tests/**", "write `tests/agents/** = $0.50`"),
            ("= $1", "write `tests/agents/** = $0.50`"),
            ("tests/** = ", "not an amount of money"),
            ("tests/** = many", "'many' is not an amount of money"),
            ("tests/** = -1", "'-1' is not an amount of money"),
        ],
    )
    def test_that_are_neither_say_where_they_stand(self, line: str, said: str) -> None:
        with pytest.raises(SettingsError) as raised:
            parse_path_budget(line, "llmcost_budgets")
        assert said in str(raised.value)
        assert str(raised.value).startswith("llmcost_budgets: ")


@pytest.mark.parametrize("order", [1, -1])
def test_a_line_for_a_path_holds_before_and_behind_the_lines_for_all(order: int) -> None:
    lines = ["claude-*", "tests/agents/** = claude-haiku-*", "acme/*"]
    inside, outside = ("tests/agents/test_a.py::test_a", "tests/test_b.py::test_b")
    for_all = ("", ["claude-*", "acme/*"][::order])
    assert rule_for(lines[::order], inside) == ("tests/agents/**", ["claude-haiku-*"])
    assert rule_for(lines[::order], outside) == for_all
    assert rule_for(lines[::order]) == for_all
