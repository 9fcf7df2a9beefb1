"""Live calls are named; where they are forbidden, they fail their test."""

from __future__ import annotations

import shutil

import pytest
from conftest import Project
from standin import StandIn

SUITE = """
    import os
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    def ask(words=10, transport=None, key="any"):
        with httpx.Client(transport=transport) as client:
            return client.post(
                os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
                headers={"x-api-key": key, "anthropic-version": "2023-06-01"},
                json={"model": "claude-haiku-4-5", "max_tokens": 10,
                      "messages": [{"role": "user", "content": "word " * words}]})

    def mocked(request):
        return httpx.Response(200, json={
            "id": "msg", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [], "stop_reason": "end_turn",
            "usage": {"input_tokens": 9, "output_tokens": 9}})

    def test_small():
        ask()

    def test_large():
        ask(9_000)

    def test_mocked():
        ask(transport=httpx.MockTransport(mocked))
"""
XDIST = ("xdist",)


def test_the_summary_names_what_went_live_with_the_most_expensive_first(online: Project) -> None:
    online.write(test_app=SUITE)
    result = online.run()
    result.assert_outcomes(passed=3)
    lines = result.stdout.lines
    at = lines.index("went live:")
    assert [line.split()[-1] for line in lines[at + 1 : at + 3]] == [
        "test_app.py::test_large",
        "test_app.py::test_small",
    ]
    assert "test_mocked" not in lines[at + 3]


