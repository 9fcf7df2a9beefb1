"""What capture sees of clients of httpx and httpx2, and what of it the code under test sees."""

from __future__ import annotations

import copy
import gc
import gzip
import pickle
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import anyio
import httpx2
import pytest
from capture_kit import (
    ASKED,
    FINAL,
    HEADERS,
    JSON_BODY,
    LIBRARIES,
    SSE_BODY,
    START,
    STOP,
    TEXT,
    URL,
    Purse,
    async_client_of,
    capturing,
    client_of,
    event,
    own_client_of,
    respond,
)

from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.transports import follow, unfollow
from pytest_llmcost.prices.usage import Usage

BILLED = Usage(input_tokens=25, output_tokens=11)
PIECES = [SSE_BODY[start : start + 40] for start in range(0, len(SSE_BODY), 40)]

library_of = pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
backend_of = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def post(client: Any, **more: Any) -> Any:
    return client.post(URL, json=ASKED, headers=HEADERS, **more)


def stream(client: Any, **more: Any) -> Any:
    return client.stream("POST", URL, json={**ASKED, "stream": True}, headers=HEADERS, **more)


class Alarm(Exception):
    """What a test's own time limit raises, out of whatever is running."""


@library_of
def test_a_whole_answer_is_a_call(library: ModuleType) -> None:
    client = client_of(library, respond(library, JSON_BODY, kind="application/json"))
    with capturing() as purse:
        assert post(client).json()["id"] == "msg_1"
    (request,) = purse.seen
    assert request.owner == "the test"
    assert request.endpoint.kind == "messages"
    assert request.payload == ASKED
    assert request.live is False
    assert request.replay is None
    assert (purse.call.usage, purse.call.stream, purse.call.at) == (BILLED, False, None)
    assert purse.call.evidence == "billed"


@library_of
@backend_of
def test_asynchronous_clients_are_seen_under_every_loop(library: ModuleType, backend: str) -> None:
    async def main() -> list[bytes]:
        whole = respond(library, JSON_BODY, kind="application/json")
        async with async_client_of(library, whole) as client:
            await post(client)
        async with (
            async_client_of(library, respond(library, *PIECES)) as client,
            stream(client) as response,
        ):
            return [chunk async for chunk in response.aiter_bytes()]

    with capturing() as purse:
        assert anyio.run(main, backend=backend) == PIECES
    assert [call.usage for call in purse.calls] == [BILLED, BILLED]
    assert [call.stream for call in purse.calls] == [False, True]


@library_of
def test_an_asynchronous_body_needs_no_method_but_the_next(library: ModuleType) -> None:
    class Pieces:
        def __init__(self) -> None:
            self.left = iter(PIECES)

        async def __anext__(self) -> bytes:
            for piece in self.left:
                return piece
            raise StopAsyncIteration

    class Plain(library.AsyncByteStream):  # type: ignore[name-defined,misc]
        def __aiter__(self) -> Pieces:
            return Pieces()

    async def main() -> None:
        transport = library.MockTransport(lambda request: library.Response(200, stream=Plain()))
        request = library.Request("POST", URL, json=ASKED, headers=HEADERS)
        response = await transport.handle_async_request(request)  # without a client's generators
        assert await response.aread() == SSE_BODY

    with capturing() as purse:
        anyio.run(main)
    assert (purse.call.usage, purse.call.caveats) == (BILLED, ())


@library_of
def test_the_bytes_of_a_stream_pass_one_by_one_and_unchanged(library: ModuleType) -> None:
    served: list[bytes] = []

    def slowly() -> Iterator[bytes]:
        for piece in PIECES:
            served.append(piece)
            yield piece

    client = client_of(library, respond(library, kind="text/event-stream"))
    client._transport.handler = lambda request: library.Response(200, stream=Slow(slowly()))

    class Slow(library.SyncByteStream):  # type: ignore[name-defined,misc]
        def __init__(self, pieces: Iterator[bytes]) -> None:
            self.pieces = pieces

        def __iter__(self) -> Iterator[bytes]:
            return self.pieces

    with capturing() as purse, stream(client) as response:
        got: list[bytes] = []
        for chunk in response.iter_raw():
            got.append(chunk)
            assert served == got  # nothing is read ahead
    assert got == PIECES
    assert purse.call.usage == BILLED


