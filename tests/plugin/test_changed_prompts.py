"""The demonstration: a prompt grows, the cassette replays yesterday's reply, and the run fails."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

APP = """
    import anthropic

    SYSTEM = "You triage support tickets. " * {paragraphs}
    TOOLS = [{{"name": "route", "input_schema": {{"type": "object"}}}}{more_tools}]

    def triage(ticket):
        return anthropic.Anthropic(max_retries=0).messages.create(
            model="{model}", max_tokens={max_tokens}, system=SYSTEM, tools=TOOLS,
            messages=[{{"role": "user", "content": ticket}}])
"""
TEST = """
    import pytest
    from app import triage
    from pytest_llmcost import max_cost

    @pytest.mark.vcr
    @max_cost("$0.005")
    def test_triage():
        assert triage("My bell is broken.").content
"""
CONFTEST = """
    import pytest

    @pytest.fixture(scope="session")
    def vcr_config():
        return {"filter_headers": ["authorization", "x-api-key"]}
"""
SERVER_TOOL = ', {"type": "web_search_20250305", "name": "web_search"}'


def write_app(
    project: Project,
    paragraphs: int = 10,
    more_tools: str = "",
    model: str = "claude-opus-4-7",
    max_tokens: int = 100,
) -> None:
    project.write(
        app=APP.format(
            paragraphs=paragraphs, more_tools=more_tools, model=model, max_tokens=max_tokens
        )
    )


@pytest.fixture
def replayed(project: Project, standin: StandIn) -> Project:
    """A project whose reply is in a cassette, and whose server is then far away."""
    project.online(standin).write(conftest=CONFTEST, test_app=TEST)
    write_app(project)
    result = project.run("--record-mode=once", plugins=("recording",))
    result.assert_outcomes(passed=1)
    return project


def replay(project: Project, *args: str) -> pytest.RunResult:
    return project.run("--llmcost-report=ledger.json", *args, plugins=("recording",))


def test_an_unchanged_prompt_is_billed_as_recorded(replayed: Project, standin: StandIn) -> None:
    seen = len(standin.requests)
    replay(replayed).assert_outcomes(passed=1)
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert (call["evidence"], call["live"]) == ("billed", False)
    assert replayed.ledger()["totals"]["live_usd"] == "0"
    assert len(standin.requests) == seen


def test_a_prompt_that_has_grown_tenfold_fails_without_a_count_and_names_what_grew(
    replayed: Project, standin: StandIn
) -> None:
    write_app(replayed, paragraphs=100)
    seen = len(standin.requests)
    result = replay(replayed)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"cannot check the \$0\.005 budget set at .*: a prompt is not counted yet",
            r"  changed +system \(since it was recorded\)",
        ]
    )
    assert "--llmcost-record-mode=rewrite" in result.stdout.str()
    assert len(standin.requests) == seen, "nothing goes out in record mode none"
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert (call["evidence"], call["usd"], call["usd_high"]) == ("stale", None, None)


def test_a_count_that_was_tried_in_vain_says_why(replayed: Project, standin: StandIn) -> None:
    write_app(replayed, paragraphs=100)
    standin.key = "another"
    result = replay(replayed, "--llmcost-record-mode=rewrite")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "cannot check the * budget set at *: a prompt could not be counted",
            "  recorded          * input tokens, *",
            "  changed           system (since it was recorded)",
            "  unknown           *counting claude-opus-4-7 failed with status 401*",
            "  to settle it      *pytest test_app.py::test_triage --llmcost-record-mode=rewrite",
        ]
    )
    assert "not counted yet" not in result.stdout.str()
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert (call["evidence"], call["usd"], call["usd_high"]) == ("stale", None, None)


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=["summary", "quiet"])
def test_the_failure_says_why_in_full_and_the_files_do_not(
    replayed: Project, standin: StandIn, quiet: tuple[str, ...]
) -> None:
    write_app(replayed, paragraphs=100)
    standin.key = "another"
    result = replay(replayed, "--llmcost-record-mode=rewrite", *quiet)
    (unknown,) = [line for line in result.outlines if line.startswith("  unknown ")]
    assert "status 401: invalid x-api-key" in unknown
    ledger = (replayed.path / "ledger.json").read_text()
    assert "status 401: [...]" in ledger
    assert "invalid x-api-key" not in ledger


def test_each_test_whose_counts_are_damaged_names_its_own_file(replayed: Project) -> None:
    names = [f"test_{number}" for number in range(7)]
    one = TEST.replace("@pytest.mark.vcr", "@pytest.mark.vcr('../../shared.yaml')")
    replayed.path.joinpath("cassettes/test_app/test_triage.yaml").rename(
        replayed.path / "shared.yaml"
    )
    head, _, body = one.partition("    @pytest")
    tests = [f"    @pytest{body}".replace("test_triage", name) for name in names]
    replayed.write(test_app=head + "\n".join(tests))
    write_app(replayed, paragraphs=100)
    folder = replayed.path / "cassettes/test_app"
    for name in names:
        (folder / f"{name}.llmcost.yaml").write_text("interactions:\n<<<<<<< HEAD\n  a\n")
    result = replay(replayed)
    result.assert_outcomes(failed=len(names))
    said = [line for line in result.outlines if line.startswith("  unknown ")]
    for line, name in zip(said, names, strict=True):
        assert f"/{name}.llmcost.yaml, line " in line
        assert "holds unresolved merge conflicts; restore it, or delete it" in line
    noted = [line for line in result.outlines if line.startswith("not counted: ")]
    assert len({*noted}) == 5
    result.stdout.fnmatch_lines(["… 2 more of the same kind"])


def test_a_prompt_that_has_grown_tenfold_fails_at_its_new_price_once_counted(
    replayed: Project, standin: StandIn
) -> None:
    write_app(replayed, paragraphs=100)
    cassette = replayed.path / "cassettes" / "test_app" / "test_triage.yaml"
    before = cassette.read_bytes()
    replay(replayed, "--llmcost-record-mode=new_episodes").assert_outcomes(failed=1)
    assert cassette.read_bytes() == before, "the user's cassette is theirs"
    assert [seen.path for seen in standin.requests][-1].startswith("/v1/messages/count_tokens")
    result = replay(replayed)
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"\$0\.\d+ is \$0\.\d+ \(.*\) over the \$0\.005 budget set at .*",
            r"  the prompt grew +\d+ -> 2,\d+ input tokens \(\+.* %\), \$0\.\d+ -> \$0\.\d+",
            r"  changed +system \(\+\d,\d+ tokens\)",
        ]
    )
    (call,) = replayed.ledger()["tests"][0]["calls"]
    counted = standin.counted[-1].body
    assert call["evidence"] == "recounted"
    assert call["usage"]["input_tokens"] > 500
    assert counted["system"].startswith("You triage")


def test_a_server_tool_that_was_added_is_seen(replayed: Project) -> None:
    write_app(replayed, more_tools=SERVER_TOOL)
    result = replay(replayed)
    result.assert_outcomes(failed=1)
    assert "tools.web_search (new)" in result.stdout.str()


def test_a_shorter_prompt_passes_at_its_new_price(replayed: Project) -> None:
    write_app(replayed, paragraphs=2)
    replay(replayed, "--llmcost-record-mode=new_episodes").assert_outcomes(passed=1)
    replay(replayed).assert_outcomes(passed=1)
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert call["evidence"] == "recounted"


def test_another_model_is_priced_at_its_own_rates_and_its_output_is_a_bound(
    replayed: Project,
) -> None:
    write_app(replayed, model="claude-sonnet-4-6")
    result = replay(replayed, "--llmcost-record-mode=new_episodes")
    result.assert_outcomes(failed=1)
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert call["model"] == "claude-sonnet-4-6"
    assert any(caveat.startswith("other-tokenizer") for caveat in call["caveats"])


def test_dates_in_a_prompt_can_be_normalised(replayed: Project) -> None:
    write_app(replayed, paragraphs=11)
    replayed.write(
        conftest=CONFTEST
        + """
    def pytest_llmcost_normalize_payload(payload, item):
        assert item is None or item.name == "test_triage"
        return {**payload, "system": "the same"}
    """
    )
    replay(replayed).assert_outcomes(passed=1)
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert call["evidence"] == "billed"


def test_a_reply_that_was_cut_by_a_limit_that_has_grown_is_a_lower_bound(
    replayed: Project,
) -> None:
    cassette = replayed.path / "cassettes" / "test_app" / "test_triage.yaml"
    text = cassette.read_text(encoding="utf-8")
    cut = text.replace('"stop_reason": "end_turn"', '"stop_reason": "max_tokens"')
    assert cut != text
    cassette.write_text(cut, encoding="utf-8")
    replay(replayed).assert_outcomes(passed=1)
    write_app(replayed, max_tokens=200)
    replay(replayed).assert_outcomes(failed=1)
    (call,) = replayed.ledger()["tests"][0]["calls"]
    assert call["evidence"] == "billed"
    assert call["caveats"] == ["cut-reply: by max_tokens 100, now 200"]


RAW = """
    import gzip, json
    import httpx2
    import pytest
    from pytest_llmcost import max_cost

    ASKED = {{"model": "claude-opus-4-7", "max_tokens": 100,
             "messages": [{{"role": "user", "content": "word " * {words}}}]}}
    DEEP = []
    for _ in range({levels}):
        DEEP = [DEEP]
    if DEEP:
        ASKED["tools"] = DEEP
    BODY = json.dumps(ASKED).encode()

    @pytest.mark.vcr
    @max_cost("$0.05")
    def test_raw():
        headers = {{"anthropic-version": "2023-06-01", "x-api-key": "none",
                   "content-type": "application/json"}}
        url = {url!r} + "/v1/messages"
        response = httpx2.post(url, content={content}, headers=headers)
        assert response.status_code == 200
