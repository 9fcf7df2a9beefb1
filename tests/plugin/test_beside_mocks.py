"""Beside respx, pytest-httpx, MockTransport, responses, requests-mock and pytest-socket."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Project
from standin import StandIn

STRICT = ("-W", "error", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
"""Warnings are errors, but for the one that runs in one process bring about themselves."""

SENT = """
    import httpx

    URL = "https://api.anthropic.com/v1/messages"
    REPLY = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-7",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 1000, "output_tokens": 100},
    }

    def ask(**options):
        with httpx.Client(**options) as client:
            return client.post(
                URL, headers={"anthropic-version": "2023-06-01"},
                json={"model": "claude-opus-4-7", "max_tokens": 9, "messages": []}).json()
"""
BILLED = "0.0075"
"""1,000 tokens at $5 and 100 at $25 per million."""


def check(project: Project, *plugins: str, calls: int = 1) -> None:
    result = project.run(*STRICT, "--llmcost-report=ledger.json", plugins=plugins)
    result.assert_outcomes(passed=1)
    (test,) = project.ledger()["tests"]
    assert [(call["usd"], call["live"]) for call in test["calls"]] == [(BILLED, False)] * calls


def test_respx(project: Project) -> None:
    pytest.importorskip("respx")
    project.write(
        app=SENT,
        test_app="""
        import httpx
        from app import REPLY, URL, ask
        from pytest_llmcost import max_cost

        @max_cost("$0.0075")
        def test_mocked(respx_mock):
            route = respx_mock.post(URL).mock(return_value=httpx.Response(200, json=REPLY))
            assert ask()["id"] == "msg_1"
            assert route.call_count == 1
        """,
    )
    check(project, "respx")


def test_pytest_httpx(project: Project) -> None:
    pytest.importorskip("pytest_httpx")
    project.write(
        app=SENT,
        test_app="""
        from app import REPLY, URL, ask
        from pytest_llmcost import max_cost

        @max_cost("$0.0075")
        def test_mocked(httpx_mock):
            httpx_mock.add_response(url=URL, json=REPLY)
            assert ask()["id"] == "msg_1"
            assert len(httpx_mock.get_requests()) == 1
        """,
    )
    check(project, "pytest_httpx")


REQUESTED = """
    import requests
    from app import REPLY, URL

    HI = [{"role": "user", "content": "Hi"}]

    def ask(**how):
        return requests.post(
            URL, headers={"anthropic-version": "2023-06-01", "x-api-key": "any"}, **how,
            json={"model": "claude-opus-4-7", "max_tokens": 9, "messages": HI})
