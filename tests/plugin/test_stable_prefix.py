"""Turns of one test that break the cached prefix of an earlier one.

With the prices of Opus 4.7, in dollars per million tokens: $5 plain, $6.25 written, $0.50 read.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from hand_made_cassettes import MODEL, Cache, Exchange, cold, replay, usd, warm, write_project

from pytest_llmcost.cli.main import main

SUITE = """
    import os

    import httpx
    import pytest
    from pytest_llmcost import max_cost

    CACHED = {"type": "ephemeral"}
    BOOK = "All that there is to know of bells. " * 440

    def ask(clock="09:41:07", question="Why?", mark=CACHED, **more):
        system = [
            {"type": "text", "text": "You answer letters."},
            {"type": "text", "text": f"It is {clock}. {BOOK}", "cache_control": mark},
        ]
        return {"model": "claude-opus-4-7", "max_tokens": 100, "system": system,
                "messages": [{"role": "user", "content": question}], **more}

    def send(body):
        httpx.post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json=body,
                   headers={"x-api-key": "any", "anthropic-version": "2023-06-01"})
"""


def rows(project: Project) -> dict[str, Any]:
    return {row["nodeid"].partition("::")[2]: row for row in project.ledger()["tests"]}


def price_of(call: dict[str, Any]) -> Decimal:
    return Decimal(call["usd"])


XDIST = ("xdist",)
WARM = """
    HOUR = {"type": "ephemeral", "ttl": "1h"}

    @max_cost("$0.1", cache="warm")
    def test_clock(llmcost):
        llmcost.count(ask("09:41:07"), output_tokens=0)
        llmcost.count(ask("09:41:19"), output_tokens=0)

    @max_cost("$0.02", cache="warm")
    def test_stable(llmcost):
        llmcost.count(ask(question="Why?"), output_tokens=0)
        llmcost.count(ask(question="How?"), output_tokens=0)

    @max_cost("$0.1", cache="warm")
    def test_sent():
        send(ask("09:41:07"))
        send(ask("09:41:19"))

    @max_cost("$0.1", cache="warm")
    def test_counted_and_sent(llmcost):
        for clock in ("09:51:07", "09:51:19"):
            llmcost.count(ask(clock), output_tokens=0)
            send(ask(clock))

    @max_cost("$0.1", cache="warm")
    def test_an_hour(llmcost):
        llmcost.count(ask("09:41:07", mark=HOUR), output_tokens=0)
        llmcost.count(ask("09:41:19", mark=HOUR), output_tokens=0)

    @max_cost("$0.1", cache="warm")
    def test_edited(llmcost):
        llmcost.count(ask("noon"), output_tokens=0)
        llmcost.count(ask("dusk"), output_tokens=0)

    @max_cost("$0.1", cache="warm")
    def test_two_agents(llmcost):
        other = [{"type": "text", "text": "Sell. " + BOOK, "cache_control": CACHED}]
        llmcost.count(ask(system=other), output_tokens=0)
        llmcost.count(ask("09:41:07"), output_tokens=0)
        llmcost.count(ask("09:41:19"), output_tokens=0)
