"""A count that fails: its payload is of unknown price, whatever the test makes of the error."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn, fault

APP = """
    from pytest_llmcost import max_cost
    from pytest_llmcost.errors import CountError
    import anthropic
    import pytest

    REQUEST = {
        "model": "claude-opus-4-7",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "word " * 100}],
    }
"""


@pytest.mark.parametrize(
    "body",
    [
        "with pytest.raises(CountError): llmcost.count(REQUEST)",
        "try: llmcost.count(REQUEST)\n        except CountError: pass",
    ],
)
def test_a_caught_failure_leaves_the_ceiling_unverified(project: Project, body: str) -> None:
    project.write(
        test_app=f"""{APP}
    @max_cost("$1")
    def test_caught(llmcost):
        {body}
    """
    )
    result = project.run("--llmcost-max-suite=$1", "--llmcost-report=ledger.json")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "cannot check the * budget set at *: a prompt is not counted yet",
            "  count it (free) *pytest *",
            "[?] cannot check the * suite budget *",
        ]
    )
    ledger = project.ledger()
    (test,) = ledger["tests"]
    assert test["verdict"]["state"] == ledger["verdicts"][0]["state"] == "unverified"
    assert [call["caveats"] for call in test["calls"]] == [["uncounted: no recorded count"]]
    assert ledger["totals"]["unpriced_calls"] == 1


def test_a_test_without_any_counts_says_where_they_were_looked_for(project: Project) -> None:
    project.write(test_app=f"{APP}\n    def test(llmcost): llmcost.count(REQUEST)\n")
    result = project.run()
    result.stdout.fnmatch_lines(
        [
            "  asked for at      test_app.py:*",
            "  recorded          no counts in cassettes/test_app/test.llmcost.yaml",
            "  count it (free)   pytest test_app.py::test --llmcost-record-mode=rewrite",
        ]
    )


@pytest.mark.parametrize("marker", ["", '@max_cost("$1")'])
def test_a_count_that_fails_is_told_as_a_missing_one_without_the_tests_body(
    project: Project, monkeypatch: pytest.MonkeyPatch, marker: str
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    project.write(test_app=f"{APP}\n    {marker}\n    def test(llmcost): llmcost.count(REQUEST)\n")
    result = project.run("--llmcost-record-mode=rewrite")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*a prompt could not be counted",
            "",
            "  asked for at      test_app.py:*",
            "  cause             no credentials to count claude-opus-4-7 with",
            "  to settle it      set ANTHROPIC_API_KEY to a valid key, or override *",
            "FAILED test_app.py::test - no credentials to count claude-opus-4-7 with; set *",
        ]
    )
    result.stdout.no_fnmatch_line(">*")


def test_a_misspelt_model_is_told(project: Project) -> None:
    request = '{**REQUEST, "model": "claude-opus-47"}'
    project.write(test_app=f"{APP}\n    def test(llmcost): llmcost.count({request})\n")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*claude-opus-47 has no price. Did you mean claude-opus-4-7[?]*"])


@pytest.mark.parametrize("kind", ["input_tokens", "output_tokens"])
def test_its_tokens_are_unknown_too(project: Project, kind: str) -> None:
    project.write(
        test_app=f"""{APP}
    @max_cost({kind}="1k")
    def test_caught(llmcost):
        with pytest.raises(CountError):
            llmcost.count(REQUEST)
    """
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["cannot check the budget of *: a prompt is not counted yet"])


def test_the_suite_of_a_test_that_fails_by_it_is_unverified(project: Project) -> None:
    project.write(
        test_app=f"""{APP}
    def test_missing(llmcost):
        llmcost.count(REQUEST)
    """
    )
    result = project.run("--llmcost-max-suite=$1")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["[?] cannot check the * suite budget *"])


def test_what_the_api_refused_is_named_and_a_later_count_settles_it(
    project: Project, standin: StandIn
) -> None:
    standin.script(fault(401))
    project.online(standin).write(
        test_app=f"""{APP}
    @max_cost("$1", calls=1)
    def test_again(llmcost):
        with pytest.raises(CountError) as caught:
            llmcost.count(REQUEST)
        failed = f"count-failed: {{caught.value.for_files}}"
        assert [call.caveats for call in llmcost.calls] == [(failed,)]
        llmcost.count(REQUEST, output_tokens=3)
        assert [call.caveats for call in llmcost.calls] == [()]
    """
    )
    result = project.record("--llmcost-max-suite=$1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["✓ * is within the * suite budget *"])


def test_every_report_names_why_the_api_did_not_count(project: Project, standin: StandIn) -> None:
    standin.script(fault(404, "model: claude-next"))
    project.online(standin).write(
        test_app=f"""{APP}
    @max_cost("$1")
    def test_missing(llmcost):
        llmcost.count(REQUEST)
    """
    )
    result = project.record("--llmcost-report=cost.md", "--llmcost-max-suite=$1")
    result.assert_outcomes(failed=2)
    comment = (project.pytester.path / "cost.md").read_text("utf-8")
    assert "failed with status 404: model: claude-next" in str(result.stdout)
    for text in (comment, str(result.stdout)):
        assert "failed with status 404" in text
        assert "check the model id" in text
        assert "is not counted yet (" not in text
        assert "a prompt is not counted yet" not in text


@pytest.mark.parametrize("status", [None, 400, 403, 429])
def test_no_file_holds_a_host_or_what_the_api_said(
    project: Project, standin: StandIn, status: int | None
) -> None:
    said = "limit (org: 123e4567-e89b, workspace wrkspc_01) at 'my prompt'"
    if status is None:
        standin.stop()
    project.online(standin).write(
        test_app=f"""{APP}
    @pytest.fixture(scope="session")
    def llmcost_client():
        url = "{standin.url.replace("127.0.0.1", "localhost")}"
        return anthropic.Anthropic(base_url=url, max_retries=0)

    @max_cost("$1")
    def test_caught(llmcost):
        with pytest.raises(CountError, match="localhost|123e4567"):
            llmcost.count(REQUEST)
    """
    )
    standin.script(*[fault(status or 500, said)] * 4)
    files = ["a.json", "a.md", "a.html", "a.xml"]
    options = [f"--llmcost-report={name}" for name in files[:3]]
    project.record(*options, "--junitxml=a.xml")
    assert "[...]" in project.ledger("a.json")["tests"][0]["calls"][0]["caveats"][0]
    for name in files:
        text = (project.pytester.path / name).read_text("utf-8")
        for secret in ("localhost", "123e4567", "wrkspc", "my prompt"):
            assert secret not in text


@pytest.mark.parametrize("count", ["llmcost.count", "asyncio.run(llmcost.acount"])
def test_a_client_that_cannot_be_made_leaves_the_price_unknown(
    project: Project, count: str
) -> None:
    project.write(
        test_app=f"""{APP}
    import asyncio

    @pytest.fixture(scope="session")
    def llmcost_client():
        raise RuntimeError("no vault today")

    def test_caught(llmcost):
        with pytest.raises(RuntimeError, match="no vault"):
            {count}(REQUEST){")" * count.count("(")}
    """
    )
    result = project.record("--llmcost-max-suite=$1", "--llmcost-report=ledger.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (call,) = project.ledger()["tests"][0]["calls"]
    assert call["caveats"] == ["count-failed: counting ended with RuntimeError"]


def test_sending_it_settles_it_too(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=f"""{APP}
    @max_cost("$1", calls=1)
    def test_sent(llmcost):
        for _ in range(2):
            with pytest.raises(CountError):
                llmcost.count(REQUEST)
        anthropic.Anthropic().messages.create(**REQUEST)
    """
    )
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("count", "error", "model"),
    [
        ("REQUEST, cache='hot'", "SettingsError", "claude-opus-4-7"),
        ("REQUEST, output_tokens=-1", "SettingsError", "claude-opus-4-7"),
        ("{**REQUEST, 'max_tokens': 0.5}, output_tokens='max'", "SettingsError", "claude-opus-4-7"),
        ("{**REQUEST, 'messages': object()}", "PayloadError", "claude-opus-4-7"),
        ("['hello']", "PayloadError", "unknown"),
    ],
)
def test_what_makes_no_sense_is_not_free_if_the_test_catches_that(
    project: Project, count: str, error: str, model: str
) -> None:
    project.write(
        test_app=f"""{APP}
    from pytest_llmcost.errors import LlmCostError

    @max_cost("$1")
    def test_wrong(llmcost):
        llmcost.record({{"input_tokens": 10, "output_tokens": 0}}, model="claude-opus-4-7")
        with pytest.raises(LlmCostError):
            llmcost.count({count})
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["cannot check the $1.00 budget *: a prompt could not be counted"])
    (call,) = (each for each in project.ledger()["tests"][0]["calls"] if each["caveats"])
    why = f"count-failed: counting ended with {error}"
    assert (call["model"], call["caveats"]) == (model, [why])


def test_a_prompt_that_grew_names_its_parts_once_it_is_counted_again(
    project: Project, standin: StandIn
) -> None:
    test = """
    @max_cost("$0.002")
    def test(llmcost): llmcost.count({**REQUEST, "system": "Be brief. " * TIMES})
    """
    project.online(standin).write(test_app=APP + test.replace("TIMES", "10"))
    project.record().assert_outcomes(passed=1)
    project.write(test_app=APP + test.replace("TIMES", "1_000"))
    result = project.run("--llmcost-record-mode=rewrite")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"  the prompt grew +\d+ -> \d,\d+ input tokens .*",
            r"  changed +system \(\+\d,\d+ tokens\)",
        ]
    )
    project.run().stdout.no_re_match_line("  changed .*")
