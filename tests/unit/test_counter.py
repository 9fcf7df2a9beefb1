"""Counting through the real SDK against the stand-in: modes, cassettes, refusals, failures."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from standin import StandIn, Step, answer_error, answer_json, fault, rate_limited

from pytest_llmcost.counting.cassette import Count, CountCassette, Entry, write_entries
from pytest_llmcost.counting.client import Asker, Counter, Job, PayloadCount, make_client
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.record_mode import LIVE, MODES
from pytest_llmcost.errors import CountError, CountMissingError
from pytest_llmcost.prices.rate_card import shipped_card

anthropic = pytest.importorskip("anthropic")

KEY = "sk-" + "ant-" + "api03-secret"
NAME = "tests/test_triage.py::test_refund[big one]"
ME = Asker(NAME, f"pytest {shlex.quote(NAME)} --llmcost-record-mode=rewrite")
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FIND = {"name": "find", "input_schema": {"type": "object"}}


def payload(text: str = "Hello there", **changes: Any) -> Payload:
    body = {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": text}]}
    return read_payload({**body, **changes})


class CountingKit:
    """A counter, a stand-in and a cassette, as one session of one test has them."""

    def __init__(self, api: StandIn, path: Path) -> None:
        self.api, self.path = api, path
        self.made: list[Any] = []
        """Clients, to be closed."""
        self.counter = Counter(self.client)
        self.cassette = CountCassette(path)

    def client(self, **settings: Any) -> Any:
        given = {"base_url": self.api.url, "api_key": KEY, "max_retries": 0, **settings}
        self.made.append(anthropic.Anthropic(**given))
        return self.made[-1]

    def count(
        self, asked: Payload | None = None, mode: str = "new_episodes", asker: Asker = ME
    ) -> PayloadCount:
        is_new = not self.cassette.has_recorded(asker.name)
        allowed = MODES.get(mode, LIVE).for_asker(is_new=is_new)
        counted = self.counter.count(Job(asked or payload(), self.cassette, allowed, asker))
        self.cassette.save()
        return counted

    def fresh(self) -> CountingKit:
        """The next session."""
        kit = CountingKit(self.api, self.path)
        kit.made = self.made
        return kit


@pytest.fixture
def api() -> Iterator[StandIn]:
    with StandIn() as api:
        yield api


@pytest.fixture
def kit(api: StandIn, tmp_path: Path) -> Iterator[CountingKit]:
    kit = CountingKit(api, tmp_path / "test_refund.llmcost.yaml")
    yield kit
    for client in kit.made:
        client.close()


def test_a_recorded_count_needs_neither_network_nor_client(kit: CountingKit) -> None:
    live = kit.count()
    assert len(kit.api.counted) == 1
    replayed = kit.fresh().count(mode="none")
    assert replayed.input_tokens == live.input_tokens
    assert (len(kit.made), len(kit.api.counted)) == (1, 1)


def test_the_api_gets_the_payload_and_the_file_does_not(kit: CountingKit) -> None:
    kit.count(payload("a secret prompt", system="a secret system", max_tokens=5))
    (seen,) = kit.api.counted
    assert seen.body == {
        "model": "claude-opus-4-7",
        "messages": [{"role": "user", "content": "a secret prompt"}],
        "system": "a secret system",
    }
    written = kit.path.read_text()
    for secret in ("secret", KEY, "req_standin", "org-standin", "127.0.0.1"):
        assert secret not in written


def test_recording_twice_gives_the_same_bytes(kit: CountingKit) -> None:
    kit.count()
    first = kit.path.read_bytes()
    kit.path.unlink()
    kit.fresh().count()
    assert kit.path.read_bytes() == first


def test_a_miss_says_what_changed_and_how_to_record_it(kit: CountingKit) -> None:
    kit.count(payload(system="Be brief.", tools=[FIND]))
    changed = payload(system="Be very brief.", tools=[FIND, SEARCH])
    with pytest.raises(CountMissingError) as caught:
        kit.count(changed, mode="none")
    text = str(caught.value)
    assert "system, tools.web_search (new)" in text
    command = "pytest 'tests/test_triage.py::test_refund[big one]' --llmcost-record-mode=rewrite"
    assert text.endswith(command)
    assert caught.value.changed == ("system", "tools.web_search (new)")
    assert len(kit.api.counted) == 1


def test_a_miss_without_a_recording_says_so(kit: CountingKit) -> None:
    asker = Asker("session.corpus", "pytest 'a test.py' --llmcost-record-mode=rewrite")
    with pytest.raises(CountMissingError, match="holds no counts yet") as caught:
        kit.count(mode="none", asker=asker)
    assert caught.value.command == "pytest 'a test.py' --llmcost-record-mode=rewrite"


@pytest.mark.parametrize(
    ("mode", "first", "same", "other"),
    [
        ("none", "miss", "file", "miss"),
        ("once", "api", "file", "miss"),
        ("new_episodes", "api", "file", "api"),
        ("all", "api", "api", "api"),
        ("rewrite", "api", "api", "api"),
        ("live", "api", "api", "api"),
    ],
)
def test_each_mode_asks_and_records_as_it_says(
    kit: CountingKit, mode: str, first: str, same: str, other: str
) -> None:
    def source(kit: CountingKit, asked: Payload) -> str:
        before = len(kit.api.counted)
        try:
            kit.count(asked, mode)
        except CountMissingError:
            return "miss"
        return "api" if len(kit.api.counted) > before else "file"

    assert source(kit.fresh(), payload()) == first
    assert kit.path.exists() is (mode not in ("none", "live"))
    kit.fresh().count(payload())
    assert source(kit.fresh(), payload()) == same
    assert source(kit.fresh(), payload("other")) == other


def test_once_lets_every_new_asker_of_a_shared_file_record_once(kit: CountingKit) -> None:
    one, two = Asker("test_one"), Asker("test_two")
    kit.count(payload("a"), "once", one)
    kit.count(payload("b"), "once", one)
    kit.fresh().count(payload("c"), "once", two)
    assert sorted(
        asker for entry in kit.fresh().cassette.entries.values() for asker in entry.asked_by
    ) == ["test_one", "test_one", "test_two"]
    with pytest.raises(CountMissingError, match="the nearest count in"):
        kit.fresh().count(payload("d"), "once", one)


def test_a_shared_count_names_everybody_who_asked(kit: CountingKit) -> None:
    kit.count(asker=Asker("test_two"))
    kit.count(asker=Asker("test_one"))
    assert len(kit.api.counted) == 1
    (entry,) = kit.fresh().cassette.entries.values()
    assert entry.asked_by == ("test_one", "test_two")
    kit.fresh().count(mode="none", asker=Asker("test_three"))
    (entry,) = kit.fresh().cassette.entries.values()
    assert entry.asked_by == ("test_one", "test_two"), "mode none writes nothing"


def test_the_memo_spares_requests_but_every_test_writes_its_own_file(
    kit: CountingKit, tmp_path: Path
) -> None:
    other = CountCassette(tmp_path / "other.llmcost.yaml")
    kit.count()
    kit.counter.count(Job(payload(), other, MODES["new_episodes"], ME))
    assert len(kit.api.counted) == 1
    assert CountCassette(other.path).entries == kit.cassette.entries


def test_the_same_payload_in_many_threads_is_asked_once(kit: CountingKit) -> None:
    kit.api.script(Step(delay_seconds=0.2))
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: kit.counter.ask(payload()), range(8)))
    assert len({count.input_tokens for count in counts}) == 1
    assert len(kit.api.counted) == 1


def test_a_failure_is_not_remembered(kit: CountingKit) -> None:
    kit.api.script(fault(500))
    with pytest.raises(CountError, match="status 500"):
        kit.count()
    assert kit.count().input_tokens > 0


def test_betas_go_to_the_beta_route(kit: CountingKit) -> None:
    kit.count(payload(betas=["context-1m-2025-08-07"]))
    kit.count(payload(context_management={"edits": []}))
    first, second = kit.api.counted
    assert "context-1m-2025-08-07" in first.headers["anthropic-beta"]
    assert "token-counting" in second.headers["anthropic-beta"]
    assert second.body["context_management"] == {"edits": []}


def test_whose_workspace_it_is_goes_out_as_a_header(kit: CountingKit) -> None:
    kit.count(payload(workspace_id="wrkspc_1"))
    assert kit.api.counted[0].headers["anthropic-workspace-id"] == "wrkspc_1"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5-20250929"),
        ("claude-sonnet-4-5@default", "claude-sonnet-4-5-20250929"),
    ],
)
def test_a_clouds_name_of_a_model_is_resolved_for_anthropics_own_api(
    kit: CountingKit, asked: str, sent: str
) -> None:
    body = {**payload().body, "model": asked}
    kit.count(read_payload(body, find=shipped_card().find))
    assert kit.api.counted[0].body["model"] == sent


def test_what_the_api_refuses_is_left_out_recorded_and_a_lower_bound(kit: CountingKit) -> None:
    kit.api.refused += ["server_tools", "url_sources"]
    picture = {"type": "image", "source": {"type": "url", "url": "https://example.test/x"}}
    turns = [{"role": "user", "content": [{"type": "text", "text": "What?"}, picture]}]
    asked = payload(tools=[SEARCH, FIND], messages=turns)
    counted = kit.count(asked)
    assert counted.left_out == ("messages.0.content.1 (image from url)", "tools.web_search")
    assert counted.caveats == tuple(f"left-out: {part}" for part in counted.left_out)
    replayed = kit.fresh().count(asked, "none")
    assert replayed.left_out == counted.left_out


def test_an_accepted_server_tool_covers_the_first_call_only(kit: CountingKit) -> None:
    asked = payload(tools=[SEARCH, FIND, {"type": "bash_20250124", "name": "bash"}])
    counted = kit.count(asked)
    assert counted.caveats == ("first-call-only: web_search",)
    assert counted.left_out == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fallbacks": [{"model": "claude-fable-5-2"}]}, {"fallbacks"}),
        ({"compaction": {"type": "summarize"}}, {"compaction"}),
        ({"mcp_servers": [{"name": "files", "url": "https://a.test"}]}, {"files"}),
        ({"container": "c1", "tools": [SEARCH]}, {"container", "web_search"}),
    ],
)
def test_whatever_may_sample_several_times_is_named(
    kit: CountingKit, change: dict[str, Any], named: set[str]
) -> None:
    caveats = kit.count(payload(**change)).caveats
    assert set(caveats) == {f"first-call-only: {each}" for each in named}


COMPACT = {"type": "compact_20260112"}
LATE = {**COMPACT, "trigger": {"type": "input_tokens", "value": 400_000}}
NEW = {**COMPACT, "trigger": {"type": "tool_uses", "value": 400_000}}


@pytest.mark.parametrize(
    ("edits", "tokens", "is_exact"),
    [
        ([COMPACT], 149_999, True),
        ([COMPACT], 150_000, False),
        ([LATE], 150_000, True),
        ([LATE], 400_000, False),
        ([NEW], 150_000, False),
        ([{**COMPACT, "trigger": {"type": "input_tokens"}}], 150, False),
        ([{"type": "compact_20990101"}], 150, False),
        # What the other one clears is not in the count.
        ([{"type": "clear_tool_uses_20250919"}, COMPACT], 150, False),
        ([{"type": "clear_tool_uses_20250919"}], 150_000, True),
    ],
)
def test_a_prompt_that_reaches_its_trigger_is_compacted(
    kit: CountingKit, edits: list[dict[str, Any]], tokens: int, is_exact: bool
) -> None:
    kit.api.script(Step(answer_json({"input_tokens": tokens})))
    caveats = kit.count(payload(context_management={"edits": edits})).caveats
    assert caveats == (() if is_exact else (f"first-call-only: {edits[-1]['type']}",))


def test_create_only_keys_are_dropped_silently_and_unknown_ones_are_not(
    kit: CountingKit,
) -> None:
    asked = payload(max_tokens=5, stop_sequences=["x"], never_heard_of=1)
    assert kit.count(asked).caveats == ("unknown-field: never_heard_of",)
    assert kit.api.counted[0].body.keys() == {"model", "messages"}


def test_count_tokens_gets_all_that_it_takes(kit: CountingKit) -> None:
    taken: dict[str, Any] = {
        "cache_control": {"type": "ephemeral"}, "context_management": {"edits": []},
        "mcp_servers": [], "output_config": {"effort": "low"}, "speed": "fast", "system": "Rules.",
        "thinking": {"type": "disabled"}, "tool_choice": {"type": "auto"}, "tools": [FIND],
    }  # fmt: skip
    kit.count(payload(**taken, max_tokens=5))
    assert kit.api.counted[0].body == {**payload().body, **taken}


def test_a_refused_payload_is_reported_in_the_apis_own_words(kit: CountingKit) -> None:
    with pytest.raises(CountError, match='first message must use the "user" role'):
        kit.count(payload(messages=[{"role": "assistant", "content": "Hi"}]))
    with pytest.raises(CountError, match=r"\(400\): messages: at least one message is required"):
        kit.count(payload(messages=[]))


def test_a_server_that_refuses_without_end_is_given_up(kit: CountingKit) -> None:
    tools = [{"type": f"web_search_{number}", "name": f"web{number}"} for number in range(40)]
    kit.api.refused.append("server_tools")
    with pytest.raises(CountError, match="Server tools are not supported"):
        kit.count(payload(tools=tools))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (fault(401, "invalid x-api-key"), "status 401: invalid x-api-key; set ANTHROPIC_API_KEY"),
        (fault(403, "not for you"), "status 403: not for you; use a key that may"),
        (fault(404, "model: claude-next"), "404: model: claude-next; check the model id"),
        (fault(413, "too big"), "status 413: too big; send a smaller payload"),
        (rate_limited("7"), r"status 429 \(retry after 7 s\): .*rate limit; wait, then run"),
        (fault(529, "Overloaded"), "status 529: Overloaded; run again later"),
        (fault(405, "no such method"), "no such method; it may not be the Messages API: check"),
        (fault(500, f"oops {KEY}"), r"status 500: oops \[key\]; run again later"),
        (Step(cut_after_bytes=0), "no answer from 127.0.0.1 while counting"),
        (Step(answer_json({"tokens": 3})), r"^127\.0\.0\.1 answered without a number of tokens"),
        (Step(answer_error(418, "teapot")), "status 418: teapot"),
    ],
)
def test_a_failure_says_what_to_do_and_tells_no_key(
    kit: CountingKit, step: Step, message: str
) -> None:
    kit.api.script(step)
    with pytest.raises(CountError, match=message) as caught:
        kit.count()
    assert KEY not in str(caught.value)
    shown = caught.value.__cause__ or (
        None if caught.value.__suppress_context__ else caught.value.__context__
    )
    assert shown is None, "the SDK's own error may show the key"
    assert not kit.path.exists()


@pytest.mark.parametrize("counted", [0, -7, True, False, 10**30, 7.5, None, "7"])
def test_a_number_that_no_prompt_can_have_is_refused_and_not_written(
    kit: CountingKit, counted: object
) -> None:
    kit.api.script(Step(answer_json({"input_tokens": counted})))
    with pytest.raises(CountError, match="without a number of tokens that a prompt can have"):
        kit.count()
    assert not kit.path.exists()
    assert kit.count().input_tokens > 0, "the next one is asked for anew"


def test_a_slow_server_is_a_clear_error(kit: CountingKit) -> None:
    kit.counter = Counter(lambda: kit.client(timeout=0.2))
    kit.api.script(Step(until=lambda: False))
    with pytest.raises(CountError, match=r"no answer from 127.0.0.1 while counting \(ReadTimeout"):
        kit.count()


def test_no_server_is_a_clear_error(kit: CountingKit) -> None:
    kit.api.stop()
    with pytest.raises(CountError, match=r"no answer from 127.0.0.1 .*ANTHROPIC_BASE_URL"):
        kit.count()


@pytest.mark.parametrize("key", [KEY, "gateway-secret"])
@pytest.mark.parametrize("end", ["\n", " "])
def test_a_broken_key_is_named_as_the_cause_and_shows_in_no_message(
    kit: CountingKit, key: str, end: str
) -> None:
    kit.counter = Counter(lambda: kit.client(api_key=key + end))
    with pytest.raises(CountError, match=r"the key, .* holds a line break or .* a space") as caught:
        kit.count()
    assert key not in str(caught.value)


def test_no_key_is_a_clear_error(kit: CountingKit, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", kit.api.url)
    kit.counter = Counter(make_client)
    with pytest.raises(CountError, match=r"no credentials.*set ANTHROPIC_API_KEY"):
        kit.count()
    assert kit.api.requests == []


def test_the_environments_client_is_made_only_when_needed(
    kit: CountingKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", kit.api.url)
    kit.count()
    offline = kit.fresh()
    offline.counter = Counter(lambda: pytest.fail("made without need"))
    assert offline.count(mode="none").input_tokens > 0
    kit.counter = Counter(make_client)
    assert kit.count(payload("other")).input_tokens > 0
    kit.made.append(kit.counter.client())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: anthropic.AsyncAnthropic(api_key=KEY), r"gave AsyncAnthropic; .* Anthropic\(\)"),
        (object, "gave object, which has no messages.count_tokens"),
        (
            lambda: anthropic.AnthropicBedrock(
                aws_region="us-east-1", aws_access_key="a", aws_secret_key="b"
            ),
            "Bedrock client .* anthropic.AnthropicBedrockMantle",
        ),
    ],
)
def test_a_client_that_cannot_count_is_named_and_what_can(
    kit: CountingKit, make: Callable[[], object], message: str
) -> None:
    kit.counter = Counter(make)
    with pytest.raises(CountError, match=message):
        kit.count()


def test_a_client_that_only_looks_like_one_is_used_as_it_is(kit: CountingKit) -> None:
    class Tokens:
        input_tokens = 12

    class Messages:
        def count_tokens(self, **asked: object) -> Tokens:
            return Tokens()

    class Client:
        messages = Messages()

    kit.counter = Counter(Client)
    assert kit.count().input_tokens == 12


def test_counting_in_many_threads_records_everything(kit: CountingKit) -> None:
    asked = [payload(f"text {number}") for number in range(24)]
    barrier = threading.Barrier(8)

    def count(one: Payload) -> int:
        if one in asked[:8]:
            barrier.wait(60)
        return kit.counter.count(Job(one, kit.cassette, MODES["new_episodes"], ME)).input_tokens

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(count, asked))
    kit.cassette.save()
    assert len(kit.made) == 1
    again = kit.fresh()
    assert [again.count(one, "none").input_tokens for one in asked] == counts


def outdated(path: Path, *askers: str) -> None:
    """Write a cassette as an earlier version of the plugin has written it."""
    entries = []
    for number, asker in enumerate(askers):
        entry = Entry.of(payload(str(number)), Count(input_tokens=9), asker)
        entries.append(replace(entry, fingerprint=f"1:{number}"))
    write_entries(path, entries)


@pytest.mark.parametrize("mode", ["none", "once"])
def test_counts_of_an_earlier_recipe_are_refused_with_the_command_that_renews_them(
    kit: CountingKit, mode: str
) -> None:
    outdated(kit.path, ME.name)
    with pytest.raises(CountMissingError, match="holds no counts of recipe 2 yet") as caught:
        kit.fresh().count(mode=mode)
    assert caught.value.command == (
        "pytest 'tests/test_triage.py::test_refund[big one]' --llmcost-record-mode=rewrite"
    )
    assert str(caught.value).endswith(caught.value.command)
    assert kit.api.counted == []


def test_rewriting_renews_the_counts_of_an_earlier_recipe(kit: CountingKit) -> None:
    outdated(kit.path, ME.name, "test_other")
    renewed = kit.fresh()
    renewed.count(mode="rewrite")
    renewed.cassette.prune(ME.name, {payload().fingerprint})
    renewed.cassette.save()
    assert sorted(kit.fresh().cassette.entries) == ["1:1", payload().fingerprint]
    assert kit.fresh().count(mode="none").input_tokens > 0
    with pytest.raises(CountMissingError, match="since the nearest count of tests/test_triage"):
        kit.fresh().count(payload("x"), "none", Asker("test_other"))
    with pytest.raises(CountMissingError, match="since the nearest count in"):
        kit.fresh().count(payload("x"), "none")