"""
WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])


@WORKERS
def test_a_warm_cache_does_not_hold_what_a_clock_changes(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(test_app=SUITE + WARM)
    result = online.record(
        "--llmcost-report=ledger.json", *workers, plugins=XDIST if workers else ()
    )
    result.assert_outcomes(passed=2, failed=5)
    tests = rows(online)
    # Per million, each turn is written: 8 x $5 + 9,260 x $6.25; for an hour, 9,260 x $10.
    for name, usd_written in (("test_clock", "0.057915"), ("test_an_hour", "0.09264")):
        calls = tests[name]["calls"]
        assert [call["usage"]["input_tokens"] for call in calls] == [8, 8]
        written = [
            call["usage"]["cache_write_5m_tokens" if "clock" in name else "cache_write_1h_tokens"]
            for call in calls
        ]
        assert written == [9_260, 9_260]
        assert [price_of(call) for call in calls] == [Decimal(usd_written)] * 2
    assert tests["test_clock"]["verdict"]["actual"] == "0.11583"
    assert tests["test_an_hour"]["verdict"]["actual"] == "0.18528"
    (broken,) = [each for each in tests["test_clock"]["calls"] if "broken_prefix" in each]
    assert broken["broken_prefix"] == {"part": "system.1", "character": 13, "usd": "0.053245"}
    assert tests["test_stable"]["usd"] == "0.00934"
    assert not any("broken_prefix" in call for call in tests["test_stable"]["calls"])
    # Each reply to what was sent has 5 tokens; what was counted and then sent is one call.
    for name in ("test_sent", "test_counted_and_sent"):
        assert len(tests[name]["calls"]) == 2
        assert tests[name]["verdict"]["actual"] == "0.11608"
    # An edit was sent by the last run, too, and its first turn is read: 8 x $5 + 9,25x x $0.50.
    from_cache, anew = sorted(map(price_of, tests["test_edited"]["calls"]))
    assert from_cache < Decimal("0.005") < Decimal("0.0578") < anew
    # The other agent's prompt is stable.
    prices = sorted(map(price_of, tests["test_two_agents"]["calls"]))
    assert prices[0] < Decimal("0.005")
    assert prices[1:] == [Decimal("0.057915")] * 2


def test_a_conversation_with_a_clock_reads_what_it_has_written_itself(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    def turn(clock, *words):
        messages = [{"role": ("user", "assistant")[at % 2], "content": "word " * 300 + word}
                    for at, word in enumerate(words)]
        messages[-1]["content"] = [
            {"type": "text", "text": messages[-1]["content"], "cache_control": CACHED}]
        return ask(clock, messages=messages)

    TURNS = [turn("09:41:07", "a"), turn("09:41:07", "a", "b", "c"), turn("09:41:19", "a"),
             turn("09:41:19", "a", "b", "c")]

    @max_cost("$1", cache="warm")
    def test_counted(llmcost):
        for each in TURNS:
            llmcost.count(each, output_tokens=0)

    @max_cost("$1", cache="warm")
    def test_sent():
        for each in TURNS:
            send(each)
    """
    )
    online.record("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    written = []
    for row in online.ledger()["tests"]:
        # The second and the fourth read what the turns before them have written, and write the
        # rest; the others write all.
        sampling_calls = [call["sampling_calls"][0] for call in row["calls"]]
        limits = sorted(each["most_read_tokens"] for each in sampling_calls)
        assert limits[:2] == [0, 0]
        assert limits[2] == limits[3] > 9_260
        written.append(limits[2])
    assert len({*written}) == 1


def test_a_stream_that_was_looked_at_before_a_clock_has_changed_is_one_call(
    online: Project,
) -> None:
    online.write(
        test_app=SUITE
        + """
    @max_cost("$1", cache="warm")
    def test_streamed(llmcost):
        url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
        head = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
        with llmcost.budget("$1"):
            with httpx.stream("POST", url, json=ask(stream=True), headers=head) as response:
                for _ in response.iter_bytes(50):
                    assert len(llmcost.calls) == 1
            send(ask("09:41:19"))
            assert len(llmcost.calls) == 2
    """
    )
    online.run().assert_outcomes(passed=1)


def test_what_stands_before_the_difference_is_read(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    TOOL = {"name": "find", "description": "It finds. " * 3_000, "input_schema": {"type": "object"},
            "cache_control": CACHED}

    @max_cost("$0.2", cache="warm")
    def test_clock(llmcost):
        llmcost.count(ask("09:41:07", tools=[TOOL]), output_tokens=0)
        counted = llmcost.count(ask("09:41:19", tools=[TOOL]), output_tokens=0)
        tools, system, _ = counted.segments
        for call in llmcost.calls:
            assert (call.usage.cache_read_tokens, call.usage.cache_write_5m_tokens) == (
                tools.tokens, system.tokens)

    @max_cost("$0.2", cache="warm")
    def test_sent():
        send(ask("09:41:07", tools=[TOOL]))
        send(ask("09:41:19", tools=[TOOL]))
    """
    )
    online.record("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    # As billed, the first one has written the tools, too; warm, it is like the second.
    second, first = sorted(map(price_of, rows(online)["test_sent"]["calls"]))
    assert first > second
    assert Decimal(rows(online)["test_sent"]["verdict"]["actual"]) == 2 * second
    online.run("--llmcost-columns=warm").assert_outcomes(passed=2)
    # On a model with another tokenizer, the same share of the prompt is read.
    haiku = ("--llmcost-model=claude-haiku-4-5", "--llmcost-cache=warm")
    online.run(
        "-kclock", *haiku, "--llmcost-record-mode=new_episodes", "--llmcost-report=ledger.json"
    )
    ledger, expected = online.ledger(), Decimal(0)
    for call in ledger["tests"][0]["calls"]:
        used = call["sampling_calls"][0]["usage"]
        (tokens,) = ledger["payloads"][call["fingerprint"]]["counts"].values()
        rates = {
            "input_tokens": "1",
            "cache_write_5m_tokens": "1.25",
            "cache_read_tokens": "0.10",
        }
        weighed = sum(used[kind] * Decimal(rate) for kind, rate in rates.items())
        expected += weighed * tokens / sum(used[kind] for kind in rates) / 10**6
    assert tokens != sum(used[kind] for kind in rates)
    assert abs(Decimal(ledger["other_models"][0]["usd_then"]) - expected) < Decimal("0.00001")


def test_a_whole_run_with_a_warm_cache_prices_it_alike(online: Project) -> None:
    online.write(test_app=SUITE + WARM.replace(', cache="warm"', "").replace("$0.", "$1."))
    result = online.record("--llmcost-cache=warm", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=7)
    tests = rows(online)
    assert tests["test_clock"]["usd"] == "0.11583"
    assert tests["test_sent"]["usd"] == "0.11608"
    assert max(tests["test_sent"]["calls"], key=price_of)["broken_prefix"]["usd"] == "0.053245"


TURNS = """
    @max_cost(stable_prefix=True)
    def test_clock(llmcost):
        for clock in ("09:41:07", "09:41:19", "09:41:28"):
            llmcost.count(ask(clock), cache="warm", output_tokens=0)

    @max_cost("$1", stable_prefix=True)
    def test_stable(llmcost):
        llmcost.count(ask(question="Why?"), output_tokens=0)
        llmcost.count(ask(question="How?"), output_tokens=0)

    def test_unmarked(llmcost):
        llmcost.count(ask("09:41:07"), cache="warm", output_tokens=0)
        llmcost.count(ask("09:41:19"), cache="warm", output_tokens=0)
"""


@WORKERS
def test_a_test_fails_whose_calls_break_their_cached_prefix(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(test_app=SUITE + TURNS)
    plugins = XDIST if workers else ()
    result = online.record("--llmcost-report=ledger.json", *workers, plugins=plugins)
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "2 calls break the cached prefix of an earlier one: system.1 at character 13 (+$0.0532 "
            "per call); a stable prefix is required at test_app.py:*",
            "  not read          claude-opus-4-7, 9,268 input (9,260 written to cache) tokens, *",
            "Move what changes from call to call behind the last cache_control, *",
        ]
    )
    result.stdout.fnmatch_lines(
        ["FAILED test_app.py::test_clock - cached prefix broken: system.1 at character 13 *"]
    )
    out = " ".join(result.stdout.str().split())
    assert "1 call breaks the cached prefix of an earlier one: test_app.py::test_unmarked: " in out
    assert out.count("cached prefix of an earlier one") == 2  # the failure, and this
    verdict = rows(online)["test_clock"]["verdict"]
    assert verdict["found"] == ["system.1 at character 13 (+$0.0532 per call)"]
    assert (verdict["kind"], verdict["state"], verdict["actual"]) == (
        "stable_prefix",
        "exceeded",
        "2",
    )
    kinds = {each["kind"] for each in rows(online)["test_stable"]["blocks"]}
    assert kinds == {"stable_prefix"}
    # Offline, from the recorded counts, it is the same; and no text of a prompt is in any file.
    online.run(*workers, plugins=plugins).assert_outcomes(passed=2, failed=1)
    assert "09:41" not in (online.path / "ledger.json").read_text()


def test_a_system_prompt_that_changes_from_turn_to_turn_is_not_read(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @max_cost(cache="warm", stable_prefix=True, usd="$1")
    def test_turns(llmcost):
        for turn in range(3):
            more = [{"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}]
            messages = [{"role": "user", "content": "Why?"}, *(more * turn)]
            system = [{"type": "text", "text": f"Turn {turn}. {BOOK}", "cache_control": CACHED}]
            llmcost.count(ask(system=system, messages=messages), output_tokens=0)
    """
    )
    result = online.record("--llmcost-report=ledger.json")
    result.stdout.fnmatch_lines(
        ["2 calls break the cached prefix of an earlier one: system.0 at *"]
    )
    usages = [call["usage"] for call in rows(online)["test_turns"]["calls"]]
    # As in any other prompt that was edited, the first turn was sent by the last run.
    assert [usage.get("cache_read_tokens", 0) > 0 for usage in usages] == [True, False, False]


def test_a_stable_prefix_of_prompts_that_cache_nothing_is_a_note(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @max_cost(stable_prefix=True)
    def test_plain(llmcost):
        llmcost.count(ask(system="Be brief."), output_tokens=0)

    @max_cost(stable_prefix=True)
    @pytest.mark.parametrize("system", ["Be brief.", ask()["system"]])
    def test_either(llmcost, system):
        llmcost.count(ask(system=system), cache="warm", output_tokens=0)
    """
    )
    result = online.record("--llmcost-stable-prefix=fail")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["no prompt has a cache_control, although test_app.py:* requires a stable prefix"]
    )
    assert result.stdout.str().count("no prompt has") == 1


def test_all_tests_may_fail_warn_or_say_nothing(online: Project) -> None:
    online.write(test_app=SUITE + TURNS.replace("@max_cost(stable_prefix=True)", ""))
    online.record().assert_outcomes(passed=3)
    line = "3 calls break the cached prefix of an earlier one: test_app.py::test_clock: system.1 *"
    for args, failed, is_named in (
        ((), 0, True),
        (("--llmcost-stable-prefix=off",), 0, False),
        (("--llmcost-stable-prefix=fail",), 2, False),
    ):
        result = online.run(*args, "--llmcost-report=comment.md", "--llmcost-report=ledger.json")
        result.assert_outcomes(passed=3 - failed, failed=failed)
        (result.stdout.fnmatch_lines if is_named else result.stdout.no_fnmatch_line)(
            *([[line]] if is_named else [line])
        )
        comment = (online.path / "comment.md").read_text(encoding="utf-8")
        assert ("3 calls break the cached prefix" in comment) is is_named
        assert ("a stable prefix is required by --llmcost-stable-prefix" in comment) is bool(failed)
        assert "09:41" not in comment


def test_an_excerpt_of_the_prompt_is_shown_to_those_who_ask_for_it(online: Project) -> None:
    online.write(test_app=SUITE + TURNS)
    excerpt = "system.1 has now: 'It is 09:41:19. All that there is to kno'"
    files = ("--junitxml=junit.xml", "--llmcost-report=a.json", "--llmcost-report=a.md")
    online.record("-vv", *files).stdout.fnmatch_lines([f"test_app.py::test_clock: {excerpt}"])
    for name in ("junit.xml", "a.json", "a.md"):
        assert "09:41" not in (online.path / name).read_text(encoding="utf-8")
    for args, shown in ((("-vv", "-k", "unmarked"), 1), (("-v",), 0)):
        assert online.run(*args).stdout.str().count(excerpt) == shown


def test_a_shared_fixture_that_breaks_a_prefix_fails_the_run(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.fixture(scope="module")
    def primed():
        send(ask("09:41:07"))
        send(ask("09:41:19"))

    def test_primed(primed):
        send(ask("09:42:51"))
    """
    )
    result = online.run("--llmcost-stable-prefix=fail", "-vv")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["system.1 has now: 'It is 09:41:19. *"])
    result.stdout.fnmatch_lines(
        ["FAILED --llmcost-stable-prefix - cached prefix broken: system.1 at character 13 *"]
    )