READINGS: dict[str, Callable[[Any], object]] = {
    "read": lambda response: response.read(),
    "read, then iterated": lambda response: (response.read(), [*response.iter_bytes()]),
    "read twice": lambda response: (response.read(), response.read()),
    "iter_bytes": lambda response: [*response.iter_bytes()],
    "iter_bytes in blocks": lambda response: [*response.iter_bytes(7)],
    "iter_text": lambda response: [*response.iter_text()],
    "iter_lines": lambda response: [*response.iter_lines()],
    "iter_raw": lambda response: [*response.iter_raw()],
}


@library_of
@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate, gzip", "br"])
@pytest.mark.parametrize("reading", READINGS)
def test_every_way_of_reading_gives_the_usage_once(
    library: ModuleType, encoding: str, reading: str
) -> None:
    body = encode(encoding, SSE_BODY)
    pieces = [body[start : start + 30] for start in range(0, len(body), 30)]
    handler = respond(library, *pieces, headers={"content-encoding": encoding})
    plain = read_with(client_of(library, handler), READINGS[reading])
    with capturing() as purse:
        assert read_with(client_of(library, handler), READINGS[reading]) == plain
    assert (purse.call.usage, purse.call.caveats) == (BILLED, ())


def encode(encoding: str, body: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.compress(body)
    if encoding == "deflate, gzip":
        import zlib

        return gzip.compress(zlib.compress(body))
    if encoding == "br":
        return bytes(pytest.importorskip("brotli").compress(body))
    return body


def read_with(client: Any, reading: Callable[[Any], object]) -> object:
    with stream(client) as response:
        return reading(response)


@library_of
def test_a_body_that_does_not_decode_is_left_to_the_caller(library: ModuleType) -> None:
    handler = respond(library, b"no gzip at all", headers={"content-encoding": "gzip"})
    with capturing() as purse, pytest.raises(library.DecodingError):
        read_with(client_of(library, handler), READINGS["read"])
    assert purse.call.sampling_calls == ()
    assert purse.call.caveats == ("truncated-stream",)


@library_of
@pytest.mark.parametrize(
    ("pieces", "usage", "caveats"),
    [
        ([START, TEXT, FINAL + STOP], Usage(input_tokens=25, output_tokens=1), 1),
        ([START + TEXT + FINAL, STOP], BILLED, 0),
    ],
)
def test_a_stream_left_early_is_truncated_unless_its_usage_has_passed(
    library: ModuleType, pieces: list[bytes], usage: Usage, caveats: int
) -> None:
    client = client_of(library, respond(library, *pieces))
    with capturing() as purse, stream(client) as response:
        next(response.iter_bytes())
    assert purse.call.usage == usage
    assert purse.call.caveats == ("truncated-stream",) * caveats


@library_of
@backend_of
def test_an_asynchronous_stream_left_early_is_truncated_and_warns_of_nothing_new(
    library: ModuleType, backend: str
) -> None:
    async def main() -> None:
        async with (
            async_client_of(library, respond(library, *PIECES)) as client,
            stream(client) as response,
        ):
            async for chunk in response.aiter_bytes():
                assert chunk == PIECES[0]
                break

    with capturing() as purse, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()  # what earlier tests have left
        caught.clear()
        anyio.run(main, backend=backend)
        gc.collect()
    # The generators of httpx itself that a `break` leaves to trio; which, the collector decides.
    assert {str(each.message).partition("' was")[0] for each in caught} <= {
        f"Async generator '{library.__name__}.{name}"
        for name in (
            "_client.BoundAsyncStream.__aiter__",
            "_models.Response.aiter_raw",
            "_models.Response.aiter_bytes",
        )
    }
    assert purse.call.caveats == ("truncated-stream",)
    assert purse.call.sampling_calls == ()


@library_of
def test_a_response_that_was_never_read_is_of_unknown_cost(library: ModuleType) -> None:
    with capturing() as purse, stream(client_of(library, respond(library, *PIECES))):
        pass
    assert (purse.call.sampling_calls, purse.call.caveats) == ((), ("truncated-stream",))
    assert purse.call.model == "claude-opus-4-7"


@library_of
def test_a_stream_that_breaks_off_is_truncated_and_its_error_unchanged(library: ModuleType) -> None:
    broken = library.ReadError("cut")
    client = client_of(library, respond(library, START, TEXT, fail=broken))
    with (
        capturing() as purse,
        pytest.raises(library.ReadError) as caught,
        stream(client) as response,
    ):
        response.read()
    assert caught.value is broken
    assert purse.call.caveats == ("truncated-stream",)
    assert purse.call.usage.input_tokens == 25


@library_of
def test_an_error_event_in_the_stream_ends_it(library: ModuleType) -> None:
    error = event(type="error", error={"type": "overloaded_error", "message": "Overloaded"})
    with capturing() as purse:
        read_with(client_of(library, respond(library, START, error)), READINGS["read"])
        read_with(client_of(library, respond(library, error)), READINGS["read"])
    assert purse.call.caveats == ("truncated-stream",)


@library_of
def test_responses_pickle_and_copy_as_they_did(library: ModuleType) -> None:
    client = client_of(library, respond(library, *PIECES))
    with capturing() as purse, stream(client) as response:
        response.read()
        again = pickle.loads(pickle.dumps(response))
        assert again.content == response.content == SSE_BODY
        assert copy.copy(response).content == SSE_BODY
        assert response.elapsed is not None
    assert purse.call.usage == BILLED


@library_of
def test_a_hook_that_reads_the_response_changes_nothing(library: ModuleType) -> None:
    def read_first(response: Any) -> None:
        response.read()

    client = library.Client(
        transport=library.MockTransport(respond(library, *PIECES)),
        event_hooks={"response": [read_first]},
    )
    with capturing() as purse:
        read_with(client, READINGS["iter_lines"])
    assert purse.call.usage == BILLED


@library_of
def test_a_stream_left_open_is_truncated_at_the_verdict_and_whole_later(
    library: ModuleType,
) -> None:
    client = client_of(library, respond(library, START + TEXT, FINAL + STOP))
    with capturing() as purse, stream(client) as response:
        passing = response.iter_bytes()
        next(passing)
        purse.capture.settle(lambda owner: owner == "another test")
        assert purse.calls == []
        purse.capture.settle(lambda owner: owner == "the test")
        purse.capture.settle()
        assert purse.call.caveats == ("truncated-stream",)
        assert [*passing] == [FINAL + STOP]
        reported, later = purse.seen
        assert later.supersedes is reported
        assert later.answer is not None
        assert (later.answer.usage, later.answer.caveats) == (BILLED, ())


@library_of
def test_a_request_without_an_answer_at_the_verdict_is_unknown_until_it_comes(
    library: ModuleType,
) -> None:
    with capturing() as purse:

        def judge_meanwhile(request: Any) -> Any:
            purse.capture.settle()
            return respond(library, JSON_BODY, kind="application/json")(request)

        post(client_of(library, judge_meanwhile))
        reported, later = purse.seen
        assert reported.answer is not None
        assert reported.answer.caveats[0].startswith("lost-answer: ")
        assert later.supersedes is reported
        assert later.answer is not None
        assert later.answer.usage == BILLED


@library_of
def test_what_was_told_as_open_and_turns_out_free_is_withdrawn(library: ModuleType) -> None:
    with capturing() as purse:

        def judge_meanwhile(request: Any) -> Any:
            purse.capture.settle()
            return library.Response(500)

        post(client_of(library, judge_meanwhile))
        reported, later = purse.seen
    assert later.answer is None
    assert later.supersedes is reported


@library_of
@pytest.mark.parametrize("status", [301, 400, 401, 404, 429, 500, 529])
def test_answers_other_than_success_are_free(library: ModuleType, status: int) -> None:
    handler = respond(library, b'{"type":"error"}', kind="application/json", status=status)
    with capturing() as purse:
        assert post(client_of(library, handler)).status_code == status
    assert [request.answer for request in purse.seen] == [None]


@library_of
@pytest.mark.parametrize(
    ("error", "calls"),
    [
        ("ConnectError", 0),
        ("ConnectTimeout", 0),
        ("PoolTimeout", 0),
        ("ProxyError", 0),
        ("UnsupportedProtocol", 0),
        ("LocalProtocolError", 0),
        ("InvalidURL", 0),
        ("ReadTimeout", 1),
        ("WriteError", 1),
        ("RemoteProtocolError", 1),
        ("TimeoutException", 1),
    ],
)
def test_a_request_that_was_lost_is_unknown_if_it_got_there(
    library: ModuleType, error: str, calls: int
) -> None:
    def fail(request: Any) -> Any:
        raise getattr(library, error)("no")

    with capturing() as purse:
        with pytest.raises(getattr(library, error)):
            post(own_client_of(library, fail))
        assert purse.calls == []  # the client may send it again
        purse.capture.settle()
    assert [call.caveats for call in purse.calls] == [("lost-answer",)] * calls
    assert [call.sampling_calls for call in purse.calls] == [()] * calls


@library_of
@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (Alarm(), 1),
        (ConnectionResetError("peer"), 1),
        (TimeoutError("read timed out"), 1),
        (KeyboardInterrupt(), 1),
        (ConnectionRefusedError(), 0),
        (RuntimeError("Network is disabled for host 'api.anthropic.com'"), 0),
    ],
    ids=repr,
)
def test_whatever_a_wait_is_ended_with_it_may_be_billed(
    library: ModuleType, error: BaseException, calls: int
) -> None:
    def fail(request: Any) -> Any:
        raise error

    with capturing() as purse:
        with pytest.raises(type(error)):
            post(own_client_of(library, fail))
        purse.capture.settle()
    assert [call.caveats for call in purse.calls] == [("lost-answer",)] * calls


