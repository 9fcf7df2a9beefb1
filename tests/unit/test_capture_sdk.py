"""Everything the SDK does, seen at the seam: against mocks, and against the stand-in's sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextvars import copy_context
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import anyio
import httpcore  # noqa: F401 - before a run inside a test imports it, which would be a second copy
import httpcore2  # noqa: F401
import httpx2
import pytest
import vcr  # type: ignore[import-untyped]
import yaml
from capture_kit import (
    ASKED,
    FINAL,
    JSON_BODY,
    LIBRARIES,
    MESSAGE,
    SSE_BODY,
    START,
    STOP,
    TEXT,
    USAGE,
    Purse,
    capturing,
    event,
    respond,
)
from msgspec.structs import replace
from pydantic import BaseModel
from standin import StandIn, Step, fault, rate_limited

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call, price
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.message import Answer

BILLED = Usage(input_tokens=25, output_tokens=11)
WHOLE = respond(httpx2, JSON_BODY, kind="application/json")
STREAMED = respond(httpx2, START, TEXT, FINAL, STOP)


def sdk(handler: Callable[[Any], Any] = WHOLE, **options: Any) -> anthropic.Anthropic:
    http_client = httpx2.Client(transport=httpx2.MockTransport(handler))
    return anthropic.Anthropic(api_key="none", http_client=http_client, **options)


def async_sdk(handler: Callable[[Any], Any] = WHOLE) -> anthropic.AsyncAnthropic:
    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    return anthropic.AsyncAnthropic(api_key="none", http_client=http_client)


def consume_stream() -> None:
    with sdk(STREAMED).messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == "Hello there"
        assert stream.get_final_message().usage.output_tokens == 11


def consume_streaming_response(handler: Callable[[Any], Any], **more: Any) -> None:
    with sdk(handler).messages.with_streaming_response.create(**ASKED, **more) as response:
        assert response.read() in (JSON_BODY, SSE_BODY)


WAYS: dict[str, Callable[[], object]] = {
    "create": lambda: sdk().messages.create(**ASKED),
    "create(stream=True)": lambda: [*sdk(STREAMED).messages.create(**ASKED, stream=True)],
    "stream": consume_stream,
    "with_raw_response": lambda: sdk().messages.with_raw_response.create(**ASKED).parse(),
    "with_streaming_response, JSON": lambda: consume_streaming_response(WHOLE),
    "with_streaming_response, events": lambda: consume_streaming_response(STREAMED, stream=True),
    "beta": lambda: sdk().beta.messages.create(**ASKED, betas=["b-2026-01-01"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_ask_is_one_call(way: str) -> None:
    with capturing() as purse:
        WAYS[way]()
    (request,) = purse.seen
    assert (purse.call.usage, purse.call.caveats, purse.call.attempts) == (BILLED, (), 1)
    assert request.betas == (("b-2026-01-01",) if way == "beta" else ())
    assert purse.call.stream is ("stream" in (request.payload or {}))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_way_to_ask_asynchronously_is_one_call(backend: str) -> None:
    async def main() -> None:
        await async_sdk().messages.create(**ASKED)
        async for _ in await async_sdk(STREAMED).messages.create(**ASKED, stream=True):
            pass
        async with async_sdk(STREAMED).messages.stream(**ASKED) as stream:
            assert (await stream.get_final_message()).usage.output_tokens == 11
        raw = await async_sdk().messages.with_raw_response.create(**ASKED)
        await raw.parse()
        ask = async_sdk().messages.with_streaming_response.create(**ASKED)
        async with ask as response:
            await response.read()

    with capturing() as purse:
        anyio.run(main, backend=backend)
    assert [call.usage for call in purse.calls] == [BILLED] * 5


def test_parsed_output_is_a_call() -> None:
    class Greeting(BaseModel):
        text: str

    content = [{"type": "text", "text": '{"text": "Hi"}'}]
    body = json.dumps({**MESSAGE, "content": content}).encode()
    with capturing() as purse:
        client = sdk(respond(httpx2, body, kind="application/json"))
        assert client.messages.parse(**ASKED, output_format=Greeting).parsed_output is not None
    assert purse.call.usage == BILLED


def test_a_tool_runner_is_a_call_for_each_turn() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"place": "here"}}
    turns = [{**MESSAGE, "content": [use], "stop_reason": "tool_use"}, MESSAGE]
    handler = iter(turns)

    @anthropic.beta_tool
    def weather(place: str) -> str:
        """The weather.

        Args:
            place: Where.
        """
        return f"fine {place}"

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=next(handler))

    with capturing() as purse:
        sdk(answer).beta.messages.tool_runner(**ASKED, tools=[weather]).until_done()
    assert [call.usage for call in purse.calls] == [BILLED, BILLED]


def test_a_stream_closed_early_is_truncated() -> None:
    with capturing() as purse, sdk(STREAMED).messages.create(**ASKED, stream=True) as stream:
        next(iter(stream))
    assert purse.call.caveats == ("truncated-stream",)
    assert purse.call.usage == Usage(input_tokens=25, output_tokens=1)


def test_an_error_in_the_middle_of_a_stream_reaches_the_caller_and_truncates() -> None:
    error = event(type="error", error={"type": "overloaded_error", "message": "Overloaded"})
    client = sdk(respond(httpx2, START, TEXT, error))
    with capturing() as purse, pytest.raises(anthropic.APIStatusError):
        [*client.messages.create(**ASKED, stream=True)]
    assert purse.call.caveats == ("truncated-stream",)


# Attempts of one call


_clients: list[anthropic.Anthropic] = []


def quick(api: StandIn, **options: Any) -> anthropic.Anthropic:
    _clients.append(anthropic.Anthropic(base_url=api.url, api_key="none", **options))
    return _clients[-1]


@pytest.fixture(autouse=True)
def _no_socket_left_open() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


def test_refused_attempts_are_free_and_joined_with_the_one_that_was_answered() -> None:
    with StandIn() as api, capturing() as purse:
        api.script(rate_limited(), fault(529))
        quick(api).messages.create(**ASKED)
        purse.capture.settle()
    assert (purse.call.attempts, purse.call.caveats) == (3, ())
    assert purse.call.usage.output_tokens > 0


def test_a_lost_attempt_makes_the_call_a_lower_bound() -> None:
    with StandIn() as api, capturing() as purse:
        api.script(Step(cut_after_bytes=0), fault(500))
        quick(api).messages.create(**ASKED)
        purse.capture.settle()
    assert (purse.call.attempts, purse.call.caveats) == (3, ("lost-answer",))
    assert purse.call.sampling_calls != ()


def test_a_call_that_never_got_an_answer_is_unknown_once() -> None:
    with StandIn() as api, capturing() as purse:
        api.script(*[Step(cut_after_bytes=0)] * 3)
        with pytest.raises(anthropic.APIConnectionError):
            quick(api).messages.create(**ASKED)
        purse.capture.settle()
        purse.capture.settle()
    assert (purse.call.attempts, purse.call.caveats) == (3, ("lost-answer",))
    assert (purse.call.sampling_calls, purse.call.live) == ((), True)


def test_an_answer_that_was_lost_over_aiohttp_is_lost_though_the_sdk_calls_it_a_connect_error() -> (
    None
):
    pytest.importorskip("aiohttp")

    async def send() -> None:
        http_client = anthropic.DefaultAioHttpClient()
        client = anthropic.AsyncAnthropic(
            base_url=api.url, api_key="any", max_retries=0, http_client=http_client
        )
        async with client:
            with pytest.raises(anthropic.APIConnectionError):
                await client.messages.create(**ASKED)

    with StandIn() as api, capturing() as purse:
        api.script(Step(cut_after_bytes=0))
        asyncio.run(send())
        purse.capture.settle()
        assert (purse.call.caveats, purse.call.live) == (("lost-answer",), True)
    with capturing() as purse:
        asyncio.run(send())  # nothing listens there now
        purse.capture.settle()
    assert (purse.calls, len(purse.seen)) == ([], 1)


def test_a_log_in_over_aiohttp_that_is_answered_is_no_lost_answer_of_the_call() -> None:
    aiohttp = pytest.importorskip("aiohttp")

    class LogIn(httpx2.Auth):
        async def async_auth_flow(
            self, request: httpx2.Request
        ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            async with aiohttp.ClientSession() as session, session.get(f"{api.url}/token") as token:
                if token.status != 200:
                    raise LookupError("no token")
            yield request

    async def send() -> None:
        async with anthropic.DefaultAioHttpClient(auth=LogIn()) as client:
            with pytest.raises(LookupError):
                await client.post(f"{api.url}/v1/messages", json=ASKED)

    with StandIn() as api, capturing() as purse:
        asyncio.run(send())
        purse.capture.settle()
    assert purse.seen == []


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
@pytest.mark.parametrize("how", ["time-out", "alarm", "asyncio", "trio"])
def test_a_wait_for_a_socket_that_ends_without_an_answer_is_lost(
    library: ModuleType, how: str
) -> None:
    def send() -> None:
        with library.Client(timeout=0.1 if how == "time-out" else 60) as client:
            client.post(f"{api.url}/v1/messages", json=ASKED)

    def send_alarm() -> None:
        while not api.requests:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    async def send_async() -> None:
        async with library.AsyncClient(timeout=60) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(give_up, tasks.cancel_scope)
            await client.post(f"{api.url}/v1/messages", json=ASKED)
        raise Alarm

    async def give_up(scope: anyio.CancelScope) -> None:
        while not api.requests:
            await anyio.sleep(0.01)
        scope.cancel()

    def ring(*_: object) -> None:
        raise Alarm

    with StandIn() as api, capturing() as purse:
        api.script(Step(until=lambda: False))
        before = signal.signal(signal.SIGALRM, ring)
        thread = threading.Thread(target=send_alarm)
        try:
            if how == "alarm":
                thread.start()
            with pytest.raises((Alarm, library.ReadTimeout)):
                send() if how in ("time-out", "alarm") else anyio.run(send_async, backend=how)
        finally:
            signal.signal(signal.SIGALRM, before)
        purse.capture.settle()
    assert (purse.call.caveats, purse.call.live) == (("lost-answer",), True)


class Alarm(Exception):
    """What a test's own time limit raises, out of whatever is running."""