def test_shards_add_up_to_the_run_and_must_agree(
    online: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    online.write(test_app=SUITE + TURNS)
    online.record()
    for name in ("clock", "unmarked"):
        online.run("-k", name, f"--llmcost-report={name}.json")
    online.run("-k", "stable", "--llmcost-stable-prefix=off", "--llmcost-report=off.json")
    clock, unmarked, off = (
        str(online.path / f"{each}.json") for each in ("clock", "unmarked", "off")
    )
    capsys.readouterr()
    assert main(["merge", clock, unmarked]) == 1  # a test failed
    (online.path / "merged.json").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["render", str(online.path / "merged.json")]) == 0
    # The failure of the marked test has said it of its calls.
    assert "1 call breaks the cached prefix of an earlier one: test_app.py::test_unmarked: " in (
        capsys.readouterr().out
    )
    assert main(["merge", clock, off]) == 2
    assert "shards must have the same llmcost_stable_prefix" in capsys.readouterr().err


def test_what_a_mock_answers_says_nothing_about_the_prefix(project: Project) -> None:
    project.write(
        test_app=SUITE
        + """
    import json

    def test_mocked():
        def answer(request):
            return httpx.Response(200, json={
                "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-7",
                "content": [], "stop_reason": "end_turn",
                "usage": {"input_tokens": 5, "output_tokens": 5}})

        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            for clock in ("09:41:07", "09:41:19"):
                client.post("https://api.anthropic.com/v1/messages", json=ask(clock))
    """
    )
    result = project.run("--llmcost-stable-prefix=fail")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["1 call breaks the cached prefix of an earlier one: system.1 at character 13; a stable *"]
    )