@library_of
@pytest.mark.parametrize("backend", [None, "asyncio", "trio"])
@pytest.mark.parametrize(
    "error", ["ReadTimeout", "ConnectTimeout", "WriteError", "RemoteProtocolError", Alarm()]
)
def test_what_a_mock_raises_is_seen_and_free(
    library: ModuleType, backend: str | None, error: str | Exception
) -> None:
    def fail(request: Any) -> Any:
        raise getattr(library, error)("no") if isinstance(error, str) else error

    async def post_async() -> None:
        async with async_client_of(library, fail) as client:
            await post(client)

    with capturing() as purse:
        with pytest.raises((library.HTTPError, Alarm)):
            anyio.run(post_async, backend=backend) if backend else post(client_of(library, fail))
        purse.capture.settle()
    assert [request.answer for request in purse.seen] == [None]


@library_of
@pytest.mark.parametrize("error", ["ReadTimeout", "ConnectError", Alarm()])
def test_so_is_what_a_patch_of_the_transport_raises(
    library: ModuleType, error: str | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise getattr(library, error)("no") if isinstance(error, str) else error

    with capturing() as purse, monkeypatch.context() as patch, library.Client() as client:
        patch.setattr(library.HTTPTransport, "handle_request", fail)
        with pytest.raises((library.HTTPError, Alarm)):
            post(client)
        purse.capture.settle()
    assert [request.answer for request in purse.seen] == [None]


@library_of
def test_a_request_that_is_turned_away_is_not_even_seen(library: ModuleType) -> None:
    class UnhandledHTTPRequestError(Exception):
        """As a recorder raises it that has nothing for this request."""

    def fail(request: Any) -> Any:
        raise UnhandledHTTPRequestError

    with capturing() as purse:
        with pytest.raises(UnhandledHTTPRequestError):
            post(client_of(library, fail))
        purse.capture.settle()
    assert purse.seen == []


@library_of
@pytest.mark.parametrize("backend", [None, "asyncio", "trio"])
@pytest.mark.parametrize(
    ("when", "status", "caveats"),
    [
        ("request", 200, []),
        ("response", 200, []),
        ("response, read", 200, [()]),
        ("response, read", 500, []),
    ],
)
def test_a_hook_that_raises_leaves_what_is_known_by_then(
    library: ModuleType,
    backend: str | None,
    when: str,
    status: int,
    caveats: list[tuple[str, ...]],
) -> None:
    def forbid(message: Any) -> None:
        if when.endswith("read"):
            message.read()
        raise Alarm

    async def async_forbid(message: Any) -> None:
        if when.endswith("read"):
            await message.aread()
        raise Alarm

    async def post_async() -> None:
        async with async_client_of(library, answer) as client:
            client.event_hooks = {when.partition(",")[0]: [async_forbid]}
            await post(client)

    def post_with_hook() -> None:
        if backend:
            anyio.run(post_async, backend=backend)
            return
        client = client_of(library, answer)
        client.event_hooks = {when.partition(",")[0]: [forbid]}
        post(client)

    answer = respond(library, SSE_BODY, status=status)
    with capturing() as purse:
        with pytest.raises(Alarm):
            post_with_hook()
        purse.capture.settle()
    assert [call.caveats for call in purse.calls] == caveats
    assert all(call.usage == BILLED for call in purse.calls if not call.caveats)


@library_of
@pytest.mark.parametrize(
    ("when", "status", "usages"),
    [("request", 200, None), ("response", 200, [BILLED]), ("response", 429, [])],
)
def test_so_it_does_where_the_transport_is_ones_own(
    library: ModuleType, when: str, status: int, usages: list[Usage] | None
) -> None:
    def forbid(message: Any) -> None:
        raise Alarm

    def handler(request: Any) -> Any:
        return library.Response(status, content=JSON_BODY)

    client = own_client_of(library, handler)
    client.event_hooks = {when: [forbid]}
    with capturing() as purse:
        with pytest.raises(Alarm):
            post(client)
        purse.capture.settle()
    assert [call.usage for call in purse.calls] == (usages or [])
    assert bool(purse.seen) is (usages is not None)


def test_a_closed_client_sends_nothing() -> None:
    client = client_of(httpx2, respond(httpx2, JSON_BODY, kind="application/json"))
    client.close()
    with capturing() as purse:
        with pytest.raises(RuntimeError):
            post(client)
        purse.capture.settle()
    assert purse.seen == []


@pytest.mark.parametrize(("connect", "calls"), [(own_client_of, 1), (client_of, 0)])
def test_a_whole_answer_that_breaks_off_is_lost_but_for_a_mocks(
    connect: Callable[..., Any], calls: int
) -> None:
    broken = respond(httpx2, b'{"type"', kind="application/json", fail=httpx2.ReadError("cut"))
    with capturing() as purse:
        with pytest.raises(httpx2.ReadError):
            post(connect(httpx2, broken))
        purse.capture.settle()
    assert [call.caveats for call in purse.calls] == [("lost-answer",)] * calls


@backend_of
def test_a_cancelled_request_is_lost_and_its_cancellation_goes_on(backend: str) -> None:
    async def main() -> bool:
        async def never(request: Any) -> Any:
            await anyio.sleep_forever()

        class Own(httpx2.AsyncBaseTransport):
            handle_async_request = staticmethod(never)

        async with httpx2.AsyncClient(transport=Own()) as client:
            with anyio.move_on_after(0.01) as scope:
                await post(client)
        return scope.cancelled_caught

    with capturing() as purse:
        assert anyio.run(main, backend=backend)
        purse.capture.settle()
    assert purse.call.caveats == ("lost-answer",)


@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", b"{}", b'{"type":"message","usage":{"input_tokens":"x"}}']
)
def test_an_answer_nobody_can_read_is_of_unknown_cost(body: bytes) -> None:
    with capturing() as purse:
        post(own_client_of(httpx2, respond(httpx2, body, kind="application/json")))
    assert purse.call.sampling_calls == ()
    assert purse.call.caveats[0].startswith("unreadable-response")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", None])
