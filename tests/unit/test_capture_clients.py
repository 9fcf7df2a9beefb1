"""Real clients of other HTTP libraries against the stand-in: seen once, priced, and unchanged."""

from __future__ import annotations

import asyncio
import contextvars
import gzip
import io
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from functools import partial
from http.client import CannotSendHeader, HTTPConnection, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from capture_kit import JSON_BODY, LIBRARIES, MESSAGE, SSE_BODY, Purse, capturing, chunks
from standin import StandIn
from standin.answers import answer_json
from standin.cache import PromptCache
from standin.server import Step, fault

from pytest_llmcost.capture.relay import Relay
from pytest_llmcost.prices.usage import Usage

botocore_awsrequest = pytest.importorskip("botocore.awsrequest")
botocore_config = pytest.importorskip("botocore.config")
botocore_response = pytest.importorskip("botocore.response")
botocore_stub = pytest.importorskip("botocore.stub")
aiohttp = pytest.importorskip("aiohttp")
boto3 = pytest.importorskip("boto3")
requests = pytest.importorskip("requests")
urllib3 = pytest.importorskip("urllib3")
aiobotocore_session = pytest.importorskip("aiobotocore.session")
vcr = pytest.importorskip("vcr")

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
LONG = "word " * 3_000
KEYS = {
    "region_name": "us-east-1",
    "aws_access_key_id": "any",
    "aws_secret_access_key": "any",
}
INVOKE = {
    "modelId": MODEL,
    "body": json.dumps(
        {
            "anthropic_version": "bedrock-2023-05-31",
            "max_tokens": 50,
            "messages": [{"role": "user", "content": "Hi"}],
        }
    ),
}
CONVERSE = {
    "modelId": MODEL,
    "system": [{"text": LONG}, {"cachePoint": {"type": "default"}}],
    "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
    "inferenceConfig": {"maxTokens": 50},
}
CONVERSED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "ok"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 100, "outputTokens": 10, "totalTokens": 110},
    "metrics": {"latencyMs": 1},
}
ASKED = {
    "model": "claude-opus-4-7",
    "max_tokens": 50,
    "messages": [{"role": "user", "content": "Hi"}],
}
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
STREAMED = {**ASKED, "stream": True}


def boto(api: StandIn, **more: Any) -> Any:
    return boto3.client("bedrock-runtime", endpoint_url=api.url, **KEYS, **more)


def run_boto(client: Any) -> list[Any]:
    """Call all four operations, and return what the code under test gets."""
    invoked = json.load(client.invoke_model(**INVOKE)["body"])
    chunks = [*client.invoke_model_with_response_stream(**INVOKE)["body"]]
    conversed = client.converse(**CONVERSE)
    events = [*client.converse_stream(**CONVERSE)["stream"]]
    return [invoked["usage"], len(chunks), conversed["usage"], events[-1]["metadata"]["usage"]]


async def run_aioboto(api: StandIn) -> list[Any]:
    made = aiobotocore_session.get_session().create_client(
        "bedrock-runtime", endpoint_url=api.url, **KEYS
    )
    async with made as client:
        body = (await client.invoke_model(**INVOKE))["body"]
        invoked = json.loads(await body.read())
        stream = (await client.invoke_model_with_response_stream(**INVOKE))["body"]
        chunks = [each async for each in stream]
        conversed = await client.converse(**CONVERSE)
        stream = (await client.converse_stream(**CONVERSE))["stream"]
        events = [each async for each in stream]
    return [invoked["usage"], len(chunks), conversed["usage"], events[-1]["metadata"]["usage"]]


CLIENTS: dict[str, Callable[[StandIn], list[Any]]] = {
    "boto3": lambda api: run_boto(boto(api)),
    "aiobotocore": lambda api: asyncio.run(run_aioboto(api)),
}


def check_four(purse: Purse, got: list[Any]) -> None:
    """Four calls, as the code under test sees them; the first to converse writes, both read on."""
    calls = purse.calls
    assert len(calls) == 4
    for call, said in zip(calls[:2], (got[0], got[0]), strict=True):
        assert (call.usage.input_tokens, call.usage.output_tokens) == (
            said["input_tokens"],
            said["output_tokens"],
        )
    for call, said in zip(calls[2:], got[2:], strict=True):
        assert call.usage == Usage(
            input_tokens=said["inputTokens"],
            output_tokens=said["outputTokens"],
            cache_write_5m_tokens=said["cacheWriteInputTokens"],
            cache_read_tokens=said["cacheReadInputTokens"],
        )
    assert calls[2].usage.cache_write_5m_tokens == calls[3].usage.cache_read_tokens > 3_000
    assert all(call.usd and not call.caveats for call in calls)
    # A regional profile: 10 % more.
    assert {each.terms.platform for call in purse.seen if (each := call.answer)} == {
        "bedrock-regional"
    }