def test_a_prompt_too_short_to_be_cached_breaks_nothing(online: Project) -> None:
    online.write(
        test_app=SUITE.replace("* 440", "* 4")
        + """
    def test_short(llmcost):
        for clock in ("09:41:07", "09:41:19"):
            send(ask(clock))
            llmcost.count(ask(clock), cache="warm", output_tokens=0)
            llmcost.count(ask(clock + "!"), output_tokens=0)
    """
    )
    online.record("--llmcost-stable-prefix=fail").assert_outcomes(passed=1)


LONG_TURNS = """
    def turns(book, pages):
        cached = {"cache_control": CACHED}
        first = {"role": "user", "content": book}
        answer = [{"type": "text", "text": f"Page {n}. {BOOK}"} for n in range(pages)]
        after = [{"role": "assistant", "content": answer}, {"role": "user", "content": "And?"}]
        body = {"model": "claude-opus-4-7", "max_tokens": 100}
        return [{**body, **cached, "messages": [first]},
                {**body, **cached, "messages": [first, *after]}]

    @pytest.mark.parametrize("pages", [18, 19])
    @pytest.mark.parametrize("book", ["Why? " + BOOK, "Why?"], ids=["long", "short"])
    def test_counted(llmcost, book, pages):
        for body in turns(book, pages):
            llmcost.count(body, cache="warm", output_tokens=5)

    @pytest.mark.parametrize("pages", [18, 19])
    @pytest.mark.parametrize("book", ["Why? " + BOOK, "Why?"], ids=["long", "short"])
    def test_sent(book, pages):
        for body in turns(book + "!" * pages, pages):
            send(body)
"""