"""


@pytest.mark.parametrize(
    ("content", "levels"), [("gzip.compress(BODY, mtime=0)", 0), ("BODY", 120)]
)
def test_what_cannot_be_read_is_not_comparable_once_it_changes(
    project: Project, standin: StandIn, content: str, levels: int
) -> None:
    project.online(standin).write(
        conftest=CONFTEST,
        test_app=RAW.format(words=1, levels=0, url=standin.url, content="BODY"),
    )
    project.run("--record-mode=once", plugins=("recording",)).assert_outcomes(passed=1)
    changed = RAW.format(words=5_000, levels=levels, url=standin.url, content=content)
    project.write(test_app=changed)
    replay(project).assert_outcomes(failed=1)
    (call,) = project.ledger()["tests"][0]["calls"]
    assert call["caveats"] == ["not-comparable: what is sent now cannot be read"]


def test_a_normaliser_that_returns_no_payload_fails_the_test(replayed: Project) -> None:
    hook = """
    def pytest_llmcost_normalize_payload(payload, item):
        return {**payload, "messages": {1, 2}}
    """
    replayed.write(conftest=CONFTEST + hook)
    write_app(replayed, paragraphs=11)
    result = replay(replayed)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pytest_llmcost_normalize_payload returned what is not a *"])


def test_what_a_normaliser_changes_in_place_is_counted_as_it_was_sent(
    replayed: Project, standin: StandIn
) -> None:
    hook = """
    def pytest_llmcost_normalize_payload(payload, item):
        payload["messages"][0]["content"] = "the same"
        return payload
    """
    replayed.write(conftest=CONFTEST + hook)
    write_app(replayed, paragraphs=11)
    replay(replayed, "--llmcost-record-mode=new_episodes").assert_outcomes(passed=1)
    assert standin.counted[-1].body["messages"][0]["content"] == "My bell is broken."
