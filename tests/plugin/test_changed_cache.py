"""A replayed prompt that uses the cache in another way than its recording did.

What it costs now is what the stand-in's own cache would bill. Every test makes the advised counts
first: before them nothing but `unverified` can be said. Which change breaks which part of a
cached prefix: https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
import yaml
from conftest import Project
from hand_made_cassettes import (
    APP,
    CONFTEST,
    DUMPER,
    MODEL,
    OUTPUT,
    URL,
    VERSION,
    Cache,
    Exchange,
    cold,
    count_and_replay,
    replay,
    usd,
    warm,
    write_project,
)
from standin.bedrock import frame
from standin.cache import Billed

Body = dict[str, Any]

CACHED = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
BOOK = "All that there is to know of bells. " * 300
LETTER = "My bell is broken, and this is its story. " * 300


pytestmark = pytest.mark.usefixtures("online")  # the counts come from the stand-in


def text(words: str, mark: Mapping[str, str] | None = None) -> Body:
    block: Body = {"type": "text", "text": words}
    return block if mark is None else {**block, "cache_control": dict(mark)}


def user(*blocks: Body) -> Body:
    return {"role": "user", "content": list(blocks)}


def tool(name: str, description: str = "", mark: Mapping[str, str] | None = None) -> Body:
    schema = {"type": "object", "properties": {}}
    tool: Body = {"name": name, "description": description, "input_schema": schema}
    return tool if mark is None else {**tool, "cache_control": dict(mark)}


def ask(
    system: str = BOOK,
    question: str = "Why is my bell broken?",
    mark: Mapping[str, str] | None = CACHED,
    **more: Any,
) -> Body:
    """A request whose system prompt is cached."""
    return {
        "model": MODEL, "max_tokens": 100, "system": [text(system, mark)],
        "messages": [user(text(question))], **more,
    }  # fmt: skip


def everything(**more: Any) -> Body:
    """A request with a breakpoint behind its tools, its system prompt and its message."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "tools": [tool("find", "It finds. " * 400), tool("route", "It routes.", CACHED)],
        "system": [text(BOOK, CACHED)],
        "messages": [user(text(LETTER, CACHED)), *QUESTION],
        **more,
    }


QUESTION = [
    {"role": "assistant", "content": [{"type": "text", "text": "I see."}]},
    {"role": "user", "content": [{"type": "text", "text": "Why is it broken?"}]},
]


def usage(billed: Billed) -> Body:
    return {**billed.usage(), "output_tokens": OUTPUT}


def one_row(project: Project, exchange: Exchange) -> Body:
    write_project(project, one=[exchange])
    return count_and_replay(project)["one"]


def bounds(row: Body) -> tuple[Decimal, Decimal | None]:
    high = row["verdict"]["high"]
    return Decimal(row["verdict"]["low"]), None if high is None else Decimal(high)


def assert_exact(row: Body, expected: Decimal) -> None:
    assert (row["verdict"]["state"], Decimal(row["usd"])) == ("within", expected)
    assert bounds(row) == (expected, expected)


def assert_told(row: Body, where: str) -> None:
    """The report says that the cached prefix changed, and where."""
    (call,) = row["calls"]
    assert any("cache" in each and where in each for each in call["caveats"]), call["caveats"]


def automatic(body: Body) -> Body:
    """The same request with the API's own choice of a breakpoint."""
    return {**ask(mark=None, question=LETTER), "cache_control": CACHED, **body}


# Without marks, with others


@pytest.mark.parametrize("state", [cold, warm], ids=["written", "read"])
@pytest.mark.parametrize("spelling", ["blocks", "automatic"])
def test_without_cache_control_all_is_uncached_input(
    project: Project, state: Callable[[Body], Billed], spelling: str
) -> None:
    recorded = ask() if spelling == "blocks" else automatic({})
    sent = ask(mark=None) if spelling == "blocks" else ask(mark=None, question=LETTER)
    row = one_row(project, Exchange(recorded, sent, usage(state(recorded))))
    (call,) = row["calls"]
    assert call["evidence"] == "recounted"
    assert call["usage"]["cache_read_tokens"] == call["usage"]["cache_write_5m_tokens"] == 0
    assert_exact(row, usd(cold(sent)))


@pytest.mark.parametrize(("then", "now"), [(CACHED, HOUR), (HOUR, CACHED)], ids=["1h", "5m"])
def test_another_lifetime_is_written_at_its_own_rate(
    project: Project, then: dict[str, str], now: dict[str, str]
) -> None:
    recorded, sent = ask(mark=then), ask(mark=now)
    row = one_row(project, Exchange(recorded, sent, usage(cold(recorded))))
    assert usd(cold(recorded)) != usd(cold(sent))
    assert_exact(row, usd(cold(sent)))


def rules(*marks: Mapping[str, str] | None, **more: Any) -> Body:
    """A request with its marks behind the rules, behind the examples and behind the letter."""
    words = ("The rules. " * 500, "The examples. " * 500, LETTER)
    one, two, three = (text(part, mark) for part, mark in zip(words, marks, strict=True))
    return {**ask(), "system": [one, two], "messages": [user(three)], **more}