"""


@pytest.mark.parametrize("asked", ["ask()", "ask(stream=True)"])
@pytest.mark.parametrize("mock", ["responses", "requests_mock"])
def test_mocks_of_requests(project: Project, mock: str, asked: str) -> None:
    pytest.importorskip(mock)
    mocked = {
        "responses": """
            with responses.RequestsMock() as mock:
                mock.post(URL, json=REPLY)
                mock.post("https://example.com/", json={"usage": 1})
                assert ASKED.json() == REPLY
                requests.post("https://example.com/")
        """,
        "requests_mock": """
            with requests_mock.Mocker() as mock:
                mock.post(URL, json=REPLY)
                mock.post("https://example.com/", json={"usage": 1})
                assert ASKED.json() == REPLY
                requests.post("https://example.com/")
        """,
    }
    project.write(
        app=SENT,
        mocked=REQUESTED,
        test_app=f"""
        import requests
        import {mock}
        from mocked import REPLY, URL, ask
        from pytest_llmcost import max_cost

        @max_cost("$0.0075")
        def test_mocked():{mocked[mock].replace("ASKED", asked)}""",
    )
    check(project)


@pytest.mark.parametrize("mock", ["responses.RequestsMock", "requests_mock.Mocker"])
def test_a_body_from_a_mock_of_requests_is_over_when_it_is_read_and_free_if_it_is_no_answer(
    project: Project, mock: str
) -> None:
    library = mock.partition(".")[0]
    pytest.importorskip(library)
    text = "body" if library == "responses" else "text"
    project.write(
        app=SENT,
        mocked=REQUESTED,
        test_app=f"""
        import {library}
        from mocked import REPLY, URL, ask
        from pytest_llmcost import max_cost

        def test_answer():
            with {mock}() as mock:
                mock.post(URL, json=REPLY)
                ask()

        @max_cost("$0.0075")
        def test_busy():
            with {mock}() as mock:
                mock.post(URL, {text}="<html>busy</html>")
                assert "busy" in ask().text""",
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    assert [row["outcome"] for row in project.ledger()["tests"]] == ["passed", "passed"]


def test_what_a_mock_of_requests_lets_through_is_one_live_call(
    project: Project, standin: StandIn
) -> None:
    pytest.importorskip("responses")
    project.write(
        app=SENT,
        mocked=REQUESTED,
        test_app=f"""
        import responses
        import mocked

        @responses.activate
        def test_passes():
            mocked.URL = {standin.url!r} + "/v1/messages"
            responses.add_passthru({standin.url!r})
            mocked.ask()
        """,
    )
    project.run(*STRICT, "--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (test,) = project.ledger()["tests"]
    assert [call["live"] for call in test["calls"]] == [True]


def test_mock_transports_of_both_libraries(project: Project) -> None:
    project.write(
        app=SENT,
        test_app="""
        import anthropic
        import httpx
        import httpx2
        from app import REPLY, ask
        from pytest_llmcost import max_cost

        @max_cost("$0.0150")
        def test_mocked():
            ask(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=REPLY)))
            mock = httpx2.MockTransport(lambda request: httpx2.Response(200, json=REPLY))
            client = anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=mock))
            client.messages.create(model="claude-opus-4-7", max_tokens=9, messages=[])
        """,
    )
    check(project, calls=2)


PASSES_ON = """
    import httpx, httpx2

    class PassesOn(httpx.BaseTransport, httpx2.BaseTransport):
        def __init__(self, inner):
            self.inner = inner

        def handle_request(self, request):
            return self.inner.handle_request(request)

    class SendsItself(PassesOn):
        def handle_request(self, request):
            mocked = super().handle_request(request)
            return type(mocked)(200, content=mocked.read())
