"""Calls that a hook, a gateway in this process or a transport makes while another one is sent."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import httpx
import httpx2
import pytest
import yaml
from capture_kit import ASKED, JSON_BODY, LIBRARIES, MESSAGE, URL, Purse, capturing
from standin import StandIn

aiohttp = pytest.importorskip("aiohttp")
boto3 = pytest.importorskip("boto3")
requests = pytest.importorskip("requests")
vcr = pytest.importorskip("vcr")

OTHER = {**ASKED, "model": "claude-sonnet-4-6", "messages": [{"role": "user", "content": "Rude?"}]}
MODELS = ["claude-opus-4-7", "claude-sonnet-4-6"]
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
library_of = pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)


def by_requests(url: str, asked: dict[str, Any]) -> None:
    requests.post(url, json=asked, headers=HEADERS)


def by_urllib(url: str, asked: dict[str, Any]) -> None:
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(asked).encode(), HEADERS)
    ) as response:
        response.read()


def by_aiohttp(url: str, asked: dict[str, Any]) -> None:
    async def ask() -> None:
        async with (
            aiohttp.ClientSession(headers=HEADERS) as session,
            session.post(url, json=asked) as response,
        ):
            await response.read()

    asyncio.run(ask())


def by_boto(url: str, asked: dict[str, Any]) -> None:
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    address = url.removesuffix("/v1/messages")
    client = boto3.client("bedrock-runtime", "us-east-1", endpoint_url=address, **keys)
    messages = [{"role": each["role"], "content": [{"text": each["content"]}]} for each in
                asked["messages"]]  # fmt: skip
    client.converse(modelId=asked["model"], messages=messages)


def by_httpx(url: str, asked: dict[str, Any]) -> None:
    httpx.post(url, json=asked, headers=HEADERS)


by = pytest.mark.parametrize("ask", [by_requests, by_urllib, by_aiohttp, by_boto, by_httpx])
Ask = Callable[[str, dict[str, Any]], None]


def models(purse: Purse) -> list[str]:
    """Return the models of all calls, each of which is priced exactly."""
    assert all(call.usd == call.usd_low == call.usd_high for call in purse.calls)
    return sorted(call.model for call in purse.calls)


@by
@library_of
@pytest.mark.parametrize("event", ["request", "response"])
def test_what_a_hook_asks_by_another_library_is_a_call_of_its_own(
    standin: StandIn, library: Any, ask: Ask, event: str
) -> None:
    url = standin.url + "/v1/messages"
    hooks = {event: [lambda _: ask(url, OTHER)]}
    with capturing() as purse, library.Client(event_hooks=hooks) as client:
        client.post(url, json=ASKED, headers=HEADERS)
        assert models(purse) == MODELS
    assert [call.live for call in purse.calls] == [True, True]


@by
@library_of
def test_what_a_gateway_in_this_process_asks_instead_is_live(
    standin: StandIn, library: Any, ask: Ask
) -> None:
    def gateway(_: Any) -> Any:
        ask(standin.url + "/v1/messages", OTHER)
        return library.Response(200, content=JSON_BODY)

    with capturing() as purse:
        library.Client(transport=library.MockTransport(gateway)).post(URL, json=ASKED)
    assert models(purse) == MODELS
    assert [call.live for call in purse.calls if call.model == OTHER["model"]] == [True]


@library_of
def test_a_reply_that_a_gateway_in_this_process_hands_on_is_one_call(
    standin: StandIn, library: Any
) -> None:
    def gateway(request: Any) -> Any:
        asked = {**json.loads(request.content), "model": OTHER["model"]}
        said = requests.post(standin.url + "/v1/messages", json=asked, headers=HEADERS)
        return library.Response(200, content=said.content)

    with capturing() as purse:
        library.Client(transport=library.MockTransport(gateway)).post(URL, json=ASKED)
    assert (purse.call.live, purse.call.model) == (True, OTHER["model"])


@library_of
def test_what_a_gateway_in_this_process_asks_for_a_route_that_is_not_metered_is_one_call(
    standin: StandIn, library: Any
) -> None:
    def gateway(request: Any) -> Any:
        by_requests(standin.url + "/v1/messages", ASKED)
        return library.Response(200, json={"output_text": "Hello there"})

    asked = {"model": ASKED["model"], "input": "Hi"}
    with capturing() as purse:
        client = library.Client(transport=library.MockTransport(gateway))
        client.post("http://testserver/v1/responses", json=asked)
    assert (purse.call.live, purse.call.caveats) == (True, ())


def test_what_an_application_asks_after_a_redirect_is_live(standin: StandIn) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        status, headers, body = 307, [(b"location", b"http://gateway/v1/messages")], b""
        if scope["server"][0] == "gateway":
            by_requests(standin.url + "/v1/messages", OTHER)
            status, headers, body = 200, [], JSON_BODY
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def ask() -> None:
        transport = httpx2.ASGITransport(app=application)
        async with httpx2.AsyncClient(transport=transport, follow_redirects=True) as client:
            await client.post(URL, json=ASKED)

    with capturing() as purse:
        asyncio.run(ask())
    assert models(purse) == MODELS


def drafting(library: Any, below: Any) -> Any:
    """A transport that has a draft made first, by another model."""

    class Drafting(library.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            draft = library.Request("POST", request.url, json=OTHER, headers=HEADERS)
            below.handle_request(draft).read()
            return below.handle_request(request)

    return library.Client(transport=Drafting())


@library_of
@pytest.mark.parametrize("way", ["live", "mocked"])
def test_what_a_transport_sends_beside_its_request_is_a_call_of_its_own(
    standin: StandIn, library: Any, way: str
) -> None:
    def answer(request: Any) -> Any:
        model = json.loads(request.content)["model"]
        return library.Response(200, json={**MESSAGE, "model": model})

    below = library.HTTPTransport() if way == "live" else library.MockTransport(answer)
    with capturing() as purse, drafting(library, below) as client:
        client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)
        assert models(purse) == MODELS


@library_of
@pytest.mark.parametrize("below", ["transport", "client"])
def test_what_a_transport_sends_instead_of_its_request_is_the_one_call(
    standin: StandIn, library: Any, below: str
) -> None:
    """Its answer is handed on as it came, so it was not asked for twice."""

    class Rewriting(library.BaseTransport):  # type: ignore[misc]
        transport = library.HTTPTransport()
        client = library.Client()

        def handle_request(self, request: Any) -> Any:
            instead = library.Request("POST", request.url, json=OTHER, headers=HEADERS)
            if below == "client":
                return self.client.send(instead, stream=True)
            return self.transport.handle_request(instead)

    class Cap:
        reserved: ClassVar[list[Any]] = []

        def reserve(self, request: Any) -> None:
            self.reserved.append(request.payload["model"])
            request.reserved = Decimal(1)

        def settle(self, request: Any) -> None:
            pass

    with capturing() as purse, library.Client(transport=Rewriting()) as client:
        purse.capture.limit(cap=Cap())
        client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)
        assert models(purse) == Cap.reserved == [OTHER["model"]]


def write_cassette(path: Path, *asked: dict[str, Any]) -> Any:
    interactions = [
        {
            "request": {
                "method": "POST",
                "uri": URL,
                "headers": {},
                # As httpx writes it.
                "body": json.dumps(each, separators=(",", ":")),
            },
            "response": {
                "status": {"code": 200, "message": "OK"},
                "headers": {"content-type": ["application/json"]},
                "body": {"string": json.dumps({**MESSAGE, "model": each["model"]})},
            },
        }
        for each in asked
    ]
    path.write_text(yaml.safe_dump({"version": 1, "interactions": interactions}), encoding="utf-8")
    return vcr.use_cassette(str(path), record_mode="none")


@library_of
def test_what_a_transport_has_replayed_beside_its_request_is_a_call_of_its_own(
    tmp_path: Path, library: ModuleType
) -> None:
    with capturing() as purse, write_cassette(tmp_path / "two.yaml", OTHER, ASKED):
        drafting(library, library.HTTPTransport()).post(URL, json=ASKED, headers=HEADERS)
    assert models(purse) == MODELS


@pytest.mark.parametrize("ask", [by_requests, by_urllib])
def test_what_a_hook_has_replayed_by_another_library_is_a_call_of_its_own(
    tmp_path: Path, ask: Ask
) -> None:
    hooks = {"response": [lambda _: ask(URL, OTHER)]}
    with capturing() as purse, write_cassette(tmp_path / "two.yaml", ASKED, OTHER):
        httpx.Client(event_hooks=hooks).post(URL, json=ASKED, headers=HEADERS)
    assert models(purse) == MODELS


@library_of
@pytest.mark.parametrize("who", ["transport", "log-in"])
@pytest.mark.parametrize("way", ["replayed", "mocked"])
def test_what_is_asked_again_after_an_answer_is_a_bound_as_it_is_live(
    tmp_path: Path, library: Any, who: str, way: str
) -> None:
    below = library.HTTPTransport()
    if way == "mocked":
        below = library.MockTransport(lambda _: library.Response(200, content=JSON_BODY))

    class Again(library.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            below.handle_request(request).read()
            return below.handle_request(request)

    class LogIn(library.Auth):  # type: ignore[misc]
        def auth_flow(self, request: Any) -> Any:
            yield request
            yield request

    client = library.Client(transport=Again() if who == "transport" else below)
    log_in = LogIn() if who == "log-in" else None
    with capturing() as purse, write_cassette(tmp_path / "twice.yaml", ASKED, ASKED):
        client.post(URL, json=ASKED, headers=HEADERS, auth=log_in)
    (request,) = purse.seen
    assert (request.lost_attempts, purse.call.caveats) == (1, ("lost-answer",))


def over_requests(library: Any, *, streamed: bool = False, **changes: Any) -> Any:
    """A client whose transport sends by requests, which writes the JSON anew."""

    class Body(library.SyncByteStream):  # type: ignore[misc]
        def __init__(self, response: Any) -> None:
            self.response = response

        def __iter__(self) -> Any:
            return self.response.iter_content(64)

        def close(self) -> None:
            self.response.close()

    class Transport(library.BaseTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            asked = json.loads(request.content)
            options = {"json": {**asked, **changes}, "headers": HEADERS, "stream": streamed}
            response = requests.post(str(request.url), **options)
            head = {"content-type": response.headers["content-type"]}
            if streamed:
                return library.Response(200, headers=head, stream=Body(response))
            return library.Response(200, headers=head, content=response.content)

    return library.Client(transport=Transport())


@library_of
@pytest.mark.parametrize("changes", [{}, {"messages": OTHER["messages"]}], ids=["as", "other"])
def test_what_a_transport_writes_anew_and_hands_on_by_hand_is_one_call(
    standin: StandIn, library: Any, changes: dict[str, Any]
) -> None:
    with capturing() as purse, over_requests(library, **changes) as client:
        client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)
        assert (purse.call.live, purse.call.model) == (True, ASKED["model"])


@library_of
@pytest.mark.parametrize("changes", [{}, {"messages": OTHER["messages"]}], ids=["as", "other"])
def test_a_stream_that_is_written_anew_and_left_is_one_call(
    standin: StandIn, library: Any, changes: dict[str, Any]
) -> None:
    asked = {**ASKED, "stream": True}
    with (
        capturing() as purse,
        over_requests(library, streamed=True, **changes) as client,
    ):
        url = standin.url + "/v1/messages"
        with client.stream("POST", url, json=asked, headers=HEADERS) as response:
            assert "message_start" in list(islice(response.iter_lines(), 3))[1]
        assert purse.call.caveats == ("truncated-stream",)


@library_of
def test_what_is_written_anew_over_the_same_library_is_one_call(
    standin: StandIn, library: Any
) -> None:
    class Anew(library.BaseTransport):  # type: ignore[misc]
        below = library.HTTPTransport()

        def handle_request(self, request: Any) -> Any:
            content = json.dumps(json.loads(request.content), indent=1)
            anew = library.Request("POST", request.url, content=content, headers=HEADERS)
            response = self.below.handle_request(anew)
            body, head = response.read(), {"content-type": "application/json"}
            return library.Response(200, headers=head, content=body, extensions=response.extensions)

    with capturing() as purse, library.Client(transport=Anew()) as client:
        client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)
        assert purse.call.live


@library_of
def test_a_log_in_before_a_body_that_comes_in_pieces_is_no_attempt(library: Any) -> None:
    class LogIn(library.Auth):  # type: ignore[misc]
        def auth_flow(self, request: Any) -> Any:
            yield library.Request("POST", "https://login.example/token", data={"grant": "any"})
            yield request

    below = library.MockTransport(lambda _: library.Response(200, content=JSON_BODY))
    pieces = iter([json.dumps(ASKED).encode()])
    with capturing() as purse, library.Client(transport=below, auth=LogIn()) as client:
        client.post(URL, content=pieces, headers=HEADERS)
    (request,) = purse.seen
    assert (request.attempts, purse.call.caveats) == (1, ())
