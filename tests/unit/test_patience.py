"""However a server behaves, a count ends in its time, and its error can be read and shown."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from standin import StandIn, Step, fault, rate_limited

from pytest_llmcost.counting import own_requests
from pytest_llmcost.counting.api_error import message_of, show_body, without_secrets
from pytest_llmcost.counting.cassette import CountCassette
from pytest_llmcost.counting.client import Asker, Counter, Job, count_all
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.errors import CountError

anthropic = pytest.importorskip("anthropic")

SECONDS = 0.25
"""What a count may take here, of servers that do not answer."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n"


def payload(text: str = "Hello there") -> Payload:
    return read_payload(
        {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": text}]}
    )


@contextmanager
def counter_at(url: str, reported: list[str] | None = None, **how: Any) -> Iterator[Counter]:
    tell = None if reported is None else reported.append
    with anthropic.Anthropic(base_url=url, api_key="any", **how) as client:
        yield Counter(lambda: client, seconds=SECONDS, waiting=tell)


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does whatever it likes with each connection."""

    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        with closing(connection), suppress(OSError):
            connection.recv(65_536)
            answer(connection)
            # What was not read of the request would reset the connection when it is closed.
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(5)
            while connection.recv(65_536):
                pass

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def hang(connection: socket.socket) -> None:
    """Answer nothing, as long as the test lasts."""
    while connection.recv(65_536):
        pass


def drip_head(connection: socket.socket) -> None:
    for byte in HEAD[:-2] + b"x-more: " + b"x" * 1_200:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def drip_body(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    for _ in range(1_200):
        connection.sendall(b" ")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [hang, drip_head, drip_body])
def test_a_server_that_gives_no_answer_is_waited_for_that_long(
    answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_requests, "SILENT_SECONDS", 0.25)
    reported: list[str] = []
    is_over = threading.Event()

    def answer_to_the_end(connection: socket.socket) -> None:
        answer(connection)
        is_over.set()

    with serving(answer_to_the_end) as url, counter_at(url, reported) as counter:
        with pytest.raises(CountError, match=r"did not count .* within 0.25 s; .*-count-timeout"):
            counter.ask(payload())
        assert not is_over.is_set()
    (line,) = reported
    assert line == (
        "llmcost: waiting for 127.0.0.1 to count a payload of claude-opus-4-7, "
        "for 0.25 s at most (--llmcost-count-timeout)"
    )


@pytest.mark.parametrize(
    ("pause", "shown"),
    [
        ("99999999", "99,999,999 s"),
        ("9" * 400, "inf s"),
        ("inf", "inf s"),
        ("50", "50 s"),
    ],
)
@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_pause_that_is_too_long_is_not_made(status: int, pause: str, shown: str) -> None:
    with StandIn() as api, counter_at(api.url) as counter:
        counter.seconds = 40.0
        api.script(fault(status, retry_after=pause))
        match = rf"status {status} \(retry after {shown}\): .*waits for 40 s at most"
        with pytest.raises(CountError, match=match):
            counter.ask(payload())
        assert len(api.counted) == 1


@pytest.mark.parametrize("pause", ["0.05", "nan", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "-5"])
def test_a_pause_that_is_short_or_none_is_the_sdks_business(pause: str) -> None:
    with StandIn() as api, counter_at(api.url) as counter:
        api.script(rate_limited(pause))
        counter.seconds = 60.0
        assert counter.ask(payload()).input_tokens > 0
        assert len(api.counted) == 2


def test_pauses_that_add_up_are_bounded_and_what_is_waited_for_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_requests, "SILENT_SECONDS", 1.5)  # the first answer is there by then
    reported: list[str] = []
    with StandIn() as api, counter_at(api.url, reported, max_retries=100) as counter:
        counter.seconds = 2.0
        api.script(*[rate_limited("0.4")] * 20)
        with pytest.raises(CountError, match=r"429"):
            counter.ask(payload())
        asked = len(api.counted)
        assert asked < 20
        for thread in threading.enumerate():
            if thread.name == "llmcost-count":
                thread.join(60)
        # What was under way may still arrive, but nothing is sent once the count was given up.
        assert len(api.counted) <= asked + 1
    assert "(it answered 429, try again in 0.4 s)" in reported[0]


def test_a_request_that_is_given_up_first_in_its_own_thread_is_the_same_error() -> None:
    patience = own_requests.Patience(0.0)
    with StandIn() as api, counter_at(api.url) as counter:
        client = own_requests.past_recorders(counter.client(), patience)
        asked = Future[object]()
        own_requests.start(
            lambda: client.messages.count_tokens(model="claude-opus-4-7", messages=[]), asked
        )
        wait([asked], timeout=60)
        with pytest.raises(CountError, match="did not count a payload of m within 0 s"):
            patience.wait(asked, model="m", host=api.url)
        assert not api.counted


def test_a_thread_that_cannot_start_is_an_error_for_all_that_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    future = Future[int]()
    own_requests.start(lambda: 1, future)
    with pytest.raises(RuntimeError, match="new thread"):
        future.result(timeout=1)


def test_many_counts_end_as_well(tmp_path: Any) -> None:
    cassette = CountCassette(tmp_path / "test.llmcost.yaml")
    jobs = [Job(payload(str(n)), cassette, MODES["new_episodes"], Asker("test")) for n in range(20)]
    with serving(hang) as url, counter_at(url) as counter:
        assert all("within 0.25 s" in str(each) for each in count_all(counter, jobs))
    with StandIn() as api, counter_at(api.url) as counter:
        counter.seconds = 60.0
        api.script(*[rate_limited("99999999")] * 20)
        assert all("99,999,999 s" in str(each) for each in count_all(counter, jobs))


def test_whoever_waits_for_the_same_count_of_another_thread_waits_that_long_too() -> None:
    errors: list[CountError] = []

    def ask(counter: Counter) -> None:
        with pytest.raises(CountError, match=r"within 0\.25 s") as caught:
            counter.ask(payload())
        errors.append(caught.value)

    with serving(hang) as url, counter_at(url) as counter:
        threads = [threading.Thread(target=ask, args=(counter,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(errors) == 4


def test_a_client_that_another_thread_never_makes_is_a_clear_error() -> None:
    is_making, is_over = threading.Event(), threading.Event()

    def make_client() -> None:
        is_making.set()
        is_over.wait(60)

    counter = Counter(make_client, seconds=0.2)
    thread = threading.Thread(target=_ask, args=(counter,))
    thread.start()
    assert is_making.wait(60)
    with pytest.raises(CountError, match=r"llmcost_client has been in the making for 0\.2 s"):
        counter.ask(payload())
    is_over.set()
    thread.join()


def _ask(counter: Counter) -> None:
    with suppress(CountError):
        counter.ask(payload())


# What is shown of an answer


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("text", ["x", " ", "-", "<!-- ", "api-key ", "api-key=x "])
def test_a_long_text_takes_no_time(text: str) -> None:
    assert len(show_body(text * 200_000)) < 600


PAGE = f"<!DOCTYPE html>\n<html><body>{'<p>squid</p>' * 5_000}</body></html>"


@pytest.mark.parametrize("status", [502, 403, 400, 200])
def test_a_proxys_page_is_named_and_not_shown(status: int) -> None:
    answer = f"HTTP/1.1 {status} X\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n{PAGE}"
    with (
        serving(lambda connection: connection.sendall(answer.encode())) as url,
        counter_at(url, max_retries=0) as counter,
    ):
        counter.seconds = 60.0
        with pytest.raises(CountError) as caught:
            counter.ask(payload())
    text = str(caught.value)
    assert "an HTML page of 60" in text
    assert str(status) in text or status == 200
    assert "<p>" not in text
    assert len(text) < 500


@pytest.mark.parametrize("status", [200, 400, 502])
@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_not_read(status: int, packed: bool) -> None:
    sent = 0
    piece = gzip.compress(b"x" * 10**6) if packed else b"x" * 10**6
    kind = "content-encoding: gzip\r\n" if packed else ""

    def answer(connection: socket.socket) -> None:
        nonlocal sent
        head = f"HTTP/1.1 {status} X\r\n{kind}content-length: {300 * 10**6}\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(300):
            connection.sendall(piece)
            sent += len(piece)

    with serving(answer) as url, counter_at(url, max_retries=0) as counter:
        counter.seconds = 60.0
        with pytest.raises(CountError) as caught:
            counter.ask(payload())
    assert len(str(caught.value)) < 1_000
    assert sent < 20 * 10**6


WORDS = "zq81vKw7-LmPx_93/aa+bb=="
SECRETS = [
    f"API key not valid: x-goog-api-key: AIza{WORDS}",
    "key AIzaSyD-1234567890abcdefghijklm is not enabled",
    f"https://example.test/v1?key=AIza{WORDS}&alt=json",
    f"api-key={WORDS}",
    f"api_key: '{WORDS}'",
    f'{{"x-goog-api-key": "{WORDS}"}}',
    f'{{\\"api-key\\": \\"{WORDS}\\"}}',
    f"{{'x-api-key': ['{WORDS}']}}",
    f"[(b'x-api-key', b'{WORDS}')]",
    f"Ocp-Apim-Subscription-Key: {WORDS}",
    f"https://b.test/model?X-Amz-Signature={WORDS}&X-Amz-Expires=9",
    f"?X-Amz-Credential={WORDS}%2F20261125%2Fus-east-1",
    f"X-Amz-Security-Token%3D{WORDS}",
    f"x-amz-security-token:{WORDS}\nx-amz-date:20261125",
    f"AWS4-HMAC-SHA256 Credential={WORDS}/20261125, SignedHeaders=host, Signature={WORDS}",
    f"authorization: Basic {WORDS}",
    f"Authorization: Bearer {WORDS}",
    f"the bearer {WORDS} is not known",
    f"invalid key {'-'.join(('sk', 'ant', 'api03'))}-{WORDS}",
    f"invalid key sk-litellm-{WORDS}",
    f"proxy http://me:{WORDS.replace('/', '')}@proxy.test:3128 refused",
    f"aws_session_token={WORDS}",
    f"client_secret={WORDS}",
]


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_are_masked_however_they_are_written(text: str) -> None:
    for shown in (without_secrets(text), show_body(text), message_of(ValueError(text))):
        assert "[key]" in shown
        assert show_body(shown) == shown
        for part in ("zq81vKw7", "LmPx_93", "AIzaSy"):
            assert part not in shown


@pytest.mark.parametrize(
    "text",
    [
        "invalid x-api-key",
        "x-api-key header is required",
        "max_tokens: 100 is too large; tokens: 5",
        "messages.1.content.0.thinking.signature: Field required",
        "Invalid `signature` in `thinking` block",
        "missing api-key, try again",
        "task-force and risk-free",
        "no credential: set one",
    ],
)
def test_words_that_only_sound_like_it_stay(text: str) -> None:
    assert show_body(text) == text


def test_the_api_s_error_is_masked_where_a_count_shows_it() -> None:
    with StandIn() as api, counter_at(api.url, max_retries=0) as counter:
        for status in (400, 401, 403, 500):
            api.script(Step(fault(status, f"bad x-goog-api-key: AIza{WORDS}").answer))
            with pytest.raises(CountError) as caught:
                counter.ask(payload())
            assert "[key]" in str(caught.value)
            assert "zq81vKw7" not in f"{caught.value} {caught.value.refusal}"