def test_an_attempt_that_was_lost_before_one_that_was_answered_has_a_bound() -> None:
    with StandIn() as api, capturing() as purse:
        api.script(Step(cut_after_bytes=0), Step(cut_after_bytes=0))
        quick(api).messages.create(**ASKED)
        purse.capture.settle()
    (request,) = purse.seen
    assert (request.attempts, request.lost_attempts) == (3, 2)
    answer = request.answer
    assert answer is not None
    most = ASKED["max_tokens"]

    def priced(answer: Answer, **facts: Any) -> Call:
        return price(answer, shipped_card(), on=date(2026, 11, 22), **facts)

    call = priced(answer, lost_attempts=2, max_tokens=most)
    alone = replace(answer, caveats=())
    (sampling,) = alone.sampling_calls
    longest = replace(sampling, usage=replace(sampling.usage, output_tokens=most))
    usd, lost = priced(alone).usd, priced(replace(alone, sampling_calls=(longest,))).usd
    assert usd is not None
    assert lost is not None
    assert (call.usd, call.usd_low, call.usd_high) == (usd, usd, usd + 2 * lost)
    amounts = Amounts.of([call])
    assert amounts["output_tokens"].high == sampling.usage.output_tokens + 2 * most
    assert amounts["input_tokens"].high == 3 * sampling.usage.prompt_tokens
    # If nothing bounds a reply, nothing bounds the attempt.
    assert priced(answer, lost_attempts=2).usd_high is None