"""


@pytest.mark.parametrize(
    ("plugins", "reply", "inner"),
    [
        (["respx"], "respx_mock.post(URL).mock(return_value=response)", "httpx.HTTPTransport()"),
        (["pytest_httpx"], "httpx_mock.add_response(json=REPLY)", "httpx.HTTPTransport()"),
        ([], "request", "httpx.MockTransport(lambda request: response)"),
    ],
)
def test_a_mock_below_a_transport_that_passes_its_answer_on(
    project: Project, plugins: list[str], reply: str, inner: str
) -> None:
    for plugin in plugins:
        pytest.importorskip(plugin)
    project.write(
        app=SENT,
        transports=PASSES_ON,
        test_app=f"""
        import httpx
        import transports
        from app import REPLY, URL, ask
        from pytest_llmcost import max_cost

        @max_cost("$1", live=False)
        def test_passes_on({reply.partition(".")[0]}):
            response = httpx.Response(200, json=REPLY)
            {reply}
            ask(transport=transports.PassesOn({inner}))
        """,
    )
    check(project, *plugins)


def test_a_transport_that_asks_a_mock_and_makes_a_response_of_its_own_may_have_sent(
    project: Project,
) -> None:
    project.write(
        app=SENT,
        transports=PASSES_ON,
        test_app="""
        import httpx
        import transports
        from app import REPLY, ask
        from pytest_llmcost import max_cost

        @max_cost("$1", live=False)
        def test_sends():
            mock = httpx.MockTransport(lambda request: httpx.Response(200, json=REPLY))
            ask(transport=transports.SendsItself(mock))
        """,
    )
    project.run().assert_outcomes(failed=1)


def test_pytest_socket_lets_mocks_through_and_blocks_the_rest(
    project: Project, standin: StandIn
) -> None:
    pytest.importorskip("pytest_socket")
    project.online(standin).write(
        app=SENT,
        test_app="""
        import anthropic
        import httpx
        import pytest
        from app import REPLY, ask
        from pytest_llmcost import max_cost

        @max_cost("$0.0075")
        @pytest.mark.filterwarnings("default")  # pytest-socket warns of what it blocks
        def test_blocked(socket_disabled):
            ask(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=REPLY)))
            with anthropic.Anthropic(max_retries=1) as client:
                with pytest.raises(anthropic.APIConnectionError) as caught:
                    client.messages.create(model="claude-opus-4-7", max_tokens=9, messages=[])
            assert type(caught.value.__cause__).__name__ == "SocketBlockedError"
        """,
    )
    check(project, "socket")
    assert standin.requests == []


def test_a_mock_of_the_sdk_s_method_is_no_traffic(project: Project) -> None:
    project.write(
        test_app="""
        from unittest import mock
        import anthropic

        def test_mocked():
            client = anthropic.Anthropic(api_key="none")
            with mock.patch.object(client.messages, "create") as create:
                client.messages.create(model="claude-opus-4-7", max_tokens=9, messages=[])
            create.assert_called_once()
        """
    )
    result = project.run(*STRICT, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    tests: list[dict[str, Any]] = project.ledger()["tests"]
    assert [test["calls"] for test in tests] in ([], [[]])


@pytest.mark.parametrize("usage", ["(0, 0)", "(0, 503)", "(-7, 5)", "(True, 5)", "(10**30, 5)"])
def test_a_mock_that_states_what_no_request_can_use_leaves_a_budget_unverified(
    project: Project, usage: str
) -> None:
    project.write(
        app=SENT,
        test_app=f"""
        import httpx
        from app import REPLY, ask
        from pytest_llmcost import max_cost

        @max_cost("$100")
        def test_mocked():
            stated = dict(zip(("input_tokens", "output_tokens"), {usage}))
            def answer(request):
                return httpx.Response(200, json={{**REPLY, "usage": stated}})
            ask(transport=httpx.MockTransport(answer))
        """,
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"cannot check the \$100\.00 budget set at .*"])
    (test,) = project.ledger()["tests"]
    assert test["verdict"]["state"] == "unverified"
    assert [call["usd"] for call in test["calls"]] == [None]


ERRORS = """
    import json
    import anthropic
    import httpx2
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    URL = "https://api.anthropic.com/v1/messages"
    ASKED = dict(model="claude-opus-4-7", max_tokens=9, messages=[{"role": "user", "content": "a"}])
    HEAD = {"anthropic-version": "2023-06-01"}
    OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}

    def sdk(handler, retries=0):
        http = httpx2.Client(transport=httpx2.MockTransport(handler))
        return anthropic.Anthropic(api_key="none", http_client=http, max_retries=retries)

    def timing_out(request):
        raise httpx2.ReadTimeout("too slow")

    @max_cost("$0.01")
    def test_time_out():
        with pytest.raises(anthropic.APITimeoutError):
            sdk(timing_out).messages.create(**ASKED)

    @pytest.mark.parametrize("status", [400, 401, 429, 500, 529])
    @max_cost("$0.01")
    def test_refused(status):
        with pytest.raises(anthropic.APIStatusError):
            sdk(lambda request: httpx2.Response(status, json=OVERLOADED)).messages.create(**ASKED)

    @max_cost("$0.01", calls=1)
    def test_error_body():
        httpx2.Client(transport=httpx2.MockTransport(
            lambda request: httpx2.Response(200, json=OVERLOADED)
        )).post(URL, json=ASKED, headers=HEAD)

    @max_cost("$0.01")
    def test_broken_json():
        broken = lambda request: httpx2.Response(
            200, content=b'{"id": "msg', headers={"content-type": "application/json"})
        with pytest.raises(Exception):
            sdk(broken).messages.create(**ASKED)

    @max_cost("$0.01")
    def test_error_event():
        events = b'event: error\\ndata: ' + json.dumps(OVERLOADED).encode() + b'\\n\\n'
        stream = lambda request: httpx2.Response(
            200, content=events, headers={"content-type": "text/event-stream"})
        with pytest.raises(anthropic.APIStatusError):
            [*sdk(stream).messages.create(**ASKED, stream=True)]

    @pytest.mark.parametrize("is_created", [True, False])
    @max_cost("$0.01")
    def test_batch(is_created):
        batch = {"id": "b", "type": "message_batch", "processing_status": "ended",
                 "results_url": f"{URL}/batches/b/results"}
        kinds = ("errored", "expired", "canceled")
        ends = [json.dumps({"custom_id": kind, "result": {"type": kind}}) for kind in kinds]
        read = httpx2.Response(200, content="\\n".join(ends).encode())
        client = sdk(lambda request: read if request.url.path.endswith("results")
                     else httpx2.Response(200, json=batch))
        if is_created:
            client.messages.batches.create(
                requests=[{"custom_id": kind, "params": ASKED} for kind in kinds])
        [*client.messages.batches.results("b")]
