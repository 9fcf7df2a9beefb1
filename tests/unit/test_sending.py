"""Our own requests pass VCR and network blocks by, and leave the user's alone."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from standin import StandIn, Step

from pytest_llmcost.counting.cassette import CountCassette
from pytest_llmcost.counting.client import Asker, Counter, Job
from pytest_llmcost.counting.own_requests import OWN_REQUEST
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.errors import CountError

vcr = pytest.importorskip("vcr")
anthropic = pytest.importorskip("anthropic")
httpx = pytest.importorskip(
    next(
        kind.__module__
        for kind in anthropic.DefaultHttpxClient.__mro__
        if kind.__name__ == "Client"
    )
)  # httpx2, or httpx with an SDK before 1.0


def payload(text: str = "Hello there") -> Payload:
    return read_payload(
        {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": text}]}
    )


@pytest.fixture
def api() -> Iterator[StandIn]:
    with StandIn() as api:
        yield api


@pytest.fixture
def client(api: StandIn) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=api.url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def counter(client: Any) -> Counter:
    return Counter(lambda: client)


def say(client: Any, text: str) -> str:
    turns = [{"role": "user", "content": text}]
    message = client.messages.create(model="claude-opus-5", max_tokens=9, messages=turns)
    return str(message.id)


def test_a_cassette_in_mode_none_neither_sees_nor_stops_a_count(
    counter: Counter, api: StandIn, tmp_path: Path
) -> None:
    with vcr.use_cassette(str(tmp_path / "user.yaml"), record_mode="none") as cassette:
        assert counter.ask(payload()).input_tokens > 0
        assert (len(cassette), cassette.play_count) == (0, 0)
    assert len(api.counted) == 1


def test_a_recording_cassette_does_not_record_a_count(
    counter: Counter, client: Any, tmp_path: Path
) -> None:
    path = tmp_path / "user.yaml"
    with vcr.use_cassette(str(path), record_mode="new_episodes") as cassette:
        say(client, "before")
        counter.ask(payload())
        say(client, "after")
        assert [request.path for request in cassette.requests] == ["/v1/messages"] * 2
    assert "count_tokens" not in path.read_text()


def test_a_cassette_opened_after_the_request_left_does_not_see_it(
    counter: Counter, api: StandIn, tmp_path: Path
) -> None:
    is_open = threading.Event()
    api.script(Step(until=is_open.is_set))
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(counter.ask, payload())
        while not api.counted:
            time.sleep(0.01)
        with vcr.use_cassette(str(tmp_path / "user.yaml"), record_mode="all") as cassette:
            is_open.set()
            assert counting.result().input_tokens > 0
            assert len(cassette) == 0


@pytest.mark.skipif(
    int(vcr.__version__.partition(".")[0]) < 8, reason="vcrpy 6 and 7 cannot take threads at all"
)
def test_counts_and_the_applications_concurrent_calls_do_not_meet(
    counter: Counter, client: Any, api: StandIn, tmp_path: Path
) -> None:
    """Threads and tasks of the application replay in mode none while counts are recorded."""
    path = tmp_path / "user.yaml"
    texts = [f"question {number}" for number in range(12)]
    rules = {"match_on": ["method", "uri", "body"], "allow_playback_repeats": True}
    with vcr.use_cassette(str(path), record_mode="once", **rules):
        recorded = [say(client, text) for text in texts]
    recorded_bytes, live = path.read_bytes(), len(api.requests)
    counts = CountCassette(tmp_path / "test.llmcost.yaml")
    start = threading.Barrier(3)

    def count_all() -> list[int]:
        start.wait(60)
        return [
            counter.count(
                Job(payload(text), counts, MODES["new_episodes"], Asker("test"))
            ).input_tokens
            for text in texts
        ]

    def replay_in_threads() -> list[str]:
        start.wait(60)
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda text: say(client, text), texts))

    async def replay_in_tasks() -> list[str]:
        async with anthropic.AsyncAnthropic(
            base_url=api.url, api_key="any", max_retries=0
        ) as waiting:
            start.wait(60)
            said = await asyncio.gather(
                *(
                    waiting.messages.create(
                        model="claude-opus-5",
                        max_tokens=9,
                        messages=[{"role": "user", "content": text}],
                    )
                    for text in texts
                )
            )
        return [message.id for message in said]

    with vcr.use_cassette(str(path), record_mode="none", **rules), ThreadPoolExecutor(3) as pool:
        counting = pool.submit(count_all)
        threads = pool.submit(replay_in_threads)
        tasks = pool.submit(lambda: asyncio.run(replay_in_tasks()))
        assert threads.result(30) == tasks.result(30) == recorded
        assert all(counting.result(30))
    counts.save()
    assert len(counts.entries) == len(texts)
    assert len(api.requests) - live == len(api.counted) == len(texts), "replays stayed replays"
    assert path.read_bytes() == recorded_bytes


def test_custom_transports_proxies_and_hooks_of_the_client_are_kept(
    api: StandIn, tmp_path: Path
) -> None:
    """Whatever the user built is used: a transport of their own, around one that VCR patches."""
    sent: list[str] = []

    class Marking(httpx.BaseTransport):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.inner = httpx.HTTPTransport()

        def handle_request(self, request: Any) -> Any:
            sent.append(request.url.path)
            request.headers["x-marked"] = "yes"
            return self.inner.handle_request(request)

        def close(self) -> None:
            self.inner.close()

    hooked: list[str] = []
    http_client = httpx.Client(
        transport=Marking(), event_hooks={"request": [lambda r: hooked.append(r.url.path)]}
    )
    with (
        anthropic.Anthropic(
            base_url=api.url, api_key="any", max_retries=0, http_client=http_client
        ) as client,
        vcr.use_cassette(str(tmp_path / "user.yaml"), record_mode="none") as cassette,
    ):
        assert Counter(lambda: client).ask(payload()).input_tokens > 0
        assert len(cassette) == 0
    assert sent == hooked == ["/v1/messages/count_tokens"]
    assert api.counted[0].headers["x-marked"] == "yes"


def test_a_transport_may_read_its_answers_and_a_hook_may_ask_how_long_they_took(
    api: StandIn,
) -> None:
    class Logging(httpx.HTTPTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            response = super().handle_request(request)
            response.read()
            return response

    took: list[float] = []

    def log(response: Any) -> None:
        response.read()
        took.append(response.elapsed.total_seconds())

    for options in ({"transport": Logging()}, {"event_hooks": {"response": [log]}}):
        http_client = httpx.Client(**options)
        with anthropic.Anthropic(base_url=api.url, api_key="any", http_client=http_client) as one:
            assert Counter(lambda: one, seconds=30.0).ask(payload()).input_tokens > 0
    assert len(took) == 1


@pytest.mark.parametrize("mounted", [httpx.HTTPTransport, type(None)])  # None: past a proxy
def test_mounted_transports_are_kept(api: StandIn, tmp_path: Path, mounted: Any) -> None:
    mounts = {"http://127.0.0.1": mounted(), "https://": None}
    with (
        anthropic.Anthropic(
            base_url=api.url, api_key="any", http_client=httpx.Client(mounts=mounts)
        ) as client,
        vcr.use_cassette(str(tmp_path / "user.yaml"), record_mode="none"),
    ):
        assert Counter(lambda: client).ask(payload()).input_tokens > 0


def test_a_mock_transport_of_the_client_answers_counts_too(tmp_path: Path) -> None:
    def answer(request: Any) -> Any:
        return httpx.Response(200, json={"input_tokens": 77})

    http_client = httpx.Client(transport=httpx.MockTransport(answer))
    with (
        anthropic.Anthropic(api_key="any", http_client=http_client) as client,
        vcr.use_cassette(str(tmp_path / "user.yaml"), record_mode="none") as cassette,
    ):
        assert Counter(lambda: client).ask(payload()).input_tokens == 77
        assert len(cassette) == 0


def test_the_users_client_still_works_afterwards(counter: Counter, client: Any) -> None:
    counter.ask(payload())
    assert say(client, "still here")
    counter.ask(payload("again"))
    assert not client.is_closed()


def test_a_request_of_ours_is_marked_and_others_are_not(api: StandIn) -> None:
    marks: dict[str, bool] = {}

    def note(request: Any) -> None:
        marks[request.url.path] = OWN_REQUEST.get()

    http_client = httpx.Client(event_hooks={"request": [note]})
    with anthropic.Anthropic(base_url=api.url, api_key="any", http_client=http_client) as client:
        Counter(lambda: client).ask(payload())
        say(client, "hello")
    assert marks == {"/v1/messages/count_tokens": True, "/v1/messages": False}
    assert OWN_REQUEST.get() is False


def load_blocker() -> Any:
    """pytest-recording's blocker without its package, which would rewrite VCR's asserts now."""
    package = importlib.util.find_spec("pytest_recording")
    if package is None or not package.submodule_search_locations:
        pytest.skip("pytest-recording is not installed")
    path = Path(package.submodule_search_locations[0]) / "network.py"
    spec = importlib.util.spec_from_file_location("recording_network", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_network_blocked_by_pytest_recording_is_named_at_once(
    counter: Counter, api: StandIn
) -> None:
    blocker = load_blocker()
    blocker.block(allowed_hosts=["example.test"])
    try:
        with pytest.raises(CountError, match=r"forbids connections \(Network is disabled"):
            counter.ask(payload())
    finally:
        blocker.unblock()
    assert api.requests == []
    assert counter.ask(payload()).input_tokens > 0


@pytest.mark.parametrize("hosts", [None, ["example.test"]])
def test_a_network_blocked_by_pytest_socket_is_named_at_once(
    counter: Counter, hosts: list[str] | None
) -> None:
    blocking = pytest.importorskip("pytest_socket")
    if hosts is None:
        blocking.disable_socket()
    else:
        blocking.socket_allow_hosts(hosts)
    try:
        with pytest.raises(CountError, match=r"this test forbids connections .*--allow-hosts"):
            counter.ask(payload())
    finally:
        blocking._remove_restrictions()