@pytest.mark.parametrize(
    "library",
    [
        "boto3",
        pytest.param(
            "aiobotocore",
            marks=pytest.mark.skipif(
                version("vcrpy") < "9", reason="what VCR replays has no `raw_headers` before 9"
            ),
        ),
    ],
)
def test_bedrock_is_priced_live_recorded_and_replayed(
    library: str, standin: StandIn, tmp_path: Path
) -> None:
    without = CLIENTS[library](standin)
    standin.cache = PromptCache(time.monotonic)
    with capturing() as purse:
        got = CLIENTS[library](standin)
    check_four(purse, got)
    assert [call.live for call in purse.calls] == [True] * 4
    assert got[1] == without[1]
    standin.cache = PromptCache(time.monotonic)
    for live in (True, False):
        with capturing() as purse, vcr.use_cassette(str(tmp_path / "four.yaml")):
            got = CLIENTS[library](standin)
            purse.capture.drain()
        check_four(purse, got)
        assert [call.live for call in purse.calls] == [live] * 4
        assert all((each.replay is not None) is not live for each in purse.seen)
        assert live or all(each.replay and each.replay.body == each.payload for each in purse.seen)


def test_a_stubbed_call_is_a_mock_s() -> None:
    client = boto3.client("bedrock-runtime", **KEYS)
    with capturing() as purse, botocore_stub.Stubber(client) as stub:
        stub.add_response("converse", CONVERSED)
        body = botocore_response.StreamingBody(io.BytesIO(JSON_BODY), len(JSON_BODY))
        stub.add_response("invoke_model", {"body": body, "contentType": "application/json"})
        stub.add_client_error("converse", "ThrottlingException", http_status_code=429)
        assert client.converse(**CONVERSE)["usage"]["inputTokens"] == 100
        assert client.invoke_model(**INVOKE)["body"].read() == JSON_BODY
        with pytest.raises(client.exceptions.ThrottlingException):
            client.converse(**CONVERSE)
        stub.add_response("converse", CONVERSED)  # of another vendor, and so no Claude call
        client.converse(**CONVERSE | {"modelId": "amazon.titan-text-express-v1"})
    assert [(call.usage.input_tokens, call.live) for call in purse.calls] == [
        (100, False),
        (25, False),
    ]
    assert all(each.is_mocked for each in purse.seen)
    assert len(purse.seen) == 3


def test_the_reply_tells_what_an_arn_that_names_no_model_runs() -> None:
    client = boto3.client("bedrock-runtime", **KEYS)
    arn = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc123"
    with capturing() as purse, botocore_stub.Stubber(client) as stub:
        others = (b'{"generation": "Hi"}', b'{"usage": {"inputTokens": 9, "outputTokens": 9}}')
        for reply in (JSON_BODY, *others):
            body = botocore_response.StreamingBody(io.BytesIO(reply), len(reply))
            stub.add_response("invoke_model", {"body": body, "contentType": "application/json"})
            client.invoke_model(modelId=arn, body='{"prompt": "Hi"}')["body"].read()
        stub.add_response("converse", CONVERSED)
        client.converse(**CONVERSE | {"modelId": arn})
    invoked, conversed = purse.calls
    assert (invoked.model, invoked.caveats) == ("claude-opus-4-7", ("unknown-endpoint: bedrock",))
    assert conversed.has_caveat("unknown-model")


def test_a_call_that_is_stubbed_asynchronously_is_a_mock_s() -> None:
    stub_module = pytest.importorskip("aiobotocore.stub")

    async def main() -> None:
        made = aiobotocore_session.get_session().create_client("bedrock-runtime", **KEYS)
        async with made as client:
            with stub_module.AioStubber(client) as stub:
                stub.add_response("converse", CONVERSED)
                await client.converse(**CONVERSE)

    with capturing() as purse:
        asyncio.run(main())
    assert (purse.call.usage.input_tokens, purse.call.live) == (100, False)


def test_a_handler_that_answers_is_a_mock_whose_stream_is_unknown() -> None:
    answer = botocore_awsrequest.AWSResponse
    client = boto3.client("bedrock-runtime", **KEYS)
    raw = io.BytesIO(json.dumps(CONVERSED).encode())
    raw.stream = lambda **how: iter([raw.getvalue()])  # type: ignore[attr-defined]
    client.meta.events.register(
        "before-send.bedrock-runtime.Converse",
        lambda request, **more: answer(request.url, 200, {}, raw),
    )
    client.meta.events.register(
        "before-call.bedrock-runtime.ConverseStream",
        lambda **more: (answer(None, 200, {}, None), {"stream": iter(())}),
    )
    with capturing() as purse:
        assert client.converse(**CONVERSE)["usage"]["inputTokens"] == 100
        client.converse_stream(**CONVERSE)
    assert [call.usage.input_tokens for call in purse.calls] == [100, 0]
    assert [call.usd is None for call in purse.calls] == [False, True]


def test_a_retry_of_botocore_after_a_lost_answer_is_one_call(standin: StandIn) -> None:
    standin.script(Step(cut_after_bytes=0))
    client = boto(
        standin, config=botocore_config.Config(retries={"max_attempts": 2, "mode": "standard"})
    )
    with capturing() as purse:
        client.converse(**CONVERSE)
    assert (purse.call.attempts, purse.call.lost_attempts) == (2, None)
    assert purse.seen[-1].lost_attempts == 1
    assert purse.call.caveats == ("lost-answer",)


@pytest.mark.parametrize("library", CLIENTS)
def test_a_retry_of_botocore_after_an_answer_that_was_cut_is_one_call(
    library: str, standin: StandIn
) -> None:
    standin.script(Step(cut_after_bytes=10))

    async def converse() -> None:
        made = aiobotocore_session.get_session().create_client(
            "bedrock-runtime", endpoint_url=standin.url, **KEYS
        )
        async with made as client:
            await client.converse(**CONVERSE)

    with capturing() as purse:
        boto(standin).converse(**CONVERSE) if library == "boto3" else asyncio.run(converse())
    assert (purse.call.attempts, purse.call.caveats) == (2, ("lost-answer",))
    assert purse.seen[-1].lost_attempts == 1