"""


@pytest.mark.parametrize("below", ["", "PassesOn"])
def test_mocked_errors_are_requests_that_cost_nothing(project: Project, below: str) -> None:
    mock = "httpx2.MockTransport(handler)"
    head = "    from transports import PassesOn\n"
    project.write(transports=PASSES_ON, test_app=head + ERRORS.replace(mock, f"{below}({mock})"))
    result = project.run("--llmcost-max-suite=$0.01", "--llmcost-report=r.json")
    result.assert_outcomes(passed=11)
    ledger = project.ledger("r.json")
    assert ledger["totals"]["calls"] == 0
    verdicts = [*ledger["verdicts"], *(row["verdict"] for row in ledger["tests"])]
    assert {(each["state"], each["actual"], each["high"]) for each in verdicts} == {
        ("within", "0", "0")
    }


def test_a_time_out_of_respx_is_one_too(project: Project) -> None:
    pytest.importorskip("respx")
    project.write(
        test_app="""
        import httpx
        import pytest
        import respx
        from pytest_llmcost import max_cost

        @max_cost("$0.01")
        @pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ConnectError, OSError("reset")])
        def test_time_out(error):
            with respx.mock:
                respx.post("https://api.anthropic.com/v1/messages").mock(side_effect=error)
                with pytest.raises((httpx.HTTPError, OSError)):
                    httpx.post("https://api.anthropic.com/v1/messages", json={
                        "model": "m", "max_tokens": 1, "messages": []})
        """
    )
    project.run("--llmcost-max-suite=$0.01").assert_outcomes(passed=3)


def test_a_time_out_of_pytest_httpx_is_one_too(project: Project) -> None:
    pytest.importorskip("pytest_httpx")
    project.write(
        test_app="""
        import httpx
        import pytest
        from pytest_llmcost import max_cost

        @max_cost("$0.01")
        @pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.RemoteProtocolError])
        def test_time_out(httpx_mock, error):
            httpx_mock.add_exception(error("no"))
            with pytest.raises(error):
                httpx.post("https://api.anthropic.com/v1/messages", json={
                    "model": "m", "max_tokens": 1, "messages": []})
        """
    )
    project.run("--llmcost-max-suite=$0.01", plugins=("pytest_httpx",)).assert_outcomes(passed=2)


def test_a_test_that_sends_nothing_has_still_shown_nothing(project: Project) -> None:
    project.write(
        test_app="""
        import httpx2
        from pytest_llmcost import max_cost

        @max_cost("$0.01")
        def test_nothing():
            pass

        @max_cost("$0.01")
        def test_counts_alone():
            httpx2.Client(transport=httpx2.MockTransport(
                lambda request: httpx2.Response(200, json={"input_tokens": 3})
            )).post("https://api.anthropic.com/v1/messages/count_tokens",
                json={"model": "m", "messages": []}, headers={"anthropic-version": "2023-06-01"})

        @max_cost("$0.01")
        def test_mail():
            httpx2.Client(transport=httpx2.MockTransport(
                lambda request: httpx2.Response(404)
            )).post("https://mail.example/v1/messages", json={"to": "a@b"})
        """
    )
    result = project.run()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["*no Claude call was seen*"])