MARKS: dict[str, tuple[Body, Body]] = {
    "dropped": (rules(CACHED, None, CACHED), rules(CACHED, None, None)),
    "added": (rules(CACHED, None, None), rules(CACHED, None, CACHED)),
    "moved-on": (rules(CACHED, None, None), rules(None, None, CACHED)),
    "moved-back": (rules(None, CACHED, None), rules(CACHED, None, None)),
    "automatic": (rules(CACHED, None, None), rules(None, None, None, cache_control=CACHED)),
    "an-hour-moved": (rules(HOUR, None, CACHED), rules(None, HOUR, CACHED)),
}


NO_EFFECT: dict[str, tuple[Body, Body]] = {
    "one-more-in-front": (rules(None, None, CACHED), rules(CACHED, None, CACHED)),
    "one-less-in-front": (rules(CACHED, None, CACHED), rules(None, None, CACHED)),
    "too-short-to-be-cached": (ask("Be brief.", mark=None), ask("Be brief.")),
}


@pytest.mark.parametrize(
    ("recorded", "sent"), [*MARKS.values(), *NO_EFFECT.values()], ids=[*MARKS, *NO_EFFECT]
)
def test_other_marks_in_the_same_text_write_what_they_mark(
    project: Project, recorded: Body, sent: Body
) -> None:
    row = one_row(project, Exchange(recorded, sent, usage(cold(recorded))))
    assert (usd(cold(recorded)) == usd(cold(sent))) == ((recorded, sent) in NO_EFFECT.values())
    assert_exact(row, usd(cold(sent)))


@pytest.mark.parametrize(
    ("recorded", "sent"), [*MARKS.values(), *NO_EFFECT.values()], ids=[*MARKS, *NO_EFFECT]
)
def test_other_marks_in_the_same_text_read_no_more_than_was_cached(
    project: Project, recorded: Body, sent: Body
) -> None:
    cache = Cache()
    cache.bill(recorded)
    row = one_row(project, Exchange(recorded, sent, usage(warm(recorded))))
    low, high = bounds(row)
    assert high is not None
    assert low <= usd(cache.bill(sent)) <= high
    (call,) = row["calls"]
    assert (call["evidence"], row["verdict"]["state"]) == ("recounted", "within")


def test_other_marks_in_the_same_text_are_no_known_cost_before_they_are_counted(
    project: Project,
) -> None:
    recorded, sent = MARKS["dropped"]
    write_project(project, one=[Exchange(recorded, sent, usage(warm(recorded)))])
    row = replay(project)["one"]
    assert (row["calls"][0]["evidence"], row["verdict"]["state"]) == ("stale", "unverified")


def in_order(body: Body) -> Body:
    """As recorders write it that sort keys."""
    sorted_: Body = json.loads(json.dumps(body, sort_keys=True))
    return sorted_


SAME_MARKS: dict[str, tuple[Body, Body]] = {
    "spelling": (ask(mark=CACHED), ask(mark={**CACHED, "ttl": "5m"})),
    "automatic": (rules(None, None, CACHED), rules(None, None, None, cache_control=CACHED)),
    "too-short-and-without": (ask("Be brief."), ask("Be brief.", mark=None)),
    "too-short-and-keys-sorted": (in_order(ask("Be brief.")), ask("Be brief.")),
}


@pytest.mark.parametrize("state", [cold, warm], ids=["written", "read"])
@pytest.mark.parametrize(("recorded", "sent"), SAME_MARKS.values(), ids=SAME_MARKS)
def test_marks_with_the_same_effect_change_nothing_and_need_no_count(
    project: Project, recorded: Body, sent: Body, state: Callable[[Body], Billed]
) -> None:
    write_project(project, one=[Exchange(recorded, sent, usage(state(recorded)))])
    row = replay(project)["one"]
    (call,) = row["calls"]
    assert (call["evidence"], call["caveats"]) == ("billed", [])
    assert_exact(row, usd(state(recorded)))


def test_a_mark_among_open_tool_calls_is_only_nearly_exact_and_says_so(project: Project) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}
    result = user({"type": "tool_result", "tool_use_id": "toolu_1", "content": "A bell."})

    def body(mark: Body) -> Body:
        answer = {"role": "assistant", "content": [{**call, **mark}]}
        return ask(mark=None, tools=[tool("find")]) | {
            "messages": [user(text(LETTER)), answer, result]
        }

    recorded, sent = body({}), body({"cache_control": CACHED})
    row = one_row(project, Exchange(recorded, sent, usage(cold(recorded))))
    assert_told(row, "up to messages.1.content.0 is a few tokens too many: open tool calls")


# What comes after the prefix


@pytest.mark.parametrize("state", [cold, warm], ids=["written", "read"])
@pytest.mark.parametrize("question", ["Why? " * 500, "Why?"], ids=["longer", "shorter"])
def test_an_unchanged_prefix_keeps_its_tokens_and_the_rest_comes_after_it(
    project: Project, state: Callable[[Body], Billed], question: str
) -> None:
    recorded, sent = ask(), ask(question=question)
    row = one_row(project, Exchange(recorded, sent, usage(state(recorded))))
    assert_exact(row, usd(state(sent)))


