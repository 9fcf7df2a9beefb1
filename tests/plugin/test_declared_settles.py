"""What a test declares takes the place of the call that it settles, and of no other."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Project
from standin import StandIn
from standin.server import Step

APP = """
    import json
    import httpx
    from pytest_llmcost import max_cost

    URL = "https://api.anthropic.com/v1/messages"
    MODEL = "claude-sonnet-4-6"
    REGIONAL = ("https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/"
                f"publishers/anthropic/models/{MODEL}:rawPredict")

    def reply(input_tokens, output_tokens, id="msg_1"):
        return {"id": id, "type": "message", "role": "assistant", "model": MODEL,
                "content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn",
                "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens}}

    ASKED = {"model": MODEL, "max_tokens": 10_000, "messages": [{"role": "user", "content": "hi"}]}
    HAIKU = "claude-haiku-4-5"
    NAMELESS = {"ok": True}

    def call(url=URL, asked={}, **answer):
        answer = httpx.Response(200, **answer)
        with httpx.Client(transport=httpx.MockTransport(lambda request: answer)) as client:
            client.post(url, json={**ASKED, **asked})

    def under_way(state, *more, before=None, first=None):
        '''A stream of which a test states something when it has begun, or before that.'''
        message = {**reply(1000, 1), "content": [], "stop_reason": None}
        events = [*([first] if first else []), {"type": "message_start", "message": message}, *more]
        pieces = (f"event: {each['type']}\\ndata: {json.dumps(each)}\\n\\n" for each in events)
        def answer(request):
            before and before()
            return httpx.Response(200, headers={"content-type": "text/event-stream"},
                                  content=map(str.encode, pieces))
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            with client.stream("POST", URL, json=ASKED) as response:
                for at, _ in enumerate(response.iter_bytes()):
                    at or state()

    END = ({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 100}},
           {"type": "message_stop"})

    def cut(id="msg_1", usage={}, **request):
        '''A stream that ends after its first event.'''
        message = {**reply(1000, 1, id), "content": [], "stop_reason": None}
        message["usage"] |= usage
        event = json.dumps({"type": "message_start", "message": message})
        call(headers={"content-type": "text/event-stream"},
             content=f"event: message_start\\ndata: {event}\\n\\n".encode(), **request)

    def unreadable(id="msg_1", **request):
        '''An answer that does not say what it used.'''
        body = reply(1000, 100, id)
        del body["usage"]
        call(json=body, **request)

    def disagreeing():
        '''An answer whose passes add up to more than its usage.'''
        body = reply(1000, 100)
        passes = [{"type": "message", "input_tokens": 1000, "output_tokens": 150}]
        call(json={**body, "usage": {**body["usage"], "iterations": passes}})

    REFUSAL = {**reply(1000, 100), "content": [], "stop_reason": "refusal"}
    USAGE = {"input_tokens": 1000, "output_tokens": 100}
    OTHER = {"input_tokens": 500, "output_tokens": 0}
