"""Gates on single calls: set by marker and option, off otherwise, the same across workers."""

from __future__ import annotations

import pytest
from conftest import Project

from pytest_llmcost.cli.main import main

SUITE = """
    import pytest
    from pytest_llmcost import max_cost

    def payload(model="claude-haiku-4-5", words=10):
        return {"model": model, "max_tokens": 100,
                "messages": [{"role": "user", "content": "word " * words}]}
"""
XDIST = ("xdist",)


MODELS = """
    @max_cost("$1")
    def test_haiku(llmcost):
        llmcost.count(payload())

    def test_opus(llmcost):
        llmcost.count(payload("claude-opus-4-7"))

    @max_cost(models=["claude-opus-*", "claude-haiku-*"])
    def test_wider(llmcost):
        llmcost.count(payload("claude-opus-4-7"))

    @max_cost(models="claude-opus-*")
    def test_alias(llmcost):
        llmcost.count(payload())

    def test_idle():
        pass
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_call_of_a_model_that_is_not_allowed_fails_its_test(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(test_app=SUITE + MODELS)
    args = ("--llmcost-allowed-models=claude-haiku-*", "--llmcost-report=ledger.json", *workers)
    result = online.record(*args, plugins=XDIST if workers else ())
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "1 call of claude-opus-4-7, not one of the allowed models claude-haiku-* set by "
            "--llmcost-allowed-models",
            "  not allowed       claude-opus-4-7, * input tokens, $* (counted)",
            "FAILED test_app.py::test_opus - claude-opus-4-7 is not allowed",
            "FAILED test_app.py::test_alias - claude-haiku-4-5-20251001 is not allowed",
        ]
    )
    rows = {row["nodeid"].partition("::")[2]: row for row in online.ledger()["tests"]}
    assert rows["test_opus"]["verdict"]["found"] == ["claude-opus-4-7"]
    assert rows["test_wider"]["verdict"]["state"] == "within"
    assert rows["test_haiku"]["verdict"].get("kind", "usd") == "usd"


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_last_path_that_matches_says_which_models_a_test_may_call(
    online: Project, workers: tuple[str, ...]
) -> None:
    two = (
        SUITE
        + """
    def test_haiku(llmcost):
        llmcost.count(payload())

    def test_opus(llmcost):
        llmcost.count(payload("claude-opus-4-7"))
    """
    )
    online.write(
        pytest_ini="""
    [pytest]
    addopts = --import-mode=importlib
    llmcost_allowed_models =
        claude-haiku-*
        tests/agents/** = claude-opus-*
        tests/agents/** = claude-sonnet-*
        tests/agents/best = claude-haiku-*
        tests/agents/best = claude-opus-*
    """,
        test_app=two,
        tests__agents__test_app=two,
        tests__agents__best__test_app=two,
    )
    args = ("--llmcost-report=ledger.json", *workers)
    result = online.record(*args, plugins=XDIST if workers else ())
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED test_app.py::test_opus - claude-opus-4-7 is not allowed",
            "FAILED tests/agents/test_app.py::test_haiku - claude-haiku-* is not allowed",
        ]
    )
    assert online.ledger()["allowed_models"][:2] == [
        "claude-haiku-*",
        "tests/agents/** = claude-opus-*",
    ]


def test_allowed_models_hold_for_other_prompts_and_cost_nothing_unless_asked_for(
    online: Project,
) -> None:
    online.write(test_app=SUITE + "\n    def test_any(llmcost): llmcost.count(payload(words=99))\n")
    online.record("--llmcost-allowed-models=claude-haiku-*").assert_outcomes(passed=1)
    result = online.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    assert online.ledger()["tests"][0]["verdict"] is None


def test_a_shared_fixture_that_calls_another_model_fails_the_run(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @pytest.fixture(scope="module")
    def primed():
        import os, httpx
        httpx.post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
                   headers={"x-api-key": "any", "anthropic-version": "2023-06-01"},
                   json=payload("claude-opus-4-7"))

    def test_primed(primed):
        pass
    """
    )
    result = online.run("--llmcost-allowed-models=claude-haiku-*")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["FAILED --llmcost-allowed-models - claude-opus-4-7 is not allowed"]
    )
    for line, failed in (("**", 1), ("test_app.py = claude-haiku-*", 1), ("test_app.py = **", 0)):
        ini = f"[pytest]\nllmcost_allowed_models =\n claude-haiku-*\n {line}\n"
        online.write(pytest_ini=ini if line != "**" else f"{ini} test_app.py = claude-haiku-*\n")
        online.run().assert_outcomes(passed=1, failed=failed)


@pytest.mark.parametrize("models", ["[]", "3", "['a b']", "''", "[None]", "['*', 5]"])
def test_wrong_models_in_a_marker_are_a_collection_error(project: Project, models: str) -> None:
    project.write(test_app=SUITE + f"\n    @max_cost(models={models})\n    def test_a(): pass\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_app.py:*: max_cost: models=*"])


CALLS = """
    def test_many_small(llmcost):
        for words in range(1, 30):
            llmcost.count(payload(words=words))

    def test_large(llmcost):
        llmcost.count(payload())
        llmcost.count(payload(words=9_000))

    @max_cost(call_usd="$1", call_input_tokens="90k")
    def test_its_own(llmcost):
        llmcost.count(payload(words=9_000))

    @max_cost(call_input_tokens=100)
    def test_tokens(llmcost):
        llmcost.count(payload(words=500))

    def test_idle():
        pass
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_largest_single_call_of_every_test_is_limited(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(test_app=SUITE + CALLS)
    args = ("--llmcost-max-call=$0.01", "--llmcost-report=ledger.json", *workers)
    result = online.record(*args, plugins=XDIST if workers else ())
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.re_match_lines_random(
        [
            r"\$0.* over the budget of \$0\.01 per call set by --llmcost-max-call",
            r"  largest of 2 +claude-haiku-[-\d]+, [\d,]+ input tokens, \$0\.0\d+ \(counted\)",
            r"FAILED test_app.py::test_large - \$0\.\d+ > \$0\.01 per call \(\+\d+ %\)",
            r"FAILED test_app.py::test_tokens - [\d,]+ > 100 input tokens per call \(.*\)",
        ]
    )
    rows = {row["nodeid"].partition("::")[2]: row for row in online.ledger()["tests"]}
    assert rows["test_many_small"]["verdict"]["kind"] == "call_usd"
    assert rows["test_its_own"]["verdict"]["state"] == "within"
    # Offline and without a limit, the same suite has no verdict but those of its markers.
    online.run("--deselect=test_app.py::test_tokens").assert_outcomes(passed=4, deselected=1)


@pytest.mark.parametrize(
    ("marker", "words"),
    [("call_usd='much'", "call_usd='much' is not an amount"), ("call_output_tokens='x'", "x'")],
)
def test_a_wrong_limit_on_a_call_is_a_collection_error(
    project: Project, marker: str, words: str
) -> None:
    project.write(test_app=SUITE + f"\n    @max_cost({marker})\n    def test_a(): pass\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*max_cost: *{words}*"])


WORST = """
    import os, httpx

    CACHED = {"system": [{"type": "text", "text": "Rules. " * 9000,
                          "cache_control": {"type": "ephemeral"}}]}

    @max_cost("$0.01", worst="$0.02")
    def test_counted(llmcost):
        llmcost.count(payload(), output_tokens=5)

    @max_cost(worst="$0.0004")
    def test_captured():
        httpx.post(os.environ.get("ANTHROPIC_BASE_URL", "http://localhost") + "/v1/messages",
                   headers={"x-api-key": "any", "anthropic-version": "2023-06-01"}, json=payload())

    @max_cost(worst="$1")
    def test_cached(llmcost):
        llmcost.count({**payload(), **CACHED})

    def test_by_default(llmcost):
        llmcost.count(payload(words=9_000))

    def test_idle():
        pass
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_worst_case_of_counted_and_captured_calls_is_limited(
    online: Project, workers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(test_app=SUITE + WORST)
    plugins = XDIST if workers else ()
    args = ("--llmcost-max-worst=$0.009", "--llmcost-report=ledger.json", *workers)
    result = online.record(*args, plugins=plugins)
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.re_match_lines_random(
        [
            r"\$0\.\d+ is .* over the \$0\.0004 worst-case budget set at test_app\.py:\d+",
            r"  longest reply +max_tokens of 100: claude-haiku-.*",
            r"FAILED test_app.py::test_by_default - \$0\.\d+ > \$0\.009 worst-case budget \(\+.*",
        ]
    )
    rows = {row["nodeid"].partition("::")[2]: row for row in online.ledger()["tests"]}
    assert [each["kind"] for each in rows["test_counted"]["blocks"]] == ["worst"]
    assert rows["test_cached"]["verdict"]["state"] == "within"
    # Offline, without a key: the recorded counts, those of the cached prefix too, are enough.
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name)
    result = online.run("--deselect=test_app.py::test_captured", *workers, plugins=plugins)
    assert result.ret == 0, result.stdout.str()


def test_a_worst_case_whose_cached_prefix_is_not_counted_names_the_command(
    online: Project,
) -> None:
    online.write(test_app=SUITE + WORST.replace("@max_cost(worst=", "#"))
    online.record()
    online.write(test_app=SUITE + WORST)
    result = online.run("-k", "cached")
    result.assert_outcomes(failed=1, deselected=4)
    result.stdout.fnmatch_lines(
        [
            "cannot check the $1.00 worst-case budget set at test_app.py:*: a prompt is not *",
            "  count it (free)   pytest *--llmcost-record-mode=rewrite",
        ]
    )
    online.run("-k", "cached", "--llmcost-record-mode=rewrite").assert_outcomes(
        passed=1, deselected=4
    )


HOUR = """
    import httpx

    def answer(request):
        split = {"ephemeral_1h_input_tokens": 1_000}
        usage = {"input_tokens": 1, "output_tokens": 1, "cache_creation": split}
        return httpx.Response(200, json={"model": payload()["model"], "usage": usage})

    @max_cost(worst="$0.0025")
    def test_hour():
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            client.post("https://api.anthropic.com/v1/messages", json=payload())
"""


@pytest.mark.parametrize("cache", ["as-billed", "cold", "warm"])
def test_the_worst_case_is_the_same_in_every_cache_state(project: Project, cache: str) -> None:
    project.write(test_app=SUITE + HOUR)
    project.run(f"--llmcost-cache={cache}", "--llmcost-report=ledger.json").assert_outcomes(
        failed=1
    )
    (row,) = project.ledger()["tests"]
    # 1 token at $1, 1,000 written for an hour at $2 and 100 of output at $5, per million.
    assert row["verdict"]["low"] == row["verdict"]["high"] == "0.002501"


BUDGETS = """
    def test_without(llmcost):
        llmcost.count(payload())

    @max_cost("$1")
    def test_money(llmcost):
        llmcost.count(payload())

    @max_cost(calls=1)
    def test_quantity(llmcost):
        llmcost.count(payload())

    @max_cost(models=["claude-*"])
    def test_models_alone(llmcost):
        llmcost.count(payload())

    def test_idle():
        pass
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_call_without_a_budget_fails_its_test_if_budgets_are_required(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(test_app=SUITE + BUDGETS)
    args = ("--llmcost-require-budget", *workers)
    result = online.record(*args, plugins=XDIST if workers else ())
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "1 call without a budget; --llmcost-require-budget requires one",
            'Give the test a budget, for example @max_cost("$0.*"), or set llmcost_max_test *',
            "FAILED test_app.py::test_without - 1 call without a budget",
            "FAILED test_app.py::test_models_alone - 1 call without a budget",
        ]
    )
    if not workers:
        for budget in ("llmcost_max_test=$1", "llmcost_budgets=test_app.py = $1"):
            online.run("--llmcost-require-budget", "-o", budget).assert_outcomes(passed=5)
        online.run().assert_outcomes(passed=5)


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_calls_that_no_test_makes_need_a_budget_as_well_if_budgets_are_required(
    online: Project, workers: tuple[str, ...]
) -> None:
    online.write(
        tests__test_app=SUITE
        + """
    import os, httpx

    def ask():
        httpx.post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json=payload(),
                   headers={"x-api-key": "any", "anthropic-version": "2023-06-01"})

    ask()

    @pytest.fixture(scope="module")
    def primed():
        ask()

    def test_primed(primed):
        pass
    """
    )

    def run(*options: str) -> list[str]:
        args = ("--llmcost-require-budget", *options, *workers)
        result = online.run(*args, plugins=XDIST if workers else ())
        failed = [line for line in result.stdout.lines if line.startswith("FAILED")]
        result.assert_outcomes(passed=1, failed=len(failed))
        assert bool(failed) == bool(result.ret)
        return failed

    start, fixture = (
        "FAILED --llmcost-require-budget - ",
        "tests/test_app.py::primed (module fixture)",
    )
    assert run() == [f"{start}2 calls without a budget: outside tests, {fixture}"]
    assert run("-o", "llmcost_budgets=tests/** = $1") == [
        f"{start}1 call without a budget: outside tests"
    ]
    assert run("--llmcost-max-suite=$1") == run("--llmcost-max-call=$1") == []


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_budgets_that_are_suggested_from_a_run_are_kept_by_it(
    online: Project, workers: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    online.write(test_app=SUITE + CALLS.replace("=100)", "=100_000)"), pytest_ini="[pytest]\n")
    plugins = XDIST if workers else ()
    online.record("--llmcost-report=ledger.json", *workers, plugins=plugins)
    capsys.readouterr()
    assert main(["suggest", str(online.path / "ledger.json"), "--headroom=1%"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("@max_cost(") == 4
    online.write(pytest_ini="[pytest]\n" + printed.partition("\n\n")[2])
    result = online.run(*workers, plugins=plugins)
    result.assert_outcomes(passed=5)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*within the $* budget for test_app.py set by llmcost_budgets*"])
    # Between workers and shards a budget is one: the test that uses most of it counts.
    wide = ("--llmcost-max-test=$9", "--llmcost-report=wide.json")
    online.run(*wide, *workers, plugins=plugins).assert_outcomes(passed=5)
    capsys.readouterr()
    assert main(["suggest", str(online.path / "wide.json"), "--ratchet"]) == 1
    ratchet = capsys.readouterr().out.splitlines()
    assert [line.partition(" to ")[0] for line in ratchet if "max-test" in line] == [
        "--llmcost-max-test: lower $9.00"
    ]


@pytest.mark.parametrize(
    "gate",
    ["live=fail", "allowed-models=claude-opus-*", "require-budget", "max-call=$0", "max-worst=$0"],
)
def test_what_is_still_open_when_a_test_ends_passes_no_gate_of_the_settings(
    online: Project, gate: str
) -> None:
    online.write(
        test_app=SUITE
        + """
    import anthropic

    @pytest.fixture(scope="module")
    def client():
        with anthropic.Anthropic() as client:
            yield client

    @pytest.fixture(scope="module")
    def streams():
        return []

    def test_stream(client, streams):
        streams.append(client.messages.create(stream=True, **payload()))

    def test_batch(client):
        client.messages.batches.create(requests=[{"custom_id": "a", "params": payload()}])
    """
    )
    online.run(f"--llmcost-{gate}").assert_outcomes(passed=2, errors=2)
    online.run().assert_outcomes(passed=2)
