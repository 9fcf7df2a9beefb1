"""Answers of a mock have evidence of their own, and can be distrusted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import Project, calls_of
from spending_suite import APP as OTHER_APP
from spending_suite import run_suite, write_files
from standin import StandIn

from pytest_llmcost.cli.main import main

APP = """
    import httpx
    import httpx2

    URL = "https://api.anthropic.com/v1/messages"
    REPLY = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-7",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 10},
    }

    def body(words=1):
        message = {"role": "user", "content": "word " * words}
        return {"model": "claude-opus-4-7", "max_tokens": 9, "messages": [message]}

    def ask(words=1, library=httpx, url=URL, **options):
        headers = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
        with library.Client(**options) as client:
            return client.post(url, headers=headers, json=body(words)).json()

    def mock_of(library):
        return library.MockTransport(lambda request: library.Response(200, json=REPLY))
"""
MOCKS = {
    "respx": """
        import httpx
        from app import REPLY, URL, ask

        def test_mocked(respx_mock):
            respx_mock.post(URL).mock(return_value=httpx.Response(200, json=REPLY))
            ask()
    """,
    "pytest_httpx": """
        from app import REPLY, URL, ask

        def test_mocked(httpx_mock):
            httpx_mock.add_response(url=URL, json=REPLY)
            ask()
    """,
    "httpx.MockTransport": """
        import httpx
        from app import ask, mock_of

        def test_mocked():
            ask(transport=mock_of(httpx))
    """,
    "httpx2.MockTransport": """
        import anthropic
        import httpx2
        from app import body, mock_of

        def test_mocked():
            with httpx2.Client(transport=mock_of(httpx2)) as http:
                anthropic.Anthropic(api_key="none", http_client=http).messages.create(**body())
    """,
    "asynchronous": """
        import asyncio
        import httpx
        from app import URL, body, mock_of

        async def ask():
            async with httpx.AsyncClient(transport=mock_of(httpx)) as client:
                await client.post(URL, json=body())

        def test_mocked():
            asyncio.run(ask())
    """,
}
PLUGINS = {"respx": ("respx",), "pytest_httpx": ("pytest_httpx",)}


def lines_on_mocks(result: pytest.RunResult) -> list[str]:
    """The lines of the summary that count calls and name mocks."""
    return [line for line in result.outlines if re.search(r"\b\d+ calls?\b.*\bmock", line)]


@pytest.mark.parametrize("kind", MOCKS)
def test_the_answer_of_a_mock_is_mocked_and_neither_live_nor_billed(
    project: Project, kind: str
) -> None:
    if kind in PLUGINS:
        pytest.importorskip(kind)
    project.write(app=APP, test_app=MOCKS[kind])
    result = project.run("--llmcost-report=ledger.json", plugins=PLUGINS.get(kind, ()))
    result.assert_outcomes(passed=1)
    reported = [(call["evidence"], call["live"], call["usd"]) for call in calls_of(project)]
    assert reported == [("mocked", False, "0.0003")]
    [line] = lines_on_mocks(result)
    assert "1 call " in line


def test_what_is_live_or_replayed_rests_on_no_mock(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import os
        import httpx
        import vcr
        from app import ask, mock_of

        URL = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"

        def test_live():
            ask(url=URL)

        def test_recorded():
            with vcr.use_cassette("one.yaml", record_mode="once"):
                ask(url=URL)

        def test_mocked():
            ask(transport=mock_of(httpx))
            ask(transport=mock_of(httpx))
        """,
    )
    for recorded_is_live in (True, False):
        result = project.run("--llmcost-report=ledger.json")
        result.assert_outcomes(passed=3)
        reported = {
            test["nodeid"].split("::")[1]: {
                (call["evidence"], call["live"]) for call in test["calls"]
            }
            for test in project.ledger()["tests"]
        }
        assert reported == {
            "test_live": {("billed", True)},
            "test_recorded": {("billed", recorded_is_live)},
            "test_mocked": {("mocked", False)},
        }
        [line] = lines_on_mocks(result)
        assert "2 calls " in line


