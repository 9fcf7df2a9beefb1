"""`count(..., cache=...)`: what caching costs and saves, foretold from counts alone."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from conftest import Project
from standin import StandIn

PAYLOAD = """
    import anthropic
    import pytest
    from decimal import Decimal
    from pytest_llmcost import max_cost

    HOUR = {"type": "ephemeral", "ttl": "1h"}
    FIVE = {"type": "ephemeral"}

    def payload(rules=900, model="claude-opus-4-7", **more):
        return {
            "model": model,
            "max_tokens": 100,
            "tools": [
                {"name": "find", "description": "Finds. " * 600, "cache_control": HOUR,
                 "input_schema": {"type": "object"}},
            ],
            "system": [
                {"type": "text", "text": "Sort the tickets. " * rules, "cache_control": FIVE},
            ],
            "messages": [{"role": "user", "content": "My bell is broken, and so is the brake."}],
            **more,
        }

    def send():
        with anthropic.Anthropic() as client:
            client.messages.create(**payload())
"""
COUNT = "--llmcost-record-mode=new_episodes"
REPORT = "--llmcost-report=ledger.json"


def test_cold_and_warm_are_what_two_calls_in_a_row_are_then_billed(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_cache(llmcost):
        counted = llmcost.count(payload(), cache="cold", output_tokens=5)
        send()
        send()
        sent = [call for call in llmcost.calls if call.evidence == "billed"]
        cold, warm = sorted(sent, key=lambda call: call.usage.cache_read_tokens)
        assert counted.call.usage == cold.usage
        assert counted.cold.usd == cold.usd == counted.usd
        assert counted.warm.usd == warm.usd
        assert warm.usage.cache_read_tokens == sum(
            part.tokens for part in counted.segments if part.ttl
        )
        assert sum(part.tokens for part in counted.segments) == counted.input_tokens
        assert [(part.upto, part.ttl) for part in counted.segments] == [
            ("tools.0", "1h"), ("system.0", "5m"), ("end", None),
        ]
        assert counted.cache_notes == ()
    """
    )
    project.run(COUNT).assert_outcomes(passed=1)


def test_a_cold_call_costs_the_same_whatever_an_earlier_test_has_written(
    project: Project, standin: StandIn
) -> None:
    """The second prompt's tools are read; no response says that they live for an hour."""
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def send_system(text):
        with anthropic.Anthropic() as client:
            system = [{"type": "text", "text": text * 900, "cache_control": FIVE}]
            client.messages.create(**payload(system=system))

    def test_first():
        send_system("Sort the tickets. ")

    @max_cost("$0.001", cache="cold")
    def test_second():
        send_system("Sort the letters. ")
    """
    )
    result = project.run("--llmcost-cache=cold", REPORT)
    line = "  the call * input (* written to cache) + * output tokens, $*"
    result.stdout.fnmatch_lines(["$* over the $0.001 budget *", line])
    result.stdout.no_fnmatch_line("*read from cache*")
    first, second = (test["calls"][0] for test in project.ledger()["tests"])
    assert first["usage"]["cache_write_1h_tokens"] == second["usage"]["cache_read_tokens"] > 0
    assert first["usd_low"] == first["usd_high"] == second["usd_high"] > second["usd_low"]
    assert second["caveats"] == ["unknown-lifetime"]


@pytest.mark.parametrize("state", ["cold", "warm", "none"])
def test_each_state_is_priced_and_recorded(project: Project, standin: StandIn, state: str) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + f"""
    def test_cache(llmcost):
        counted = llmcost.count(payload(), cache={state!r})
        bills = {{"cold": counted.cold, "warm": counted.warm, "none": counted.uncached}}
        assert counted.usd == bills[{state!r}].usd
        assert counted.warm.usd < counted.uncached.usd < counted.cold.usd
    """
    )
    project.run(COUNT, REPORT).assert_outcomes(passed=1)
    live, asked = project.ledger()["tests"], len(standin.requests)
    project.run(REPORT).assert_outcomes(passed=1)
    assert project.ledger()["tests"] == live
    assert len(standin.requests) == asked


def test_the_number_of_calls_from_which_it_pays_is_right_to_the_call(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_cache(llmcost):
        counted = llmcost.count(payload(), cache="cold", output_tokens=50)
        number = counted.calls_until_caching_pays
        cold, warm, plain = counted.cold.usd, counted.warm.usd, counted.uncached.usd
        assert cold + (number - 1) * warm < number * plain
        assert cold + (number - 2) * warm >= (number - 1) * plain

    def test_nothing_cached(llmcost):
        plain = payload()
        plain["tools"], plain["system"] = [], "Sort."
        counted = llmcost.count(plain, cache="cold")
        assert counted.calls_until_caching_pays is None
        assert counted.cold.usd == counted.warm.usd == counted.uncached.usd
    """
    )
    project.run(COUNT).assert_outcomes(passed=2)