@pytest.mark.parametrize("words", [300, 30], ids=["longer", "shorter"])
def test_what_has_grown_before_a_breakpoint_is_written_and_no_plain_input(
    project: Project, words: int
) -> None:
    """The system prompt is read as before; the message behind it ends in a breakpoint itself."""

    def body(letter: str) -> Body:
        return {**ask(), "messages": [user(text(letter, CACHED))]}

    def third(sent: Body) -> Billed:
        cache = Cache()
        cache.bill(ask())
        return cache.bill(sent)

    recorded, sent = body("A word. " * 100), body("A word. " * words)
    assert third(recorded).read_tokens
    assert third(recorded).write_5m_tokens
    row = one_row(project, Exchange(recorded, sent, usage(third(recorded))))
    low, high = bounds(row)
    assert high is not None
    assert low <= usd(third(sent)) <= high
    assert_exact(row, usd(third(sent)))


# A prefix that was read, and has changed


CHANGES: dict[str, tuple[Body, Body, str]] = {
    "system": (ask(), ask(system=f"{BOOK}And more."), "system"),
    "system-shorter": (ask(), ask(system=BOOK[:-400]), "system"),
    "system-same-length": (ask(), ask(system=BOOK.replace("bells", "balls", 1)), "system"),
    "tools": (
        everything(),
        everything(tools=[tool("find", "It looks. " * 400), tool("route", "It routes.", CACHED)]),
        "tools.find",
    ),
    "a-tool-more": (
        everything(),
        everything(
            tools=[
                tool("find", "It finds. " * 400), tool("ring"), tool("route", "It routes.", CACHED),
            ]
        ),
        "tools.ring",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("recorded", "sent", "where"), CHANGES.values(), ids=CHANGES)
def test_a_prefix_that_was_read_and_has_changed_lies_between_read_and_written(
    project: Project, recorded: Body, sent: Body, where: str
) -> None:
    row = one_row(project, Exchange(recorded, sent, usage(warm(recorded))))
    assert bounds(row) == (usd(warm(sent)), usd(cold(sent)))
    assert_told(row, where)


def test_it_does_so_if_the_call_was_looked_at_before_its_end(project: Project) -> None:
    """What it had written by then is no proof that it has read it."""
    recorded, sent = ask(), ask(system=f"{BOOK}And more.")
    write_project(project, one=[Exchange(recorded, sent, usage(warm(recorded)))])
    app = project.path / "test_app.py"
    code = app.read_text().replace("test_one()", "test_one(llmcost)")
    look = """headers=headers) as response:
                for _ in response.iter_bytes():
                    assert len(llmcost.calls) == 1"""
    code = code.replace("response = httpx2.post(", "with httpx2.stream('POST', ")
    app.write_text(code.replace("headers=headers)", look))
    row = count_and_replay(project)["one"]
    assert bounds(row) == (usd(warm(sent)), usd(cold(sent)))
    assert_told(row, "system")


def test_a_budget_between_the_bounds_of_a_changed_prefix_cannot_be_checked(
    project: Project,
) -> None:
    recorded, sent = ask(), ask(system=f"{BOOK}And more.")
    write_project(project, one=[Exchange(recorded, sent, usage(warm(recorded)))])
    budget = (usd(warm(sent)) + usd(cold(sent))) / 2
    app = project.path / "test_app.py"
    app.write_text(app.read_text().replace("$100", f"${budget}"))
    assert count_and_replay(project)["one"]["verdict"]["state"] == "unverified"


def test_what_comes_before_the_change_is_read_as_it_was(project: Project) -> None:
    sent = everything(messages=[user(text(LETTER.upper(), CACHED)), *QUESTION])
    row = one_row(project, Exchange(everything(), sent, usage(warm(everything()))))
    low, high = bounds(row)
    cache = Cache()
    cache.bill({**sent, "messages": [user(text("Anything else."))]})  # its tools and system prompt
    rewritten = usd(cache.bill(sent))
    assert usd(warm(sent)) <= low < rewritten
    assert high is not None
    assert rewritten <= high <= usd(cold(sent))
    assert_told(row, "messages.0")


def test_a_prefix_before_the_change_that_is_too_short_to_be_cached_is_not_read(
    project: Project,
) -> None:
    tools = [tool("find", "It finds. " * 50, CACHED)]
    recorded, sent = ask(tools=tools), ask(f"{BOOK}And more.", tools=tools)
    row = one_row(project, Exchange(recorded, sent, usage(warm(recorded))))
    assert bounds(row) == (usd(warm(sent)), usd(cold(sent)))


def test_a_prompt_that_was_read_and_is_too_short_to_be_cached_now_is_no_doubt(
    project: Project,
) -> None:
    row = one_row(project, Exchange(ask(), ask("Be brief."), usage(warm(ask()))))
    assert_exact(row, usd(cold(ask("Be brief."))))
    (call,) = row["calls"]
    assert not any("changed-cache" in each for each in call["caveats"])


INVALIDATING: dict[str, tuple[Body, Body]] = {
    "tool_choice": (
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "tool", "name": "find"}},
    ),
    "thinking": (
        {"thinking": {"type": "enabled", "budget_tokens": 1_024}, "max_tokens": 4_000},
        {"thinking": {"type": "enabled", "budget_tokens": 2_048}, "max_tokens": 4_000},
    ),
}