def test_an_answer_that_was_cut_and_is_not_sent_again_is_unknown(standin: StandIn) -> None:
    standin.script(Step(cut_after_bytes=10))
    client = boto(standin)
    with capturing() as purse:
        with suppress(Exception):
            client.invoke_model(**INVOKE)["body"].read()
        purse.capture.settle()
    assert (purse.call.usd, purse.call.caveats) == (None, ("truncated-stream",))


LLAMA = {
    "modelId": "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc123",
    "body": '{"prompt": "Hi"}',
}


@pytest.mark.parametrize("cut", [0, 10])
def test_what_others_do_not_answer_as_a_whole_is_no_claude_call(standin: StandIn, cut: int) -> None:
    standin.script(*[Step(answer_json({"generation": "Hi there"}), cut_after_bytes=cut)] * 3)
    client = boto(standin, config=botocore_config.Config(retries={"total_max_attempts": 1}))
    with capturing() as purse:
        with suppress(Exception):
            client.invoke_model(**LLAMA)["body"].read()
        for is_read in (True, False):
            mail = httpx.stream("POST", standin.url + "/v1/messages", json={"to": "a@b"})
            with suppress(httpx.RemoteProtocolError), mail as response:
                response.read() if is_read else None
        purse.capture.settle()
    assert purse.seen == []


