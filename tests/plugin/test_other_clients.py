"""Claude calls of requests, urllib3, boto3 and aiohttp are priced; those of urllib are noticed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from conftest import Project, calls_of

for _name in ("boto3", "requests", "urllib3", "aiohttp"):
    pytest.importorskip(_name)
MODEL = "anthropic.claude-sonnet-4-6"
APP = """
    import json
    import pytest
    from pytest_llmcost import max_cost

    MODEL = "anthropic.claude-sonnet-4-6"
    PATH = f"/model/{MODEL}/invoke"
    BODY = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9,
                       "messages": [{"role": "user", "content": "Hi"}]}).encode()

    def by_urllib(url):
        from urllib.request import Request, urlopen
        return json.load(urlopen(Request(url, data=BODY)))

    def by_requests(url):
        import requests
        return requests.post(url, data=BODY).json()

    def by_urllib3(url):
        import urllib3
        return json.loads(urllib3.PoolManager().request("POST", url, body=BODY).data)

    def by_botocore(url):
        import boto3
        runtime = boto3.client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=url.partition("/model/")[0],
            aws_access_key_id="any", aws_secret_access_key="any")
        return json.load(runtime.invoke_model(modelId=MODEL, body=BODY)["body"])

    def by_aiohttp(url):
        import asyncio
        import aiohttp

        async def ask():
            async with aiohttp.ClientSession() as session:
                async with session.post(url, data=BODY) as response:
                    return await response.json()
        return asyncio.run(ask())
