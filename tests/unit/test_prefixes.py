"""Where a later call breaks the cached prefix of an earlier one, and where it does not."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from pytest_llmcost.counting.payload import BlockPath, read_payload
from pytest_llmcost.counting.prefixes import CachedPrefixes, Readable
from pytest_llmcost.counting.segments import CachedPrompt, Segment

CACHED = {"type": "ephemeral"}
RULES = "You answer tickets. " * 20
Body = dict[str, Any]


def text(words: str, *, marked: bool = False) -> Body:
    return {"type": "text", "text": words, **({"cache_control": CACHED} if marked else {})}


def tool(name: str, *, marked: bool = False, **schema: Any) -> Body:
    mark = {"cache_control": CACHED} if marked else {}
    return {"name": name, "input_schema": {"type": "object", **schema}, **mark}


def say(*turns: Any) -> list[Body]:
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)]


def ask(**changes: Any) -> Body:
    system = [text("Be brief."), text(RULES, marked=True)]
    body = {"model": "claude-opus-4-7", "system": system, "messages": say("Why?"), **changes}
    return {key: value for key, value in body.items() if value is not None}


def read(*bodies: Mapping[str, Any]) -> list[Readable | None]:
    prefixes = CachedPrefixes()
    return [prefixes.note(read_payload(copy.deepcopy(dict(body)))) for body in bodies]


def uses(number: int) -> list[Body]:
    return [{"type": "tool_use", "id": f"t{n}", "name": "a", "input": {}} for n in range(number)]


def results(number: int) -> list[Body]:
    return [{"type": "tool_result", "tool_use_id": f"t{n}"} for n in range(number)]


AUTO: Body = {"cache_control": CACHED}
PLAIN = {"system": RULES, **AUTO}
ORDERED = tool("find", properties={"a": {"type": "string"}, "b": {"type": "string"}}, marked=True)
REORDERED = tool("find", properties={"b": {"type": "string"}, "a": {"type": "string"}}, marked=True)

HARMLESS: dict[str, list[Body]] = {
    "another question behind the cached prefix": [ask(), ask(messages=say("How?"))],
    "a conversation that grows": [
        ask(**PLAIN),
        ask(**PLAIN, messages=say("Why?", "So.", "How?")),
        ask(**PLAIN, messages=say("Why?", "So.", "How?", "Thus.", "And?")),
    ],
    "nineteen blocks at once": [
        ask(**PLAIN),
        ask(**PLAIN, messages=say("Why?", [text(str(page)) for page in range(19)])),
    ],
    "many tool calls at once, and their results": [
        ask(**PLAIN),
        ask(**PLAIN, messages=say("Why?", uses(40), results(40))),
    ],
    "many blocks at once, with a breakpoint between": [
        ask(**PLAIN),
        ask(
            **PLAIN,
            messages=say("Why?", [text(str(page), marked=page == 9) for page in range(29)]),
        ),
    ],
    "a conversation that goes on from an earlier turn": [
        ask(**PLAIN),
        ask(**PLAIN, messages=say("Why?", "So.", "How?")),
        ask(**PLAIN, messages=say("Why?", "So.", "When?")),
    ],
    "several questions with automatic caching": [
        ask(**PLAIN, messages=say(question)) for question in ("Why?", "How?", "When?")
    ],
    "two conversations in turns": [
        ask(**PLAIN),
        ask(**PLAIN, messages=say("How?")),
        ask(**PLAIN, messages=say("Why?", "So.", "And?")),
        ask(**PLAIN, messages=say("How?", "So.", "And?")),
    ],
    "one question, asked twice at once": [
        ask(**PLAIN),
        ask(**PLAIN),
        ask(**PLAIN, messages=say("Why?", "So.", "And?")),
        ask(**PLAIN, messages=say("Why?", "So.", "When?")),
        ask(**PLAIN, messages=say("Why?", "Thus.", "And?")),
        ask(**PLAIN, messages=say("Why?", "So.", "And?", "No.", "Why?")),
        ask(**PLAIN, messages=say("Why?", "Thus.", "And?", "Yes.", "Why?")),
    ],
    "a later question, asked twice at once": [
        *[ask(**PLAIN, messages=say("Why?", "So.", "How?"))] * 2,
        ask(**PLAIN, messages=say("Why?", "So.", "How?", "Thus.", "And?")),
        ask(**PLAIN, messages=say("Why?", "So.", "How?", "No.", "When?")),
    ],
    "a breakpoint in an answer, and two answers to what came behind it": [
        *[ask(messages=say("Why?", [text("So.", marked=True)], "How?"))] * 2,
        ask(messages=say("Why?", "So.", "How?", "Thus.", [text("And?", marked=True)])),
        ask(messages=say("Why?", "So.", "How?", "No.", [text("When?", marked=True)])),
    ],
    "contents that are no blocks": [
        ask(**PLAIN, messages=say(["Why?"])),
        ask(**PLAIN, messages=say(["Why?"], "So.", ["And?"])),
    ],
    "two agents": [ask(), ask(system=[text("Be kind."), text("Other rules.", marked=True)])],
    "two agents with the same tools": [
        ask(tools=[tool("find")], system=[text(name, marked=True)]) for name in ("support", "sales")
    ],
    "two agents with the same question and rules, each with turns of its own": [
        ask(system=[text(f"You are {name}. {RULES}", marked=True)], messages=say("Why?", *more))
        for more in ((), ("So.", "And?"))
        for name in ("Ann", "Bob")
    ],
    "another agent goes on with the messages": [
        ask(),
        ask(system=[text("Sell bells. " * 40, marked=True)], messages=say("Why?", "So.", "And?")),
    ],
    "two documents": [
        ask(system=None, messages=say([text(name, marked=True), text("Why?")]))
        for name in ("The first.", "The second.")
    ],
    "another model": [ask(), ask(model="claude-haiku-4-5", system=[text("Be brief!")])],
    "no breakpoint at all": [ask(system="at 09:41:07"), ask(system="at 09:41:19")],
    "a clock behind the last breakpoint": [
        ask(system=[text(RULES, marked=True), text(f"It is {clock}.")])
        for clock in ("09:41:07", "09:41:19")
    ],
    "the breakpoint has moved": [ask(), ask(system=[text("Be brief.", marked=True), text(RULES)])],
    "another spelling": [ask(**PLAIN), ask(system=[text(RULES)], **AUTO, tools=[])],
    "another effort of a model that reads its tools and system all the same": [
        ask(model="claude-sonnet-4-6", output_config={"effort": effort})
        for effort in ("low", "medium")
    ],
    "sampling settings": [ask(temperature=0), ask(temperature=1, max_tokens=5)],
    "back to an earlier prefix": [ask(), ask(system=[text("Other."), text(RULES, marked=True)])],
}


@pytest.mark.parametrize("bodies", HARMLESS.values(), ids=HARMLESS)
def test_what_breaks_no_prefix(bodies: list[Body]) -> None:
    for found in read(*bodies):
        assert found is None or not (found.broken or found.is_limited)


BROKEN: dict[str, tuple[Body, Body, tuple[str, int | None, str | None]]] = {
    "a clock in the only block": (
        ask(system=[text(f"It is 09:41:07. {RULES}", marked=True)]),
        ask(system=[text(f"It is 09:41:19. {RULES}", marked=True)]),
        ("system.0", 13, None),
    ),
    "a random id in a first message": (
        ask(**PLAIN, messages=say("Ticket 6f1c0de2-1111-4222-8333-444455556666")),
        ask(**PLAIN, messages=say("Ticket 7f1c0de2-1111-4222-8333-444455556666")),
        ("messages.0.content.0", 8, None),
    ),
    "an edit of the system prompt from turn to turn": (
        ask(system=[text(f"Turn 1 of many. {RULES}", marked=True)]),
        ask(
            system=[text(f"Turn 2 of many. {RULES}", marked=True)],
            messages=say("Why?", "So.", "And?"),
        ),
        ("system.0", 6, None),
    ),
    "another block behind the first": (
        ask(),
        ask(system=[text("Be brief."), text(f"Step 2. {RULES}", marked=True)]),
        ("system.1", 1, None),
    ),
    "keys in another order": (
        ask(tools=[ORDERED]),
        ask(tools=[REORDERED]),
        ("tools.find.input_schema.properties", None, None),
    ),
    "tools in another order": (
        ask(tools=[tool("find"), tool("ask", marked=True)]),
        ask(tools=[tool("ask"), tool("find", marked=True)]),
        ("tools.ask.name", 1, None),
    ),
    "a tool was added": (
        ask(tools=[tool("a")]),
        ask(tools=[tool("a"), tool("b")]),
        ("tools.b", None, None),
    ),
    "the system prompt behind tools that can be read": (
        ask(tools=[tool("a", marked=True)]),
        ask(tools=[tool("a", marked=True)], system=[text("Be brief."), text("x", marked=True)]),
        ("system.1", 1, "tools.0"),
    ),
    "an earlier answer was edited": (
        ask(messages=say("Why?", "So it is.", [text("How?", marked=True)])),
        ask(messages=say("Why?", "So it was.", "How?", "Thus.", [text("And?", marked=True)])),
        ("messages.1.content.0", 7, "system.1"),
    ),
    "a message was left out of a longer conversation": (
        ask(**PLAIN, messages=say("Why?", "So.", "How?")),
        ask(**PLAIN, messages=say("Why?", "Thus.", "How?", "So.", "And?")),
        ("messages.1.content.0", 1, None),
    ),
    "thinking was turned off": (
        ask(**PLAIN, thinking={"type": "enabled", "budget_tokens": 2_000}),
        ask(**PLAIN),
        ("thinking", None, None),
    ),
    "another effort of a later model": (
        ask(output_config={"effort": "low"}),
        ask(output_config={"effort": "medium"}),
        ("output_config.effort", None, None),
    ),
    "an image came into a conversation": (
        ask(messages=say("Why?", "So.", [text("How?", marked=True)])),
        ask(
            messages=say(
                "Why?",
                "So.",
                "How?",
                "Thus.",
                [{"type": "image", "source": {"type": "url", "url": "x"}}, text("?", marked=True)],
            )
        ),
        ("images", None, "system.1"),
    ),
    "the look-back is too short": (
        ask(messages=say([text("Why?", marked=True)])),
        ask(
            messages=say(
                "Why?", [*(text(str(page)) for page in range(19)), text("And?", marked=True)]
            )
        ),
        ("20 or more blocks after messages.0.content.0", None, "system.1"),
    ),
    "the look-back is too short for one tool call at a time": (
        ask(**PLAIN),
        ask(**PLAIN, messages=say("Why?", *[uses(1), results(1)] * 10)),
        ("20 or more blocks after messages.0.content.0", None, None),
    ),
    "the system prompt of another question": (
        ask(**AUTO, system=[text("Be brief."), text(f"Step 1. {RULES}")]),
        ask(**AUTO, system=[text("Be brief."), text(f"Step 2. {RULES}")], messages=say("How?")),
        ("system.1", 6, None),
    ),
    "a text got longer": (
        ask(),
        ask(system=[text("Be brief."), text(f"{RULES}Be kind.", marked=True)]),
        ("system.1", len(RULES) + 1, None),
    ),
    "a block was added before a setting": (
        ask(**PLAIN, tool_choice={"type": "auto"}),
        ask(system=[text(RULES), text("Be kind.")], **AUTO, tool_choice={"type": "auto"}),
        ("system.1", None, None),
    ),
    "a list became null": (
        ask(tools=[tool("find", required=["a"], marked=True)]),
        ask(tools=[tool("find", required=None, marked=True)]),
        ("tools.find.input_schema.required", None, None),
    ),
    "null became a list": (
        ask(tools=[tool("find", required=None, marked=True)]),
        ask(tools=[tool("find", required=["a"], marked=True)]),
        ("tools.find.input_schema.required", None, None),
    ),
    "null became an object": (
        ask(tools=[tool("find", properties=None, marked=True)]),
        ask(tools=[tool("find", properties={}, marked=True)]),
        ("tools.find.input_schema.properties", None, None),
    ),
    "an object became null": (
        ask(tools=[tool("find", properties={}, marked=True)]),
        ask(tools=[tool("find", properties=None, marked=True)]),
        ("tools.find.input_schema.properties", None, None),
    ),
    "thinking was turned off and a tool renamed": (
        ask(**PLAIN, tools=[tool("a")], thinking={"type": "enabled", "budget_tokens": 2_000}),
        ask(**PLAIN, tools=[tool("b")]),
        ("tools.b", None, None),
    ),
    "the tools were removed": (
        ask(tools=[tool("find")], **PLAIN),
        ask(**PLAIN),
        ("tools.find", None, None),
    ),
    "the first of two tools was removed": (
        ask(tools=[tool("find"), tool("route")], **PLAIN),
        ask(tools=[tool("route")], **PLAIN),
        ("tools.find", None, None),
    ),
    "a block of the system prompt was removed": (
        ask(**AUTO, system=[text("Be brief."), text(RULES)]),
        ask(**AUTO, system=[text("Be brief.")]),
        ("system.1", None, None),
    ),
    "thinking was turned on": (
        ask(**PLAIN),
        ask(**PLAIN, thinking={"type": "enabled", "budget_tokens": 2_000}),
        ("thinking", None, None),
    ),
}


@pytest.mark.parametrize(("before", "now", "found"), BROKEN.values(), ids=BROKEN)
def test_where_a_prefix_breaks(
    before: Body, now: Body, found: tuple[str, int | None, str | None]
) -> None:
    first, second = read(before, now)
    assert first is not None
    assert second is not None
    assert first.broken is None
    assert second.broken is not None
    assert second.is_limited
    assert (second.broken.part, second.broken.character, second.upto) == found
    # Only a clock and an id show that no earlier run has sent the first one.
    assert first.is_limited is ("09:41" in str(before) or "Ticket" in str(before))


def test_what_was_written_by_a_broken_call_can_be_read_by_the_next() -> None:
    new = ask(system=[text("Be brief."), text("Other rules.", marked=True)])
    found = read(ask(), new, new, ask(), new)
    broken = [each is not None and each.broken is not None for each in found]
    assert broken == [False, True, False, False, False]


def test_an_edit_breaks_the_prefix_also_of_turns_that_are_counted_twice() -> None:
    turns = [
        ask(**PLAIN, messages=say(*said))
        for said in (
            ("Why?",),
            ("Why?", "So it is.", "How?"),
            ("Why?", "So it was.", "How?", "Thus.", "And?"),
        )
    ]
    found = read(*(turn for turn in turns for _ in range(2)))
    broken = [each is not None and each.broken is not None for each in found]
    assert broken == [False, False, False, False, True, False]


def test_an_excerpt_is_short_and_shows_what_stands_there_now() -> None:
    clocks = ("09:41:07", "09:41:19")
    _, found = read(*(ask(system=[text(f"It is {each}. {RULES}", marked=True)]) for each in clocks))
    assert found is not None
    assert found.broken is not None
    assert found.broken.excerpt == f"It is 09:41:19. {RULES}"[:40]


def test_an_excerpt_begins_shortly_before_what_differs() -> None:
    ends = ([text("Be brief."), text(RULES + end, marked=True)] for end in ("one", "two"))
    _, found = read(*(ask(system=system) for system in ends))
    assert found is not None
    assert found.broken is not None
    assert found.broken.excerpt == f"{RULES[-12:]}two"


def test_an_edit_breaks_a_prefix_also_after_another_question_to_the_agent() -> None:
    first, other = ("Why?", "So.", "How?"), ("When?",)
    edited = ("Why?", "No.", "How?", "Thus.", "And?")
    found = read(*(ask(**PLAIN, messages=say(*said)) for said in (first, other, edited)))
    parts = [each and each.broken and each.broken.part for each in found]
    assert parts == [None, None, "messages.1.content.0"]


def test_a_clock_in_the_system_prompt_limits_every_question_to_the_agent() -> None:
    def turn(clock: str, question: str) -> Body:
        return ask(**AUTO, system=f"It is {clock}. {RULES}", messages=say(question))

    found = read(*map(turn, ("09:41:07", "09:41:07", "09:41:19"), ("Why?", "How?", "How?")))
    assert all(each is not None and each.is_limited for each in found)


def test_a_clock_in_a_first_message_says_nothing_of_other_questions_to_the_agent() -> None:
    def turn(message: str) -> Body:
        return ask(**PLAIN, messages=say(message))

    found = read(*map(turn, ("Why?", "At 09:41:07: how?", "At 09:41:19: how?", "When?")))
    assert [each is not None and each.is_limited for each in found] == [False, True, True, False]


def test_what_stands_before_a_clock_and_what_was_written_since_can_be_read() -> None:
    def turn(clock: str, *words: str) -> Body:
        marked = say(*words[:-1], [text(words[-1], marked=True)])
        return ask(
            tools=[tool("find", marked=True)],
            system=[text("Be brief."), text(f"It is {clock}.", marked=True)],
            messages=marked[-1:] if len(words) == 1 else marked,
        )

    one, grown, two = (
        turn("09:41:07", "Why?"),
        turn("09:41:07", "Why?", "So.", "And?"),
        turn("09:41:19", "Why?", "So.", "And?"),
    )
    found = [each for each in read(one, grown, two) if each is not None]
    assert [each.upto for each in found] == ["tools.0", "system.1", "tools.0"]
    # The first message was written, too, although the longer turn has no breakpoint there.
    assert found[1].written == (found[0].breakpoints[-1][1], BlockPath("system", 1))


def test_what_an_earlier_call_wrote_up_to_any_of_its_breakpoints_can_be_read() -> None:
    def turn(clock: str, *, is_marked: bool) -> Body:
        clock_block = text(f"It is {clock}.", marked=True)
        return ask(system=[text(RULES, marked=is_marked), clock_block])

    bodies = turn("09:41:07", is_marked=True), turn("09:41:19", is_marked=False)
    first, second = (each for each in read(*bodies) if each is not None)
    spans = [Segment(upto=f"system.{at}", tokens=(600, 9)[at], ttl="5m") for at in (0, 1)]
    first.learn(CachedPrompt(segments=(*spans, Segment(upto="end", tokens=2))), 0)
    whole = Segment(upto="system.1", tokens=609, ttl="5m")
    now = CachedPrompt(segments=(whole, Segment(upto="end", tokens=2)))
    assert second.read_tokens(now) == 600


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_reads_a_prompt_although_a_thread_of_its_parent_is_reading_one() -> None:
    blocks: list[Body] = [{"type": "text", "text": str(number)} for number in range(50_000)]
    blocks[-1]["cache_control"] = {"type": "ephemeral"}
    body: Body = {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": "Hi"}]}
    large = read_payload({**body, "system": blocks})
    small = read_payload({**body, "system": blocks[-1:]})
    thread = threading.Thread(target=lambda: large.prefixes)
    thread.start()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(len(small.prefixes))
    assert thread.is_alive(), "the child was to begin meanwhile"
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