def test_a_retry_after_a_refusal_counts_what_was_lost_before_and_since(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.retryhandler.delay_exponential", lambda **_: 0.0)
    # Once an attempt was answered, botocore says how long the next one has, before its number.
    lost, refused = Step(cut_after_bytes=0), fault(503)
    standin.script(lost, refused, lost)
    client = boto(
        standin, config=botocore_config.Config(retries={"max_attempts": 3, "mode": "legacy"})
    )
    with capturing() as purse:
        client.converse(**CONVERSE)
    last = standin.requests[-1].headers["amz-sdk-request"]
    assert last.startswith("ttl=")
    assert (purse.call.attempts, purse.call.caveats) == (4, ("lost-answer",))
    assert purse.seen[-1].lost_attempts == 2


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("how", ["sync", "async", "thread"])
def test_what_a_transport_of_the_users_own_has_lost_before_it_tries_again_is_counted(
    standin: StandIn, library: Any, how: str
) -> None:
    lost, refused = Step(cut_after_bytes=0), fault(503)
    standin.script(lost, refused, refused, lost)

    class Again(library.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            while True:
                with suppress(library.RemoteProtocolError):
                    response = super().handle_request(request)
                    if response.status_code == 200:
                        return response

    class AgainAsync(library.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            while True:
                with suppress(library.RemoteProtocolError):
                    response = await super().handle_async_request(request)
                    if response.status_code == 200:
                        return response

    class InThread(library.AsyncBaseTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            with futures.ThreadPoolExecutor() as pool:  # without the context
                response = pool.submit(Again().handle_request, request).result()
            return library.Response(200, content=response.read())

    async def ask() -> None:
        transport = AgainAsync() if how == "async" else InThread()
        async with library.AsyncClient(transport=transport) as client:
            await client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)

    with capturing() as purse:
        if how != "sync":
            asyncio.run(ask())
        else:
            with library.Client(transport=Again()) as client:
                client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)
    (request,) = purse.seen
    assert (request.attempts, request.lost_attempts) == (3, 2)
    assert purse.call.caveats == ("lost-answer",)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("by", ["requests", "urllib", "aiohttp", "its own transport"])
@pytest.mark.parametrize("steps", [(), (fault(503),)], ids=["at once", "after a refusal"])
def test_what_a_mock_passes_on_to_the_api_is_sent_once(
    standin: StandIn, library: Any, by: str, steps: tuple[Step, ...]
) -> None:
    standin.script(*steps)
    url = standin.url + "/v1/messages"

    async def ask(body: bytes) -> Any:
        async with (
            aiohttp.ClientSession(headers=HEADERS) as session,
            session.post(url, data=body) as response,
        ):
            return response.status, await response.read()

    def pass_on(request: Any) -> Any:
        body = request.read()
        if by == "its own transport":
            return library.HTTPTransport().handle_request(request)
        if by == "aiohttp":
            status, content = asyncio.run(ask(body))
        elif by == "requests":
            response = requests.post(url, body, headers=HEADERS)
            status, content = response.status_code, response.content
        else:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, body, HEADERS)) as response:
                    status, content = response.status, response.read()
            except urllib.request.HTTPError as error:
                status, content = error.code, error.read()
        return library.Response(status, content=content)

    class Again(library.BaseTransport):  # type: ignore[misc]
        mock = library.MockTransport(pass_on)

        def handle_request(self, request: Any) -> Any:
            response = self.mock.handle_request(request)
            return self.mock.handle_request(request) if response.status_code != 200 else response

    with capturing() as purse, library.Client(transport=Again()) as client:
        client.post(url, json=ASKED, headers=HEADERS)
    (request,) = (each for each in purse.seen if each.answer is not None)
    assert (request.attempts, request.lost_attempts) == (1, None)
    assert (request.live, purse.call.caveats) == (True, ())


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
def test_a_retry_of_a_client_whose_transport_has_tried_in_vain_is_the_same_call(
    standin: StandIn, library: Any
) -> None:
    standin.script(*[Step(cut_after_bytes=0)] * 4)

    class Twice(library.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            try:
                return super().handle_request(request)
            except library.RemoteProtocolError:
                return super().handle_request(request)

    with capturing() as purse, library.Client(transport=Twice()) as client:
        for number in range(3):
            headers = {**HEADERS, "x-stainless-retry-count": str(number)}
            with suppress(library.RemoteProtocolError):
                client.post(standin.url + "/v1/messages", json=ASKED, headers=headers)
    (request,) = purse.seen
    assert (request.attempts, request.lost_attempts) == (5, 4)


@pytest.mark.parametrize("looked_at", ["afterwards", "between"])
def test_equal_requests_that_are_lost_at_once_and_tried_again_are_two_calls(
    standin: StandIn, looked_at: str
) -> None:
    standin.script(*[Step(cut_after_bytes=0)] * 2)
    url = standin.url + "/v1/messages"
    with capturing() as purse, httpx.Client() as client:
        for count in "0011":
            headers = {**HEADERS, "x-stainless-retry-count": count}
            with suppress(httpx.RemoteProtocolError):
                client.post(url, json=ASKED, headers=headers)
            if looked_at == "between":
                purse.capture.settle()
        purse.capture.settle()
    answered = purse.seen[-2:]
    assert [each.lost_attempts for each in answered] == [1, 1]
    reported = purse.seen[:-2]
    assert [each.supersedes for each in answered if each.supersedes] == reported


def test_a_stream_of_bedrock_that_breaks_off_is_not_priced(standin: StandIn) -> None:
    standin.script(Step(cut_after_bytes=300), Step(cut_after_bytes=300))
    client = boto(standin)
    with capturing() as purse:
        for call, name in (
            (client.converse_stream, "stream"),
            (client.invoke_model_with_response_stream, "body"),
        ):
            asked = CONVERSE if name == "stream" else INVOKE
            with pytest.raises(Exception):  # noqa: B017, PT011 - each version its own
                [*call(**asked)[name]]
    assert [call.caveats[0] for call in purse.calls] == ["truncated-stream"] * 2


def test_optimised_latency_is_asked_for_in_a_header_or_in_the_body(standin: StandIn) -> None:
    client = boto(standin)
    model = {"modelId": "us.anthropic.claude-3-5-haiku-20241022-v1:0"}
    with capturing() as purse:
        for latency in ("standard", "optimized"):
            asked = {**INVOKE, **model, "performanceConfigLatency": latency}
            client.invoke_model(**asked)["body"].read()
            [*client.invoke_model_with_response_stream(**asked)["body"]]
            client.converse(**CONVERSE | model, performanceConfig={"latency": latency})
    standard, optimized = purse.calls[:3], purse.calls[3:]
    assert all(call.usd == call.usd_low == call.usd_high for call in standard)
    for call in optimized:
        assert call.context.speed == "asked-latency-optimized"
        assert (call.usd, call.usd_high) == (call.usd_low, None)
        assert call.has_caveat("unknown-speed")


def test_a_service_tier_is_asked_for_in_a_header_or_in_the_body(standin: StandIn) -> None:
    client = boto(standin)
    with capturing() as purse:
        for tier in ("default", "priority"):
            client.invoke_model(**INVOKE, serviceTier=tier)["body"].read()
            [*client.invoke_model_with_response_stream(**INVOKE, serviceTier=tier)["body"]]
            client.converse(**CONVERSE, serviceTier={"type": tier})
    default, priority = purse.calls[:3], purse.calls[3:]
    assert all(call.usd == call.usd_low == call.usd_high for call in default)
    for call in priority:
        assert call.usd_high is None
        assert call.caveats == ("unknown-tier: priority",)


# Spoken by hand


def by_requests(url: str, body: Any) -> int:
    return len(requests.post(url, json=body, headers=HEADERS).content)


def by_requests_lines(url: str, body: Any) -> int:
    with requests.post(url, json=body, headers=HEADERS, stream=True) as response:
        return sum(len(line) for line in response.iter_lines())


def by_requests_raw(url: str, body: Any) -> int:
    with requests.post(url, json=body, headers=HEADERS, stream=True) as response:
        return len(response.raw.read())


def by_urllib3(url: str, body: Any) -> int:
    asked = {"body": json.dumps(body), "headers": HEADERS}
    return len(urllib3.PoolManager().request("POST", url, **asked).data)


def by_urllib3_pieces(url: str, body: Any) -> int:
    pool = urllib3.PoolManager()
    asked = {"body": json.dumps(body), "headers": HEADERS, "preload_content": False}
    response = pool.request("POST", url, **asked)
    size = 0
    while not response.closed:  # a piece may be empty while a compressed body begins
        size += len(response.read(7))
    response.release_conn()
    return size


def by_urllib3_stream(url: str, body: Any) -> int:
    response = urllib3.PoolManager().request(
        "POST", url, body=json.dumps(body).encode(), headers=HEADERS, preload_content=False
    )
    return sum(map(len, response.stream(11)))


def by_aiohttp(url: str, body: Any, how: str = "read") -> int:
    async def main() -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=body, headers=HEADERS) as response,
        ):
            if how == "read":
                return len(await response.read())
            if how == "lines":
                return sum([len(line) async for line in response.content])
            return sum([len(each) async for each in response.content.iter_chunked(5)])

    return asyncio.run(main())