def test_the_cache_looks_back_over_twenty_blocks(online: Project) -> None:
    """A first turn that was too short to be cached is not missed."""
    online.write(test_app=SUITE.replace("* 440", "* 150") + LONG_TURNS)
    online.record("--llmcost-stable-prefix=fail", "--llmcost-report=ledger.json")
    broken = {
        (name, call["broken_prefix"]["part"])
        for name, test in rows(online).items()
        for call in test["calls"]
        if "broken_prefix" in call
    }
    part = "20 or more blocks after messages.0.content.0"
    assert broken == {("test_counted[long-19]", part), ("test_sent[long-19]", part)}
    # The stand-in bills it so, and a warm cache holds no more.
    read = {
        name: test["calls"][1]["usage"].get("cache_read_tokens", 0) > 0
        for name, test in rows(online).items()
        if "long" in name
    }
    assert read == {
        "test_counted[long-18]": True,
        "test_counted[long-19]": False,
        "test_sent[long-18]": True,
        "test_sent[long-19]": False,
    }


@pytest.mark.parametrize("value", ["False", "1", "'yes'"])
def test_a_marker_can_only_require_a_stable_prefix(project: Project, value: str) -> None:
    project.write(
        test_app=SUITE + f"\n    @max_cost(stable_prefix={value})\n    def test_a(): pass\n"
    )
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*max_cost: stable_prefix=* is not True; *"])


UNCACHED = """
    @max_cost(uncached_input_tokens="9.2k")
    def test_cold():
        send(ask())

    @max_cost(uncached_input_tokens=20, cache="warm")
    def test_warm():
        send(ask("09:41:19"))

    @max_cost(uncached_input_tokens=20, cache="cold")
    def test_counted(llmcost):
        llmcost.count(ask(), cache="warm", output_tokens=0)

    @max_cost(uncached_input_tokens="50k")
    def test_unknown(llmcost):
        llmcost.count(ask(), output_tokens=0)
"""