def test_attempts_of_two_calls_that_are_the_same_are_not_mixed() -> None:
    with StandIn() as api, capturing() as purse:
        api.script(Step(cut_after_bytes=0))
        quick(api).messages.create(**ASKED)
        quick(api).messages.create(**ASKED)
        purse.capture.settle()
    assert [(call.attempts, call.caveats) for call in purse.calls] == [
        (2, ("lost-answer",)),
        (1, ()),
    ]


def test_a_call_that_is_refused_for_good_is_nothing() -> None:
    with StandIn() as api, capturing() as purse:
        api.script(*[fault(529)] * 3)
        with pytest.raises(anthropic.APIStatusError):
            quick(api).messages.create(**ASKED)
        purse.capture.settle()
    assert [request.answer for request in purse.seen] == [None] * 3


# Live or not


def test_what_came_over_a_socket_is_live_and_has_its_time() -> None:
    with StandIn() as api, capturing() as purse:
        quick(api).messages.create(**ASKED)
        [*quick(api).messages.create(**ASKED, stream=True)]
    assert [(call.live, call.at) for call in purse.calls] == [(True, "2023-11-14T22:13:20Z")] * 2


def test_asynchronous_sockets_are_live_too() -> None:
    async def main(api: StandIn) -> None:
        async with anthropic.AsyncAnthropic(base_url=api.url, api_key="none") as client:
            await client.messages.create(**ASKED)

    with StandIn() as api, capturing() as purse:
        asyncio.run(main(api))
    assert purse.call.live is True