def test_of_many_live_tests_a_few_are_named_and_the_rest_is_added_up(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.mark.parametrize("words", range(10, 14))
    def test_many(words):
        ask(words)
    """
    )
    result = online.run()
    result.stdout.re_match_lines([r"  … 1 more, \$0\.0\d+"])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_live_call_fails_its_test_where_it_should_replay(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(
        test_app=SUITE
        + """
    @max_cost(live=True)
    def test_allowed():
        ask()
    """
    )
    args = ("--llmcost-live=fail", "--llmcost-report=ledger.json", *workers)
    result = online.run(*args, plugins=XDIST if workers else ())
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "1 request went live, against the rule set by --llmcost-live",
            "  went live         claude-haiku-4-5-20251001, * tokens, $*",
            "Record a cassette (@pytest.mark.vcr and --record-mode=once --llmcost-live=off), or *",
            "FAILED test_app.py::test_small - 1 request went live",
        ]
    )
    assert online.ledger()["live"] == ["fail"]


def test_a_request_that_the_api_refused_has_gone_out_all_the_same(
    project: Project, standin: StandIn
) -> None:
    standin.key = "another"
    project.online(standin).write(
        test_app=SUITE.partition("def test_small")[0]
        + """
    def test_refused():
        assert ask().status_code == 401
    """
    )
    project.run("--llmcost-live=fail").assert_outcomes(failed=1)
    project.run("--llmcost-live=off").assert_outcomes(passed=1)


def test_a_mock_that_was_looked_at_before_it_answered_is_not_live(online: Project) -> None:
    """As by another thread or task, where a block ends."""
    online.write(
        test_app=SUITE
        + """
    @pytest.mark.parametrize("goes_live", [False, True])
    def test_looks(llmcost, goes_live):
        def look(request):
            assert [call.live for call in llmcost.calls] == [None]
            return mocked(request)

        class Looks(httpx.HTTPTransport):
            def handle_request(self, request):
                look(request)
                return super().handle_request(request)

        ask(transport=Looks() if goes_live else httpx.MockTransport(look))
    """
    )
    result = online.run("--llmcost-live=fail", "-k", "looks")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_looks[[]True[]] - 1 request went live"])


@pytest.mark.parametrize("by", ["marker", "path"])
def test_one_test_alone_may_not_go_live(online: Project, by: str) -> None:
    name = "def test_small"
    marked = SUITE.replace(name, f"@max_cost(live=False)\n    {name}")
    ini = "[pytest]\nllmcost_live =\n    off\n    test_app.py::test_small = fail\n"
    if by == "marker":
        online.write(test_app=marked)
    else:
        online.write(test_app=SUITE, pytest_ini=ini)
    result = online.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_small - 1 request went live"])


@pytest.mark.parametrize(
    ("marker", "setting", "options", "words"),
    [
        ("", "fail", ["--llmcost-live=off"], " --llmcost-live=off"),
        ("@max_cost(live=False)", "off", [], "; this run still fails"),
    ],
)
def test_what_it_says_of_recording_holds(
    online: Project, marker: str, setting: str, options: list[str], words: str
) -> None:
    online.write(
        test_app=SUITE.partition("def test_small")[0]
        + f"""
    @pytest.fixture(scope="session")
    def vcr_config():
        return {{"filter_headers": ["x-api-key"]}}

    @pytest.mark.vcr
    {marker}
    def test_small():
        ask()
    """,
        pytest_ini=f"[pytest]\nllmcost_live = {setting}\n",
    )
    result = online.run("--record-mode=once", plugins=("recording",))
    how = f"@pytest.mark.vcr and --record-mode=once{words}"
    result.stdout.fnmatch_lines([f"Record a cassette ({how}), or allow *"])
    shutil.rmtree(online.path / "cassettes")
    result = online.run("--record-mode=once", *options, plugins=("recording",))
    assert result.ret == (not options)
    online.run(plugins=("recording",)).assert_outcomes(passed=1)


def test_the_last_line_that_matches_applies_and_a_flag_replaces_all_lines(online: Project) -> None:
    online.write(test_app=SUITE, pytest_ini="[pytest]\nllmcost_live =\n fail\n ./test_*.py = off\n")
    online.run().assert_outcomes(passed=3)
    online.run("--llmcost-live=fail").assert_outcomes(passed=1, failed=2)


def test_a_warning_names_them_and_fails_nothing(online: Project) -> None:
    online.write(test_app=SUITE, pytest_ini="[pytest]\nllmcost_live = warn\n")
    result = online.run()
    result.assert_outcomes(passed=3)
    line = "test_app.py::test_large and 1 more went live (llmcost_live=warn)"
    result.stdout.fnmatch_lines([line])


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_warning_names_no_test_whose_marker_says_whether_it_may_go_live(
    online: Project, workers: tuple[str, ...]
) -> None:
    marked = SUITE.replace("def test_large", "@max_cost(live=True)\n    def test_large")
    online.write(
        test_app=marked
        + """
    class TestForbidden:
        pytestmark = max_cost(live=False)

        def test_it(self):
            ask()
    """
    )
    result = online.run("--llmcost-live=warn", *workers, plugins=XDIST if workers else ())
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["test_app.py::test_small went live (--llmcost-live=warn)"])


@pytest.mark.parametrize("name", ["127.0.0.1", "http://127.0.0.1:{port}/v1", "127.0.0.1:1"])
def test_a_named_stand_in_is_not_live(project: Project, standin: StandIn, name: str) -> None:
    project.online(standin).write(test_app=SUITE)
    port = standin.url.rpartition(":")[2]
    result = project.run(
        "--llmcost-live=fail",
        f"--llmcost-stand-ins={name.format(port=port)}",
        "--llmcost-report=ledger.json",
    )
    if name.endswith(":1"):
        result.assert_outcomes(passed=1, failed=2)
        return
    result.assert_outcomes(passed=3)
    calls = [call for row in project.ledger()["tests"] for call in row["calls"]]
    assert {call["live"] for call in calls} == {False}
    result.stdout.no_fnmatch_line("went live:")


def test_a_shared_fixture_that_goes_live_fails_the_run(online: Project) -> None:
    online.write(
        test_app=SUITE.partition("def test_small")[0]
        + """
    @pytest.fixture(scope="module")
    def primed():
        ask()

    def test_primed(primed):
        pass
    """
    )
    result = online.run("--llmcost-live=fail")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    name = "test_app.py::primed (module fixture)"
    result.stdout.fnmatch_lines([f"FAILED --llmcost-live - 1 request went live: {name}"])


FIXTURE = """
    import pytest
    from test_app import ask

    @pytest.fixture(scope="{scope}")
    def primed():
        ask()
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
@pytest.mark.parametrize("scope", ["module", "session"])
def test_a_line_for_a_path_holds_for_its_shared_fixtures(
    online: Project, scope: str, workers: tuple[str, ...]
) -> None:
    online.write(
        test_app=SUITE.partition("def test_small")[0],
        **{
            f"{folder}__{name}": text
            for folder in ("free", "forbidden", "named")
            for name, text in {
                "conftest": FIXTURE.format(scope=scope),
                f"test_{folder}": "def test_it(primed): pass",
            }.items()
        },
    )
    lines = {"free": "off", "forbidden": "fail", "named": "warn"}
    for general in ("fail", "off"):
        ini = "".join(f" {folder}/** = {mode}\n" for folder, mode in lines.items())
        online.write(pytest_ini=f"[pytest]\npythonpath=.\nllmcost_live =\n {general}\n{ini}")
        result = online.run(*workers, plugins=XDIST if workers else ())
        result.assert_outcomes(passed=3, failed=1)
        (failed,) = (line for line in result.stdout.lines if line.startswith("FAILED"))
        assert failed.startswith("FAILED llmcost_live - 1 request went live: forbidden")
        result.stdout.fnmatch_lines(["named*::primed (* fixture) went live (llmcost_live=warn)"])


@pytest.mark.parametrize("value", ["maybe", "=off", "tests/** = never"])
def test_a_wrong_mode_is_refused(project: Project, value: str) -> None:
    project.write(test_app="def test_a(): pass")
    result = project.run(f"--llmcost-live={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmcost-live: *is not one of off, warn, fail*"])