def test_what_is_not_read_from_the_cache_is_limited(online: Project) -> None:
    online.write(test_app=SUITE + UNCACHED)
    result = online.record("--llmcost-report=ledger.json")
    states = {name: row["verdict"]["state"] for name, row in rows(online).items()}
    assert states == {
        "test_cold": "exceeded",
        "test_warm": "within",
        "test_counted": "exceeded",
        "test_unknown": "unverified",
    }
    result.stdout.fnmatch_lines_random(
        [
            "9,268 uncached input tokens are 68 (0.7 %) over the budget of 9,200 uncached input *",
            '  to settle it      pass llmcost.count(..., cache="cold"), "warm" or "none"',
        ]
    )


def test_a_changed_prefix_is_listed_with_what_writing_it_again_costs(online: Project) -> None:
    text = """
    @pytest.mark.parametrize("question", ["Why?", "How?"])
    def test_letter(llmcost, question):
        llmcost.count(ask({clock!r}, question), cache="warm", output_tokens=0)

    def turns(word):
        cached = [{{"type": "text", "text": word * 600, "cache_control": CACHED}}]
        return [{{"role": "user", "content": "Why?"}}, {{"role": "assistant", "content": "So."}},
                {{"role": "user", "content": cached}}]

    def test_edited(llmcost):
        llmcost.count(ask("noon", messages=turns({word!r})), cache="warm", output_tokens=0)

    def test_grown(llmcost):
        llmcost.count(ask("noon", messages=turns("Who?")[:{most}]), cache="warm", output_tokens=0)

    def test_plain(llmcost):
        llmcost.count(ask({clock!r}, system={clock!r}), output_tokens=0)
    """
    baseline = ("--llmcost-baseline=base.json",)
    online.write(test_app=SUITE + text.format(clock="noon", word="How?", most=1))
    online.record(*baseline, "--llmcost-update-baseline").assert_outcomes(passed=5)
    out = online.run(*baseline, "--llmcost-report=comment.md").stdout.str()
    assert "a cached prefix changed" not in out

    online.write(test_app=SUITE + text.format(clock="dusk", word="Now?", most=3))
    reports = ("--llmcost-report=ledger.json", "--llmcost-report=comment.md")
    result = online.run("--llmcost-record-mode=new_episodes", *baseline, *reports)
    result.assert_outcomes(passed=5)
    prefixes = online.ledger()["comparison"]["prefixes"]
    shared, edited = sorted(prefixes, key=lambda each: -each["owners"])
    # 9,257 tokens x $6.25 per million; the parameters are one prefix.
    assert (shared["parts"], shared["owners"], shared["tokens"]) == (["system"], 2, 9_257)
    assert Decimal(shared["usd"]) == Decimal("0.05785625")
    assert not shared["is_most"]
    # The system prompt of the other conversation is what it was, and is read.
    assert (edited["name"], edited["is_most"]) == ("test_app.py::test_edited", True)
    assert edited["parts"] == ["messages.2"]
    line = (
        "a cached prefix changed (system) in test_app.py::test_letter[[]How?] and 1 more: writing "
        "its 9,257 tokens again costs $0.0579 once"
    )
    assert line.replace("[[]", "[") in " ".join(result.stdout.str().split())
    assert "writing its 9,257 tokens again" in (online.path / "comment.md").read_text("utf-8")


def test_keys_in_another_order_are_another_prefix_than_the_baselines(online: Project) -> None:
    text = """
    def test_tools(llmcost):
        schema = {{"type": "object", "properties": {{{keys}}}}}
        tool = {{"name": "find", "description": "It finds. " * 3_000, "input_schema": schema}}
        llmcost.count(ask(tools=[tool]), cache="warm", output_tokens=0)
    """
    keys = ['"a": {"type": "string"}', '"b": {"type": "string"}']
    online.write(test_app=SUITE + text.format(keys=", ".join(keys)))
    online.record("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    online.write(test_app=SUITE + text.format(keys=", ".join(reversed(keys))))
    result = online.run("--llmcost-baseline=base.json")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*a cached prefix changed (the order of tools or keys) in test_app.py::*"]
    )