@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b'{"type": "message", "usa'])
def test_broken_json_of_a_mock_is_seen_and_free(body: bytes, kind: str | None) -> None:
    with capturing() as purse:
        post(client_of(httpx2, respond(httpx2, body, kind=kind)))
    assert [request.answer for request in purse.seen] == [None]


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"type":"message","usage":{"input_tokens":"x"}}', b'{"type":"message"}', TEXT + STOP],
)
def test_a_mocks_answer_without_a_usage_may_be_an_oversight_and_is_unknown(body: bytes) -> None:
    with capturing() as purse:
        post(client_of(httpx2, respond(httpx2, body, kind="application/json")))
    assert purse.call.caveats[0].startswith("unreadable-response")


ERROR = event(type="error", error={"type": "overloaded_error", "message": "Overloaded"})


@pytest.mark.parametrize("connect", [own_client_of, client_of])
@pytest.mark.parametrize(
    ("body", "is_free"),
    [
        (ERROR, True),
        (event(type="ping") + ERROR, True),
        (START + ERROR, False),  # the prompt has been read by then
        (START + TEXT + ERROR, False),
        (START + TEXT + FINAL + STOP, False),
        (START, False),
    ],
)
def test_a_stream_that_ends_in_an_error_is_free_if_nothing_was_sampled(
    connect: Callable[..., Any], body: bytes, is_free: bool
) -> None:
    with capturing() as purse:
        post(connect(httpx2, respond(httpx2, body)))
    (request,) = purse.seen
    assert (request.answer is None) is is_free