@pytest.mark.parametrize("setting", INVALIDATING)
def test_a_setting_that_breaks_the_messages_cache_leaves_tools_and_system_read(
    project: Project, setting: str
) -> None:
    then, now = INVALIDATING[setting]
    recorded, sent = everything(**then), everything(**now)
    row = one_row(project, Exchange(recorded, sent, usage(warm(recorded))))
    low, high = bounds(row)
    cache = Cache()
    cache.bill({**recorded, "messages": [user(text("Anything else."))]})
    rewritten = usd(cache.bill(recorded))  # as many tokens as what is sent now
    assert low == usd(warm(sent))
    assert high is not None
    assert rewritten <= high <= usd(cold(sent))
    assert_told(row, setting)


@pytest.mark.parametrize("setting", INVALIDATING)
def test_a_setting_leaves_a_prefix_alone_that_ends_with_the_system_prompt(
    project: Project, setting: str
) -> None:
    """Nothing of the messages was cached, so nothing can have become invalid."""
    then, now = INVALIDATING[setting]
    plain = [user(text("Why is it broken?"))]
    recorded, sent = everything(messages=plain, **then), everything(messages=plain, **now)
    row = one_row(project, Exchange(recorded, sent, usage(warm(recorded))))
    assert_exact(row, usd(warm(recorded)))
    (call,) = row["calls"]
    assert not any("cache" in each for each in call["caveats"])


# Who wrote it


def dialogue(system: str, turns: int, *, moving: bool) -> list[Body]:
    """The requests of an agent: its system prompt is cached, and what was said so far if asked."""
    bodies: list[Body] = []
    said: list[Body] = []
    for turn in range(turns):
        words = f"Step {turn}: " + "go on with it, please. " * 60
        last = user(text(words, CACHED if moving else None))
        bodies.append({**ask(system), "messages": [*copy.deepcopy(said), last]})
        said += [user(text(words)), {"role": "assistant", "content": [text(f"Done {turn}.")]}]
    return bodies


def run_through(bodies: Sequence[Body]) -> list[Billed]:
    cache = Cache()
    return [cache.bill(body) for body in bodies]


@pytest.mark.parametrize("moving", [False, True], ids=["system-alone", "and-what-was-said"])
@pytest.mark.parametrize("edit", ["longer", "shorter"])
def test_an_agent_of_ten_turns_with_an_edited_system_prompt_is_verified_once_counted(
    project: Project, moving: bool, edit: str
) -> None:
    edited = f"{BOOK}And be brief. " * 2 if edit == "longer" else BOOK[:-2_000]
    then, now = dialogue(BOOK, 10, moving=moving), dialogue(edited, 10, moving=moving)
    billed = run_through(then)
    assert all(each.read_tokens for each in billed[1:])
    exchanges = [
        Exchange(recorded, sent, usage(each))
        for recorded, sent, each in zip(then, now, billed, strict=True)
    ]
    write_project(project, agent=exchanges)
    row = count_and_replay(project)["agent"]
    assert len(row["calls"]) == 10
    assert {call["evidence"] for call in row["calls"]} == {"recounted"}
    assert_exact(row, usd(*run_through(now)))


def test_what_an_unchanged_turn_wrote_is_read_by_a_turn_whose_newest_message_has_changed(
    project: Project,
) -> None:
    """The automatic breakpoint moves on, so the turn has none where that prefix ends."""
    first = automatic({})
    answer = {"role": "assistant", "content": [text("Is it?")]}

    def second(words: str) -> Body:
        return automatic({"messages": [*first["messages"], answer, user(text(words))]})

    then, now = second("It is."), second("It is, and loud. " * 100)
    billed = run_through([first, then])
    assert billed[1].read_tokens == billed[0].write_5m_tokens
    exchanges = [Exchange(first, first, usage(billed[0])), Exchange(then, now, usage(billed[1]))]
    write_project(project, dialogue=exchanges)
    row = count_and_replay(project)["dialogue"]
    assert {call["evidence"] for call in row["calls"]} == {"billed", "recounted"}
    assert_exact(row, usd(*run_through([first, now])))


def test_what_another_test_wrote_is_no_proof_of_a_read(project: Project) -> None:
    """Tests run alone and in any order, so each must hold by itself."""
    then, now = dialogue(BOOK, 2, moving=False), dialogue(f"{BOOK}And more.", 2, moving=False)
    first, second = run_through(then)
    write_project(
        project,
        first=[Exchange(then[0], now[0], usage(first))],
        second=[Exchange(then[1], now[1], usage(second))],
    )
    rows = count_and_replay(project)
    assert_exact(rows["first"], usd(cold(now[0])))
    assert bounds(rows["second"]) == (usd(warm(now[1])), usd(cold(now[1])))
    assert_told(rows["second"], "system")


IN_TASKS = """
    import asyncio

    @pytest.mark.vcr
    @max_cost("$100")
    def test_one():
        async def send():
            async with httpx2.AsyncClient() as client:
                calls = [client.post(URL, json=body, headers=head) for body, head in SENT["one"]]
                await asyncio.gather(*calls)

        asyncio.run(send())
"""
IN_THREADS = """
    from concurrent.futures import ThreadPoolExecutor

    def send(call):
        httpx2.post(URL, json=call[0], headers=call[1])

    @pytest.mark.vcr
    @max_cost("$100")
    def test_one():
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, SENT["one"]))
"""