"""
SETTLED: dict[str, tuple[str, int, str]] = {
    "a cut stream by its message": ("cut(); llmcost.record(reply(1000, 50))", 1, "0.00375"),
    "an unreadable answer by its message": (
        "unreadable(); llmcost.record(reply(1000, 100))",
        1,
        "0.0045",
    ),
    "the only doubtful call by a usage": (
        "unreadable(); llmcost.record(USAGE, model=MODEL)",
        1,
        "0.0045",
    ),
    "a cut stream by a usage": ("cut(); llmcost.record(USAGE, model=MODEL)", 1, "0.0045"),
    # A tenth more.
    "a cut stream of a regional endpoint by its message": (
        "cut(url=REGIONAL); llmcost.record(reply(1000, 50))",
        1,
        "0.004125",
    ),
    "an unreadable answer of a regional endpoint by a usage": (
        "unreadable(url=REGIONAL); llmcost.record(USAGE, model=MODEL)",
        1,
        "0.00495",
    ),
    "a usage that contradicts itself by the right one": (
        "disagreeing(); llmcost.record(USAGE, model=MODEL)",
        1,
        "0.0045",
    ),
    "the only doubtful of several": (
        "call(json=reply(2000, 0, 'msg_0')); unreadable(); llmcost.record(USAGE, model=MODEL)",
        2,
        "0.0105",
    ),
    "two of them by their messages": (
        "cut('msg_1'); unreadable('msg_2');"
        " llmcost.record(reply(1000, 100, 'msg_2')); llmcost.record(reply(1000, 50, 'msg_1'))",
        2,
        "0.00825",
    ),
    "a stream that is left after that by its message": (
        "under_way(lambda: llmcost.record(reply(1000, 100)))",
        1,
        "0.0045",
    ),
    "a stream that says the same later": (
        "under_way(lambda: llmcost.record(reply(1000, 100)), *END)",
        1,
        "0.0045",
    ),
    "a stream that goes on, by its message so far": (
        "under_way(lambda: llmcost.record(reply(1000, 1)), *END)",
        1,
        "0.0045",
    ),
    "another call than the stream that is under way": (
        "under_way(lambda: llmcost.record(OTHER, model=MODEL), *END)",
        2,
        "0.006",
    ),
    "another call than the request that is under way": (
        "under_way(int, *END, before=lambda: llmcost.record(OTHER, model=MODEL))",
        2,
        "0.006",
    ),
    "two of them by a message and by a usage": (
        "cut('msg_1'); unreadable('msg_2');"
        " llmcost.record(reply(1000, 50, 'msg_1')); llmcost.record(USAGE, model=MODEL)",
        2,
        "0.00825",
    ),
    "an answer without an id by a message": (
        "call(json=NAMELESS); llmcost.record(reply(1000, 100))",
        1,
        "0.0045",
    ),
    "an answer without an id by a message and its price": (
        "call(json=NAMELESS); llmcost.record(reply(1000, 100), usd='0.01')",
        1,
        "0.01",
    ),
    "an answer without an id by a message whose blocks can be read once": (
        "call(json=NAMELESS); llmcost.record({**reply(1000, 100), 'stop_reason': 'refusal',"
        " 'content': iter(reply(1, 1)['content'])})",
        1,
        "0.0045",
    ),
    "two answers without an id in their order": (
        "call(json=NAMELESS); call(json=NAMELESS);"
        " llmcost.record(reply(1000, 50, 'msg_1')); llmcost.record(reply(1000, 100, 'msg_2'))",
        2,
        "0.00825",
    ),
    "an answer without an id beside one with another, by their messages": (
        "cut('msg_1'); call(json=NAMELESS);"
        " llmcost.record(reply(1000, 100, 'msg_2')); llmcost.record(reply(1000, 50, 'msg_1'))",
        2,
        "0.00825",
    ),
    "two with one id in their order": (
        "cut(); cut(); llmcost.record(reply(1000, 50)); llmcost.record(reply(1000, 100))",
        2,
        "0.00825",
    ),
    "the one whose model it names": (
        "call(json=NAMELESS, asked={'model': HAIKU}); call(json=NAMELESS);"
        " llmcost.record(USAGE, model=MODEL); llmcost.record(USAGE, model=HAIKU)",
        2,
        "0.006",
    ),
    "another spelling of its model": (
        "unreadable(); llmcost.record(USAGE, model='anthropic/claude-sonnet-4-6')",
        1,
        "0.0045",
    ),
    "by the message of a model that it has fallen back to": (
        "unreadable(asked={'fallbacks': [{'model': HAIKU}]});"
        " llmcost.record({**reply(1000, 100), 'model': HAIKU})",
        1,
        "0.0015",
    ),
    "a stream without an id that says later that it was another call": (
        "under_way(lambda: llmcost.record(reply(500, 0, 'msg_2')), *END, first={'type': 'ping'})",
        2,
        "0.006",
    ),
}
KNOWN: dict[str, tuple[str, int, str]] = {
    "its message": ("call(json=reply(1000, 100)); llmcost.record(reply(1000, 100))", 1, "0.0045"),
    "the message of each of two with one id": (
        "call(json=reply(1000, 100)); call(json=reply(1000, 100));"
        " llmcost.record(reply(1000, 100)); llmcost.record(reply(1000, 100))",
        2,
        "0.009",
    ),
    "its message beside a doubtful one": (
        "call(json=NAMELESS); call(json=reply(1000, 100));"
        " llmcost.record(reply(1000, 100)); llmcost.record(reply(1000, 50, 'msg_2'))",
        2,
        "0.00825",
    ),
    "its message twice": (
        "call(json=reply(1000, 100));"
        " llmcost.record(reply(1000, 100)); llmcost.record(reply(1000, 100))",
        1,
        "0.0045",
    ),
    "the message twice of a stream that was cut": (
        "cut(); llmcost.record(reply(1000, 100)); llmcost.record(reply(1000, 100))",
        1,
        "0.0045",
    ),
    "a usage of a stream that was cut and then its message": (
        "cut(); llmcost.record(USAGE, model=MODEL); llmcost.record(reply(1000, 100))",
        1,
        "0.0045",
    ),
    "a message that says something else": (
        "call(json=reply(1000, 100)); llmcost.record(reply(1000, 50))",
        2,
        "0.00825",
    ),
    "its message and what it costs": (
        "call(json=reply(1000, 100)); llmcost.record(reply(1000, 100), usd='0.01')",
        1,
        "0.01",
    ),
    "two messages with one id": (
        "llmcost.record(reply(1000, 100)); llmcost.record(reply(1000, 100))",
        2,
        "0.009",
    ),
}
UNSETTLED: dict[str, tuple[str, int]] = {
    "by the message of another call": ("unreadable(); llmcost.record(reply(9, 9, 'msg_9'))", 2),
    "by a usage that may be either's": (
        "unreadable('msg_1'); unreadable('msg_2'); llmcost.record(USAGE, model=MODEL)",
        3,
    ),
    "by the message of one of two": (
        "unreadable('msg_1'); unreadable('msg_2'); llmcost.record(reply(9, 9, 'msg_9'))",
        3,
    ),
    "by a usage that may be of one with an id or of one without": (
        "cut('msg_1'); call(json=NAMELESS); llmcost.record(USAGE, model=MODEL)",
        3,
    ),
    "by a usage while its stream is under way": (
        "under_way(lambda: llmcost.record(USAGE, model=MODEL))",
        2,
    ),
    "by a usage of another model": ("cut(); llmcost.record(USAGE, model=HAIKU)", 2),
    "by a message that would cost something else as the reply to either": (
        "call(json=NAMELESS); call(json=NAMELESS, asked={'inference_geo': 'us'});"
        " llmcost.record(reply(1000, 100))",
        3,
    ),
}
BEDROCK = (
    "https://bedrock-runtime.us-{}-1.amazonaws.com/model/us{}.anthropic.claude-sonnet-4-6/invoke"
)
TERMS: dict[str, tuple[str, str, str]] = {
    "a region of Bedrock": (
        f"unreadable(url={BEDROCK.format('east', '')!r}); llmcost.record(USAGE, model=MODEL)",
        "0.00495",
        "0.00495",
    ),
    "GovCloud": (
        f"unreadable(url={BEDROCK.format('gov-west', '-gov')!r});"
        " llmcost.record(USAGE, model=MODEL)",
        "0.0054",
        "0.0054",
    ),
    "a geography that is asked for": (
        "unreadable(asked={'inference_geo': 'us'}); llmcost.record(USAGE, model=MODEL)",
        "0.0045",
        "0.00495",
    ),
    "a geography that is stated": (
        "unreadable(asked={'inference_geo': 'us'});"
        " llmcost.record({**USAGE, 'inference_geo': 'global'}, model=MODEL)",
        "0.0045",
        "0.0045",
    ),
    "fast mode that is asked for": (
        "call(json=NAMELESS, asked={'model': 'claude-opus-5', 'speed': 'fast'});"
        " llmcost.record(USAGE, model='claude-opus-5')",
        "0.0075",
        "0.015",
    ),
    "a geography that the part of a reply names that was read": (
        "cut(usage={'inference_geo': 'us'}); llmcost.record(USAGE, model=MODEL)",
        "0.00495",
        "0.00495",
    ),
    "a lifetime of the cache": (
        "call(json=NAMELESS, asked={'cache_control': {'type': 'ephemeral', 'ttl': '1h'}});"
        " llmcost.record({**OTHER, 'cache_creation_input_tokens': 1000}, model=MODEL)",
        "0.0075",
        "0.0075",
    ),
}  # fmt: skip


def run(project: Project, body: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    project.write(
        app=APP,
        test_app=f"""
        from app import *

        @max_cost("$0.02")
        def test_settles(llmcost):
            {body}
        """,
    )
    result = project.run("--llmcost-report=ledger.json")
    (test,) = project.ledger()["tests"]
    return result, test


@pytest.mark.parametrize("kind", SETTLED)
def test_a_doubtful_call_is_settled(project: Project, kind: str) -> None:
    body, calls, usd = SETTLED[kind]
    result, test = run(project, body)
    result.assert_outcomes(passed=1)
    assert (len(test["calls"]), test["usd"]) == (calls, usd)
    verdict = test["verdict"]
    assert (verdict["state"], verdict["low"], verdict["high"]) == ("within", usd, usd)


def test_a_settled_call_is_settled_once_if_a_later_one_breaks_its_cached_prefix(
    project: Project,
) -> None:
    _, test = run(
        project,
        "def at(clock, mark={'type': 'ephemeral'}):\n"
        "                text = f'It is {clock}. ' + 'All that there is to know. ' * 900\n"
        "                block = {'type': 'text', 'text': text, 'cache_control': mark}\n"
        "                return {'system': [block]}\n"
        "            with llmcost.budget('$1'):\n"
        "                cut(asked=at('09:41:07'))\n"
        "                llmcost.record(reply(1000, 100))\n"
        "                call(json=reply(1000, 100, 'msg_2'), asked=at('09:41:19'))",
    )
    assert [call["usd"] for call in test["calls"]] == ["0.0045", "0.0045"]
    assert [each["state"] for each in [test["verdict"], *test["blocks"]]] == ["within"] * 2


@pytest.mark.parametrize("kind", KNOWN)
def test_a_call_that_is_known_is_stated_once_by(project: Project, kind: str) -> None:
    body, calls, usd = KNOWN[kind]
    _, test = run(project, body)
    assert (len(test["calls"]), test["usd"], test["verdict"]["state"]) == (calls, usd, "within")


@pytest.mark.parametrize("kind", TERMS)
def test_what_is_stated_has_the_terms_of_the_request_that_it_settles(
    project: Project, kind: str
) -> None:
    body, low, high = TERMS[kind]
    _, test = run(project, body)
    assert len(test["calls"]) == 1
    assert (test["verdict"]["low"], test["verdict"]["high"]) == (low, high)


def test_a_result_of_a_batch_is_settled_at_its_price(project: Project) -> None:
    _, test = run(
        project,
        "unread = {'custom_id': 'a', 'result': {'type': 'succeeded', 'message': NAMELESS}}\n"
        "            with httpx.Client(transport=httpx.MockTransport(\n"
        "                    lambda request: httpx.Response(200, json=unread))) as client:\n"
        "                client.get(URL + '/batches/b/results')\n"
        "            llmcost.record(USAGE, model=MODEL)",
    )
    assert [call["usd"] for call in test["calls"]] == ["0.00225"]


@pytest.mark.parametrize("kind", UNSETTLED)
def test_a_doubtful_call_stays_in_doubt(project: Project, kind: str) -> None:
    body, calls = UNSETTLED[kind]
    result, test = run(project, body)
    result.assert_outcomes(failed=1)
    assert (len(test["calls"]), test["verdict"]["state"]) == (calls, "unverified")


@pytest.mark.parametrize("stated", ["USAGE, model=MODEL", "REFUSAL"])
def test_a_reply_that_no_count_can_renew_is_not_settled_by_itself(
    project: Project, stated: str
) -> None:
    project.write(pytest_ini="[pytest]\nllmcost_mocks = count\n")
    _, test = run(project, f"call(json=REFUSAL); llmcost.record({stated})")
    assert len(test["calls"]) == 1
    assert test["verdict"]["state"] == ("unverified" if stated == "REFUSAL" else "within")


def test_a_reply_that_contradicts_itself_stays_in_doubt_if_its_message_is_stated(
    project: Project,
) -> None:
    _, test = run(project, "disagreeing(); llmcost.record(reply(1000, 100))")
    verdict = test["verdict"]
    assert (len(test["calls"]), verdict["low"], verdict["high"]) == (1, "0.0045", None)


def test_a_call_that_is_in_no_doubt_is_not_replaced_by_a_usage(project: Project) -> None:
    result, test = run(project, "call(json=reply(1000, 100)); llmcost.record(USAGE, model=MODEL)")
    result.assert_outcomes(passed=1)
    assert (len(test["calls"]), test["usd"]) == (2, "0.009")


def test_of_an_attempt_that_was_lost_before_an_answer_no_statement_is_asked_for(
    project: Project, standin: StandIn
) -> None:
    project.online(standin)
    standin.script(Step(cut_after_bytes=0))
    send = (
        "import anthropic\n"
        "            with anthropic.Anthropic() as client:\n"
        "                client.messages.create(**ASKED)"
    )
    result, test = run(project, send)
    result.assert_outcomes(failed=1)
    assert (len(test["calls"]), test["verdict"]["state"]) == (1, "unverified")
    result.stdout.fnmatch_lines(
        ["  to settle it *run the test again, or *if no retry was answered"]
    )


def test_an_answer_that_was_lost_on_its_way_is_settled_by_a_usage(
    project: Project, standin: StandIn
) -> None:
    project.online(standin)
    standin.script(Step(cut_after_bytes=0))
    body = (
        "import anthropic, pytest\n"
        "            with anthropic.Anthropic(max_retries=0) as client:\n"
        "                with pytest.raises(anthropic.APIConnectionError):\n"
        "                    client.messages.create(model=MODEL, max_tokens=9, messages=[\n"
        "                        {'role': 'user', 'content': 'hi'}])\n"
        "            llmcost.record(USAGE, model=MODEL)"
    )
    result, test = run(project, body)
    result.assert_outcomes(passed=1)
    assert (len(test["calls"]), test["usd"]) == (1, "0.0045")
