"""Many counts at once, through the real SDK against the stand-in."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import StandIn, Step, fault, rate_limited

from pytest_llmcost.counting.cassette import Count, CountCassette
from pytest_llmcost.counting.client import (
    Asker,
    Counter,
    Job,
    Outcome,
    Progress,
    count_all,
)
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError

anthropic = pytest.importorskip("anthropic")


class CountingKit:
    """A session that counts many payloads into two cassettes."""

    def __init__(self, api: StandIn, folder: Path, client: Any) -> None:
        self.api, self.folder, self.client = api, folder, client
        self.seen: list[Progress] = []

    def jobs(self, texts: list[str], mode: str = "new_episodes") -> list[Job]:
        cassettes = [CountCassette(self.folder / f"test_{one}.llmcost.yaml") for one in "ab"]
        return [
            Job(
                read_payload(
                    {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": text}]}
                ),
                cassettes[number % 2],
                MODES[mode],
                Asker(f"test_{'ab'[number % 2]}"),
            )
            for number, text in enumerate(texts)
        ]

    def count(self, jobs: list[Job]) -> list[Outcome]:
        return count_all(Counter(lambda: self.client), jobs, progress=self.seen.append)

    @property
    def recorded(self) -> int:
        return sum(len(CountCassette(path).entries) for path in self.folder.iterdir())


@pytest.fixture
def api() -> Iterator[StandIn]:
    with StandIn() as api:
        yield api


@pytest.fixture
def kit(api: StandIn, tmp_path: Path) -> Iterator[CountingKit]:
    with anthropic.Anthropic(base_url=api.url, api_key="any") as client:
        yield CountingKit(api, tmp_path, client)


TEXTS = [f"text number {number}" for number in range(40)]


def tokens(outcomes: list[Outcome]) -> list[int]:
    assert all(isinstance(one, Count) for one in outcomes), outcomes
    return [one.input_tokens for one in outcomes if isinstance(one, Count)]


def errors(outcomes: list[Outcome]) -> list[CountError]:
    return [one for one in outcomes if isinstance(one, CountError)]


def test_everything_is_counted_in_order_a_few_at_a_time(kit: CountingKit) -> None:
    are_some = Step(until=lambda: kit.api.most_at_once > 3)
    kit.api.script(Step(), *[are_some] * 39)  # the first one goes alone
    texts = [text * (number + 1) for number, text in enumerate(TEXTS)]
    counted = tokens(kit.count(kit.jobs(texts)))
    assert counted == sorted(counted)
    assert kit.api.most_at_once <= 8
    assert kit.recorded == 40
    offline = count_all(
        Counter(lambda: pytest.fail("no client is needed")), kit.jobs(texts, "none")
    )
    assert tokens(offline) == counted


def test_equal_payloads_are_asked_for_once(kit: CountingKit) -> None:
    assert len(set(tokens(kit.count(kit.jobs(["same"] * 20))))) == 1
    assert len(kit.api.counted) == 1
    assert kit.recorded == 2, "each cassette has its own"


def test_what_is_missing_offline_is_listed_and_nothing_is_asked(kit: CountingKit) -> None:
    kit.count(kit.jobs(TEXTS[:10]))
    asked = len(kit.api.counted)
    outcomes = kit.count(kit.jobs(TEXTS[:12], "none"))
    assert [isinstance(one, Count) for one in outcomes] == [True] * 10 + [False] * 2
    assert [type(one) for one in outcomes[10:]] == [CountMissingError] * 2
    assert len(kit.api.counted) == asked


def test_progress_is_told_after_each_count(kit: CountingKit) -> None:
    kit.api.script(Step(), *[Step(delay_seconds=0.1)] * 3)
    kit.count(kit.jobs(TEXTS[:4]))
    assert [(one.done, one.total, one.failed) for one in kit.seen] == [
        (1, 4, 0), (2, 4, 0), (3, 4, 0), (4, 4, 0),
    ]  # fmt: skip
    assert kit.seen[0].seconds < kit.seen[3].seconds


def test_a_rate_limit_makes_all_wait_and_loses_nothing(
    kit: CountingKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    sleep = time.sleep

    def note(seconds: float) -> None:
        pauses.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", note)
    kit.api.script(Step(), *[rate_limited("0.1")] * 8)
    tokens(kit.count(kit.jobs(TEXTS)))
    assert pauses.count(0.1) == 8
    assert len(kit.api.counted) == 48
    assert kit.recorded == 40


def test_an_overload_is_waited_out(kit: CountingKit) -> None:
    kit.api.script(fault(529, retry_after="0.1"), fault(500, retry_after="0"))
    tokens(kit.count(kit.jobs(TEXTS[:9])))


@pytest.mark.parametrize(("counted", "most"), [(0, 1 + 2), (10, 10 + 8 * (1 + 6))])
def test_a_rate_limit_without_end_is_given_up(kit: CountingKit, counted: int, most: int) -> None:
    kit.api.script(*[Step()] * counted, *[rate_limited("0.01")] * 100)
    failed = [one for one in kit.count(kit.jobs(TEXTS)) if not isinstance(one, Count)]
    assert [one.status for one in failed] == [429] * (40 - counted)
    assert len(kit.api.counted) <= most
    assert kit.recorded == counted


@pytest.mark.parametrize("retries", [0, 1])
def test_the_retries_that_the_user_has_set_hold(kit: CountingKit, retries: int) -> None:
    kit.client = kit.client.with_options(max_retries=retries)
    kit.api.script(*[rate_limited("0.01")] * 100)
    assert len(errors(kit.count(kit.jobs(TEXTS)))) == 40
    assert len(kit.api.counted) == 1 + retries


def test_a_refused_payload_stands_alone(kit: CountingKit) -> None:
    kit.api.script(fault(400, "messages: no"), fault(404, "model: none"))
    outcomes = kit.count(kit.jobs(TEXTS))
    assert sorted(one.status or 0 for one in errors(outcomes)) == [400, 404]
    assert kit.recorded == 38
    assert kit.seen[-1].failed == 2


def test_a_refused_key_stops_it_all(kit: CountingKit) -> None:
    kit.api.key = "another"
    outcomes = errors(kit.count(kit.jobs(TEXTS)))
    assert len(outcomes) == 40
    assert all(one.status == 401 for one in outcomes)
    assert len(kit.api.counted) <= 8


def test_an_interrupt_keeps_everything_counted_so_far(kit: CountingKit) -> None:
    is_interrupted = threading.Event()
    held = Step(until=is_interrupted.is_set, delay_seconds=0.2)
    kit.api.script(*[Step()] * 15, *[held] * 16)

    def interrupt(progress: Progress) -> None:
        if progress.done == 15:
            is_interrupted.set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_all(Counter(lambda: kit.client), kit.jobs(TEXTS), progress=interrupt)
    asked = len(kit.api.counted)
    assert 15 <= asked < 40
    assert kit.recorded == asked
    tokens(kit.count(kit.jobs(TEXTS)))
    assert len(kit.api.counted) == 40, "nothing was counted twice"


def test_an_interrupt_does_not_wait_for_a_pause(
    kit: CountingKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asleep, is_over = threading.Event(), threading.Event()
    ended: list[float] = []

    def sleep(seconds: float) -> None:
        is_asleep.set()
        is_over.wait(seconds)
        ended.append(seconds)

    def interrupt() -> None:
        is_asleep.wait(60)
        _thread.interrupt_main()

    monkeypatch.setattr(time, "sleep", sleep)
    kit.api.script(*[rate_limited("50")] * 3)
    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come at once
        thread.start()
        kit.count(kit.jobs(TEXTS))
    assert ended == []
    is_over.set()
    thread.join()


def test_a_lost_connection_is_tried_again_and_no_server_stops_it_all(kit: CountingKit) -> None:
    kit.api.script(Step(cut_after_bytes=0))
    tokens(kit.count(kit.jobs(TEXTS[:3])))
    kit.api.stop()
    outcomes = errors(kit.count(kit.jobs(TEXTS[3:])))
    assert len(outcomes) == 37
    assert all("no answer from 127.0.0.1" in str(one) for one in outcomes)


def test_a_cassette_that_cannot_be_written_is_its_jobs_outcome(kit: CountingKit) -> None:
    jobs = kit.jobs(TEXTS[:6])
    jobs[0].cassette.path.write_text("interactions: [")
    outcomes = kit.count(jobs)
    assert [isinstance(one, CountCassetteError) for one in outcomes] == [True, False] * 3


def test_a_client_that_cannot_be_made_is_an_error_at_once(kit: CountingKit) -> None:
    with pytest.raises(CountError, match=r"no messages.count_tokens"):
        count_all(Counter(object), kit.jobs(TEXTS))


def test_without_jobs_nothing_happens() -> None:
    assert count_all(Counter(object), []) == []
