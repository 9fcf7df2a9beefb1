"""The relay: what another process sends is metered as requests of the running test."""

from __future__ import annotations

import json
import sys

import pytest
from conftest import Project
from standin import StandIn
from standin.server import Step
from warm_python import warm_python

SUITE = """
    import multiprocessing
    import os
    import subprocess
    import sys
    import threading
    import time
    from pathlib import Path

    import anthropic
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    ASKED = {"model": "claude-haiku-4-5", "max_tokens": 10,
             "messages": [{"role": "user", "content": "hi"}]}

    # Another program, as an agent is one: it knows an address, and nothing of pytest.
    AGENT = '''
    import sys
    import anthropic
    ASKED = {"model": "claude-haiku-4-5", "max_tokens": int(sys.argv[2]),
             "messages": [{"role": "user", "content": "hi"}]}
    with anthropic.Anthropic() as client:
        if sys.argv[1] == "stream":
            with client.messages.stream(**ASKED) as stream:
                print("".join(stream.text_stream))
        else:
            print(client.messages.create(**ASKED).content[0].text)
    '''

    def run_agent(relay, mode="once", max_tokens=10):
        env = {**os.environ, "ANTHROPIC_BASE_URL": relay.url}
        command = [sys.executable, "-c", AGENT, mode, str(max_tokens)]
        return subprocess.run(command, env=env, capture_output=True, text=True)
"""


