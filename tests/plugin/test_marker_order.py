"""Which `max_cost` holds where several are in reach, and which of them contradict each other."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import Project

SPENDS = """
    import unittest

    import pytest
    from pytest_llmcost import max_cost

    @pytest.fixture(autouse=True)
    def spent(llmcost):  # half a cent
        llmcost.record({"input_tokens": 1000, "output_tokens": 0}, model="claude-opus-4-7")
"""


def verdicts(project: Project, *args: str) -> dict[str, dict[str, Any]]:
    project.run("--llmcost-report=ledger.json", *args)
    return {
        test["nodeid"].partition("::")[2]: test["verdict"] for test in project.ledger()["tests"]
    }


def test_a_subclass_s_marker_is_nearer_than_its_bases_in_the_order_of_python(
    project: Project,
) -> None:
    project.write(
        base="""
    from pytest_llmcost import max_cost

    @max_cost("$4", calls=4, reason="far")
    class Far:
        def test_it(self): pass

    @max_cost("$3")
    class Left(Far): pass

    @max_cost("$2", input_tokens="2k")
    class Right(Far): pass
    """,
        test_app=SPENDS
        + """
    from base import Far, Left, Right

    limit = max_cost("$1")

    @limit
    class TestOwn(Left): pass

    class TestInherited(Left): pass

    class TestDiamond(Left, Right): pass

    class TestList(Right):
        pytestmark = [max_cost("$1")]

    @limit
    class TestShared(Left):
        class TestInner(Right): pass

    @max_cost("$9")
    class Unittest(unittest.TestCase):
        def test_it(self): pass

    @max_cost("$8")
    class TestOld(Unittest): pass
    """,
    )
    limits = {name: (found["limit"], found["origin"]) for name, found in verdicts(project).items()}
    assert limits == {
        "TestOwn::test_it": ("1", "test_app.py:15"),
        "TestInherited::test_it": ("3", "base.py:8"),
        "TestDiamond::test_it": ("3", "base.py:8"),
        "TestList::test_it": ("1", "test_app.py:22"),
        "TestShared::test_it": ("1", "test_app.py:25"),
        "TestShared::TestInner::test_it": ("2", "base.py:11"),
        "Unittest::test_it": ("9", "test_app.py:29"),
        "TestOld::test_it": ("8", "test_app.py:33"),
    }
    (diamond,) = (test for test in project.ledger()["tests"] if "TestDiamond" in test["nodeid"])
    assert {(each["kind"], each["limit"]) for each in diamond["blocks"]} == {
        ("input_tokens", "2000"),
        ("calls", "4"),
    }


TWICE = {
    "decorators of a function": """
    @max_cost("$2")
    @max_cost("$1")
    def test_it(): pass
    """,
    "the same decorator twice": """
    limit = max_cost("$1")

    @limit
    @limit
    def test_it(): pass
    """,
    "a quantity beside another": """
    @max_cost(calls=3)
    @max_cost("$1", calls=4)
    def test_it(): pass
    """,
    "decorators of a method": """
    class TestIt:
        @max_cost("$2", calls=3)
        @max_cost("$1")
        def test_it(self): pass
    """,
    "decorators of a class": """
    @max_cost("$2")
    @max_cost("$1")
    class TestIt:
        def test_it(self): pass
    """,
    "decorators of a base class": """
    @max_cost("$2")
    @max_cost("$1")
    class Base:
        def test_it(self): pass

    @max_cost("$3")
    class TestIt(Base): pass
    """,
    "a decorator and a list of a class": """
    @max_cost("$1")
    class TestIt(unittest.TestCase):
        pytestmark = [max_cost("$2")]
        def test_it(self): pass
    """,
    "a list of a parameter": """
    @pytest.mark.parametrize("n", [pytest.param(1, marks=[max_cost("$2"), max_cost("$1")])])
    def test_it(n): pass
    """,
    "parameters of two parametrisations": """
    @pytest.mark.parametrize("n", [pytest.param(1, marks=max_cost("$1"))])
    @pytest.mark.parametrize("m", [pytest.param(1, marks=max_cost("$2"))])
    def test_it(n, m): pass
    """,
    "a list of a module": """
    pytestmark = [max_cost("$2"), pytest.mark.filterwarnings("error"), max_cost("$1")]
    def test_it(): pass
    """,
}
NAMED = {
    "the same decorator twice": ["max_cost('$1') and max_cost('$1')"],
    "a quantity beside another": ["(calls)", "max_cost(calls=3)", "max_cost('$1', calls=4)"],
}


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_two_markers_of_one_object_that_set_the_same_are_a_collection_error_naming_both(
    project: Project, workers: tuple[str, ...]
) -> None:
    modules = {f"test_{where.replace(' ', '_')}": where for where in TWICE}
    project.write(**{module: SPENDS + TWICE[where] for module, where in modules.items()})
    result = project.run(*workers, plugins=("xdist",) if workers else ())
    result.assert_outcomes(errors=len(TWICE))
    found = [line for line in result.outlines if "two max_cost markers set" in line]
    for module, where in modules.items():
        (line,) = (line for line in found if f"test_it: {module}.py" in re.sub(r"\[.*?]", "", line))
        assert all(each in line for each in NAMED.get(where, ["max_cost('$1')", "max_cost('$2'"]))


def test_markers_of_several_objects_and_added_ones_go_on_working(project: Project) -> None:
    project.write(
        conftest="""
    import pytest

    def pytest_itemcollected(item):
        if "collected" in item.name:
            item.add_marker(pytest.mark.max_cost("$0.11"))

    def pytest_collection_modifyitems(items):
        for item in items:
            if "hook" in item.name:
                item.add_marker(pytest.mark.max_cost("$0.12"))
            if "before" in item.name:
                item.add_marker(pytest.mark.max_cost("$0.13"), append=False)
            if "class" in item.name and not item.parent.own_markers[2:]:
                item.parent.add_marker(pytest.mark.max_cost("$0.14"))
    """,
        test_app=SPENDS
        + """
    @pytest.mark.parametrize("n", [pytest.param(1, marks=max_cost("$0.01")), 2])
    @max_cost("$0.02", calls=3)
    def test_param(n): pass

    @pytest.mark.parametrize("n", [pytest.param(1, marks=max_cost("$0.01"))])
    @pytest.mark.parametrize("m", [pytest.param(1, marks=max_cost("$0.01")), 2])
    def test_params(n, m): pass

    @max_cost("$0.02")
    @max_cost(calls=3)
    def test_other_quantities(): pass

    def test_collected(): pass

    @max_cost("$0.02")
    def test_collected_and_marked(): pass

    def test_hook(): pass

    @max_cost("$0.02")
    def test_before(): pass

    def test_at_run_time(request):
        request.node.add_marker(max_cost("$0.15"))

    @max_cost("$0.02")
    def test_at_run_time_and_marked(request):
        request.node.add_marker(max_cost("$0.15"))

    @max_cost("$0.02")
    def test_at_run_time_and_in_front(request):
        request.node.add_marker(max_cost("$0.01"), append=False)

    @max_cost("$0.03")
    class Base: pass

    @max_cost(calls=9)
    class TestAdded(Base):
        def test_in_class(self): pass

    @max_cost("$0.04")
    class TestOver(Base):
        @max_cost("$0.05")
        def test_it(self): pass
    """,
    )
    limits = {name: found["limit"] for name, found in verdicts(project).items()}
    assert limits == {
        "test_param[1]": "0.01",
        "test_param[2]": "0.02",
        "test_params[1-1]": "0.01",
        "test_params[2-1]": "0.01",
        "test_other_quantities": "0.02",
        "test_collected": "0.11",
        "test_collected_and_marked": "0.02",
        "test_hook": "0.12",
        "test_before": "0.13",
        "test_at_run_time": "0.15",
        "test_at_run_time_and_marked": "0.02",
        "test_at_run_time_and_in_front": "0.01",
        "TestAdded::test_in_class": "0.14",
        "TestOver::test_it": "0.05",
    }
