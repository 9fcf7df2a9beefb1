"""The cap on live spend: what does not fit is refused before a byte goes out."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from conftest import Project
from standin import StandIn, Step, fault

SUITE = """
    import asyncio
    import os
    import anthropic
    import httpx
    import pytest
    from pytest_llmcost.errors import LiveCapError

    ASKED = {"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "hi"}]}

    def ask(max_tokens=1_000, **more):
        with anthropic.Anthropic() as client:
            return client.messages.create(max_tokens=max_tokens, **{**ASKED, **more})
"""
XDIST = ("xdist",)
GOOGLE = "claude.googleapis.com/v1/projects/p/locations"
MANTLE = "bedrock-mantle.us-east-1.api.aws/anthropic"


PLAIN = """
    def test_large():
        ask(20_000)
"""
UNITTEST = """
    import unittest

    class TestIt(unittest.TestCase):
        def test_large(self):
            ask(20_000)
"""


@pytest.mark.parametrize("test", [PLAIN, UNITTEST], ids=["plain", "unittest"])
def test_a_request_whose_worst_case_does_not_fit_is_not_sent(
    online: Project, standin: StandIn, test: str
) -> None:
    online.write(test_app=SUITE + test)
    result = online.run("--llmcost-max-live=$0.10", "--llmcost-report=ledger.json")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r".*LiveCapError: claude-haiku-4-5 was not sent: it may cost \$0\.11\d+ "
            r"\(at most 1,\d+ input tokens for \d+ bytes, 20,000 output tokens\), "
            r"and \$0\.10 is left of the \$0\.10 cap on live spend set by --llmcost-max-live",
        ]
    )
    # The traceback ends where the tested code asks.
    result.stdout.fnmatch_lines([">           return client.messages.create(*", "test_app.py:*"])
    result.stdout.no_fnmatch_line("*site-packages*")
    assert standin.requests == []
    (row,) = online.ledger()["tests"]
    (call,) = row["calls"]
    assert (call["evidence"], call["usd"], call["live"]) == ("refused", "0", False)
    assert (row["verdict"]["kind"], row["verdict"]["state"]) == ("refused", "exceeded")
    assert online.ledger()["totals"]["live_usd"] == "0"


SWALLOWED = """
    def test_swallowed():
        try:
            ask(20_000)
        except BaseException:
            pass
"""


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_whatever_swallows_the_refusal_the_test_fails(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(test_app=SUITE + SWALLOWED)
    result = online.run("--llmcost-max-live=$0.10", *workers, plugins=XDIST if workers else ())
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "1 request refused by the live cap set by --llmcost-max-live ($0.10)",
            "  the request       claude-haiku-4-5*, refused: it may cost $0.11* is left of *",
            "FAILED test_app.py::test_swallowed - 1 request refused by the live cap",
        ]
    )


def test_a_test_is_measured_against_the_cap_only_if_a_call_of_it_was_refused(
    online: Project,
) -> None:
    online.write(
        test_app=SUITE
        + SWALLOWED
        + """
    def test_small():
        ask(100)

    def test_silent():
        pass
    """
    )
    reports = ["ledger.json", "comment.md", "page.html"]
    result = online.run(
        "--llmcost-max-live=$0.10", *(f"--llmcost-report={each}" for each in reports)
    )
    result.stdout.re_match_lines(
        [
            r"test_app\.py +calls +input +output +cost +budget +used",
            r"✗ test_swallowed +1 +\? +\? +refused +live cap +-",
            r"  test_small +1 +8 +4 +<\$0\.0001$",
        ],
        consecutive=True,
    )
    comment, page = (online.path.joinpath(each).read_text("utf-8") for each in reports[1:])
    assert "test_swallowed</code> | refused | live cap |" in comment
    assert "test_small</code> | $0.000028 |  |  |" in comment
    assert '"refused"' in page
    rows = {each["nodeid"].partition("::")[2]: each for each in online.ledger()["tests"]}
    assert rows.keys() == {"test_swallowed", "test_small"}
    assert rows["test_small"]["verdict"] is None


OWN_SOCKET = """
    import http.client
    import socket

    class OwnSocket(httpx.BaseTransport):
        def handle_request(self, request):
            head = f"POST {request.url.path} HTTP/1.1\\r\\nHost: a\\r\\n"
            head += "".join(f"{name}: {value}\\r\\n" for name, value in request.headers.items())
            with socket.create_connection((request.url.host, request.url.port)) as connection:
                connection.sendall(head.encode() + b"\\r\\n" + request.read())
                answer = http.client.HTTPResponse(connection)
                answer.begin()
                return httpx.Response(answer.status, content=answer.read())

    def ask_past(max_tokens, **options):
        with httpx.Client(transport=OwnSocket(), **options) as client:
            body = {**ASKED, "max_tokens": max_tokens}
            head = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}
            url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
            assert client.post(url, json=body, headers=head).status_code == 200