def by_urllib(url: str, body: Any, how: str = "read") -> int:
    asked = urllib.request.Request(url, json.dumps(body).encode(), HEADERS)
    with urllib.request.urlopen(asked) as response:
        if how == "read":
            return len(response.read())
        if how == "lines":
            return sum(map(len, response))
        if how == "named":
            first = len(response.read(amt=5)) + len(response.read1(n=5))
            return first + len(response.readline(limit=5)) + len(response.read(amt=None))
        size, buffer = 0, bytearray(9)
        while piece := response.readinto(buffer) if how == "into" else len(response.read1(9)):
            size += piece
        return size + len(response.read(5))


def by_async_httpx(library: Any, url: str, body: Any) -> int:
    async def main() -> int:
        async with (
            library.AsyncClient() as client,
            client.stream("POST", url, json=body, headers=HEADERS) as response,
        ):
            return len(await response.aread())

    return asyncio.run(main())


WAYS: dict[str, Callable[[str, Any], int]] = {
    **{f"async {each.__name__}": partial(by_async_httpx, each) for each in LIBRARIES},
    "requests": by_requests,
    "lines": by_requests_lines,
    "raw": by_requests_raw,
    "urllib3": by_urllib3,
    "pieces": by_urllib3_pieces,
    "stream": by_urllib3_stream,
    "aio": by_aiohttp,
    "aio lines": partial(by_aiohttp, how="lines"),
    "aio chunks": partial(by_aiohttp, how="pieces"),
    "urllib": by_urllib,
    "urllib lines": partial(by_urllib, how="lines"),
    "urllib into": partial(by_urllib, how="into"),
    "urllib pieces": partial(by_urllib, how="pieces"),
    "urllib named": partial(by_urllib, how="named"),
}
by_all_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@by_all_ways
def test_what_is_spoken_by_hand_is_priced(way: Callable[[str, Any], int], standin: StandIn) -> None:
    url = standin.url + "/v1/messages"
    sizes = [way(url, ASKED), way(url, STREAMED)]
    with capturing() as purse:
        assert [way(url, ASKED), way(url, STREAMED)] == sizes
    one, other = purse.calls
    assert one.usage == other.usage != Usage()
    assert (one.live, other.live, one.caveats, other.caveats) == (True, True, (), ())
    assert other.usd == one.usd != 0


class Packed(BaseHTTPRequestHandler):
    """Answers with a compressed body of a known length."""

    protocol_version = "HTTP/1.1"
    encoding = "gzip"

    @staticmethod
    def compress(data: bytes) -> bytes:
        return gzip.compress(data)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = self.compress(SSE_BODY if asked.get("stream") else JSON_BODY)
        self.send_response(200)
        self.send_header("content-encoding", self.encoding)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep still."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/messages"
        server.shutdown()


@by_all_ways
def test_a_compressed_body_is_read(way: Callable[[str, Any], int]) -> None:
    with capturing() as purse, serving(Packed) as url:
        assert way(url, ASKED)
        assert way(url, STREAMED)
    assert [call.usage.input_tokens for call in purse.calls] == [25, 25]
    assert [call.usage.output_tokens for call in purse.calls] == [11, 11]


class Broken(Packed):
    """Says that its body is compressed, which it is not."""

    @staticmethod
    def compress(data: bytes) -> bytes:
        return data


@by_all_ways
def test_a_body_that_does_not_decode_fails_as_ever(way: Callable[[str, Any], int]) -> None:
    def try_it(asked: Any) -> object:
        try:
            return way(url, asked)
        except Exception as error:  # noqa: BLE001 - each client raises its own
            return type(error)

    with serving(Broken) as url:
        plain = [try_it(asked) for asked in (ASKED, STREAMED)]
        with capturing() as purse:
            assert [try_it(asked) for asked in (ASKED, STREAMED)] == plain
            purse.capture.settle()
    assert [call.usd for call in purse.calls] == [None, None]


def test_the_last_chunk_of_a_body_is_read_although_its_end_comes_in_the_midst_of_it(
    standin: StandIn,
) -> None:
    async def read_late() -> None:
        async with (
            aiohttp.ClientSession(read_bufsize=16) as session,
            session.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS) as response,
        ):
            await asyncio.sleep(0.1)  # more has come by now than is taken before it is read
            await response.read()

    with capturing() as purse:
        asyncio.run(read_late())
    assert (purse.call.caveats, purse.call.usd is None) == ((), False)


class AtOnce(Packed):
    """Answers with its head and its body in one piece, not compressed."""

    wbufsize = -1
    encoding = "identity"

    @staticmethod
    def compress(data: bytes) -> bytes:
        return data


def test_aiohttps_message_that_came_with_its_head_counts_unread() -> None:
    async def look(url: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=ASKED, headers=HEADERS) as response,
        ):
            assert response.status == 200

    with capturing() as purse, serving(AtOnce) as url:
        asyncio.run(look(url))
    assert (purse.call.caveats, purse.call.usage.output_tokens) == ((), 11)