def test_a_prefix_too_short_for_the_model_is_said(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_cache(llmcost):
        short = payload(rules=1)
        short["tools"] = []
        counted = llmcost.count(short, cache="warm")
        assert "caches none shorter than 2,048" in counted.cache_notes[0]
        assert counted.warm.usd == counted.uncached.usd
        assert llmcost.count({**short, "model": "claude-opus-5"}, cache="warm").input_tokens
    """
    )
    project.run(COUNT).assert_outcomes(passed=1)


@pytest.mark.parametrize("cache_state", ["cold", "warm"])
def test_a_marker_s_cache_state_is_that_of_counts_too(
    project: Project, standin: StandIn, cache_state: str
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + f"""
    @max_cost("$0.02", cache={cache_state!r})
    def test_marked(llmcost):
        llmcost.count(payload())

    def test_stated(llmcost):
        llmcost.count(payload(), cache={cache_state!r})
    """
    )
    result = project.run(COUNT, REPORT)
    stated = {test["nodeid"]: test for test in project.ledger()["tests"]}
    marked = stated["test_app.py::test_marked"]
    assert marked["verdict"]["actual"] == stated["test_app.py::test_stated"]["usd"]
    result.assert_outcomes(
        **({"passed": 1, "failed": 1} if cache_state == "cold" else {"passed": 2})
    )


@pytest.mark.parametrize("is_flag", [True, False])
def test_the_run_s_cache_state_is_that_of_counts_too_and_a_miss_says_what_records_it(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch, is_flag: bool
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_one(llmcost): llmcost.count(payload())\n"
    )
    project.run(COUNT, REPORT).assert_outcomes(passed=1)
    plain = Decimal(project.ledger()["totals"]["usd"])
    with monkeypatch.context() as patch:  # what sets a variable, such as CI, is elsewhere
        if not is_flag:
            patch.setenv("PYTEST_LLMCOST_CACHE", "cold")
        result = project.run(*["--llmcost-cache=cold"][: int(is_flag)])
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the cached prefixes (tools.0, system.0) of a prompt are not counted yet",
            "  count it (free) * pytest test_app.py::test_one --llmcost-record-mode=rewrite "
            "--llmcost-cache=cold",
        ]
    )
    project.run("test_app.py::test_one", "--llmcost-cache=cold", COUNT)
    project.run("--llmcost-cache=cold", REPORT).assert_outcomes(passed=1)
    assert Decimal(project.ledger()["totals"]["usd"]) > plain
    project.run("--llmcost-cache=warm", REPORT).assert_outcomes(passed=1)
    assert Decimal(project.ledger()["totals"]["usd"]) < plain
    project.run(REPORT).assert_outcomes(passed=1)
    assert Decimal(project.ledger()["totals"]["usd"]) == plain


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('llmcost.count(payload(), cache="hot")', "cache='hot' is not one of cold, warm, none"),
        ("llmcost.count(payload()).cold", "the cached prefixes were not counted"),
        ("llmcost.count(payload()).segments", "the cached prefixes were not counted"),
        (
            'llmcost.count({**payload(), "cache_control": HOUR}, cache="cold")',
            "must not come after a ttl='5m'",
        ),
    ],
)
def test_what_makes_no_sense_is_said(
    project: Project, standin: StandIn, code: str, message: str
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + f"    def test_one(llmcost):\n        {code}\n"
    )
    result = project.run(COUNT)
    result.assert_outcomes(failed=1)
    assert message in result.stdout.str()


def test_acount_does_it_too(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @pytest.fixture(scope="session")
    def llmcost_client():
        import anthropic, threading
        assert threading.current_thread() is threading.main_thread()
        return anthropic.Anthropic()

    @pytest.mark.anyio
    async def test_one(llmcost):
        counted = await llmcost.acount(payload(), cache="warm")
        assert counted.warm.usd == counted.usd

    @pytest.fixture
    def anyio_backend():
        return "asyncio"
    """
    )
    project.run(COUNT, plugins=("anyio",)).assert_outcomes(passed=1)