@pytest.fixture
def online(online: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(sys, "executable", warm_python())  # the agent's
    return online


def test_a_batch_and_its_results_both_pass(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    BATCH = f'''
    import anthropic
    with anthropic.Anthropic() as client:
        batches = client.messages.batches
        batch = batches.create(requests=[{{"custom_id": "a", "params": {ASKED}}}])
        while batches.retrieve(batch.id).processing_status != "ended":
            pass
        print(*(each.result.type for each in batches.results(batch.id)))
    '''

    @max_cost("$0.01", calls=1)
    def test_batch(llmcost, llmcost_relay):
        env = {**os.environ, "ANTHROPIC_BASE_URL": llmcost_relay.url}
        said = subprocess.check_output([sys.executable, "-c", BATCH], env=env, text=True)
        assert said == "succeeded\\n"
        assert [call.caveats for call in llmcost.calls] == [()]
    """
    )
    online.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("mode", ["once", "stream"])
def test_another_program_s_calls_are_of_the_running_test(online: Project, mode: str) -> None:
    online.write(
        test_app=SUITE
        + f"""
    @max_cost("$0.00001")
    def test_over(llmcost_relay):
        done = run_agent(llmcost_relay, {mode!r})
        assert done.stdout == "Understood.\\n", done.stderr

    @max_cost("$1", calls=2)
    def test_within(llmcost_relay, llmcost):
        run_agent(llmcost_relay, {mode!r})
        run_agent(llmcost_relay, {mode!r})
        assert len(llmcost.calls) == 2
    """
    )
    result = online.run_apart("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    over, within = online.ledger()["tests"]
    assert (over["verdict"]["state"], within["verdict"]["state"]) == ("exceeded", "within")
    (call,) = over["calls"]
    assert (call["live"], call["evidence"]) == (True, "billed")
    assert call["stream"] is (mode == "stream")


def test_it_passes_everything_on_and_keeps_nothing(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    def test_passes_on(llmcost_relay, llmcost):
        head = {"x-api-key": "the-key", "anthropic-version": "2023-06-01", "x-own": "1"}
        with httpx.Client(base_url=llmcost_relay.url, headers=head) as client:
            answer = client.post("/v1/messages?beta=true", json=ASKED)
            assert answer.json()["type"] == "message"
            assert answer.headers["content-type"] == "application/json"
            pieces = (piece for piece in [b'{"model": "claude-haiku-4-5", ', b'"messages": []}'])
            assert client.post("/v1/messages/count_tokens", content=pieces).status_code < 500
            assert client.get("/v1/nothing").status_code == 404
        # Sent by this process, too, it is one call and not two.
        assert len(llmcost.calls) == 1
    """
    )
    online.run_apart().assert_outcomes(passed=1)
    first = standin.requests[0]
    assert (first.path, dict(first.query)) == ("/v1/messages", {"beta": "true"})
    assert (first.headers["x-api-key"], first.headers["x-own"]) == ("the-key", "1")
    assert [request.path for request in standin.requests[1:]] == [
        "/v1/messages/count_tokens",
        "/v1/nothing",
    ]


def test_the_cap_refuses_what_comes_through_it(online: Project, standin: StandIn) -> None:
    online.write(
        test_app=SUITE
        + """
    def test_capped(llmcost_relay):
        done = run_agent(llmcost_relay, max_tokens=20_000)
        assert "was not sent: it may cost" in done.stderr, done.stderr
    """
    )
    result = online.run_apart("--llmcost-max-live=$0.05")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_capped - 1 request refused by *"])
    assert standin.requests == []


def test_a_stream_passes_piece_by_piece(online: Project) -> None:
    """The first event arrives while the server still holds the rest back."""
    online.write(
        test_app=SUITE
        + """
    import http.server

    release = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b"event: ping\\\\ndata: {}\\\\n\\\\n")
            release.wait(60)

        def log_message(self, *args):
            pass

    @pytest.fixture(scope="session", autouse=True)
    def slow():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        os.environ["ANTHROPIC_BASE_URL"] = f"http://127.0.0.1:{server.server_port}"
        yield
        server.shutdown()
        server.server_close()

    def test_first_event(llmcost_relay):
        with httpx.stream("POST", llmcost_relay.url + "/v1/messages", json=ASKED) as answer:
            pieces = answer.iter_raw()
            assert next(pieces).startswith(b"event: ping")
            release.set()
            assert list(pieces) == []
    """
    )
    online.run_apart().assert_outcomes(passed=1)


def test_an_api_that_cannot_be_reached_is_an_error_of_the_client(project: Project) -> None:
    project.write(
        conftest="import os\nos.environ['ANTHROPIC_BASE_URL'] = 'http://127.0.0.1:9'\n",
        test_app=SUITE
        + """
    @max_cost(calls=0)
    def test_offline(llmcost_relay):
        answer = httpx.post(llmcost_relay.url + "/v1/messages", json=ASKED)
        assert answer.status_code == 502
        assert "cannot reach 127.0.0.1:9" in answer.text
    """,
    )
    project.run_apart().assert_outcomes(passed=1)


def test_an_answer_that_breaks_off_is_of_unknown_cost(online: Project, standin: StandIn) -> None:
    standin.script(Step(cut_after_bytes=0))
    online.write(
        test_app=SUITE
        + """
    def test_cut(llmcost_relay):
        assert httpx.post(llmcost_relay.url + "/v1/messages", json=ASKED).status_code == 502
    """
    )
    online.run_apart("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (call,) = online.ledger()["tests"][0]["calls"]
    assert (call["usd"], call["caveats"]) == (None, ["lost-answer"]), json.dumps(call)


def test_a_retry_of_what_got_no_answer_is_one_call_with_it(
    online: Project, standin: StandIn
) -> None:
    standin.script(Step(cut_after_bytes=0))
    online.write(
        test_app=SUITE
        + """
    def test_retry(llmcost_relay):
        for attempt, status in enumerate((502, 200)):
            head = {
                "x-api-key": os.environ["ANTHROPIC_API_KEY"],
                "anthropic-version": "2023-06-01",
                "x-stainless-retry-count": str(attempt),
            }
            url = llmcost_relay.url + "/v1/messages"
            assert httpx.post(url, json=ASKED, headers=head).status_code == status
    """
    )
    online.run_apart("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (call,) = online.ledger()["tests"][0]["calls"]
    assert (call["attempts"], call["caveats"]) == (2, ["lost-answer"]), json.dumps(call)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_that_sends_through_it_is_counted_once(online: Project, method: str) -> None:
    online.write(
        test_app=f"""
    import multiprocessing
    import httpx  # alone: a spawned child imports all of this

    def send(url):
        asked = {{"model": "claude-haiku-4-5", "max_tokens": 10,
                 "messages": [{{"role": "user", "content": "hi"}}]}}
        head = {{"x-api-key": "any", "anthropic-version": "2023-06-01"}}
        httpx.post(url + "/v1/messages", json=asked, headers=head)

    def test_child(llmcost_relay, llmcost):
        context = multiprocessing.get_context({method!r})
        child = context.Process(target=send, args=(llmcost_relay.url,))
        child.start()
        child.join()
        assert len(llmcost.calls) == 1
    """
    )
    online.run_apart("-W", "ignore::DeprecationWarning").assert_outcomes(passed=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_what_this_process_sends_through_it_is_counted_once(
    online: Project, library: str, host: str
) -> None:
    pytest.importorskip(library)
    online.write(
        test_app=SUITE
        + f"""
    import {library} as library

    def test_once(llmcost_relay, llmcost):
        url = llmcost_relay.url.replace("127.0.0.1", {host!r}) + "/v1/messages"
        head = {{"x-api-key": os.environ["ANTHROPIC_API_KEY"], "anthropic-version": "2023-06-01"}}
        assert library.post(url, json=ASKED, headers=head).status_code == 200
        assert len(llmcost.calls) == 1
    """
    )
    online.run().assert_outcomes(passed=1)


def test_a_client_that_goes_or_sends_no_http_leaves_no_traceback(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    import socket
    import struct

    def send(relay, content):
        with socket.create_connection(("127.0.0.1", int(relay.url.rpartition(":")[2]))) as sock:
            sock.sendall(b"POST /v1/messages HTTP/1.1\\r\\n" + content)
            answer = sock.recv(65_536)
            # As of an agent that is killed: the connection is reset, not closed.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while any("process_request" in each.name for each in threading.enumerate()):
            time.sleep(0.01)  # its thread has not noticed yet
        return answer

    @pytest.mark.parametrize("head", [
        "Content-Length: many", "Content-Length: -1", "Transfer-Encoding: chunked"])
    def test_body(llmcost_relay, head, capfd):
        answer = send(llmcost_relay, head.encode() + b"\\r\\n\\r\\nmany\\r\\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert capfd.readouterr().err == ""

    def test_reset(llmcost_relay, capfd):
        assert send(llmcost_relay, b"Content-Length: 2\\r\\n\\r\\n{}")
        assert capfd.readouterr().err == ""
    """
    )
    online.run_apart().assert_outcomes(passed=4)


def test_a_forked_child_that_falls_out_of_its_test_does_not_wait_to_stop_the_relay(
    project: Project,
) -> None:
    project.write(
        test_app="""
        import os
        import time

        def test_fork(llmcost_relay):
            child = os.fork()
            if not child:
                llmcost_relay.stop()
                os._exit(0)
            until = time.monotonic() + 10
            while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < until:
                time.sleep(0.01)
            if not ended:
                os.kill(child, 9)
                os.waitpid(child, 0)
            assert ended
        """
    )
    project.run_apart("-W", "ignore::DeprecationWarning").assert_outcomes(passed=1)