def test_mocks_and_applications_in_the_process_are_not_live() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": JSON_BODY})

    async def main() -> None:
        client = httpx2.AsyncClient(transport=httpx2.ASGITransport(application))
        await anthropic.AsyncAnthropic(api_key="none", http_client=client).messages.create(**ASKED)

    with capturing() as purse:
        asyncio.run(main())
        sdk().messages.create(**ASKED)
    assert [call.live for call in purse.calls] == [False, False]
    assert [call.at for call in purse.calls] == [None, None]


def test_a_transport_of_ones_own_is_unknown_unless_it_passes_the_socket_on() -> None:
    class Canned(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, content=JSON_BODY)

    class Logging(httpx2.BaseTransport):
        inner = httpx2.HTTPTransport()

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return self.inner.handle_request(request)

        def close(self) -> None:
            self.inner.close()

    with StandIn() as api, capturing() as purse:
        for transport in (Canned(), Logging()):
            with httpx2.Client(transport=transport) as http_client:
                quick(api, http_client=http_client).messages.create(**ASKED)
    assert [call.live for call in purse.calls] == [None, True]


# Batches

PARAMS = {**ASKED, "model": "claude-haiku-4-5"}
REQUESTS = [{"custom_id": name, "params": PARAMS} for name in ("a", "b", "c")]


def batch_api(*lines: dict[str, Any]) -> Callable[[httpx2.Request], httpx2.Response]:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            return httpx2.Response(200, json=batch())
        if request.url.path.endswith("/results"):
            body = "".join(json.dumps(line) + "\n" for line in lines).encode()
            kind = "application/x-jsonl"
            return respond(httpx2, body[:50], body[50:], kind=kind)(request)  # type: ignore[no-any-return]
        return httpx2.Response(200, json=batch())

    return answer


def batch() -> dict[str, Any]:
    return {
        "id": "msgbatch_1",
        "type": "message_batch",
        "processing_status": "ended",
        "results_url": "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results",
    }


def result(custom_id: str, kind: str = "succeeded") -> dict[str, Any]:
    outcome: dict[str, Any] = {"type": kind}
    if kind == "succeeded":
        outcome["message"] = {**MESSAGE, "usage": {**USAGE, "service_tier": "batch"}}
    return {"custom_id": custom_id, "result": outcome}


def test_a_batch_is_settled_by_its_results_once() -> None:
    client = sdk(batch_api(result("b"), result("a"), result("c", "errored")))
    with capturing() as purse:
        created = client.messages.batches.create(requests=REQUESTS)  # type: ignore[arg-type]
        for _ in range(2):
            assert len([*client.messages.batches.results(created.id)]) == 3
        purse.capture.settle()
    assert [(call.usage, call.caveats) for call in purse.calls] == [(BILLED, ())] * 2
    assert {call.context.service_tier for call in purse.calls} == {"batch"}
    assert all((request.payload or {})["model"] == PARAMS["model"] for request in purse.seen)


def test_a_batch_without_results_is_one_unknown_call_for_each_request() -> None:
    with capturing() as purse:
        sdk(batch_api()).messages.batches.create(requests=REQUESTS)  # type: ignore[arg-type]
        assert purse.calls == []
        purse.capture.settle()
        purse.capture.settle()
    assert [call.caveats for call in purse.calls] == [("open-batch",)] * 3
    assert {call.model for call in purse.calls} == {"claude-haiku-4-5-20251001"}