"""


def test_what_is_not_seen_to_leave_fails_its_test_where_it_would_have_been_refused(
    online: Project, standin: StandIn
) -> None:
    online.write(
        test_app=SUITE
        + OWN_SOCKET
        + """
    def test_small():
        ask_past(100)

    def test_large():
        ask_past(20_000)
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines(
        [
            r"1 request sent past the live cap set by --llmcost-max-live \(\$0\.10\)",
            r"  the request       claude-haiku-4-5-20251001, 8 input \+ 4 output tokens, "
            r"\$0\.000028: not seen to leave; it may cost \$0\.11\d+ .*, and \$0\.10 is left of ",
            r"FAILED test_app.py::test_large - 1 request sent past the live cap",
        ]
    )
    assert len(standin.requests) == 2


def test_so_does_what_is_sent_after_a_hook_has_asked_something_else(online: Project) -> None:
    online.write(
        test_app=SUITE
        + OWN_SOCKET
        + """
    def test_large():
        ask_past(20_000, event_hooks={"request": [lambda request: ask(1)]})
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED * - 1 request sent past the live cap*"])


def test_what_was_not_seen_to_leave_is_taken_from_the_cap(online: Project) -> None:
    online.write(
        test_app=SUITE
        + OWN_SOCKET
        + """
    def test_past():
        ask_past(20_000)

    def test_refused():
        ask(1)
    """
    )
    result = online.run("--llmcost-max-live=$0.00002")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*LiveCapError: * and $0.00 is left of the $0.00002 cap*"])


def test_what_a_refused_request_may_cost_never_reads_as_what_is_left(online: Project) -> None:
    online.write(test_app=SUITE + PLAIN)
    result = online.run("--llmcost-max-live=$0.11120005")
    result.stdout.fnmatch_lines(["*may cost $0.1112001 *, and $0.1112 is left of *"])


def test_a_transport_that_calls_claude_in_its_place_is_reserved_once(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    class Gateway(httpx.BaseTransport):
        def handle_request(self, request):
            request.read()
            url = os.environ["ANTHROPIC_BASE_URL"] + request.url.path
            with httpx.Client() as client:
                answer = client.post(url, content=request.content, headers=request.headers)
            return httpx.Response(answer.status_code, content=answer.content)

    def test_once():
        head = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}
        with httpx.Client(transport=Gateway()) as client:
            for _ in range(5):
                body = {**ASKED, "max_tokens": 100}
                client.post("http://gateway.test/v1/messages", json=body, headers=head)
    """
    )
    # The worst case of one, and what the four before it have cost.
    result = online.run("--llmcost-max-live=$0.00187")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["* 5 calls"])


IN_A_THREAD = """
    import threading

    class InAThread(httpx.BaseTransport):
        def __init__(self):
            self.inner = httpx.HTTPTransport()

        def handle_request(self, request):
            answers = []
            def run():
                answer = self.inner.handle_request(request)
                answer.read()
                answers.append(answer)
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            return httpx.Response(answers[0].status_code, content=answers[0].content)

        def close(self):
            self.inner.close()

    def test_once(llmcost):
        head = {"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}
        url, body = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", {**ASKED, "max_tokens": 100}
        with httpx.Client(transport=InAThread()) as client:
            client.post(url, json=body, headers=head)
        assert [call.live for call in llmcost.calls] == [True]
"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_request_that_leaves_in_another_thread_is_one_and_under_the_cap(
    online: Project, standin: StandIn
) -> None:
    online.write(test_app=SUITE + IN_A_THREAD)
    online.run("--llmcost-max-live=$0.00185").assert_outcomes(passed=1)
    assert len(standin.requests) == 1
    online.run("--llmcost-max-live=0").assert_outcomes(failed=1)
    assert len(standin.requests) == 1


@pytest.mark.parametrize("scope", ["function", "module"])
def test_each_test_whose_fixture_was_refused_says_so(online: Project, scope: str) -> None:
    online.write(
        test_app=SUITE
        + f"""
    @pytest.fixture(scope={scope!r})
    def primed():
        ask(20_000)

    @pytest.fixture(scope={scope!r})
    def ends():
        yield
        ask(20_000)

    def test_one(primed): pass

    def test_two(primed): pass

    def test_end(ends): pass
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    assert result.parseoutcomes()["errors"] == 3
    result.stdout.fnmatch_lines(
        [
            f"ERROR test_app.py::test_{each} - claude-haiku-4-5 was*"
            for each in ("one", "two", "end")
        ]
    )
    result.stdout.no_fnmatch_line("*site-packages*")