def test_without_a_mocked_call_no_line_speaks_of_mocks(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import os
        from app import ask

        def test_live():
            ask(url=os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages")
        """,
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    assert lines_on_mocks(result) == []


LONG_PROMPT = """
    import httpx
    import httpx2
    from app import ask, mock_of
    from pytest_llmcost import max_cost

    @max_cost("$0.001")
    def test_long():
        ask(10_000, transport=mock_of(httpx))

    @max_cost("$0.001")
    def test_long_too():
        ask(10_000, library=httpx2, transport=mock_of(httpx2))

    @max_cost("$0.001")
    def test_short():
        ask(1, transport=mock_of(httpx))
"""
COUNT: dict[str, tuple[str, tuple[str, ...]]] = {
    "option": ("", ("--llmcost-mocks=count",)),
    "ini": ("llmcost_mocks = count", ()),
}


@pytest.mark.parametrize("where", COUNT)
def test_whoever_distrusts_mocks_has_the_input_from_a_count_of_what_is_sent(
    project: Project, standin: StandIn, where: str
) -> None:
    ini, args = COUNT[where]
    project.online(standin).write(app=APP, test_app=LONG_PROMPT, pytest_ini=f"[pytest]\n{ini}\n")
    result = project.record("--llmcost-report=ledger.json", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=2)
    states = {
        test["nodeid"].split("::")[1]: test["verdict"]["state"]
        for test in project.ledger()["tests"]
    }
    assert states == {"test_long": "exceeded", "test_long_too": "exceeded", "test_short": "within"}
    counted = [call["usage"]["input_tokens"] for call in calls_of(project)]
    assert [tokens > 9_000 for tokens in counted] == [True, True, False]
    assert all(call["usage"]["output_tokens"] == 10 for call in calls_of(project))
    assert standin.counted


def test_what_a_mock_says_of_the_cache_is_a_part_of_a_prompt_that_marks_something(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
    import httpx2
    from app import REPLY, URL, body

    MARK = {"cache_control": {"type": "ephemeral"}}

    def test_cached():
        REPLY["usage"]["cache_read_input_tokens"] = 4_000
        transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=REPLY))
        with httpx2.Client(transport=transport) as client:
            client.post(URL, json={**body(10_000), **MARK})
            client.post(URL, json=body(10_000))
    """,
    )
    project.record("--llmcost-report=ledger.json", "--llmcost-mocks=count")
    marked, plain = (call["usage"] for call in calls_of(project))
    assert (marked["cache_read_tokens"], plain["cache_read_tokens"]) == (4_000, 0)
    assert marked["input_tokens"] + 4_000 == plain["input_tokens"] > 9_000


def test_whoever_distrusts_mocks_and_has_no_count_cannot_verify(project: Project) -> None:
    project.write(app=APP, test_app=LONG_PROMPT)
    result = project.run("--llmcost-report=ledger.json", "--llmcost-mocks=count")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert {test["verdict"]["state"] for test in project.ledger()["tests"]} == {"unverified"}
    result.stdout.fnmatch_lines(["*--llmcost-record-mode=*"])


@pytest.mark.parametrize("selected", [["-k", "short"], []])
@pytest.mark.parametrize("is_flag", [True, False])
def test_the_command_that_counts_prompts_of_mocks_asks_for_that(
    project: Project,
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    is_flag: bool,
    selected: list[str],
) -> None:
    project.online(standin).write(app=APP, test_app=LONG_PROMPT)
    with monkeypatch.context() as patch:  # what sets a variable, such as CI, is elsewhere
        if not is_flag:
            patch.setenv("PYTEST_LLMCOST_MOCKS", "count")
        result = project.run(
            *selected, "--llmcost-max-suite=$1", *["--llmcost-mocks=count"][: int(is_flag)]
        )
    commands = re.findall(r"^ *count .*\(free\).* pytest (.*)$", result.stdout.str(), re.M)
    assert all("--llmcost-mocks=count" in each for each in commands)
    project.run(*commands[-1].split())
    result = project.run(*selected, "--llmcost-mocks=count")
    assert standin.counted
    assert "not counted yet" not in result.stdout.str()


LATE = """
    import threading
    import httpx
    from app import REPLY, ask
    from pytest_llmcost import max_cost

    HAS_BEGUN, MAY_END = threading.Event(), threading.Event()

    def answer(request):
        HAS_BEGUN.set()
        MAY_END.wait()
        return httpx.Response(200, json=REPLY)

    def in_thread():
        ask(transport=httpx.MockTransport(answer))

    THREAD = threading.Thread(target=in_thread)

    {marker}
    def test_begins():
        THREAD.start()
        HAS_BEGUN.wait()

    def test_other(llmcost):
        MAY_END.set()
        THREAD.join()
        llmcost.record({{"input_tokens": 9, "output_tokens": 1}}, model="claude-opus-4-7")
"""


def test_an_answer_that_comes_when_its_test_is_over_fails_no_other_test(project: Project) -> None:
    project.write(app=APP, test_app=LATE.format(marker=""))
    result = project.run("--llmcost-report=ledger.json", "--llmcost-mocks=count")
    result.assert_outcomes(passed=2)
    caveats = {row["nodeid"]: row["calls"][0]["caveats"] for row in project.ledger()["tests"]}
    assert [each[:9] for each in caveats["test_app.py::test_begins"]] == ["uncounted"]


def test_an_answer_that_comes_when_its_test_is_over_changes_the_verdict(project: Project) -> None:
    project.write(app=APP, test_app=LATE.format(marker='@max_cost("$0.0001")'))
    result = project.run("--llmcost-report=ledger.json", "--llmcost-unverified=warn")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*::test_begins exceeded its budget too late to fail, *"])
    assert project.ledger()["tests"][0]["verdict"]["state"] == "exceeded"


def test_a_mocks_prompt_that_could_not_be_counted_says_why(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(app=APP, test_app=LONG_PROMPT)
    standin.key = "another"
    result = project.record("--llmcost-report=ledger.json", "--llmcost-mocks=count")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "not counted yet" not in result.stdout.str()
    assert all(
        caveat.startswith("count-failed: counting claude-")
        for call in calls_of(project)
        for caveat in call["caveats"]
    )


def test_by_default_and_on_demand_mocks_are_trusted(project: Project) -> None:
    project.write(app=APP, test_app=LONG_PROMPT)
    result = project.run("--llmcost-report=ledger.json", "--llmcost-mocks=trust")
    result.assert_outcomes(passed=3)
    [line] = lines_on_mocks(result)
    assert "3 calls " in line
    trusted = project.ledger()["tests"]
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=3)
    assert project.ledger()["tests"] == trusted


def test_any_other_trust_is_an_error_that_names_the_choices(project: Project) -> None:
    project.write(app=APP, test_app=LONG_PROMPT)
    result = project.run("--llmcost-mocks=perhaps")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = result.stdout.str() + result.stderr.str()
    assert "perhaps" in text
    assert re.search("trust.*count", text)


def test_shards_say_once_how_many_calls_rest_on_mocks(tmp_path: Path) -> None:
    test = "from app import ask\ndef test_one(): ask(10)\ndef test_two(): ask(11)\n"
    write_files(tmp_path, {"app.py": OTHER_APP, "test_a.py": test, "test_b.py": test})
    shards = [str(tmp_path / f"{name}.json") for name in "ab"]
    for name, shard in zip("ab", shards, strict=True):
        run_suite(tmp_path, f"test_{name}.py", f"--llmcost-report={shard}")
    assert main(["merge", *shards, "-o", str(tmp_path / "merged.json")]) == 0
    (note,) = json.loads((tmp_path / "merged.json").read_text())["notes"]
    assert note.startswith("4 calls cost what a mock says")