DIAGNOSED = """
    import json

    USAGE = {{"input_tokens": 9_000, "output_tokens": 5}}

    def reply(reason, streamed):
        message = {{"id": "msg_1", "type": "message", "role": "assistant", "content": [],
                   "model": "claude-opus-4-7", "stop_reason": "end_turn", "usage": USAGE,
                   "diagnostics": {{"cache_miss_reason": reason}}}}
        if not streamed:
            return httpx.Response(200, json=message)
        events = [
            {{"type": "message_start", "message": {{**message, "stop_reason": None}}}},
            {{"type": "message_delta", "delta": {{"stop_reason": "end_turn"}}, "usage": USAGE}},
            {{"type": "message_stop"}},
        ]
        body = "".join(f"data: {{json.dumps(each)}}\\n\\n" for each in events)
        return httpx.Response(200, text=body, headers={{"content-type": "text/event-stream"}})

    @pytest.mark.parametrize("streamed", [False, True])
    def test_reply(streamed):
        answer = lambda request: reply({reason}, streamed)
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            body = ask(stream=streamed, diagnostics={{"previous_message_id": "msg_0"}})
            client.post("https://api.anthropic.com/v1/messages", json=body)
"""
CHANGED = '{"type": "system_changed", "cache_missed_input_tokens": 8_120}'


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (CHANGED, "system_changed, 8,120 tokens (2 calls)"),
        ('{"type": "model_changed", "cache_missed_input_tokens": None}', "model_changed (2 calls)"),
        ('{"type": "soon", "cache_missed_input_tokens": -1}', "soon (2 calls)"),
        ('{"type": "previous_message_not_found"}', None),
        ('{"type": "unavailable"}', None),
        ('{"type": 3}', None),
        ("None", None),
        ("'?'", None),
    ],
)
def test_the_apis_own_diagnosis_of_a_miss_is_reported(
    project: Project, reason: str, shown: str | None
) -> None:
    project.write(test_app=SUITE + DIAGNOSED.format(reason=reason))
    result = project.run("--llmcost-report=ledger.json", "--llmcost-report=comment.md")
    result.assert_outcomes(passed=2)
    calls = [call for row in rows(project).values() for call in row["calls"]]
    line = "cache misses that the API explains: "
    if shown is None:
        assert not any(call["caveats"] for call in calls)
        result.stdout.no_fnmatch_line(f"{line}*")
    else:
        detail = shown.removesuffix(" (2 calls)")
        assert [call["caveats"] for call in calls] == [[f"cache-miss: {detail}"]] * 2
        result.stdout.fnmatch_lines([f"{line}{shown}"])
        assert line in (project.path / "comment.md").read_text(encoding="utf-8")
        off = project.run("--llmcost-stable-prefix=off")
        off.stdout.no_fnmatch_line(f"{line}*")


def test_what_a_hook_leaves_out_of_comparisons_breaks_the_prefix_all_the_same(
    online: Project,
) -> None:
    online.write(
        conftest="""
        import json, re

        def pytest_llmcost_normalize_payload(payload):
            return json.loads(re.sub(r"[0-9]+:[0-9]+:[0-9]+", "TIME", json.dumps(payload)))
        """,
        test_app=SUITE + TURNS,
    )
    online.record().assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize("is_new", [False, True], ids=["as recorded", "since then"])
def test_replayed_turns_are_priced_by_what_is_sent_now(online: Project, is_new: bool) -> None:
    """Recorded with a stable prefix or with the clock; sent with the clock in either case."""

    def body(clock: str) -> dict[str, Any]:
        system = f"It is {clock}. " + "All that there is to know of bells. " * 300
        cached = [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]
        messages = [{"role": "user", "content": "Why?"}]
        return {"model": MODEL, "max_tokens": 100, "system": cached, "messages": messages}

    clocks, cache = ("09:41:07", "09:41:19"), Cache()
    recorded = [body("noon" if is_new else clock) for clock in clocks]
    turns = [
        Exchange(then, body(clock), cache.usage(then))
        for then, clock in zip(recorded, clocks, strict=True)
    ]
    write_project(online, turns=turns)
    online.run("--llmcost-record-mode=new_episodes", plugins=("recording",))
    row = replay(online, "--llmcost-cache=warm")["turns"]
    first, second = map(body, clocks)
    assert Decimal(row["usd"]) == usd(cold(first), cold(second))
    (extra,) = [call["broken_prefix"]["usd"] for call in row["calls"] if "broken_prefix" in call]
    assert Decimal(extra) == usd(cold(second)) - usd(warm(second))
    assert row["verdict"]["state"] == "within"