"""
LIBRARIES = ("urllib", "requests", "urllib3", "botocore", "aiohttp")
USD = "0.000495"
"""100 tokens in and 10 out, at a regional endpoint."""
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-6",
    "content": [{"type": "text", "text": "ok"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 100, "output_tokens": 10},
}
SUITE = "--llmcost-max-suite=$0.01"


class Handler(BaseHTTPRequestHandler):
    """Answers every POST with the same message."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(MESSAGE).encode()
        self.send_response(403 if "/refused/" in self.path else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep still."""


@pytest.fixture
def url() -> Iterator[str]:
    """Any server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_live_call_is_priced(project: Project, url: str, library: str) -> None:
    project.write(
        test_app=APP
        + f"""
    def test_bedrock():
        assert by_{library}("{url}" + PATH)["type"] == "message"
    """
    )
    result = project.run("--llmcost-max-suite=$0.0001", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED --llmcost-max-suite - cost $0.0005 > $0.0001 *"])
    (call,) = calls_of(project)
    assert (call["model"], call["usd"], call["live"]) == ("claude-sonnet-4-6", USD, True)


def test_anthropic_s_own_host_is_known_behind_a_proxy(project: Project, url: str) -> None:
    project.write(
        test_app=APP
        + f"""
    import http.client
    import urllib.request

    def test_proxy():
        proxy = urllib.request.ProxyHandler({{"http": "{url}"}})
        opener = urllib.request.build_opener(proxy)
        for path in ("messages", "complete", "files"):
            asked = urllib.request.Request("http://api.anthropic.com/v1/" + path, BODY)
            asked.add_header("anthropic-version", "2023-06-01")
            opener.open(asked).read()
    """
    )
    project.run(SUITE, "--llmcost-report=ledger.json").assert_outcomes(passed=1, failed=1)
    assert [(call["usd"], call["caveats"]) for call in calls_of(project)] == [
        ("0.00045", []),
        (None, ["unmetered-route: api.anthropic.com/v1/complete"]),
    ]


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_port_of_a_stand_in_is_seen(project: Project, url: str, library: str) -> None:
    text = f"""
    def test_bedrock():
        assert by_{library}("{url}" + PATH)["type"] == "message"
    """
    project.write(test_app=APP + text)
    address = url.removeprefix("http://")
    for name, failed in ((address, 0), ("127.0.0.1:1", 1)):
        result = project.run("--llmcost-live=fail", f"--llmcost-stand-ins={name}")
        result.assert_outcomes(passed=1 - failed, failed=failed)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_recorded_call_is_one_call(project: Project, url: str, library: str) -> None:
    project.write(
        test_app=APP
        + f"""
    import vcr

    def test_recorded():
        for _ in range(2):
            with vcr.use_cassette("one.yaml"):
                by_{library}("{url}" + PATH)
    """
    )
    project.run(SUITE, "--llmcost-report=ledger.json").assert_outcomes(passed=1)
    calls = {call["live"]: call for call in calls_of(project)}
    assert len(calls_of(project)) == len(calls) == 2
    assert calls[False]["usd"] == calls[True]["usd"] == USD


def test_what_is_not_for_claude_or_was_never_sent_is_no_call(project: Project, url: str) -> None:
    project.write(
        test_app=APP
        + f"""
    import urllib.error

    @pytest.mark.parametrize("ask", [by_urllib, by_requests, by_aiohttp])
    def test_others(ask):
        # A gateway that is unknown, another model, a refused one.
        for path in ("/v1/messages/count_tokens", "/model/amazon.titan/invoke",
                     "/model/anthropic.claude-opus-4-7/count-tokens", "/refused" + PATH):
            try:
                ask("{url}" + path)
            except urllib.error.HTTPError as error:
                error.close()
        with pytest.raises(OSError):
            ask("http://127.0.0.1:9" + PATH)
    """
    )
    result = project.run(SUITE, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK
    assert calls_of(project) == []


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("recorder", ["vcr", "recording"])
def test_a_replayed_call_is_read_as_it_was_recorded(
    project: Project, library: str, recorder: str
) -> None:
    url = f"http://bedrock.example/model/{MODEL}/invoke"
    asked: dict[str, object] = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9}
    asked["messages"] = [{"role": "user", "content": "Hi"}]
    none: dict[str, object] = {"usage": {}}
    kept = [
        {
            "request": {"method": "POST", "uri": url, "headers": {}, "body": json.dumps(body)},
            "response": {
                "status": {"code": 200, "message": "OK"},
                "headers": {"content-type": ["application/json"]},
                "body": {"string": json.dumps({**MESSAGE, "id": id, **more})},
            },
        }
        for id, body, more in (
            ("msg_other", {**asked, "max_tokens": 8, "messages": []}, none),
            ("msg_same", asked, {}),
        )
    ]
    cassette = yaml.safe_dump({"version": 1, "interactions": kept})
    (project.path / "chat.yaml").write_text(cassette)
    opened = 'import vcr\n        with vcr.use_cassette("chat.yaml", record_mode="none"):'
    mark = ""
    if recorder == "recording":
        mark, opened = "@pytest.mark.default_cassette('chat.yaml')", "if True:"
        folder = project.path / "cassettes" / "test_app"
        folder.mkdir(parents=True)
        (folder / "chat.yaml").write_text(cassette)
        mark += "\n    @pytest.mark.vcr"
    project.write(
        test_app=APP
        + f"""
    {mark}
    def test_replayed():
        {opened}
            assert by_{library}("{url}")["id"] == "msg_other"
    """
    )
    plugins = ("recording",) if recorder == "recording" else ()
    project.run("--llmcost-report=ledger.json", plugins=plugins).assert_outcomes(passed=1)
    # The recording counts whose request is the same, whichever VCR has played.
    (call,) = calls_of(project)
    assert (call["live"], call["evidence"], call["usd"]) == (False, "billed", USD)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_connection_that_was_never_made_is_free_and_not_live(
    project: Project, url: str, library: str
) -> None:
    """TLS with a server that speaks none, a closed port, and a name that is not found in time."""
    project.write(
        test_app=APP
        + f"""
    import os
    import socket

    os.environ["AWS_MAX_ATTEMPTS"] = "1"

    def test_no_tls():
        with pytest.raises(Exception, match="(?i)ssl"):
            by_{library}("{url}".replace("http:", "https:") + PATH)

    def test_refused():
        with pytest.raises(Exception):
            by_{library}("http://127.0.0.1:9" + PATH)

    def test_no_address(monkeypatch):
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(Exception):
            by_{library}("http://127.0.0.1:9" + PATH)

    def slow(*args, **options):
        raise TimeoutError("no address in time")
    """
    )
    result = project.run(SUITE, "--llmcost-live=fail", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.OK
    assert calls_of(project) == []


def test_a_lost_answer_may_have_been_billed(project: Project) -> None:
    project.write(
        test_app=APP
        + """
    import socket
    from urllib.request import urlopen, Request

    def test_lost():
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}{PATH}"
            with pytest.raises(TimeoutError):
                urlopen(Request(url, data=BODY), timeout=0.2)

    def test_lost_by_requests():
        import requests
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}{PATH}"
            with pytest.raises(requests.Timeout):
                requests.post(url, data=BODY, timeout=0.2)

    def test_lost_by_aiohttp():
        import aiohttp
        import asyncio

        async def main():
            with socket.create_server(("127.0.0.1", 0)) as server:
                url = f"http://127.0.0.1:{server.getsockname()[1]}{PATH}"
                limit = aiohttp.ClientTimeout(sock_read=0.2)
                async with aiohttp.ClientSession(timeout=limit) as session:
                    await session.post(url, data=BODY)

        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(main())
    """
    )
    result = project.run(SUITE, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=3, failed=1)
    calls = calls_of(project)
    assert [call["caveats"] for call in calls] == [["lost-answer"]] * 3
    assert all(call["live"] for call in calls)


def test_without_a_claude_call_nothing_is_loaded(project: Project, url: str) -> None:
    project.write(
        test_app=APP
        + f"""
    import http.client
    import sys

    def test_plain():
        by_urllib("{url}/v1/mail")
        by_requests("{url}/v1/mail")
        by_aiohttp("{url}/v1/mail")
        assert http.client.HTTPConnection.endheaders.__wrapped__
        assert "pytest_llmcost.capture.capture" not in sys.modules
    """
    )
    cold = project.pytester.runpytest_subprocess("-p", "llmcost", SUITE)
    cold.assert_outcomes(passed=1)