def replay_in_part(
    project: Project,
    recorded: Sequence[Body],
    sent: Sequence[Body],
    *,
    warm: Sequence[Body] = (),
    order: int = 1,
    at_once: str = "",
) -> Body:
    """Record calls, after others that are not recorded, and send what is sent today.

    If `order` is -1, the first call was answered last, so that VCR has written it last.
    """
    cache = Cache()
    for body in warm:
        cache.bill(body)
    exchanges = [Exchange(each, each, cache.usage(each)) for each in recorded]
    write_project(project, one=exchanges[::order])
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "none"}
    bodies = json.dumps({"one": [(each, headers) for each in sent]})
    (project.path / "sent.json").write_text(bodies, encoding="utf-8")
    if at_once:
        project.write(test_app=f"{APP}\n    URL = {URL!r}\n{at_once}")
    return count_and_replay(project)["one"]


WRITER, READER = ask(), ask(question="What is a bell?")
OTHER = ask(f"{BOOK}And more.")


@pytest.mark.parametrize(
    ("before", "reader"),
    [([], READER), ([OTHER], READER), ([OTHER], ask(question="What?"))],
    ids=["gone", "changed", "both-changed"],
)
def test_a_read_whose_writer_is_gone_or_has_changed_may_be_a_write(
    project: Project, before: list[Body], reader: Body
) -> None:
    row = replay_in_part(project, [WRITER, READER], [*before, reader])
    first = [cold(each) for each in before]
    assert bounds(row) == (usd(*first, warm(reader)), usd(*first, cold(reader)))
    assert any("changed-cache" in each for call in row["calls"] for each in call["caveats"])


def test_what_the_first_call_that_is_left_writes_is_read_by_those_behind_it(
    project: Project,
) -> None:
    turns = dialogue(BOOK, 4, moving=True)
    row = replay_in_part(project, turns, turns[1:])
    now = run_through(turns[1:])
    low, high = bounds(row)
    assert high is not None
    assert low < usd(*now) <= high
    doubted = [call for call in row["calls"] if call["caveats"]]
    assert len(doubted) == 1


KEPT_FOR_AN_HOUR: Body = {"system": [text(BOOK, HOUR)]}
EDITED: Body = {"system": [text(f"{BOOK}And more.", CACHED)]}


def agent(*questions: str, **more: Any) -> list[Body]:
    """Each request goes on from the one before and is cached whole, behind its system prompt."""
    bodies: list[Body] = []
    said: list[Body] = []
    for question in (*questions, "And then?", "And after that?"):
        said = [*said, user(text(question))]
        bodies.append({**ask(), "messages": said, "cache_control": CACHED, **more})
        said = [*said, {"role": "assistant", "content": [text("I see.")]}]
    return bodies


KEPT: dict[str, tuple[list[Body], list[Body], list[Body]]] = {
    "as-recorded": ([WRITER, READER], [WRITER, READER], []),
    "in-another-order": ([WRITER, READER], [READER, WRITER], []),
    "the-reader-is-gone": ([WRITER, READER], [WRITER], []),
    "written-before-the-test": ([WRITER, READER], [READER], [WRITER]),
    "the-writer-has-another-question": ([WRITER, READER], [ask(question="Who?"), READER], []),
    "the-gone-call-wrote-something-else": ([OTHER, WRITER, READER], [WRITER, READER], []),
    "the-reader-has-another-question": ([WRITER, READER], [WRITER, ask(question="Who?")], []),
    "the-first-question-of-an-agent": (agent("Why?"), agent("Who? " * 99), []),
    "kept-for-longer": ([WRITER, READER], [ask(mark=HOUR), {**READER, **KEPT_FOR_AN_HOUR}], []),
    "another-mark-is-read": (
        [ask(question=LETTER), READER, {**ask(), "messages": [user(text(LETTER)), *QUESTION]}],
        [everything(tools=[]), READER, everything(tools=[])],
        [],
    ),
    "marked-further-on": (agent("Why? " * 999, cache_control=None), agent("Why? " * 999), []),
    "two-dialogues-of-an-edited-agent": (
        [*agent("Why?"), *agent("Who?")],
        [*agent("Why?", **EDITED), *agent("Who?", **EDITED)],
        [],
    ),
}


@pytest.mark.parametrize(("recorded", "sent", "warm"), KEPT.values(), ids=KEPT)
def test_a_read_that_is_still_written_or_never_was_stays_exact(
    project: Project, recorded: list[Body], sent: list[Body], warm: list[Body]
) -> None:
    row = replay_in_part(project, recorded, sent, warm=warm)
    in_order = sorted(sent, key=lambda body: body is READER)  # behind its writer
    assert_exact(row, usd(*run_through([*warm, *in_order])[len(warm) :]))


FIRST = {"role": "user", "content": [text(LETTER, CACHED)]}
NEWLY: dict[str, tuple[list[Body], list[Body]]] = {
    "marked": ([ask(mark=None)] * 3, [ask()] * 3),
    "long-enough": ([ask("Be brief.")] * 3, [ask()] * 3),
    "long-enough-where-one-marked-more": (
        [{**ask("Be brief."), "messages": [FIRST]}, ask("Be brief.")],
        [{**ask(), "messages": [FIRST]}, ask()],
    ),
    "alike": ([ask(f"{word}. {BOOK}") for word in ("One", "Two", "Three")], [ask()] * 3),
    "marked-by-turns": (
        [{**body, "system": BOOK} for body in dialogue(BOOK, 3, moving=False)],
        dialogue(BOOK, 3, moving=False),
    ),
}