def test_a_batch_that_was_sent_twice_has_requests_that_were_sent_once() -> None:
    api, failures = batch_api(result("a")), iter([True])

    def answer(request: httpx2.Request) -> httpx2.Response:
        busy = request.method == "POST" and next(failures, False)
        return httpx2.Response(529) if busy else api(request)

    with capturing() as purse:
        client = sdk(answer, max_retries=1)
        client.messages.batches.create(requests=REQUESTS)  # type: ignore[arg-type]
        [*client.messages.batches.results("msgbatch_1")]
        purse.capture.settle()
    assert [call.attempts for call in purse.calls] == [1, 1, 1]


@pytest.mark.parametrize("are_read", [True, False])
def test_a_batch_whose_first_creation_got_no_answer_may_exist_twice(are_read: bool) -> None:
    unusable = {"custom_id": "b", "params": {**PARAMS, "max_tokens": -1}}
    with StandIn() as api, capturing() as purse:
        api.script(Step(cut_after_bytes=0))
        client = quick(api)
        created = client.messages.batches.create(requests=[REQUESTS[0], unusable])  # type: ignore[list-item]
        if are_read:
            assert len([*client.messages.batches.results(created.id)]) == 2
        purse.capture.settle()
    assert [call.attempts for call in purse.calls] == [2, 2]
    assert [each.lost_attempts for each in purse.seen] == [1, 1]
    assert all("lost-answer" in call.caveats for call in purse.calls)
    read = [call.usage.output_tokens > 0 for call in purse.calls]
    assert sorted(read) == [False, are_read]


def test_results_of_a_batch_that_are_asked_for_twice_are_billed_once() -> None:
    with StandIn() as api, capturing() as purse:
        client = quick(api)
        created = client.messages.batches.create(requests=REQUESTS[:1])  # type: ignore[arg-type]
        api.script(Step(), Step(cut_after_bytes=0))
        [*client.messages.batches.results(created.id)]
        purse.capture.settle()
    assert (purse.call.attempts, purse.call.caveats) == (1, ())


def test_results_that_come_after_the_verdict_replace_what_was_told_for_their_owner() -> None:
    client = sdk(batch_api(result("a"), result("b", "expired")))
    with capturing() as purse:
        purse.now = "creator"
        client.messages.batches.create(requests=REQUESTS)  # type: ignore[arg-type]
        purse.capture.settle(lambda owner: owner == "creator")
        reported = [*purse.seen]
        purse.now = "reader"
        [*client.messages.batches.results("msgbatch_1")]
        settled, free = sorted(purse.seen[3:], key=lambda each: each.answer is None)
    assert (settled.owner, free.owner) == ("creator", "creator")
    assert settled.supersedes is reported[0]
    assert settled.answer is not None
    assert settled.answer.usage == BILLED
    assert free.supersedes is reported[1]
    assert free.answer is None


def test_results_of_a_batch_created_elsewhere_belong_to_who_reads_them_once() -> None:
    client = sdk(batch_api(result("a"), result("b", "canceled")))
    with capturing() as purse:
        for reader in ("one", "two"):
            purse.now = reader
            for _ in range(2):
                [*client.messages.batches.results("msgbatch_1")]
    assert [each.owner for each in purse.seen if each.answer] == ["one", "two"]


@pytest.mark.parametrize("body", [b"", b"<html></html>", json.dumps(result("a"))[:99].encode()])
def test_results_that_cannot_be_read_are_of_unknown_cost(body: bytes) -> None:
    url = "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, content=body))
    with capturing() as purse:
        httpx2.Client(transport=answer).get(url)
    assert (purse.call.usd, purse.call.caveats[0].name) == (None, "unreadable-response")


def test_results_that_are_left_early_count_as_far_as_they_were_read() -> None:
    url = "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"
    first, second = (json.dumps(result(name)).encode() for name in "ab")
    pieces = (first + b"\n" + second[:50], second[50:])
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, content=iter(pieces)))
    with capturing() as purse, httpx2.Client(transport=answer).stream("GET", url) as response:
        next(response.iter_raw())
    assert (purse.call.usage, purse.call.caveats) == (BILLED, ())