def test_other_services_with_such_a_path_are_no_claude_calls() -> None:
    mail = respond(httpx2, b'{"id": 3, "type": "message"}', kind="application/json")
    with capturing() as purse:
        client_of(httpx2, mail).post("https://mail.example/v1/messages", json={"to": "a@b"})
        client_of(httpx2, mail).get("https://mail.example/v1/messages")
        client_of(httpx2, mail).post("https://mail.example/v1/send", json=ASKED)
    assert purse.seen == []


def test_a_request_whose_body_is_a_stream_is_left_alone() -> None:
    def body() -> Iterator[bytes]:
        yield b'{"model":'
        yield b'"m"}'

    class Streaming(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            assert isinstance(request.stream, httpx2.SyncByteStream)
            assert b"".join(request.stream) == b'{"model":"m"}'
            return httpx2.Response(200, content=JSON_BODY)

    with capturing() as purse:
        httpx2.Client(transport=Streaming()).post(URL, content=body(), headers=HEADERS)
    (request,) = purse.seen
    assert (request.payload, request.live) == (None, None)
    assert purse.call.usage == BILLED


def test_redirects_and_refused_log_ins_inside_one_send_are_one_call() -> None:
    class LogIn(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Any:
            response = yield request
            if response.status_code == 401:
                request.headers["x-api-key"] = "fresh"
                yield request

    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "api.anthropic.com":
            return httpx2.Response(307, headers={"location": "https://eu.example/v1/messages"})
        if "x-api-key" not in request.headers:
            return httpx2.Response(401)
        return httpx2.Response(200, content=JSON_BODY)

    with capturing() as purse:
        post(client_of(httpx2, handler), follow_redirects=True, auth=LogIn())
    assert purse.call.usage == BILLED


def test_counts_are_seen_and_cost_nothing() -> None:
    counted = respond(httpx2, b'{"input_tokens": 9}', kind="application/json")
    with capturing() as purse:
        client_of(httpx2, counted).post(f"{URL}/count_tokens", json=ASKED)
    (request,) = purse.seen
    assert (request.endpoint.kind, request.answer) == ("count_tokens", None)


def test_betas_come_from_the_header() -> None:
    client = client_of(httpx2, respond(httpx2, JSON_BODY, kind="application/json"))
    with capturing() as purse:
        client.post(URL, json=ASKED, headers={**HEADERS, "anthropic-beta": "b, a,b,"})
    assert purse.seen[0].betas == ("a", "b")


@library_of
def test_betas_are_all_that_was_sent_also_what_a_hook_and_a_log_in_add(library: ModuleType) -> None:
    class LogIn(library.Auth):  # type: ignore[name-defined,misc]
        def auth_flow(self, request: Any) -> Iterator[Any]:
            request.headers["anthropic-version"] = "2023-06-01"
            yield request

    def add(request: Any) -> None:
        request.headers["anthropic-beta"] += ", late"

    twice = [("anthropic-beta", "b"), ("anthropic-beta", "a")]
    with capturing() as purse:
        client = client_of(library, respond(library, JSON_BODY))
        client.event_hooks = {"request": [add]}
        client.post(URL, json=ASKED, headers=twice, auth=LogIn())
    assert purse.seen[0].betas == ("a", "b", "late")
    assert "anthropic-version" in purse.seen[0].headers


def test_each_owner_gets_the_calls_it_sent_and_threads_send_for_who_is_running() -> None:
    client = client_of(httpx2, respond(httpx2, JSON_BODY, kind="application/json"))
    with capturing() as purse:
        purse.now = "one"
        threads = [threading.Thread(target=post, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        purse.now = "two"
        post(client)
    assert purse.owners == ["one"] * 8 + ["two"]


def test_the_owner_is_who_sent_it_and_not_who_reads_it() -> None:
    with capturing() as purse:
        purse.now = "sender"
        with stream(client_of(httpx2, respond(httpx2, *PIECES))) as response:
            purse.now = "reader"
            response.read()
    assert purse.owners == ["sender"]


@backend_of
def test_many_streams_at_once_do_not_mix(backend: str) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        tokens = int(request.headers["x-tokens"])
        final = event(
            type="message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"output_tokens": tokens},
        )
        return respond(httpx2, START, TEXT, final, STOP)(request)  # type: ignore[no-any-return]

    async def ask(client: httpx2.AsyncClient, tokens: int) -> None:
        headers = {**HEADERS, "x-tokens": str(tokens)}
        async with client.stream("POST", URL, json=ASKED, headers=headers) as response:
            async for _ in response.aiter_bytes():
                await anyio.sleep(0)

    async def main() -> None:
        async with async_client_of(httpx2, answer) as client, anyio.create_task_group() as group:
            for tokens in range(1, 21):
                group.start_soon(ask, client, tokens)

    with capturing() as purse:
        anyio.run(main, backend=backend)
    assert sorted(call.usage.output_tokens for call in purse.calls) == [*range(1, 21)]


class Faulty(Purse):
    """A sink with a bug."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def owner(self) -> object:
        if self.where == "owner":
            raise RuntimeError("no owner")
        return super().owner()

    def saw(self, request: Any) -> None:
        raise RuntimeError("no place")


@pytest.mark.parametrize("where", ["owner", "saw"])
def test_a_sink_that_fails_never_reaches_the_code_under_test(where: str) -> None:
    purse = Faulty(where)
    client = client_of(httpx2, respond(httpx2, *PIECES))
    follower = follow(purse.capture.begin)
    try:
        assert read_with(client, READINGS["read"]) == SSE_BODY
        purse.capture.drain()
        purse.capture.settle()
    finally:
        unfollow(follower)
    assert purse.capture.failures
    assert all(text.startswith("RuntimeError: no ") for text in purse.capture.failures)


def test_a_failure_of_our_own_is_a_call_of_unknown_cost() -> None:
    class Odd(httpx2.Client):
        def _transport_for_url(self, url: httpx2.URL) -> Any:
            if self.is_asked_again:
                raise TypeError("only once")
            self.is_asked_again = True
            return super()._transport_for_url(url)

        is_asked_again = False

    purse = Purse()
    client = Odd(transport=httpx2.MockTransport(respond(httpx2, *PIECES)))
    follower = follow(purse.capture.begin)
    try:
        assert read_with(client, READINGS["read"]) == SSE_BODY
        purse.capture.drain()
    finally:
        unfollow(follower)
    assert len(purse.capture.failures) == 1
    assert purse.call.sampling_calls == ()
    assert purse.call.caveats[0].startswith("unreadable-response: TypeError")


def test_a_failure_of_our_own_at_a_count_makes_no_call_of_it() -> None:
    class Odd(httpx2.Client):
        def _transport_for_url(self, url: httpx2.URL) -> Any:
            raise TypeError("no transport")

    purse = Purse()
    follower = follow(purse.capture.begin)
    try:
        with pytest.raises(TypeError, match="no transport"):
            Odd().post(f"{URL}/count_tokens", json=ASKED, headers=HEADERS)
        purse.capture.drain()
    finally:
        unfollow(follower)
    assert len(purse.capture.failures) == 1
    assert purse.calls == []


def test_a_gateway_of_ones_own_and_the_call_behind_it_are_one_call() -> None:
    upstream = client_of(httpx2, respond(httpx2, JSON_BODY, kind="application/json"))

    def gateway(request: httpx2.Request) -> httpx2.Response:
        content = post(upstream).content
        purse.capture.settle()  # as by a block of another task that ends now
        assert len(purse.calls) == 1
        return httpx2.Response(200, content=content)

    with capturing() as purse:
        post(client_of(httpx2, gateway))
    assert len(purse.calls) == 1


@pytest.mark.parametrize("inner_status", [200, 500])
def test_a_gateway_that_rewrites_is_one_call_if_the_call_behind_it_succeeded(
    inner_status: int,
) -> None:
    whole = respond(httpx2, JSON_BODY, kind="application/json", status=inner_status)
    bedrock = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.{}/invoke"
    kept = {key: value for key, value in ASKED.items() if key != "model"}

    def gateway(request: httpx2.Request) -> httpx2.Response:
        client_of(httpx2, whole).post(bedrock.format(ASKED["model"]), json=kept)
        return httpx2.Response(200, content=JSON_BODY)

    def first_gateway(request: httpx2.Request) -> httpx2.Response:
        return post(client_of(httpx2, gateway))  # type: ignore[no-any-return]

    with capturing() as purse:
        post(client_of(httpx2, first_gateway))
    (platform,) = [each.endpoint.platform for each in purse.seen if each.answer is not None]
    assert platform == ("bedrock-regional" if inner_status == 200 else None)


@pytest.mark.parametrize(
    ("path", "asked", "calls"),
    [
        ("/count_tokens", {}, 1),
        ("", {"model": "claude-haiku-4-5"}, 2),
        ("", {"messages": [{"role": "user", "content": "Is this rude?"}]}, 2),
    ],
)
def test_what_a_hook_asks_first_comes_on_top_and_takes_no_call_s_place(
    path: str, asked: dict[str, Any], calls: int
) -> None:
    whole = respond(httpx2, JSON_BODY, kind="application/json")

    def guard(request: httpx2.Request) -> None:
        client_of(httpx2, whole).post(URL + path, json={**ASKED, **asked}, headers=HEADERS)

    client = client_of(httpx2, whole)
    client.event_hooks = {"request": [guard]}
    with capturing() as purse:
        post(client)
    assert [call.usage for call in purse.calls] == [BILLED] * calls


def test_memory_stays_flat_while_a_long_stream_passes() -> None:
    piece = TEXT.partition(b"\n\n")[2] * 200

    class Long(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield START + TEXT
            for _ in range(50_000_000 // len(piece)):
                yield piece
            yield FINAL + STOP

    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, stream=Long()))
    with capturing() as purse, stream(httpx2.Client(transport=transport)) as response:
        tracemalloc.start()
        try:
            passed = sum(len(chunk) for chunk in response.iter_bytes())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert passed > 49_000_000
    assert peak < 1_000_000
    assert purse.call.usage == BILLED


@pytest.mark.parametrize(
    ("address", "host", "is_to_it"),
    [
        ("fake.test:80", "http://fake.test", True),
        ("fake.test:443", "https://FAKE.test", True),
        ("fake.test:8080", "http://user:word@fake.test:8080", True),
        ("fake.test", "http://fake.test:80", True),
        ("[::1]:80", "http://[::1]", True),
        ("fake.test:80", "https://fake.test", False),
        ("fake.test:80", "http://fake.test:8080", False),
    ],
)
def test_a_stand_in_is_known_with_and_without_the_usual_port(
    address: str, host: str, is_to_it: bool
) -> None:
    capture = Capture(owner=lambda: None, report=lambda request: None, clock=lambda: 0.0)
    capture.limit(stand_ins=[address])
    sent: dict[str, Any] = {"source": None, "client": None, "sent": b"{}", "headers": {}}
    request = capture.begin(method="POST", url=f"{host}/v1/messages", **sent)
    assert request is not None
    assert request.is_to_stand_in == is_to_it
