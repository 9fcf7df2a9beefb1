"""Usage that no request can have is unknown, never $0, wherever the numbers come from."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from capture_kit import LIBRARIES, Purse, capturing, client_of, respond
from one_message import read_message
from sample_reports import a_test, make_call, make_report

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.call import price as price_answer
from pytest_llmcost.cli.main import main
from pytest_llmcost.errors import LedgerError, UsageDataError
from pytest_llmcost.ledger.ledger import PayloadFacts, parse_ledger, render_json
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.declared import read_declared
from pytest_llmcost.responses.endpoints import recognise
from pytest_llmcost.responses.message import Answer, read_answer
from pytest_llmcost.responses.stream import Reader

MODEL = "claude-opus-4-7"
ON = date(2026, 11, 22)
FREE = Decimal(0)
URL = "https://api.anthropic.com/v1/messages"
COMPACTION = {"type": "compaction", "input_tokens": 1_000, "output_tokens": 10}
ADVISOR = {
    "type": "advisor_message", "model": MODEL, "input_tokens": 1_000, "output_tokens": 10,
}  # fmt: skip


def usage(tokens: object = 0, output: object = 0, **more: object) -> dict[str, Any]:
    return {"input_tokens": tokens, "output_tokens": output, **more}


def message(stated: dict[str, Any], **more: Any) -> dict[str, Any]:
    text = {"type": "text", "text": "Here you are."}
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL,
        "content": [text], "stop_reason": "end_turn", "usage": stated, **more,
    }  # fmt: skip


IMPOSSIBLE = {
    "zeros": usage(),
    "zeros-everywhere": usage(
        cache_creation_input_tokens=0,
        cache_read_input_tokens=0,
        cache_creation={"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        server_tool_use={"web_search_requests": 0},
        iterations=[],
    ),
    "no-prompt": usage(0, 503),
    "searches-alone": usage(server_tool_use={"web_search_requests": 2}),
    "an-advisor-beside-zeros": usage(iterations=[ADVISOR]),
    "zeros-in-iterations": usage(iterations=[usage(type="message")]),
    "a-compaction-of-zeros": usage(iterations=[usage(type="compaction")]),
    "a-compaction-without-a-prompt": usage(iterations=[usage(0, 9, type="compaction")]),
    "an-advisor-without-a-prompt": usage(5, 5, iterations=[{**ADVISOR, "input_tokens": 0}]),
    "a-pass-without-a-prompt": usage(5, 5, iterations=[usage(5, 2), usage(0, 3)]),
    "negative": usage(-7, 5),
    "true": usage(True, 5),
    "a-fraction": usage(7.5, 5),
    "absurd": usage(10**30, 5),
    "absurd-output": usage(5, 10**12),
    "absurd-cache": usage(5, 5, cache_read_input_tokens=10**12),
}  # fmt: skip
POSSIBLE = {
    "an-empty-answer": (usage(100, 0), "0.0005"),
    "an-answer-of-one-token": (usage(100, 1), "0.000525"),
    "a-prompt-from-the-cache-alone": (usage(0, 1, cache_read_input_tokens=1_000), "0.000525"),
    "a-prompt-written-to-the-cache": (usage(0, 0, cache_creation_input_tokens=100), "0.000625"),
    "a-compaction-on-demand": (usage(0, 0, iterations=[COMPACTION]), "0.00525"),
}
each_impossible = pytest.mark.parametrize("stated", IMPOSSIBLE.values(), ids=IMPOSSIBLE)


def price(answer: Answer, on: date = ON) -> Call:
    return price_answer(answer, shipped_card(), on=on)


def events(start: dict[str, Any], *ends: dict[str, Any], content: Any = ()) -> bytes:
    opening = message(start, content=list(content), stop_reason=None)
    sent: list[dict[str, Any]] = [{"type": "message_start", "message": opening}]
    sent += [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": end}
        for end in ends
    ]
    sent.append({"type": "message_stop"})
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in sent)


def read_stream(body: bytes) -> Answer:
    reader = Reader()
    reader.feed(body)
    reader.close()
    endpoint = recognise("POST", URL)
    assert endpoint is not None
    return read_answer(reader.messages, endpoint=endpoint, payload=None)


@each_impossible
def test_in_a_response_it_is_an_error(stated: dict[str, Any]) -> None:
    with pytest.raises(UsageDataError) as caught:
        read_message(message(stated))
    assert caught.value.path.startswith("usage")


@pytest.mark.parametrize(("stated", "usd"), POSSIBLE.values(), ids=POSSIBLE)
def test_what_a_request_can_have_keeps_its_price(stated: dict[str, Any], usd: str) -> None:
    call = price(read_message(message(stated)))
    assert (call.usd, call.usd_high, call.caveats) == (Decimal(usd), Decimal(usd), ())


def test_a_refusal_that_states_nothing_is_free_where_refusals_are() -> None:
    silent = message(usage(), content=[], stop_reason="refusal")
    call = read_message(silent)
    assert (price(call).usd, price(call).usd_high) == (FREE, FREE)
    call = read_message({**silent, "stop_details": {"category": "bio"}})
    assert (price(call).usd_high, len(price(call).caveats)) == (None, 1)
    assert price(call, date(2026, 9, 1)).usd_high == 0


# Source: recorded traffic of anthropics/anthropic-sdk-python and vercel/ai.


RESUMED = {
    "type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {},
    "caller": {"type": "code_execution_20260120", "tool_id": "srvtoolu_1"},
}  # fmt: skip


def test_code_that_runs_on_and_calls_a_tool_samples_nothing() -> None:
    call = price(read_message(message(usage(), content=[RESUMED], stop_reason="tool_use")))
    assert (call.usd, call.usd_high, call.caveats) == (FREE, FREE, ())
    assert [sampling.kind for sampling in call.sampling_calls] == ["resumed"]
    streamed = price(read_stream(events(usage(), usage(), content=[RESUMED])))
    assert (streamed.usd, streamed.usd_high) == (FREE, FREE)
    report = make_report({a_test("t.py::test"): [call]})
    assert parse_ledger(render_json(report), "x") == report


@pytest.mark.parametrize(
    "more", [{"caller": {"type": "direct"}}, {"caller": None}, {"type": "text", "text": "a"}]
)
def test_nothing_else_may_go_without_a_prompt(more: dict[str, Any]) -> None:
    with pytest.raises(UsageDataError):
        read_message(message(usage(), content=[RESUMED, {**RESUMED, **more}]))
    with pytest.raises(UsageDataError):
        read_message(message(usage(0, 9), content=[RESUMED]))
    with pytest.raises(UsageDataError):
        read_message(message(usage(), content=[]))


@each_impossible
def test_at_the_end_of_a_stream_it_is_an_error(stated: dict[str, Any]) -> None:
    with pytest.raises(UsageDataError):
        read_stream(events(usage(0, 1), stated))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (usage(2_095, 1), usage(0, 503)),
        (usage(2_095, 1, cache_read_input_tokens=8_000), usage(0, 503)),
        (usage(3, 1, cache_read_input_tokens=8_000), usage(3, 9, cache_read_input_tokens=0)),
        (
            usage(3, 1, cache_creation_input_tokens=8_000),
            usage(3, 9, cache_creation_input_tokens=0),
        ),
    ],
)
def test_an_input_restated_as_0_is_an_error(start: dict[str, Any], end: dict[str, Any]) -> None:
    with pytest.raises(UsageDataError, match="restated as 0"):
        read_stream(events(start, end))
    again = {**end, **start, "output_tokens": 503}
    assert read_stream(events(start, end, again)).usage.output_tokens == 503


def test_an_input_that_a_bridge_states_at_the_end_alone_counts() -> None:
    assert read_stream(events(usage(0, 0), usage(2_095, 503))).usage.prompt_tokens == 2_095


def test_a_compaction_may_leave_nothing_of_a_streams_input() -> None:
    call = price(read_stream(events(usage(60_000, 1), usage(0, 0, iterations=[COMPACTION]))))
    assert (call.usd, call.usd_high) == (Decimal("0.00525"), Decimal("0.00525"))


def test_a_stream_that_breaks_off_before_it_states_a_prompt_has_no_price() -> None:
    with pytest.raises(UsageDataError):
        read_stream(events(usage(0, 0)))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
@each_impossible
def test_in_a_captured_answer_it_is_a_call_without_a_price(
    library: Any, stated: dict[str, Any]
) -> None:
    def answer(request: Any) -> Any:
        return library.Response(200, json=message(stated))

    with capturing() as purse, library.Client(transport=library.MockTransport(answer)) as client:
        asked = {"model": MODEL, "max_tokens": 9, "messages": []}
        client.post(URL, json=asked, headers={"anthropic-version": "2023-06-01"})
    assert_unknown(purse)


def assert_unknown(purse: Purse) -> None:
    call = purse.call
    assert (call.usd, call.usd_low, call.usd_high) == (None, FREE, None)
    assert [each.partition(":")[0] for each in call.caveats] == ["unreadable-response"]


@each_impossible
def test_in_a_batchs_result_it_is_a_call_without_a_price(stated: dict[str, Any]) -> None:
    line = {"custom_id": "a", "result": {"type": "succeeded", "message": message(stated)}}
    results = respond(httpx2, json.dumps(line).encode(), kind="application/x-jsonl")
    with capturing() as purse:
        client_of(httpx2, results).get(f"{URL}/batches/msgbatch_1/results")
    (request,) = purse.seen
    assert request.answer is not None
    call = price(request.answer)
    assert (call.usd, call.usd_high) == (None, None)


@each_impossible
def test_stated_by_a_test_it_is_refused_unless_a_price_is_stated_too(
    stated: dict[str, Any],
) -> None:
    for response in (message(stated), {**stated, "model": MODEL}):
        with pytest.raises(UsageDataError):
            read_declared(response)
    call = price(read_declared(message(stated), usd=Decimal("0.5")))
    assert (call.usd, call.usd_high, call.sampling_calls) == (Decimal("0.5"), Decimal("0.5"), ())
    assert price(read_declared({"total_cost_usd": 0, "usage": usage()})).usd == 0


@each_impossible
@pytest.mark.parametrize("form", ["m.json", "b.jsonl"])
def test_in_a_file_to_be_priced_it_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: dict[str, Any], form: str
) -> None:
    body = message(stated)
    if form == "b.jsonl":
        body = {"custom_id": "a", "result": {"type": "succeeded", "message": body}}
    (tmp_path / form).write_text(json.dumps(body))
    assert main(["price", str(tmp_path / form), "--on", "2026-11-22", "--format", "json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert "usage" in err


@pytest.mark.parametrize(
    "sampling",
    [
        {"usage": Usage(), "usd": Decimal(0)},
        {"usage": Usage(output_tokens=503), "usd": Decimal("0.01")},
        {"usage": Usage(web_search_requests=1), "usd": Decimal("0.01")},
        {"usage": Usage(output_tokens=9), "usd": Decimal(0), "kind": "declined"},
        {"usage": Usage(output_tokens=9), "usd": Decimal(0), "kind": "resumed"},
        {"usage": Usage(input_tokens=10**12), "usd": Decimal(1)},
    ],
)
def test_in_a_ledger_it_is_damage(sampling: dict[str, Any]) -> None:
    call = make_call("1", sampling_calls=(PricedSamplingCall(model=MODEL, **sampling),))
    written = render_json(make_report({a_test("t.py::test"): [call]}))
    with pytest.raises(LedgerError, match=r"cost\.json: is damaged"):
        parse_ledger(written, "cost.json")


@pytest.mark.parametrize("tokens", [0, -7, True, 10**30, 7.5])
def test_in_a_ledgers_counts_and_usage_it_is_damage(tokens: Any) -> None:
    counted = PayloadFacts(model="m", counts={"n": 1})
    call = make_call("1", fingerprint="1:a")
    report = make_report({a_test("t.py::test"): [call]}, payloads={"1:a": counted})
    counts, usage = json.loads(render_json(report)), json.loads(render_json(report))
    counts["payloads"]["1:a"]["counts"]["n"] = tokens
    usage["tests"][0]["calls"][0]["sampling_calls"][0]["usage"]["input_tokens"] = tokens
    for data in (counts, usage):
        with pytest.raises(LedgerError, match=r"cost\.json: is "):
            parse_ledger(json.dumps(data).encode(), "cost.json")