@pytest.mark.parametrize(("recorded", "sent"), NEWLY.values(), ids=NEWLY)
def test_what_an_earlier_call_newly_writes_may_be_read(
    project: Project, recorded: list[Body], sent: list[Body]
) -> None:
    row = replay_in_part(project, recorded, sent)
    low, high = bounds(row)
    assert low <= usd(*run_through(sent)) < usd(*map(cold, sent)) == high
    assert any("changed-cache" in each for call in row["calls"] for each in call["caveats"])


def far_on(blocks: int) -> Body:
    """A request that is cached up to so many blocks behind what FIRST caches."""
    answer = {"role": "assistant", "content": [text("I see.")]}
    pages = [text(f"Page {page}.") for page in range(blocks)]
    last = text("The last page.", CACHED)
    return {**ask(mark=None), "messages": [user(text(LETTER)), answer, user(*pages, last)]}


def with_tool(body: Body, properties: str) -> Body:
    schema = {"type": "object", "properties": {name: {} for name in properties}}
    return {**body, "tools": [{**tool("find", BOOK, CACHED), "input_schema": schema}]}


LONG = {**ask(mark=None), "messages": [FIRST]}
BETWEEN = copy.deepcopy(far_on(30))
BETWEEN["messages"][2]["content"][15:] = [text("Page 15.", CACHED)]
GOES_ON = {**ask(), "messages": [user(text(LETTER)), *QUESTION], "cache_control": CACHED}
TOO_SHORT = everything(system=[], tools=[tool("find", "It finds.", CACHED), tool("route", BOOK)])
BOTH = {"tools": [tool("find", "It finds."), tool("route", BOOK, CACHED)]}
AS_FAR: dict[str, tuple[list[Body], list[Body]]] = {
    "out-of-reach": ([LONG, far_on(2)], [LONG, far_on(25)]),
    "in-reach-now": ([LONG, far_on(25)], [LONG, far_on(2)]),
    "a-turn-between-is-gone": ([LONG, BETWEEN, far_on(30)], [LONG, far_on(30)]),
    "another-order-of-keys": (
        [with_tool(WRITER, "ab"), with_tool(READER, "ab")],
        [with_tool(WRITER, "ba"), with_tool(READER, "ab")],
    ),
    "marked": ([ask(mark=None), READER], [WRITER, READER]),
    "marked-for-a-changed-question": ([ask(mark=None), READER], [WRITER, ask(question="Who?")]),
    "marked-further-on": (
        [{**ask(), "messages": [user(text(LETTER))]}, READER, GOES_ON],
        [{**ask(), "messages": [FIRST]}, READER, GOES_ON],
    ),
    "long-enough-in-one-more-tool": (
        [TOO_SHORT, {**TOO_SHORT, "messages": QUESTION[1:]}],
        [{**TOO_SHORT, **BOTH}, {**TOO_SHORT, **BOTH, "messages": QUESTION[1:]}],
    ),
    "no-longer-marked": ([WRITER, READER], [ask(mark=None), READER]),
    "kept-for-less-long": (
        [ask(mark=HOUR), {**READER, **KEPT_FOR_AN_HOUR}], [WRITER, READER],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("recorded", "sent"), AS_FAR.values(), ids=AS_FAR)
def test_a_call_has_two_bounds_if_earlier_ones_do_not_write_as_far_as_they_did(
    project: Project, recorded: list[Body], sent: list[Body]
) -> None:
    row = replay_in_part(project, recorded, sent)
    low, high = bounds(row)
    assert high is not None
    assert low < high
    assert low <= usd(*run_through(sent)) <= high
    assert any("changed-cache" in each for call in row["calls"] for each in call["caveats"])


def test_a_changed_call_behind_one_that_is_gone_is_not_taken_for_the_first(
    project: Project,
) -> None:
    now = [READER, ask(question="Who?")]
    row = replay_in_part(project, [WRITER, READER, ask(question="What?")], now)
    read = warm(now[1])
    assert bounds(row) == (usd(warm(READER), read), usd(cold(READER), read))


def test_a_writer_that_was_answered_after_its_reader_and_has_changed_is_missed(
    project: Project,
) -> None:
    row = replay_in_part(project, [WRITER, READER], [OTHER, READER], order=-1)
    assert bounds(row) == (usd(cold(OTHER), warm(READER)), usd(cold(OTHER), cold(READER)))


def test_what_was_written_by_each_of_several_calls_at_once_still_is(project: Project) -> None:
    recorded, sent = ask(), ask(f"{BOOK}And more.")
    write_project(project, one=[Exchange(recorded, sent, usage(cold(recorded)))] * 3)
    assert_exact(count_and_replay(project)["one"], 3 * usd(cold(sent)))


QUESTIONS = [ask(question=f"Question {number}?") for number in range(3)]
NEW_QUESTIONS = [{**body, **EDITED} for body in QUESTIONS]


@pytest.mark.parametrize("at_once", [IN_TASKS, IN_THREADS], ids=["tasks", "threads"])
def test_calls_at_once_that_have_read_the_same_may_each_have_to_write_it(
    project: Project, at_once: str
) -> None:
    """None of them can rely on another one: all may arrive before any of them is answered."""
    row = replay_in_part(project, QUESTIONS, NEW_QUESTIONS, warm=[WRITER], at_once=at_once)
    assert bounds(row) == (usd(*map(warm, NEW_QUESTIONS)), usd(*map(cold, NEW_QUESTIONS)))


def test_one_after_the_other_only_the_first_may_have_to_write_it(project: Project) -> None:
    row = replay_in_part(project, QUESTIONS, NEW_QUESTIONS, warm=[WRITER])
    first, *others = NEW_QUESTIONS
    assert bounds(row) == (
        usd(*map(warm, NEW_QUESTIONS)),
        usd(cold(first), *map(warm, others)),
    )


def test_what_calls_at_once_have_read_of_another_one_they_still_do(project: Project) -> None:
    row = replay_in_part(project, QUESTIONS, NEW_QUESTIONS, at_once=IN_TASKS)
    assert_exact(row, usd(*run_through(NEW_QUESTIONS)))


def test_what_a_call_at_once_newly_writes_need_not_be_there_for_another(project: Project) -> None:
    """As each marks its last message now, the third may read what the second one writes."""
    turns = dialogue(BOOK, 3, moving=False)
    now = [{**body, "cache_control": CACHED} for body in turns]
    row = replay_in_part(project, turns, now, at_once=IN_TASKS)
    first, second, third = now
    cache = Cache()
    cache.bill(first)
    apart = [cache.bill(second)]
    cache = Cache()
    cache.bill(first)
    apart.append(cache.bill(third))
    low, high = bounds(row)
    assert high is not None
    assert low <= usd(*run_through(now)) < usd(cold(first), *apart) <= high


@pytest.mark.parametrize("edit", [{}, EDITED], ids=["unchanged", "edited"])
def test_what_one_recording_writes_may_be_read_when_it_is_played_again(
    project: Project, edit: Body
) -> None:
    now = {**WRITER, **edit}
    repeats = "allow_playback_repeats=True"
    lines = f"[httpx2.post({URL!r}, json=SENT, headers={VERSION!r}) for _ in range(3)]"
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL,
        "content": [{"type": "text", "text": "Yes."}], "usage": usage(cold(WRITER)),
    }  # fmt: skip
    exchange = played(URL, WRITER, json.dumps(message))
    row = replay_exchanges(project, now, lines, exchange, mark=f"vcr({repeats})")
    low, high = bounds(row)
    assert (low, high) == (usd(cold(now), warm(now), warm(now)), 3 * usd(cold(now)))