def test_results_that_were_bought_in_this_run_cost_nothing_whoever_else_reads_them() -> None:
    with StandIn() as api, capturing() as purse:
        client = quick(api)
        created = client.messages.batches.create(requests=REQUESTS)  # type: ignore[arg-type]
        for reader in ("one", "two"):
            purse.now = reader
            assert len([*client.messages.batches.results(created.id)]) == 3
    assert [each.owner for each in purse.seen if each.answer] == ["the test"] * 3


def test_a_batch_that_is_created_again_is_open_again() -> None:
    client = sdk(batch_api(result("a")))
    with capturing() as purse:
        for _ in range(2):
            client.messages.batches.create(requests=REQUESTS[:1])  # type: ignore[arg-type]
            [*client.messages.batches.results("msgbatch_1")]
        purse.capture.settle()
    assert [call.usage for call in purse.calls] == [BILLED, BILLED]


def test_results_left_early_settle_what_was_read() -> None:
    client = sdk(batch_api(result("a"), result("b")))
    with capturing() as purse:
        client.messages.batches.create(requests=REQUESTS[:2])  # type: ignore[arg-type]
        results = client.messages.batches.results("msgbatch_1")
        assert next(iter(results)).custom_id == "a"
        purse.capture.settle()
        assert {call.caveats for call in purse.calls} == {("open-batch",)}
        results.http_response.close()
        purse.capture.settle()
    # What has passed has passed: the second line came in the same piece.
    assert BILLED in [call.usage for call in purse.calls]


def test_a_batch_whose_requests_nobody_could_read_stays_open() -> None:
    class Streaming(httpx2.BaseTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, json=batch())

    def body() -> Iterator[bytes]:
        yield json.dumps({"requests": REQUESTS}).encode()

    with capturing() as purse:
        client = httpx2.Client(transport=Streaming())
        client.post("https://api.anthropic.com/v1/messages/batches", content=body())
        purse.capture.settle()
    assert (purse.call.model, purse.call.caveats) == ("unknown", ("open-batch",))


def test_odd_requests_and_results_of_a_batch_are_survived() -> None:
    odd = {"custom_id": "a", "result": {"type": "succeeded", "message": {"usage": {}}}}
    client = httpx2.Client(transport=httpx2.MockTransport(batch_api(odd)))
    url = "https://api.anthropic.com/v1/messages/batches"
    with capturing() as purse:
        client.post(url, json={"requests": [None, {}, {"custom_id": "a", "params": PARAMS}]})
        client.get(f"{url}/msgbatch_1/results")
        purse.capture.settle()
    assert purse.call.caveats[0].startswith("unreadable-response: ")


@pytest.mark.parametrize("recorded", [None, "a", "other"])
def test_a_replayed_batch_is_compared_request_by_request(
    tmp_path: Path, recorded: str | None
) -> None:
    kept = [{"custom_id": recorded, "params": {**PARAMS, "max_tokens": 1}}] if recorded else None
    request = replayed_batch(tmp_path, kept)
    assert request.replay is not None
    body = {**PARAMS, "max_tokens": 1} if recorded == "a" else None
    assert (request.replay.body, request.payload) == (body, PARAMS)
    assert (request.replay.obstacle is None) is (recorded == "a")