def test_a_fixture_that_is_refused_in_its_teardown_leaves_the_other_tests_alone(
    online: Project,
) -> None:
    online.write(
        test_one=SUITE
        + """
    @pytest.fixture(scope="module")
    def outer():
        yield
        print("outer is down")

    @pytest.fixture
    def inner(outer, monkeypatch):
        monkeypatch.setenv("LEFT", "behind")

    @pytest.fixture
    def reported():
        yield
        ask(20_000)

    def test_one(inner, reported): pass
    """,
        test_two="import os\n\ndef test_two(): assert 'LEFT' not in os.environ\n",
    )
    result = online.run("--llmcost-max-live=$0.10", "-s")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*outer is down*", "ERROR test_one.py::test_one - *was not sent*"])


def test_a_shared_fixture_that_is_refused_is_set_up_once(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.fixture(scope="module")
    def primed():
        ask(10)
        ask(20_000)

    def test_one(primed): pass

    def test_two(primed): pass
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    assert result.parseoutcomes()["errors"] == 2
    assert len(standin.requests) == 1


@pytest.mark.parametrize("scope", ["function", "module"])
def test_so_does_each_whose_fixture_was_refused_in_a_group_of_tasks(
    online: Project, scope: str
) -> None:
    online.write(
        test_app=SUITE
        + f"""
    import anyio

    async def prime():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, ask, 20_000)

    @pytest.fixture(scope={scope!r})
    def primed():
        anyio.run(prime)

    def test_one(primed): pass

    def test_two(primed): pass
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    assert result.parseoutcomes()["errors"] == 2
    result.stdout.fnmatch_lines(
        [f"ERROR test_app.py::test_{each} - *claude-haiku-4-5 was not*" for each in ("one", "two")]
    )


def test_a_shared_fixture_that_swallows_it_fails_the_run(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.fixture(scope="module")
    def primed():
        with pytest.raises(LiveCapError):
            ask(20_000)

    def test_primed(primed):
        pass
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_what_an_answer_did_not_cost_is_free_again(online: Project, standin: StandIn) -> None:
    """Each may cost $0.006 and costs next to nothing: without settling the second would not fit."""
    online.write(
        test_app=SUITE
        + """
    def test_many():
        for _ in range(20):
            ask()

    def test_streams():
        with anthropic.Anthropic() as client:
            for _ in range(20):
                with client.messages.stream(max_tokens=1_000, **ASKED) as stream:
                    stream.get_final_message()

    def test_async():
        async def run():
            async with anthropic.AsyncAnthropic() as client:
                for _ in range(20):
                    await client.messages.create(max_tokens=1_000, **ASKED)
        asyncio.run(run())
    """
    )
    online.run("--llmcost-max-live=$0.01").assert_outcomes(passed=3)
    assert len(standin.requests) == 60


def test_what_the_garbage_collector_ends_in_the_midst_of_a_reservation_does_not_wait_for_it(
    online: Project,
) -> None:
    """It would wait a minute for the lock that its own thread has. It stays reserved."""
    online.write(
        test_app=SUITE
        + """
    import gc
    import json
    import threading
    import time
    import urllib.request
    from http.server import BaseHTTPRequestHandler, HTTPServer

    USED = {"usage": {"input_tokens": 9, "output_tokens": 1}, "model": ASKED["model"]}
    BEGUN = {"type": "message_start", "message": {**USED, "type": "message", "content": []}}

    class Gateway(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"data: %s\\n\\n: and more" % json.dumps(BEGUN).encode())

    def begin(port):
        url = f"http://127.0.0.1:{port}/v1/messages"
        body = {**ASKED, "max_tokens": 1_000, "stream": True}
        head = {"anthropic-version": "2023-06-01"}
        sent = urllib.request.Request(url, json.dumps(body).encode(), head)
        answer = urllib.request.urlopen(sent)
        answer.readline()
        return answer

    def test_it(monkeypatch):
        server = HTTPServer(("127.0.0.1", 0), Gateway)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gc.disable()
        cycle = [begin(server.server_port)]
        cycle.append(cycle)
        del cycle
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda *names: (gc.collect(), replace(*names)))
        began = time.monotonic()
        begin(server.server_port).close()
        gc.enable()
        assert time.monotonic() - began < 30
        server.shutdown()
        server.server_close()
    """
    )
    result = online.run("--llmcost-max-live=$1")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*stays reserved*"])


def test_concurrent_requests_are_reserved_together(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    def test_async():
        async def run():
            async with anthropic.AsyncAnthropic(max_retries=0) as client:
                asked = [client.messages.create(max_tokens=1_000, **ASKED) for _ in range(9)]
                return await asyncio.gather(*asked, return_exceptions=True)
        outcomes = asyncio.run(run())
        refused = [each for each in outcomes if isinstance(each, LiveCapError)]
        assert 0 < len(refused) < 9
    """
    )
    online.run("--llmcost-max-live=$0.015").assert_outcomes(failed=1)
    assert 1 <= len(standin.requests) < 9