def played(url: str, asked: Body | None, said: str) -> Body:
    """A recorded exchange; without a body it is a GET."""
    headers = {name: [value] for name, value in VERSION.items()}
    method, body = ("GET", "") if asked is None else ("POST", json.dumps(asked))
    return {
        "request": {"method": method, "uri": url, "headers": headers, "body": body},
        "response": {
            "status": {"code": 200, "message": "OK"}, "headers": {}, "body": {"string": said},
        },
    }  # fmt: skip


def replay_exchanges(
    project: Project, sent: object, lines: str, *exchanges: Body, mark: str = "vcr"
) -> Body:
    """Replay these to a test of these lines; what it sends is SENT."""
    cassette = project.path / "cassettes" / "test_app" / "test_one.yaml"
    cassette.parent.mkdir(parents=True)
    recorded = {"version": 1, "interactions": exchanges}
    cassette.write_text(yaml.dump(recorded, Dumper=DUMPER), encoding="utf-8")
    (project.path / "sent.json").write_text(json.dumps(sent), encoding="utf-8")
    test = f"""
    @pytest.mark.{mark}
    @max_cost("$100")
    def test_one():
        {lines}
    """
    project.write(conftest=CONFTEST, test_app=f"{APP}{test}")
    return count_and_replay(project)["one"]


def replay_batch(
    project: Project,
    recorded: Mapping[str, Body],
    sent: Mapping[str, Body],
    *,
    warm: Sequence[Body] = (),
    order: int = 1,
    then: Sequence[Body] = (),
) -> Body:
    """Record a batch whose requests are worked on in their order, and send today's.

    If `order` is -1, the results stand the other way round. `then` are calls that follow it.
    """
    cache = Cache()
    for body in warm:
        cache.bill(body)
    results: list[Body] = [
        {"custom_id": name, "result": {"type": "succeeded", "message": {
            "id": f"msg_{name}", "type": "message", "role": "assistant", "model": MODEL,
            "content": [{"type": "text", "text": "Yes."}], "stop_reason": "end_turn",
            "usage": {**cache.usage(body), "service_tier": "batch"},
        }}}
        for name, body in recorded.items()
    ]  # fmt: skip

    def requests(bodies: Mapping[str, Body]) -> Body:
        return {"requests": [{"custom_id": each, "params": bodies[each]} for each in bodies]}

    url = f"{URL}/batches"
    of_results = f"{url}/msgbatch_1/results"
    created = played(url, requests(recorded), json.dumps({"id": "msgbatch_1"}))
    read = played(of_results, None, "\n".join(map(json.dumps, results[::order])))
    lines = f"httpx2.post({url!r}, json=SENT, headers={VERSION!r}), httpx2.get({of_results!r})"
    calls = []
    for body in then:
        said = {**results[0]["result"]["message"], "id": "msg_then", "usage": cache.usage(body)}
        calls.append(played(URL, body, json.dumps(said)))
        lines += f", httpx2.post({URL!r}, json={body!r}, headers={VERSION!r})"
    return replay_exchanges(project, requests(sent), lines, created, read, *calls)