@pytest.mark.parametrize("name", ["read", "read1", "readline"])
def test_a_body_of_a_known_length_is_over_with_its_last_byte(name: str) -> None:
    """What waits for it, as a client of the relay does, may end its test before it is closed."""
    with capturing() as purse, serving(AtOnce) as url:
        asked = urllib.request.Request(url, json.dumps(ASKED).encode(), HEADERS)
        with urllib.request.urlopen(asked) as response:
            assert getattr(response, name)(len(JSON_BODY)) == JSON_BODY
            assert [call.caveats for call in purse.calls] == [()]


def test_results_of_a_batch_that_came_with_their_head_count_as_they_are_read() -> None:
    class Results(AtOnce):
        def do_GET(self) -> None:
            result = {"type": "succeeded", "message": MESSAGE}
            body = json.dumps({"custom_id": "a", "result": result}).encode() + b"\n"
            self.send_response(200)
            self.send_header("content-length", str(2 * len(body)))
            self.end_headers()
            self.wfile.write(2 * body)

    async def look(url: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/batches/msgbatch_1/results", headers=HEADERS) as response,
        ):
            assert response.status == 200

    with capturing() as purse, serving(Results) as url:
        asyncio.run(look(url))
    assert not purse.calls


class Empty(BaseHTTPRequestHandler):
    """Answers in chunks of which there are none."""

    protocol_version = "HTTP/1.1"
    chunks = b"0\r\n\r\n"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(self.chunks)

    def log_message(self, format: str, *args: object) -> None:
        """Keep still."""


@by_all_ways
def test_a_body_without_a_byte_is_no_stream_that_was_cut(way: Callable[[str, Any], int]) -> None:
    with capturing() as purse, serving(Empty) as url:
        assert way(url, ASKED) == 0
    assert purse.call.caveats == ("unreadable-response",)


def test_nor_is_one_that_is_not_read_since_its_head_says_that_it_is_empty() -> None:
    class Nothing(AtOnce):
        compress = staticmethod(lambda data: b"")

    with capturing() as purse, serving(Nothing) as url:
        asked = urllib.request.Request(url, json.dumps(ASKED).encode(), HEADERS)
        urllib.request.urlopen(asked).close()
    assert purse.call.caveats == ("unreadable-response",)


class Cut(Empty):
    """Breaks off in the midst of a chunk."""

    chunks = b"400\r\nHello"

    def do_POST(self) -> None:
        super().do_POST()
        self.close_connection = True


@by_all_ways
def test_a_body_that_breaks_off_fails_as_it_does_unseen(way: Callable[[str, Any], int]) -> None:
    with serving(Cut) as url:
        with pytest.raises(Exception) as unseen:  # noqa: PT011 - each library has its own
            way(url, ASKED)
        with capturing() as purse, pytest.raises(unseen.type):
            way(url, ASKED)
        purse.capture.settle()
    assert purse.call.usd is None


def test_an_answer_that_never_comes_to_another_service_is_its_client_s_to_name() -> None:
    class Mute(Empty):
        def do_POST(self) -> None:
            self.close_connection = True

    disconnected = pytest.raises(aiohttp.ServerDisconnectedError)
    with capturing() as purse, serving(Mute) as url, disconnected:
        by_aiohttp(url.replace("messages", "other"), {})
    assert purse.seen == []


def test_a_body_is_whole_although_its_end_comes_after_its_last_byte_was_read() -> None:
    is_read = threading.Event()

    class Late(Empty):
        def end_headers(self) -> None:
            super().end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(JSON_BODY), JSON_BODY))
            is_read.wait(10)

    async def read(url: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=ASKED, headers=HEADERS) as response,
        ):
            assert await response.content.readexactly(len(JSON_BODY)) == JSON_BODY
            is_read.set()
            assert await response.read() == b""

    with capturing() as purse, serving(Late) as url:
        asyncio.run(read(url))
    assert (purse.call.caveats, purse.call.usage.output_tokens) == ((), 11)