def test_a_refusal_by_the_api_frees_what_was_reserved(online: Project, standin: StandIn) -> None:
    standin.key = "another"
    online.write(
        test_app=SUITE
        + """
    def test_refused():
        for _ in range(5):
            with pytest.raises(anthropic.AuthenticationError):
                ask()
    """
    )
    online.run("--llmcost-max-live=$0.015").assert_outcomes(passed=1)


def test_workers_share_what_is_left(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.mark.parametrize("number", range(8))
    def test_each(number):
        with anthropic.Anthropic(max_retries=0) as client:
            # Never read, so what it may cost stays reserved.
            client.messages.create(stream=True, max_tokens=1_000, **ASKED)
    """
    )
    result = online.run("--llmcost-max-live=$0.015", "-n2", plugins=XDIST)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (2, 6), result.stdout.str()
    assert len(standin.requests) == 2


def test_replays_and_mocks_need_no_room(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    import vcr

    def test_replayed():
        with vcr.use_cassette("here.yaml"):
            ask()

    def test_mocked():
        def answer(request):
            return httpx.Response(529)
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            client.post("https://api.anthropic.com/v1/messages", json={"max_tokens": 9, **ASKED})
    """
    )
    online.run().assert_outcomes(passed=2)
    online.run("--llmcost-max-live=0").assert_outcomes(passed=2)
    (online.path / "here.yaml").unlink()
    online.run("--llmcost-max-live=0").assert_outcomes(passed=1, failed=1)
    assert len(standin.requests) == 1


NO_WORST_CASE = {
    "server_tool": (
        'tools=[{"type": "web_search_20250305", "name": "web_search"}]',
        "web_search may call a model again",
    ),
    "fallbacks": ('extra_body={"fallbacks": [{"model": "claude-opus-5"}]}', "fallbacks may call"),
    "compaction": (
        'extra_body={"context_management": {"edits": [{"type": "compact_20260112"}]}}',
        "compact_20260112 may call a model again",
    ),
    "unknown_version_of_a_tool": (
        'tools=[{"type": "bash_20990101", "name": "bash"}]',
        "how many tokens bash_20990101 adds to the prompt is unknown",
    ),
    "max_tokens_of_another_kind": ('extra_body={"max_tokens": "9"}', "has no usable max_tokens"),
    "image_by_address": (
        'messages=[{"role": "user", "content": [{"type": "image", "source": '
        '{"type": "url", "url": "https://a.test/b.png"}}]}]',
        "says nothing of its tokens",
    ),
    "unknown_model": ('model="claude-unheard-of"', "has no upper bound"),
    "service_tier": (
        'extra_headers={"X-Amzn-Bedrock-Service-Tier": "flex"}',
        "has no upper bound",
    ),
    "optimised_latency": (
        'extra_headers={"X-Amzn-Bedrock-PerformanceConfig-Latency": "optimized"}',
        "has no upper bound",
    ),
}


def test_what_has_no_worst_case_is_refused(online: Project, standin: StandIn) -> None:
    tests = [
        f"\n    def test_{name}():\n        ask({more})\n"
        for name, (more, _) in NO_WORST_CASE.items()
    ]
    online.write(test_app=SUITE + "".join(tests))
    result = online.run("--llmcost-max-live=$10", "--tb=line")
    result.assert_outcomes(failed=len(NO_WORST_CASE))
    refused = [
        line for line in result.outlines if re.search(r"LiveCapError: .* was not sent", line)
    ]
    for line, (_, why) in zip(refused, NO_WORST_CASE.values(), strict=True):
        assert why in line
    assert standin.requests == []


# The fewest tokens that the price page says the API adds for each, beside those for any tools.
TOOLS = {
    "bash_20250124": 325,
    "text_editor_20250728": 700,
    "computer_20251124": 735,
    "computer_toolset_20260801": 4_500,
    "browser_toolset_20260801": 6_600,
}


@pytest.mark.parametrize("kind", TOOLS)
def test_the_bound_holds_what_the_api_adds_for_a_tool(online: Project, kind: str) -> None:
    tools = [{"type": kind, "name": "any"}]
    online.write(test_app=SUITE + f"\n    def test_asks():\n        ask(tools={tools!r})\n")
    result = online.run("--llmcost-max-live=$0.001", "--tb=line")
    result.assert_outcomes(failed=1)
    bound = re.search(r"at most ([\d,]+) input tokens for (\d+) bytes", result.stdout.str())
    assert bound is not None
    assert int(bound[1].replace(",", "")) > int(bound[2]) + 804 + TOOLS[kind]