def test_without_llmcost_a_test_that_looks_is_skipped(project: Project) -> None:
    project.write(
        test_app=PAYLOAD
        + """
    def test_counts(llmcost):
        llmcost.count(payload(), cache="cold")

    def test_looks(llmcost):
        llmcost.count(payload(), cache="cold").cold
    """
    )
    project.run("--no-llmcost").assert_outcomes(passed=1, skipped=1)


@pytest.mark.parametrize(
    ("ttl", "factor"), [(None, Decimal("1.25")), ("5m", Decimal("1.25")), ("1h", Decimal(2))]
)
def test_a_cached_prompt_that_nobody_asked_how_is_bounded_by_writing_and_reading_it(
    project: Project, standin: StandIn, ttl: str | None, factor: Decimal
) -> None:
    control = {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}
    project.online(standin).write(
        test_app=f"""
    from pytest_llmcost import max_cost

    def payload(words):
        system = [{{"type": "text", "text": "word " * words, "cache_control": {control}}}]
        return {{"model": "claude-opus-4-7", "max_tokens": 9, "system": system,
                "messages": [{{"role": "user", "content": "Hi"}}]}}

    @max_cost("$1")
    def test_long(llmcost):
        llmcost.count(payload(5000))

    @max_cost("$1")
    def test_short(llmcost):
        llmcost.count(payload(5))

    @max_cost("$1")
    def test_stated(llmcost):
        llmcost.count(payload(5000), cache="none")
    """
    )
    result = project.run("--llmcost-record-mode=once", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=3)
    calls = {test["nodeid"]: test["calls"][0] for test in project.ledger()["tests"]}
    long = calls["test_app.py::test_long"]
    usd, low, high = (Decimal(long[name]) for name in ("usd", "usd_low", "usd_high"))
    assert (low / usd, high / usd) == (Decimal("0.1"), factor)
    assert "cache-unpriced" in long["caveats"]
    for name in ("short", "stated"):
        call = calls[f"test_app.py::test_{name}"]
        assert call["usd_low"] == call["usd"] == call["usd_high"]
        assert "cache-unpriced" not in call["caveats"]


def test_counts_beside_a_request_are_as_many_calls_in_every_cache_state(
    project: Project, standin: StandIn
) -> None:
    # Two counts and one request of a payload are two calls: the larger of both numbers.
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @max_cost(calls=1, cache="cold")
    def test_cold(llmcost):
        llmcost.count(payload())
        llmcost.count(payload())
        send()
    """
    )
    result = project.run(COUNT)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED * - 2 > 1 call (+100 %)"])


def test_the_command_that_counts_all_tests_asks_for_the_cache_too(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_one(llmcost):
        llmcost.count(payload())

    def test_two(llmcost):
        llmcost.count(payload(901))
    """
    )
    how = ("--llmcost-cache=cold", "--llmcost-max-test=$5", "--llmcost-record-mode=none")
    result = project.run(*how)
    result.assert_outcomes(failed=2)
    (command,) = re.findall(r"count them all \(free\): pytest (.*)", result.stdout.str())
    project.run(*command.split()).assert_outcomes(passed=2)
    project.run(*how).assert_outcomes(passed=2)