@pytest.mark.parametrize("library", [httpx.post, requests.post])
def test_what_a_blocker_of_one_s_own_keeps_from_connecting_was_not_sent(
    library: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("no network here")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with capturing() as purse, pytest.raises(RuntimeError, match="no network here"):
        library("https://api.anthropic.com/v1/messages", json=ASKED, headers=HEADERS)
    assert [(each.live, each.answer) for each in purse.seen] == [(False, None)]


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_ends_while_a_proxy_s_tunnel_is_made_was_not_sent(library: Any) -> None:
    class Tunnel(Packed):
        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.rfile.read()  # and no word of TLS

    async def ask(url: str) -> None:
        proxy = url.removesuffix("/v1/messages")
        async with library.AsyncClient(proxy=proxy, timeout=60) as client:
            asked = client.post("https://api.anthropic.com/v1/messages", json=ASKED)
            await asyncio.wait_for(asked, 0.3)

    with capturing() as purse, serving(Tunnel) as url, pytest.raises(asyncio.TimeoutError):
        asyncio.run(ask(url))
    assert [(each.live, each.answer) for each in purse.seen] == [(False, None)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("last", "is_sent"), [("headers", False), ("body", True)])
def test_what_is_cancelled_before_its_body_is_sent_was_not_sent(
    library: Any, last: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(stream: Any, item: bytes) -> None:
        await send_original(stream, item)
        if item.startswith(b"POST ") == (last == "headers"):
            raise asyncio.CancelledError

    async def ask(url: str) -> None:
        async with library.AsyncClient() as client:
            await client.post(url, json=ASKED, headers=HEADERS)

    from anyio._backends._asyncio import SocketStream  # of both libraries

    send_original = SocketStream.send
    monkeypatch.setattr(SocketStream, "send", send)
    with capturing() as purse, serving(Packed) as url, pytest.raises(asyncio.CancelledError):
        asyncio.run(ask(url))
    purse.capture.settle()
    assert [(each.live, each.answer is not None) for each in purse.seen] == [(is_sent, is_sent)]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("is_inside", [True, False], ids=["in the transport", "by the client"])
def test_what_was_lost_went_live_although_the_next_attempt_is_cancelled_before_it_is_sent(
    library: Any, is_inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mute(Packed):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.close_connection = True

    class Again(library.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            with suppress(library.TransportError):
                return await super().handle_async_request(request)
            return await super().handle_async_request(request)

    async def ask(url: str) -> None:
        transport = Again() if is_inside else library.AsyncHTTPTransport()
        hooks = {} if is_inside else {"request": [begin]}
        async with library.AsyncClient(transport=transport, event_hooks=hooks) as client:
            for number in range(2):
                again = {**HEADERS, "x-stainless-retry-count": str(number)}
                with suppress(library.TransportError):
                    await client.post(url, json=ASKED, headers=again)

    async def begin(*_: Any) -> None:
        begun.append(None)
        if len(begun) == 2:
            raise asyncio.CancelledError

    async def connect(*args: Any, **options: Any) -> Any:
        await begin()
        return await connect_original(*args, **options)

    import anyio  # which both libraries connect by

    begun: list[None] = []
    connect_original = anyio.connect_tcp
    if is_inside:
        monkeypatch.setattr(anyio, "connect_tcp", connect)
    with capturing() as purse, serving(Mute) as url, pytest.raises(asyncio.CancelledError):
        asyncio.run(ask(url))
    purse.capture.settle()
    (call,) = purse.seen
    assert (call.live, call.is_lost, call.lost_attempts) == (True, False, 1)


def test_an_answer_that_breaks_off_does_so_for_the_relay_s_client() -> None:
    class Short(AtOnce):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(JSON_BODY) + 1))
            self.end_headers()
            self.wfile.write(JSON_BODY)
            self.close_connection = True

    with capturing(), serving(Short) as url:
        relay = Relay(url.removesuffix("/v1/messages"))
        relay.start()
        try:
            with pytest.raises(IncompleteRead):
                by_urllib(relay.url + "/v1/messages", ASKED)
        finally:
            relay.stop()


def test_the_relay_passes_each_of_two_headers_of_one_name_on() -> None:
    seen, body = list[str](), json.dumps(ASKED).encode()

    class Beta(AtOnce):
        def do_POST(self) -> None:
            seen.extend(self.headers.get_all("anthropic-beta", []))
            super().do_POST()

    with capturing() as purse, serving(Beta) as url:
        relay = Relay(url.removesuffix("/v1/messages"))
        relay.start()
        try:
            client = HTTPConnection(relay.url.removeprefix("http://"))
            client.putrequest("POST", "/v1/messages")
            client.putheader("content-length", str(len(body)))
            for beta in ("a", "b"):
                client.putheader("anthropic-beta", beta)
            client.endheaders(body)
            client.getresponse().read()
            client.close()
        finally:
            relay.stop()
    assert (",".join(seen).replace(" ", ""), purse.seen[0].betas) == ("a,b", ("a", "b"))


def test_a_head_that_was_never_begun_is_the_error_of_http_client() -> None:
    with capturing() as purse, pytest.raises(CannotSendHeader):
        HTTPConnection("api.anthropic.com").endheaders()
    assert not purse.calls


def test_a_stream_that_is_left_is_truncated(standin: StandIn) -> None:
    url = standin.url + "/v1/messages"

    async def leave() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=STREAMED, headers=HEADERS) as response,
        ):
            await response.content.read(5)

    with capturing() as purse:
        with requests.post(url, json=STREAMED, headers=HEADERS, stream=True) as response:
            next(response.iter_content(5))
        asyncio.run(leave())
        asked = urllib.request.Request(url, json.dumps(STREAMED).encode(), HEADERS)
        with urllib.request.urlopen(asked) as response:
            response.read(5)
    assert [call.caveats for call in purse.calls] == [("truncated-stream",)] * 3


@pytest.mark.parametrize("cut", [0, 20], ids=["before the head", "in the body"])
def test_tries_of_urllib3_that_were_lost_make_the_cost_a_bound(standin: StandIn, cut: int) -> None:
    standin.script(Step(cut_after_bytes=cut))
    retries = urllib3.Retry(2, allowed_methods=None, backoff_factor=0)
    with capturing() as purse:
        urllib3.PoolManager().request(
            "POST",
            standin.url + "/v1/messages",
            body=json.dumps(ASKED),
            headers=HEADERS,
            retries=retries,
        )
    assert (purse.call.caveats, purse.call.attempts) == (("lost-answer",), 2)
    assert len(standin.requests) == 2