def in_batch(*billed: Billed) -> Decimal:
    return usd(*billed) / 2


IN_BATCH = dict(zip("abc", QUESTIONS, strict=True))
NEW_IN_BATCH = dict(zip("abc", NEW_QUESTIONS, strict=True))


@pytest.mark.parametrize("order", [1, -1])
def test_a_request_that_is_gone_from_a_batch_costs_nothing(project: Project, order: int) -> None:
    row = replay_batch(project, IN_BATCH, {"a": QUESTIONS[0], "b": QUESTIONS[1]}, order=order)
    assert_exact(row, in_batch(cold(QUESTIONS[0]), warm(QUESTIONS[1])))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("before", [{}, {"a": OTHER}], ids=["gone", "changed"])
def test_what_a_batch_read_of_its_own_request_may_be_a_write_without_that(
    project: Project, before: Mapping[str, Body], order: int
) -> None:
    _, second, third = QUESTIONS
    row = replay_batch(project, IN_BATCH, {**before, "b": second, "c": third}, order=order)
    first = [cold(each) for each in before.values()]
    assert bounds(row) == (
        in_batch(*first, warm(second), warm(third)),
        in_batch(*first, cold(second), cold(third)),
    )


def test_what_a_call_read_of_a_batch_may_be_a_write_if_it_is_gone_from_there(
    project: Project,
) -> None:
    row = replay_batch(project, {"a": WRITER, "b": OTHER}, {"b": OTHER}, then=[READER])
    other = in_batch(cold(OTHER))
    assert bounds(row) == (other + usd(warm(READER)), other + usd(cold(READER)))


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_request_of_a_batch_newly_writes_may_be_read_by_a_longer_one(
    project: Project, order: int
) -> None:
    """They may be worked on in any order, whichever result stands first."""
    then = dict(zip("abc", dialogue(BOOK, 3, moving=False), strict=True))
    now = {name: {**body, "cache_control": CACHED} for name, body in then.items()}
    row = replay_batch(project, then, now, order=order)
    low, high = bounds(row)
    assert high is not None
    assert low <= in_batch(*run_through([*now.values()])) < high


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_batch_read_of_its_own_request_with_the_same_edit_it_still_reads(
    project: Project, order: int
) -> None:
    row = replay_batch(project, IN_BATCH, NEW_IN_BATCH, order=order)
    assert_exact(row, in_batch(*run_through(NEW_QUESTIONS)))


def test_each_request_of_a_batch_may_have_to_write_what_was_there_before(project: Project) -> None:
    row = replay_batch(project, IN_BATCH, NEW_IN_BATCH, warm=[WRITER])
    assert bounds(row) == (
        in_batch(*map(warm, NEW_QUESTIONS)),
        in_batch(*map(cold, NEW_QUESTIONS)),
    )


CONVERSE = (
    "https://bedrock-runtime.eu-west-1.amazonaws.com/model/global.anthropic.claude-sonnet-4-6"
)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_what_a_call_of_converse_wrote_may_be_missing_when_it_is_gone(
    project: Project, is_stream: bool
) -> None:
    """Its answer does not name a model: only with its URL it can be read."""
    cache, exchanges = Cache(), list[Body]()
    url = CONVERSE + ("/converse-stream" if is_stream else "/converse")
    for body in (WRITER, READER):
        billed = cache.bill(body)
        asked = {
            "system": [{"text": BOOK}, {"cachePoint": {"type": "default"}}],
            "messages": [
                {"role": "user", "content": [{"text": body["messages"][0]["content"][0]["text"]}]}
            ],
            "inferenceConfig": {"maxTokens": 100},
        }
        used = {
            "inputTokens": billed.input_tokens,
            "outputTokens": OUTPUT,
            "cacheReadInputTokens": billed.read_tokens,
            "cacheWriteInputTokens": billed.write_5m_tokens,
        }
        content = [{"text": "Yes."}]
        whole = {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": "end_turn",
            "usage": used,
        }
        exchanges.append(played(url, asked, json.dumps(whole)))
        if is_stream:
            events: list[tuple[str, Body]] = [
                ("messageStart", {"role": "assistant"}),
                ("contentBlockDelta", {"contentBlockIndex": 0, "delta": content[0]}),
                ("messageStop", {"stopReason": "end_turn"}),
                ("metadata", {"usage": used}),
            ]
            said = b"".join(frame(name, payload) for name, payload in events)
            exchanges[-1]["response"]["body"]["string"] = said
    row = replay_exchanges(project, asked, f"httpx2.post({url!r}, json=SENT)", *exchanges)
    assert bounds(row) == (usd(warm(READER)), usd(cold(READER)))
