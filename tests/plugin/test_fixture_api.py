"""The `llmcost` fixture: what it gives, and what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Project
from spending_suite import APP
from standin import StandIn

PAYLOAD = """
    from decimal import Decimal
    import pytest
    from pytest_llmcost import max_cost

    PAYLOAD = {
        "model": "claude-opus-4-7", "max_tokens": 100,
        "messages": [{"role": "user", "content": "word " * 10}],
    }
"""


def run(project: Project, standin: StandIn, test: str, *args: str) -> pytest.RunResult:
    project.online(standin).write(test_app=PAYLOAD + test)
    return project.run("--llmcost-record-mode=new_episodes", *args)


def test_a_count_has_tokens_a_price_and_an_itemised_bill(
    project: Project, standin: StandIn
) -> None:
    run(
        project,
        standin,
        """
    def test_count(llmcost):
        counted = llmcost.count(PAYLOAD, output_tokens=40)
        assert counted.input_tokens == 36
        assert counted.usd == Decimal("0.00118") == (36 * 5 + 40 * 25) / Decimal(1_000_000)
        assert [(each.category, each.quantity) for each in counted.cost.charges] == [
            ("input_tokens", 36), ("output_tokens", 40)]
        assert sum(each.usd for each in counted.cost.charges) == counted.usd
        assert counted.evidence == "counted"
        assert counted.caveats == ()
        assert counted.fingerprint.startswith("2:")
        assert llmcost.usd == counted.usd
        assert llmcost.usage.output_tokens == 40
        worst = llmcost.count(PAYLOAD, output_tokens="max")
        assert worst.cost.charges[1].quantity == 100
        assert llmcost.count(**PAYLOAD).caveats == ("input-only",)
    """,
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("count(PAYLOAD, model='x')", "count takes a payload or keywords, not both"),
        ("count(PAYLOAD, output_token=3)", "not both; got a payload and output_token="),
        ("count(PAYLOAD, output_tokens=-1)", "output_tokens=-1 is neither a number from 0 to"),
        ("count(PAYLOAD, output_tokens=True)", "output_tokens=True is neither a number from"),
        ("count(PAYLOAD, output_tokens=10**30)", "is neither a number from 0 to 10^9 nor"),
        (
            "count({**PAYLOAD, 'max_tokens': -7}, output_tokens='max')",
            "the payload has no usable max_tokens",
        ),
        ("count(PAYLOAD, output_tokens='most')", "output_tokens='most' is neither"),
        ("count(messages=[])", "the payload names no model"),
        (
            "count(model='claude-opus-4-7', messages=[], output_tokens='max')",
            "the payload has no usable max_tokens",
        ),
        ("count({**PAYLOAD, 'system': b'x'})", "system"),
        ("record(3)", "record takes a Messages response or a usage"),
        (
            "record({'input_tokens': 3, 'output_tokens': 1})",
            "a usage with model=",
        ),
        (
            "record({'input_tokens': 0, 'output_tokens': 0}, model='claude-opus-4-7')",
            "usage: 0 output tokens of claude-opus-4-7 for a prompt of 0 tokens",
        ),
        ("record({'usage': {'input_tokens': '3'}}, model='claude-opus-4-7')", "usage.input_tokens"),
    ],
)
def test_what_makes_no_sense_is_said_without_our_own_frames(
    project: Project, standin: StandIn, call: str, words: str
) -> None:
    result = run(project, standin, f"\n    def test_wrong(llmcost):\n        llmcost.{call}\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E  *{words}*"])
    assert "/pytest_llmcost/" not in result.stdout.str()
    assert standin.requests == []


def test_a_model_without_a_price_counts_but_has_no_price(
    project: Project, standin: StandIn
) -> None:
    result = run(
        project,
        standin,
        """
    from pytest_llmcost import LlmCostError

    @max_cost(input_tokens="1k")
    def test_tokens_are_known(llmcost):
        counted = llmcost.count({**PAYLOAD, "model": "claude-opus-4-7"})
        assert counted.input_tokens

    @max_cost("$1")
    def test_declared(llmcost):
        recorded = llmcost.record({"input_tokens": 10, "output_tokens": 1}, model="claude-nova")
        with pytest.raises(LlmCostError, match="claude-nova"):
            recorded.usd

    def test_sum(llmcost):
        llmcost.record({"input_tokens": 10, "output_tokens": 1}, model="claude-nova")
        with pytest.raises(LlmCostError, match="no price: .*claude-nova"):
            llmcost.usd
    """,
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["cannot check the $1.00 budget set at *"])


def test_what_cannot_be_seen_can_be_stated(project: Project, standin: StandIn) -> None:
    run(
        project,
        standin,
        """
    from dataclasses import dataclass
    from anthropic.types import Message, Usage

    @dataclass
    class AgentResult:
        total_cost_usd: float
        usage: object = None

    @max_cost("$0.20")
    def test_declared(llmcost):
        message = Message(
            id="msg_1", type="message", role="assistant", model="claude-opus-4-7", content=[],
            usage=Usage(input_tokens=1000, output_tokens=100))
        assert llmcost.record(message).usd == Decimal("0.0075")
        assert llmcost.record(message.usage, model="claude-opus-4-7").usd == Decimal("0.0075")
        assert llmcost.record(AgentResult(0.0125)).call.declared_usd == Decimal("0.0125")
        assert llmcost.record({"total_cost_usd": "0.02"}).call.evidence == "declared"
        assert llmcost.usd == Decimal("0.0475")
        assert len(llmcost.calls) == 4

    @max_cost(calls=8)
    def test_an_agent_may_have_called_more_often(llmcost):
        llmcost.record(AgentResult(0.0125))
    """,
    ).assert_outcomes(passed=1, failed=1)


def test_a_stated_price_is_the_price_and_has_no_bill(project: Project, standin: StandIn) -> None:
    run(
        project,
        standin,
        """
    from pytest_llmcost import LlmCostError

    USAGE = {"input_tokens": 1000, "output_tokens": 100}

    @pytest.mark.parametrize(("response", "how", "usd", "tokens"), [
        ({"total_cost_usd": "0.02"}, {}, "0.02", None),
        (USAGE, {"usd": "$3", "model": "claude-opus-4-7"}, "3", 1000),
        ({"total_cost_usd": 0}, {}, "0", None),
    ])
    def test_declared(llmcost, response, how, usd, tokens):
        recorded = llmcost.record(response, **how)
        assert recorded.usd == llmcost.usd == Decimal(usd)
        if tokens is not None:
            assert recorded.input_tokens == tokens
        else:
            with pytest.raises(LlmCostError, match="were not stated"):
                recorded.input_tokens
        with pytest.raises(LlmCostError, match="stated.* has no itemised bill"):
            recorded.cost
    """,
    ).assert_outcomes(passed=3)


def test_results_of_one_agents_session_are_a_running_total(
    project: Project, standin: StandIn
) -> None:
    run(
        project,
        standin,
        """
    from dataclasses import dataclass

    def result(total, session, **more):
        return {"session_id": session, "total_cost_usd": total, **more}

    @dataclass
    class ResultMessage:
        total_cost_usd: float
        session_id: str

    @pytest.mark.parametrize(
        "totals", [(0.01, 0.02, 0.03), (0.03, 0.03), (0, 0.03), (0.01, 0, 0.02)])
    @pytest.mark.parametrize("make", [result, ResultMessage])
    @max_cost("$0.03")
    def test_one_session(llmcost, make, totals):
        for total in totals:
            llmcost.record(make(total, "s"))
        assert llmcost.usd == Decimal("0.03")

    def test_a_session_goes_on_from_a_result_whose_price_is_stated(llmcost):
        llmcost.record(result(0.31, "s"), usd="0.01")
        llmcost.record(result(0.33, "s"))
        assert llmcost.usd == Decimal("0.03")

    def test_a_session_that_begins_its_total_anew(llmcost):
        for total in (0.03, 0.01, 0.02):
            llmcost.record(result(total, "s"))
        assert llmcost.usd == Decimal("0.05")

    @max_cost("$0.04")
    def test_two_sessions_and_a_result_without_one(llmcost):
        for total, session in [(0.01, "a"), (0.01, "b"), (0.01, None), (0.01, None)]:
            llmcost.record(result(total, session))
        assert llmcost.usd == Decimal("0.04")

    def test_a_block_holds_what_the_session_has_grown_by(llmcost):
        llmcost.record(result(0.05, "s"))
        with llmcost.budget("$0.01"):
            llmcost.record(result(0.06, "s"))
        with llmcost.budget("$0"):
            assert llmcost.record(result(0.06, "s")).call.usd == Decimal("0.01")

    def test_messages_of_a_session_and_stated_prices_add_up(llmcost):
        usage = {"input_tokens": 1000, "output_tokens": 100}
        for _ in range(2):
            llmcost.record({"session_id": "s", "usage": usage, "model": "claude-opus-4-7"})
            llmcost.record(result(0.01, "s"), usd="0.01")
        assert llmcost.usd == Decimal("0.035")
    """,
    ).assert_outcomes(passed=13)


def test_a_block_has_a_ceiling_of_its_own(project: Project, standin: StandIn) -> None:
    result = run(
        project,
        standin,
        """
    @max_cost("$1")
    def test_blocks(llmcost):
        with llmcost.budget("$0.01"):
            llmcost.count(PAYLOAD)
        llmcost.count({**PAYLOAD, "system": "word " * 100})
        with llmcost.budget("$0.0001", reason="a small step"):
            llmcost.count({**PAYLOAD, "system": "word " * 50})
    """,
        "--llmcost-report=ledger.json",
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [r".* over the \$0\.0001 budget set at .*test_app\.py:\d+ \(a small step\)"]
    )
    (test,) = project.ledger()["tests"]
    assert [each["state"] for each in test["blocks"]] == ["within", "exceeded"]
    assert test["verdict"]["state"] == "within"
    result.stdout.re_match_lines([r"✗ test_blocks .* \$0\.0001  +\d+%$"])


def test_a_block_is_named_from_the_rootdir_and_without_folders_outside_of_it(
    project: Project, standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "outside" / "helper.py"
    helper.parent.mkdir()
    helper.write_text("def spend(llmcost):\n    with llmcost.budget('$1'): pass\n")
    project.online(standin).write(
        test_app="""
    def test_blocks(llmcost):
        with llmcost.budget("$1"): pass
        import helper
        helper.spend(llmcost)
    """
    )
    monkeypatch.syspath_prepend(helper.parent)
    (project.path / "deep").mkdir()
    monkeypatch.chdir(project.path / "deep")
    report = f"--llmcost-report={project.path / 'ledger.json'}"
    project.run(f"--rootdir={project.path}", report, "../test_app.py").assert_outcomes(passed=1)
    (test,) = project.ledger()["tests"]
    assert [each["origin"] for each in test["blocks"]] == ["test_app.py:3", "helper.py:2"]


def test_the_failure_of_a_block_that_was_caught_shows_the_calls_of_the_block(
    project: Project, standin: StandIn
) -> None:
    result = run(
        project,
        standin,
        """
    def test_block(llmcost):
        with pytest.raises(pytest.fail.Exception), llmcost.budget("$0.0001"):
            llmcost.record({"input_tokens": 226, "output_tokens": 1}, model="claude-opus-4-7")
        llmcost.record({"input_tokens": 7_000, "output_tokens": 1}, model="claude-opus-4-7")
    """,
    )
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"  the call  .*226 input \+ 1 output tokens, \$0\.0012"])
    result.stdout.no_fnmatch_line("*7,000 input*")


def test_a_block_has_the_cache_state_of_the_marker_of_its_test(
    project: Project, standin: StandIn
) -> None:
    run(
        project,
        standin,
        """
    def block(llmcost, **cached):
        with llmcost.budget("$0.001"):
            usage = {"input_tokens": 1, "output_tokens": 0, **cached}
            llmcost.record(usage, model="claude-opus-4-7")

    @max_cost("$1", cache="cold")
    def test_cold(llmcost):
        block(llmcost, cache_read_input_tokens=1_000)

    @max_cost("$1", cache="warm")
    def test_warm(llmcost):
        block(llmcost, cache_creation_input_tokens=1_000)

    @max_cost("$1")
    def test_as_billed(llmcost):
        block(llmcost, cache_read_input_tokens=1_000)
    """,
        "--llmcost-report=ledger.json",
    ).assert_outcomes(failed=1, passed=2)
    blocks = [block for row in project.ledger()["tests"] for block in row["blocks"]]
    found = [(block["state"], block["high"], block.get("cache_state")) for block in blocks]
    assert found == [
        ("within", "0.000505", None),
        ("exceeded", "0.010005", "cold"),  # written for an hour at most
        ("within", "0.000505", "warm"),
    ]


def test_turned_off_it_counts_nothing_and_a_test_that_looks_is_skipped(
    project: Project, standin: StandIn
) -> None:
    result = run(
        project,
        standin,
        """
    @max_cost("$0.00001")
    def test_counts(llmcost):
        llmcost.count(PAYLOAD)
        with llmcost.budget("$0.00001"):
            llmcost.record({"input_tokens": 3, "output_tokens": 1}, model="x")

    def test_looks(llmcost):
        assert llmcost.count(PAYLOAD).usd
    """,
        "--no-llmcost",
        "--strict-markers",
    )
    result.assert_outcomes(passed=1, skipped=1)
    assert standin.requests == []
    result.stdout.no_fnmatch_line("*llmcost: what*")


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_tasks_that_run_at_once_have_blocks_of_their_own(
    project: Project, workers: tuple[str, ...]
) -> None:
    project.write(
        app=APP,
        test_app="""
    import asyncio
    import contextvars
    import threading
    import pytest
    from app import ask  # 100 words cost $0.00075

    def test_tasks(llmcost):
        async def step(words):
            with llmcost.budget("$0.00075"):
                await asyncio.sleep(0)
                ask(words)
                await asyncio.to_thread(ask, 1)
                await asyncio.sleep(0)

        async def steps():
            with llmcost.budget("$0.01"):
                await asyncio.gather(step(49), step(50))

        asyncio.run(steps())

    def in_a_thread(words):
        thread = threading.Thread(target=ask, args=[words])
        thread.start()
        thread.join()

    def test_thread(llmcost):
        with llmcost.budget("$1"):
            with llmcost.budget("$0.0001"):
                in_a_thread(100)

    @pytest.fixture
    def whole(llmcost):
        '''As an async fixture of pytest-asyncio under Python 3.10.'''
        context, block = contextvars.copy_context(), llmcost.budget("$0.001")
        context.run(block.__enter__)
        yield
        context.run(block.__exit__, None, None, None)

    def test_block_of_a_fixture(whole, llmcost):
        ask(100)
        with llmcost.budget("$1"):
            ask(101)
    """,
    )
    result = project.run("--llmcost-report=ledger.json", *workers, plugins=("xdist",))
    found = {  # a block is listed when it ends, and threads end in any order
        test["nodeid"].rpartition("::")[2]: sorted(
            (each["actual"], each["state"]) for each in test["blocks"]
        )
        for test in project.ledger()["tests"]
    }
    assert found == {
        "test_tasks": [("0.00075", "within"), ("0.000755", "exceeded"), ("0.001505", "within")],
        "test_thread": [("0.00075", "exceeded"), ("0.00075", "within")],
        "test_block_of_a_fixture": [("0.000755", "within"), ("0.001505", "exceeded")],
    }, result.stdout.str()