@pytest.mark.parametrize("path", ["/token", "/claude/token", "/oauth/v1/messages/token"])
def test_log_ins_inside_a_call_are_no_tries_of_it(standin: StandIn, path: str) -> None:
    """As those of Google's and Azure's credentials, which ask once for an address."""
    standin.script(*[Step(answer_json({"token": "any"}), path=path)] * 2)

    class LogIn(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            for _ in range(2):
                requests.post(f"{standin.url}{path}").raise_for_status()
            yield request

    with capturing() as purse, httpx.Client(auth=LogIn()) as client:
        client.post(f"{standin.url}/v1/messages", json=ASKED, headers=HEADERS).raise_for_status()
    assert (purse.call.caveats, purse.call.attempts) == ((), 1)
    assert len(standin.requests) == 3


@pytest.mark.parametrize("path", ["/token", "/claude/token"])
def test_neither_are_those_over_aiohttp(standin: StandIn, path: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    standin.script(*[Step(answer_json({"token": "any"}), path=path)] * 2)

    class LogIn(httpx.Auth):
        async def async_auth_flow(self, request: httpx.Request) -> Any:
            async with aiohttp.ClientSession() as session:
                for _ in range(2):
                    async with session.post(f"{standin.url}{path}") as token:
                        assert token.status == 200
            yield request

    class Own(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            async with (
                aiohttp.ClientSession() as session,
                session.post(str(request.url), data=request.content, headers=HEADERS) as answer,
            ):
                return httpx.Response(answer.status, content=await answer.read())

    async def send() -> None:
        async with httpx.AsyncClient(auth=LogIn(), transport=Own()) as client:
            await client.post(f"{standin.url}/v1/messages", json=ASKED, headers=HEADERS)

    with capturing() as purse:
        asyncio.run(send())
    assert (purse.call.caveats, purse.call.attempts) == ((), 1)
    assert len(standin.requests) == 3


def test_a_try_of_urllib3_that_was_lost_counts_though_the_last_one_found_no_server() -> None:
    def take_one() -> None:
        with server, server.accept()[0] as connection:
            connection.recv(65_536)

    server = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/messages"
    retries = urllib3.Retry(2, allowed_methods=None, backoff_factor=0)
    with capturing() as purse:
        thread = threading.Thread(target=take_one)
        thread.start()
        with pytest.raises(urllib3.exceptions.MaxRetryError, match=r"(?i)refused"):
            urllib3.PoolManager(retries=retries).request(
                "POST", url, body=json.dumps(ASKED), headers=HEADERS
            )
        thread.join()
        purse.capture.settle()
    assert (purse.call.caveats, purse.call.live, purse.call.usd) == (("lost-answer",), True, None)


def by_transport(url: str, body: bytes) -> bytes:
    request = httpx.Request("POST", url, content=body, headers=HEADERS)
    with httpx.HTTPTransport() as inner:
        return inner.handle_request(request).read()


@pytest.mark.parametrize(
    "way",
    [by_transport, lambda url, body: requests.post(url, data=body, headers=HEADERS).content],
    ids=["httpx", "requests"],
)
def test_a_transport_of_httpx_that_sends_through_another_is_live(
    way: Callable[[str, bytes], bytes], standin: StandIn
) -> None:
    class Own(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=way(str(request.url), request.content))

    with capturing() as purse, httpx.Client(transport=Own()) as client:
        client.post(standin.url + "/v1/messages", json=ASKED, headers=HEADERS)
    assert (purse.call.live, len(standin.requests)) == (True, 1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_another_thread_has_sent_is_lost_with_who_waits_for_it(library: Any) -> None:
    is_left = threading.Event()

    class Silent(Packed):
        def do_POST(self) -> None:
            self.close_connection = is_left.wait(60)

    class Own(library.HTTPTransport):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            return pool.submit(super().handle_request, request).result(timeout=0.3)

    with capturing() as purse, serving(Silent) as url, futures.ThreadPoolExecutor() as pool:
        with library.Client(transport=Own()) as client:
            with pytest.raises(futures.TimeoutError):
                client.post(url, json=ASKED, headers=HEADERS)
            is_left.set()
        purse.capture.settle()
    assert (purse.call.caveats, purse.call.live) == (("lost-answer",), True)


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "still read"])
@pytest.mark.parametrize("way", [by_requests, by_urllib3, by_aiohttp, by_urllib])
def test_what_began_during_a_request_and_sends_after_it_is_seen(
    way: Callable[[str, Any], int], streams: bool, standin: StandIn
) -> None:
    """As a task does."""
    url, kept = standin.url + "/v1/messages", list[contextvars.Context]()

    class Own(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            kept.append(contextvars.copy_context())
            return httpx.Response(200, stream=chunks(httpx, [SSE_BODY]))

    with (
        capturing() as purse,
        httpx.Client(transport=Own()) as client,
        client.stream("POST", url, json=STREAMED, headers=HEADERS) as response,
    ):
        if not streams:
            response.read()
        kept[0].run(way, url, ASKED)
    assert (len(purse.calls), len(standin.requests)) == (2, 1)


@pytest.mark.parametrize("library", ["requests", "urllib"])
def test_results_of_a_batch_are_priced(library: str, standin: StandIn) -> None:
    url = standin.url + "/v1/messages/batches"

    def get(url: str, body: Any = None) -> bytes:
        if library == "requests":
            way = requests.get if body is None else requests.post
            return bytes(way(url, json=body, headers=HEADERS).content)
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(url, data, HEADERS)) as response:
            return bytes(response.read())

    with capturing() as purse:
        made = json.loads(get(url, {"requests": [{"custom_id": "a", "params": ASKED}]}))
        get(f"{url}/{made['id']}")
        get(f"{url}/{made['id']}/results")
    assert purse.call.usage.input_tokens > 0
