"""JUnit XML, written by pytest itself."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from conftest import Project
from spending_suite import APP
from standin import StandIn


def test_each_test_and_the_suite_say_what_they_cost(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app="""
    from pytest_llmcost import max_cost

    @max_cost("$0.00001", input_tokens="1k")
    def test_dear(llmcost):
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "Hi"}])

    def test_free():
        pass
    """
    )
    project.run(
        "--llmcost-record-mode=once", "--llmcost-max-suite=$1", "--junitxml=junit.xml"
    ).assert_outcomes(passed=1, failed=1)
    tree = ElementTree.parse(project.path / "junit.xml")
    suite = properties(tree.find("testsuite/properties"))
    dear, free = tree.findall(".//testcase")
    reported = properties(dear.find("properties"))
    assert reported["llmcost_usd"] == suite["llmcost_usd"] != "0"
    assert reported["llmcost_limit_usd"] == "0.00001"
    assert reported["llmcost_limit_input_tokens"] == "1000"
    assert reported["llmcost_verdict"] == "exceeded"
    assert suite["llmcost_limit_usd"] == "1"
    assert suite["llmcost_verdict"] == "within"
    assert free.find("properties") is None
    failure = dear.find("failure")
    assert failure is not None
    assert failure.get("message", "").startswith("$0.000035 > $0.00001 budget")


def properties(element: ElementTree.Element | None) -> dict[str, str]:
    assert element is not None
    return {each.get("name", ""): each.get("value", "") for each in element}


def test_a_test_of_a_group_of_workers_says_what_it_cost(project: Project) -> None:
    project.write(
        test_app="""
    import pytest

    @pytest.mark.xdist_group("one")
    @pytest.mark.parametrize("text", ["a@b", "c\\x01d"])
    def test_spends(llmcost, text):
        llmcost.record({"input_tokens": 9, "output_tokens": 1}, model="claude-opus-4-7")
    """
    )
    project.run_apart("-n1", "--dist=loadgroup", "--junitxml=junit.xml", plugins=("xdist",))
    cases = ElementTree.parse(project.path / "junit.xml").findall(".//testcase")
    assert [properties(each.find("properties"))["llmcost_calls"] for each in cases] == ["1", "1"]


def test_a_test_that_gives_itself_another_name_says_what_it_cost(project: Project) -> None:
    project.write(
        test_app="""
    import pytest

    @pytest.mark.parametrize("attribute", ["name", "classname"])
    def test_spends(llmcost, record_xml_attribute, record_property, attribute):
        record_xml_attribute(attribute, "mine")
        record_property("also", "mine")
        llmcost.record({"input_tokens": 9, "output_tokens": 1}, model="claude-opus-4-7")
    """
    )
    is_experimental = ("-W", "ignore::pytest.PytestExperimentalApiWarning")
    project.run("--junitxml=junit.xml", "-o", "junit_family=xunit1", *is_experimental)
    cases = ElementTree.parse(project.path / "junit.xml").findall(".//testcase")
    reported = [properties(each.find("properties")) for each in cases]
    assert [(each["also"], each["llmcost_calls"]) for each in reported] == [("mine", "1")] * 2


def test_a_test_that_kills_its_worker_says_what_is_known_of_it(project: Project) -> None:
    project.write(
        test_app="""
    import os

    import pytest

    @pytest.fixture
    def prepared(llmcost):
        llmcost.record({"input_tokens": 9, "output_tokens": 1}, model="claude-opus-4-7")

    def test_crashes(prepared):
        os._exit(1)
    """
    )
    options = ("-n1", "--max-worker-restart=0", "--junitxml=junit.xml")
    project.run_apart(*options, plugins=("xdist",))
    (case,) = ElementTree.parse(project.path / "junit.xml").findall(".//testcase")
    assert properties(case.find("properties"))["llmcost_calls"] == "1"
    assert case.find("error") is not None


def test_what_the_last_fixtures_of_a_stopped_run_spend_is_in_its_totals(project: Project) -> None:
    project.write(
        test_app="""
    import pytest

    @pytest.fixture(scope="module")
    def shared():
        yield
        from app import ask
        ask(500)

    def test_stops(llmcost, shared):
        llmcost.record({"input_tokens": 9, "output_tokens": 1}, model="claude-opus-4-7")
        pytest.exit("enough")
    """,
        app=APP,
    )
    project.run_apart("--junitxml=junit.xml", "--llmcost-report=cost.json")
    (suite,) = ElementTree.parse(project.path / "junit.xml").findall("testsuite")
    totals = json.loads((project.path / "cost.json").read_text())["totals"]
    reported = properties(suite.find("properties"))
    assert reported["llmcost_calls"] == "2"
    assert reported["llmcost_usd"] == totals["usd"]
    assert len(suite.findall("testcase")) == 1
    assert len(reported) == len(suite.findall("properties/property"))