@pytest.mark.parametrize("names", [(), ("context-1m-2025-08-07",)])
def test_each_request_of_a_replayed_batch_was_recorded_with_the_betas_of_its_batch(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    headers = {"anthropic-version": ["2023-06-01"], "anthropic-beta": [",".join(names)]}
    kept = [{"custom_id": "a", "params": {**PARAMS, "max_tokens": 1}}]
    request = replayed_batch(tmp_path, kept, headers)
    assert request.replay is not None
    assert request.replay.betas == names


def replayed_batch(
    tmp_path: Path, kept: list[dict[str, Any]] | None, headers: dict[str, list[str]] | None = None
) -> CapturedRequest:
    """Send the first of `REQUESTS` as a batch, of which a cassette has kept other requests."""
    interaction = {
        "request": {
            "method": "POST",
            "uri": "https://api.anthropic.com/v1/messages/batches",
            "headers": headers or {},
            "body": json.dumps({"requests": kept}) if kept else None,
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {},
            "body": {"string": json.dumps(batch())},
        },
    }
    path = tmp_path / "batch.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "interactions": [interaction]}))
    with (
        capturing() as purse,
        vcr.use_cassette(str(path), record_mode="none"),
        anthropic.Anthropic(api_key="none") as client,
    ):
        client.messages.batches.create(requests=REQUESTS[:1])  # type: ignore[arg-type]
        purse.capture.settle()
    (request,) = purse.seen
    return request


def test_the_stand_in_s_batches_over_sockets() -> None:
    with StandIn() as api, capturing() as purse:
        client = quick(api)
        created = client.messages.batches.create(requests=REQUESTS)  # type: ignore[arg-type]
        found = [*client.messages.batches.results(created.id)]
        purse.capture.settle()
    assert len(found) == 3
    assert [(call.live, call.at is None) for call in purse.calls] == [(True, False)] * 3
    assert all(call.usage.output_tokens for call in purse.calls)


# Other platforms and counts


def test_bedrock_vertex_and_foundry_name_model_and_region_in_the_url() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=JSON_BODY)

    def http_client() -> httpx2.Client:
        return httpx2.Client(transport=httpx2.MockTransport(answer))

    bedrock = anthropic.AnthropicBedrock(
        aws_access_key="none",
        aws_secret_key="none",
        aws_region="eu-west-1",
        http_client=http_client(),
    )
    vertex = anthropic.AnthropicVertex(
        region="europe-west1", project_id="p", access_token="none", http_client=http_client()
    )
    google = anthropic.AnthropicGoogleCloud(
        project="p",
        workspace_id="w",
        location="us-east5",
        token_provider=lambda: "none",
        http_client=http_client(),
    )
    foundry = anthropic.AnthropicFoundry(resource="r", api_key="none", http_client=http_client())
    with capturing() as purse:
        for client, model in (
            (bedrock, "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"),
            (bedrock, "global.anthropic.claude-sonnet-4-5-20250929-v1:0"),
            (vertex, "claude-opus-4-7"),
            (google, "claude-opus-4-7"),
            (google.with_options(location="global"), "claude-opus-4-7"),
            (foundry, "claude-opus-4-7"),
        ):
            client.messages.create(**{**ASKED, "model": model})
    assert [call.context.platform for call in purse.calls] == [
        "bedrock-regional",
        "bedrock",
        "vertex-regional",
        "vertex-regional",
        "vertex",
        "foundry",
    ]
    assert purse.seen[2].endpoint.model == "claude-opus-4-7"


def test_vertex_counts_at_a_model_of_their_own_and_costs_nothing() -> None:
    http_client = httpx2.Client(
        transport=httpx2.MockTransport(
            lambda request: httpx2.Response(200, json={"input_tokens": 3})
        )
    )
    vertex = anthropic.AnthropicVertex(
        region="global", project_id="p", access_token="none", http_client=http_client
    )
    with capturing() as purse:
        vertex.messages.count_tokens(model=ASKED["model"], messages=ASKED["messages"])
        asked = {"model": ASKED["model"], "messages": ASKED["messages"]}
        sdk(lambda request: httpx2.Response(200, json={"input_tokens": 3})).messages.count_tokens(
            **asked
        )
    assert [(one.endpoint.kind, one.answer) for one in purse.seen] == [("count_tokens", None)] * 2


def test_counts_of_our_own_are_not_seen() -> None:
    from pytest_llmcost.counting.own_requests import OWN_REQUEST

    def ask() -> None:
        OWN_REQUEST.set(True)
        sdk().messages.create(**ASKED)

    with capturing() as purse:
        copy_context().run(ask)
    assert purse.seen == []


def test_a_client_of_module_scope_serves_whoever_is_running() -> None:
    client = sdk()
    with capturing() as purse:
        calls: list[Call] = []
        for name in ("one", "two"):
            purse.now = name
            client.messages.create(**ASKED)
            calls.append(purse.calls[-1])
    assert purse.owners == ["one", "two"]
    assert isinstance(purse, Purse)