def test_what_another_vendor_s_model_costs_is_not_capped(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    def test_llama():
        arn = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model%2Fabc"
        url = os.environ["ANTHROPIC_BASE_URL"]
        httpx.post(f"{url}/model/{arn}/invoke", json={"prompt": "Hi"})
    """
    )
    online.run("--llmcost-max-live=$0").assert_outcomes(passed=1)
    assert len(standin.requests) == 1


def test_a_recorded_count_is_the_bound_where_there_is_one(online: Project) -> None:
    words = "word " * 9_000
    online.write(
        test_app=SUITE
        + f"""
    def test_asks(llmcost):
        sent = {{**ASKED, "messages": [{{"role": "user", "content": {words!r}}}]}}
        llmcost.count(max_tokens=10, **sent)
        ask(10, messages=sent["messages"])
    """
    )
    online.record("--llmcost-max-live=$10").assert_outcomes(passed=1)
    # About 9,000 tokens and 45,000 bytes.
    online.run("--llmcost-max-live=$0.02").assert_outcomes(passed=1)


# Of Sonnet 4.6, 20,000 tokens are $0.30, a tenth more in the US and at a regional endpoint.
@pytest.mark.parametrize(
    ("address", "model", "most"),
    [
        ("api.anthropic.com", "claude-sonnet-4-6", r"0\.33\d+"),
        ("r.services.ai.azure.com/anthropic", "claude-sonnet-4-6", r"0\.33\d+"),
        (f"{GOOGLE}/global/workspaces/w/invoke", "claude-sonnet-4-6", r"0\.33\d+"),
        (f"{GOOGLE}/us-east5/workspaces/w/invoke", "claude-sonnet-4-6", r"0\.36\d+"),
        (MANTLE, "anthropic.claude-sonnet-4-6", r"0\.33\d+"),
        (MANTLE, "global.anthropic.claude-sonnet-4-6", r"0\.30\d+"),
    ],
)
def test_the_place_of_inference_is_at_worst_the_one_that_costs_most(
    online: Project, address: str, model: str, most: str
) -> None:
    online.write(
        test_app=SUITE
        + f"""
    def test_asks():
        with anthropic.Anthropic(base_url="https://{address}") as client:
            client.messages.create(max_tokens=20_000, **{{**ASKED, "model": "{model}"}})
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([rf".*LiveCapError: .* was not sent: it may cost \${most} "])


def test_a_batch_reserves_the_worst_of_all_its_requests(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.mark.parametrize("number", [2, 30])
    def test_batch(number):
        asked = [{"custom_id": f"a{at}", "params": {"max_tokens": 1_000, **ASKED}}
                 for at in range(number)]
        with anthropic.Anthropic() as client:
            batch = client.messages.batches.create(requests=asked)
            list(client.messages.batches.results(batch.id))
    """
    )
    result = online.run("--llmcost-max-live=$0.05")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*LiveCapError: *(all 30 requests of its batch)*"])


def test_what_a_hook_asks_by_another_library_has_a_worst_case_of_its_own(
    online: Project, standin: StandIn
) -> None:
    pytest.importorskip("requests")
    online.write(
        test_app=SUITE
        + """
    import requests

    URL = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "any"}

    def judge(request):
        requests.post(URL, json={**ASKED, "max_tokens": 20_000}, headers=HEADERS)

    def test_hook():
        client = httpx.Client(event_hooks={"request": [judge]})
        client.post(URL, json={**ASKED, "max_tokens": 1}, headers=HEADERS)
    """
    )
    result = online.run("--llmcost-max-live=$0.05")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*LiveCapError: *20,000 output tokens*"])
    assert standin.requests == []


@pytest.mark.parametrize("client", ["urllib", "aiohttp"])
def test_a_route_that_is_not_metered_is_refused(
    online: Project, standin: StandIn, client: str
) -> None:
    online.write(
        test_app=SUITE
        + """
    import urllib.request
    import aiohttp

    URL = os.environ["ANTHROPIC_BASE_URL"] + "/model/anthropic.claude-haiku-4-5-v1:0/invoke"

    def test_urllib():
        with pytest.raises(LiveCapError, match="was not sent"):
            urllib.request.urlopen(urllib.request.Request(URL, b"{}"))

    def test_aiohttp():
        async def run():
            async with aiohttp.ClientSession() as session:
                await session.post(URL, data=b"{}")
        with pytest.raises(LiveCapError, match="was not sent"):
            asyncio.run(run())
    """
    )
    result = online.run("--llmcost-max-live=$10", "-k", client)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["1 request refused by the live cap *"])
    assert standin.requests == []


@pytest.mark.parametrize("library", ["urllib3", "requests", "aiohttp", "http.client", "httpx"])
def test_no_spelling_of_an_address_slips_past_it(
    online: Project, standin: StandIn, library: str
) -> None:
    pytest.importorskip(library)
    profile = "us.%61nthropic.%63laude-haiku-4-5-20251001-v1:0"
    paths = ["/v1/%6Dessages", "/v1/chat/%63ompletions", f"/%6dodel/{profile}/%69nvoke"]
    online.write(
        test_app=SUITE
        + f"""
    import json
    import socket
    from urllib.parse import urlsplit

    BASE = os.environ["ANTHROPIC_BASE_URL"]
    PORT = urlsplit(BASE).port
    BODY = json.dumps({{"max_tokens": 9, **ASKED}}).encode()

    def by_urllib3(path):
        import urllib3
        urllib3.HTTPConnectionPool(urlsplit(BASE).hostname, PORT).urlopen("POST", path, body=BODY)

    def by_requests(path):
        import requests
        requests.post(BASE + path, data=BODY)

    def by_httpx(path):
        httpx.post(BASE + path, content=BODY)

    def by_aiohttp(path):
        import aiohttp
        from yarl import URL as Address

        async def send():
            async with aiohttp.ClientSession() as session:
                await session.post(Address(BASE + path, encoded=True), data=BODY)
        asyncio.run(send())

    def by_http_client(path):
        from http.client import HTTPConnection
        connection = HTTPConnection("API.ANTHROPIC.COM.", PORT)
        connection._create_connection = lambda address, *more: socket.create_connection(
            ("127.0.0.1", address[1]))
        connection.request("POST", path, BODY)

    @pytest.mark.parametrize("path", {paths!r})
    def test_spelled(path):
        with pytest.raises(LiveCapError):
            by_{library.replace(".", "_")}(path)
    """
    )
    result = online.run("--llmcost-max-live=0")
    result.assert_outcomes(failed=len(paths))  # for each request was refused
    assert standin.requests == []


TWO_THROUGH_A_PROXY = """
    URL = "https://api.anthropic.com/v1/messages"
    HEAD = {"anthropic-version": "2023-06-01"}
    CONNECTED = {"http": [b"HTTP/1.1 200 OK\\r\\n\\r\\n"],
                 "socks5": [bytes([5, 0]), bytes([5, 0, 0, 1, *range(6)])]}
    REFUSED = b"HTTP/1.1 401 No\\r\\ncontent-length: 0\\r\\n\\r\\n"

    def transport_of(kind, backend):
        transport = kind(proxy=f"{PROXY}://proxy.example")
        transport._pool._network_backend = backend([*CONNECTED[PROXY], REFUSED, REFUSED])
        return transport

    def test_sync():
        transport = transport_of(library.HTTPTransport, core.MockBackend)
        with library.Client(transport=transport) as client:
            client.post(URL, json={**ASKED, "max_tokens": 1}, headers=HEAD)
            client.post(URL, json={**ASKED, "max_tokens": 20_000}, headers=HEAD)

    def test_async():
        async def main():
            transport = transport_of(library.AsyncHTTPTransport, core.AsyncMockBackend)
            async with library.AsyncClient(transport=transport) as client:
                await client.post(URL, json={**ASKED, "max_tokens": 1}, headers=HEAD)
                await client.post(URL, json={**ASKED, "max_tokens": 20_000}, headers=HEAD)

        asyncio.run(main())
"""


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("proxy", ["http", "socks5"])
def test_what_is_sent_through_a_proxy_that_is_connected_is_refused(
    online: Project, library: str, proxy: str
) -> None:
    if proxy == "socks5":
        pytest.importorskip("socksio")
    core = library.replace("x", "core")
    online.write(
        test_app=SUITE
        + f"""
    import {core} as core
    import {library} as library

    PROXY = "{proxy}"
    """
        + TWO_THROUGH_A_PROXY
    )
    result = online.run("--llmcost-max-live=$0.10")
    result.assert_outcomes(failed=2)
    for name in ("sync", "async"):
        result.stdout.fnmatch_lines([f"FAILED *::test_{name} - *claude-haiku-4-5 was not sent*"])


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("way", ["direct", "http", "socks5"])
def test_a_client_does_not_wait_for_the_connection_of_a_refused_request(
    online: Project, library: str, way: str
) -> None:
    """Its pool counts a connection that was never opened, until that has failed to connect."""
    if way == "socks5":
        pytest.importorskip("socksio")
    proxy = "" if way == "direct" else f', proxy="{way}://127.0.0.1:9"'
    online.write(
        test_app=SUITE
        + f"""
    import {library} as library

    URL = "https://api.anthropic.com/v1/messages"
    SENT = {{"json": {{**ASKED, "max_tokens": 1}}, "headers": {{"anthropic-version": "1"}}}}
    ONE = {{"limits": library.Limits(max_connections=1), "timeout": library.Timeout(5, pool=1)}}

    def test_sync():
        with library.Client(**ONE{proxy}) as client:
            for _ in range(2):
                with pytest.raises(LiveCapError):
                    client.post(URL, **SENT)

    def test_async():
        async def main():
            async with library.AsyncClient(**ONE{proxy}) as client:
                for _ in range(2):
                    with pytest.raises(LiveCapError):
                        await client.post(URL, **SENT)

        asyncio.run(main())
    """
    )
    result = online.run("--llmcost-max-live=0")
    result.assert_outcomes(failed=2)
    for name in ("sync", "async"):
        result.stdout.fnmatch_lines([f"FAILED *::test_{name} - 2 requests refused by *"])


def test_a_connection_of_a_refused_request_sends_the_next_one_as_it_is(
    online: Project, standin: StandIn
) -> None:
    """Of `http.client`, on which urllib3 builds, whose pool keeps it."""
    pytest.importorskip("urllib3")
    online.write(
        test_app=SUITE
        + """
    import http.client
    import json
    import urllib3
    from urllib.parse import urlsplit

    HEAD = {"anthropic-version": "2023-06-01", "x-api-key": "any"}

    def send(sender, url):
        for max_tokens in (20_000, 10, 20_000, 20):
            body = json.dumps({**ASKED, "max_tokens": max_tokens})
            try:
                sender("POST", url, body=body, headers=HEAD)
            except LiveCapError:
                assert max_tokens == 20_000

    def test_http_client():
        address = urlsplit(os.environ["ANTHROPIC_BASE_URL"]).netloc
        connection = http.client.HTTPConnection(address, timeout=5)

        def ask(*sent, **more):
            connection.request(*sent, **more)
            assert connection.getresponse().read()

        send(ask, "/v1/messages")

    def test_urllib3():
        with urllib3.PoolManager(retries=False, timeout=5) as pool:
            send(pool.request, os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages")
    """
    )
    result = online.run("--llmcost-max-live=$0.10")
    for name in ("http_client", "urllib3"):
        result.stdout.fnmatch_lines([f"FAILED *::test_{name} - 2 requests refused by *"])
    assert [seen.body["max_tokens"] for seen in standin.requests] == [10, 20] * 2


def test_a_try_of_urllib3_after_one_that_was_lost_is_reserved_anew(
    online: Project, standin: StandIn
) -> None:
    pytest.importorskip("urllib3")
    online.write(
        test_app=SUITE
        + """
    import json
    import urllib3

    def test_again():
        retries = urllib3.Retry(2, allowed_methods=None, status_forcelist=[529])
        urllib3.PoolManager(retries=retries).request(
            "POST", os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
            body=json.dumps({**ASKED, "max_tokens": 8_000}),
            headers={"anthropic-version": "2023-06-01", "x-api-key": "any"})
    """
    )
    arguments = ("--llmcost-max-live=$0.06", "--llmcost-report=ledger.json")
    standin.script(fault(529))  # which is free
    online.run(*arguments).assert_outcomes(passed=1)
    standin.requests.clear()
    standin.script(Step(cut_after_bytes=0))
    online.run(*arguments).assert_outcomes(failed=1)
    assert len(standin.requests) == 1
    (row,) = online.ledger()["tests"]
    evidence = {call["evidence"]: (call["usd"], call["caveats"]) for call in row["calls"]}
    assert evidence["billed"] == (None, ["lost-answer"])
    assert evidence["refused"][0] == "0"


@pytest.mark.parametrize("swallowed", ["LiveCapError", "KeyError"])
def test_a_retry_that_is_refused_and_the_lost_attempts_before_it_are_two_calls(
    online: Project, standin: StandIn, swallowed: str
) -> None:
    online.write(
        test_app=SUITE
        + f"""
    def test_again():
        try:
            ask(3_500)
        except {swallowed}:
            pass
    """
    )
    standin.script(*[Step(cut_after_bytes=0)] * 3)
    arguments = ("--llmcost-max-live=$0.045", "--llmcost-report=ledger.json")
    result = online.run(*arguments)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["1 request refused by the live cap set by *"])
    assert len(standin.requests) == 2
    (row,) = online.ledger()["tests"]
    lost, refused = sorted(row["calls"], key=lambda call: call["evidence"])
    assert (lost["evidence"], lost["caveats"], lost["live"]) == ("billed", ["lost-answer"], True)
    assert (lost["usd"], lost["attempts"], lost["lost_attempts"]) == (None, 2, 1)
    assert (refused["evidence"], refused["usd"], refused["live"]) == ("refused", "0", False)
    assert (refused["attempts"], refused.get("lost_attempts")) == (1, None)


def test_what_is_reserved_for_a_lost_try_of_urllib3_is_kept_though_the_next_one_is_free(
    online: Project, standin: StandIn
) -> None:
    pytest.importorskip("urllib3")
    online.write(
        test_app=SUITE
        + """
    import json
    import urllib3

    @pytest.mark.parametrize("max_tokens", [8_000, 16_000])
    def test_one(max_tokens):
        retries = urllib3.Retry(2, allowed_methods=None)
        urllib3.PoolManager(retries=retries).request(
            "POST", os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
            body=json.dumps({**ASKED, "max_tokens": max_tokens}),
            headers={"anthropic-version": "2023-06-01", "x-api-key": "any"})
    """
    )
    standin.script(Step(cut_after_bytes=0), fault(400))
    result = online.run("--llmcost-max-live=$0.12")
    result.assert_outcomes(passed=1, failed=1)
    assert len(standin.requests) == 2


def test_what_is_reserved_for_a_retry_that_is_answered_is_settled_beside_the_lost_attempt(
    online: Project, standin: StandIn
) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.mark.parametrize("number", [1, 2])
    def test_one(number):
        ask(8_000)
    """
    )
    standin.script(Step(cut_after_bytes=0))
    result = online.run("--llmcost-max-live=$0.12")
    result.assert_outcomes(passed=2)
    assert len(standin.requests) == 3


def test_a_teardown_under_the_cap_warns_of_nothing(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.fixture
    def cleaned_up():
        yield
        ask(20)

    def test_teardown(cleaned_up):
        pass
    """
    )
    warned = "error:Calling request.getfixturevalue"
    result = online.run("-W", warned, "--llmcost-max-live=$1", plugins=("recording",))
    result.assert_outcomes(passed=1)
    assert len(standin.requests) == 1


def test_a_stand_in_needs_no_room(online: Project, standin: StandIn) -> None:
    online.write(test_app=SUITE + "\n    def test_large():\n        ask(8_000)\n")
    args = ("--llmcost-max-live=0", "--llmcost-stand-ins=127.0.0.1")
    online.run(*args).assert_outcomes(passed=1)
    assert len(standin.requests) == 1


def test_the_cap_and_the_price_of_the_worst_case_are_exact(online: Project) -> None:
    """4,000 output tokens are $0.02, $0.022 where it costs most, and the prompt comes on top."""
    online.write(test_app=SUITE + "\n    def test_one():\n        ask(4_000)\n")
    assert Decimal(4_000) * 5 / 1_000_000 == Decimal("0.02")
    online.run("--llmcost-max-live=$0.022").assert_outcomes(failed=1)
    online.run("--llmcost-max-live=$0.025").assert_outcomes(passed=1)


def test_a_request_while_a_conftest_is_imported_takes_no_cap_away(
    online: Project, standin: StandIn
) -> None:
    online.write(conftest=f"{SUITE}\n    ask(1)\n", test_app=SUITE + PLAIN)
    online.run("--llmcost-max-live=$0.10").assert_outcomes(failed=1)
    assert len(standin.requests) == 1  # that of the conftest, before any option is known
    online.run("--llmcost-max-live=0", "--llmcost-stand-ins=127.0.0.1").assert_outcomes(passed=1)


CONFIGURED = """
    def pytest_configure():
        try:
            ask(20_000)
        except LiveCapError:
            pass
"""


@pytest.mark.parametrize("imported", ["", "    ask(1)\n"], ids=["silent", "sent-before"])
def test_the_cap_and_stand_ins_hold_for_what_a_conftest_sends_as_it_is_configured(
    online: Project, standin: StandIn, imported: str
) -> None:
    online.write(conftest=SUITE + imported + CONFIGURED, test_app="def test_nothing(): pass")
    result = online.run("--llmcost-max-live=$0.10")
    result.stdout.fnmatch_lines(["FAILED --llmcost-max-live - 1 request refused by the live cap"])
    assert [seen.body["max_tokens"] for seen in standin.requests] == [1] * bool(imported)
    online.run("--llmcost-stand-ins=127.0.0.1", "--llmcost-report=ledger.json")
    *_, call = online.ledger()["outside_tests"]
    assert (call["max_tokens"], call["live"]) == (20_000, False)
