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
    Mode,
    Outcome,
    Progress,
    count_all,
)
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError

anthropic = pytest.importorskip("anthropic")


class Desk:
    """A session that counts many payloads into two cassettes."""

    def __init__(self, api: StandIn, folder: Path, client: Any) -> None:
        self.api, self.folder, self.client = api, folder, client
        self.seen: list[Progress] = []

    def jobs(self, texts: list[str], mode: Mode = "new_episodes") -> list[Job]:
        cassettes = [CountCassette.load(self.folder / f"test_{one}.llmcost.yaml") for one in "ab"]
        return [
            Job(
                read_payload(
                    {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": text}]}
                ),
                cassettes[number % 2],
                mode,
                Asker(f"test_{'ab'[number % 2]}"),
            )
            for number, text in enumerate(texts)
        ]

    def count(self, jobs: list[Job], **how: Any) -> list[Outcome]:
        return count_all(Counter(lambda: self.client), jobs, progress=self.seen.append, **how)

    @property
    def recorded(self) -> int:
        return sum(len(CountCassette.load(path).entries) for path in self.folder.iterdir())


@pytest.fixture
def api() -> Iterator[StandIn]:
    with StandIn() as api:
        yield api


@pytest.fixture
def desk(api: StandIn, tmp_path: Path) -> Iterator[Desk]:
    with anthropic.Anthropic(base_url=api.url, api_key="any") as client:
        yield Desk(api, tmp_path, client)


TEXTS = [f"text number {number}" for number in range(40)]


def tokens(outcomes: list[Outcome]) -> list[int]:
    assert all(isinstance(one, Count) for one in outcomes), outcomes
    return [one.input_tokens for one in outcomes if isinstance(one, Count)]


def errors(outcomes: list[Outcome]) -> list[CountError]:
    return [one for one in outcomes if isinstance(one, CountError)]


def test_everything_is_counted_in_order_a_few_at_a_time(desk: Desk) -> None:
    desk.api.script(*[Step(delay_seconds=0.05)] * 40)
    texts = [text * (number + 1) for number, text in enumerate(TEXTS)]
    counted = tokens(desk.count(desk.jobs(texts)))
    assert counted == sorted(counted)
    assert 3 < desk.api.most_at_once <= 8
    assert desk.recorded == 40
    offline = count_all(
        Counter(lambda: pytest.fail("no client is needed")), desk.jobs(texts, "none")
    )
    assert tokens(offline) == counted


def test_how_many_are_in_flight_can_be_set(desk: Desk) -> None:
    desk.api.script(*[Step(delay_seconds=0.02)] * 10)
    desk.count(desk.jobs(TEXTS[:10]), at_once=2)
    assert desk.api.most_at_once <= 2


def test_equal_payloads_are_asked_for_once(desk: Desk) -> None:
    assert len(set(tokens(desk.count(desk.jobs(["same"] * 20))))) == 1
    assert len(desk.api.counted) == 1
    assert desk.recorded == 2, "each cassette has its own"


def test_what_is_missing_offline_is_listed_and_nothing_is_asked(desk: Desk) -> None:
    desk.count(desk.jobs(TEXTS[:10]))
    asked = len(desk.api.counted)
    outcomes = desk.count(desk.jobs(TEXTS[:12], "none"))
    assert [isinstance(one, Count) for one in outcomes] == [True] * 10 + [False] * 2
    assert [type(one) for one in outcomes[10:]] == [CountMissingError] * 2
    assert len(desk.api.counted) == asked


def test_progress_is_told_after_each_count(desk: Desk) -> None:
    ticks = iter(range(100))
    desk.count(desk.jobs(TEXTS[:4]), clock=lambda: float(next(ticks)))
    assert [(one.done, one.total, one.failed) for one in desk.seen] == [
        (1, 4, 0), (2, 4, 0), (3, 4, 0), (4, 4, 0),
    ]  # fmt: skip
    assert desk.seen[1].per_second == 1
    assert desk.seen[1].seconds_left == 2
    assert Progress(0, 4, 0, 0.0).seconds_left is None


def test_a_rate_limit_makes_all_wait_and_loses_nothing(desk: Desk) -> None:
    desk.api.script(*[rate_limited("0.3")] * 8)
    began_at = time.monotonic()
    tokens(desk.count(desk.jobs(TEXTS)))
    assert time.monotonic() - began_at > 0.3
    assert len(desk.api.counted) == 48
    assert desk.recorded == 40


def test_an_overload_is_waited_out(desk: Desk) -> None:
    desk.api.script(fault(529, retry_after="0.1"), fault(500, retry_after="0"))
    tokens(desk.count(desk.jobs(TEXTS[:9])))


def test_a_rate_limit_without_end_is_given_up(desk: Desk) -> None:
    desk.api.script(*[rate_limited("0.01")] * 100)
    outcomes = errors(desk.count(desk.jobs(TEXTS)))
    assert len(outcomes) == 40
    assert all(one.status == 429 for one in outcomes)
    assert len(desk.api.counted) < 100


def test_a_refused_payload_stands_alone(desk: Desk) -> None:
    desk.api.script(fault(400, "messages: no"), fault(404, "model: none"))
    outcomes = desk.count(desk.jobs(TEXTS))
    assert sorted(one.status or 0 for one in errors(outcomes)) == [400, 404]
    assert desk.recorded == 38
    assert desk.seen[-1].failed == 2


def test_a_refused_key_stops_it_all(desk: Desk) -> None:
    desk.api.key = "another"
    outcomes = errors(desk.count(desk.jobs(TEXTS)))
    assert len(outcomes) == 40
    assert all(one.status == 401 for one in outcomes)
    assert len(desk.api.counted) <= 8


def test_an_interrupt_keeps_everything_counted_so_far(desk: Desk) -> None:
    desk.api.script(*[Step(delay_seconds=0.02)] * 40)

    def interrupt(progress: Progress) -> None:
        if progress.done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_all(Counter(lambda: desk.client), desk.jobs(TEXTS), progress=interrupt)
    asked = len(desk.api.counted)
    assert 15 <= asked < 40
    assert desk.recorded == asked
    tokens(desk.count(desk.jobs(TEXTS)))
    assert len(desk.api.counted) == 40, "nothing was counted twice"


def test_an_interrupt_does_not_wait_for_a_pause(desk: Desk) -> None:
    desk.api.script(*[rate_limited("50")] * 3)
    timer = threading.Timer(0.5, _thread.interrupt_main)
    timer.start()
    began_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        desk.count(desk.jobs(TEXTS))
    assert time.monotonic() - began_at < 20
    timer.join()


def test_a_lost_connection_is_tried_again_and_no_server_stops_it_all(desk: Desk) -> None:
    desk.api.script(Step(cut_after_bytes=0))
    tokens(desk.count(desk.jobs(TEXTS[:3])))
    desk.api.stop()
    outcomes = errors(desk.count(desk.jobs(TEXTS[3:])))
    assert len(outcomes) == 37
    assert all("no answer from 127.0.0.1" in str(one) for one in outcomes)


def test_a_cassette_that_cannot_be_written_is_its_jobs_outcome(desk: Desk) -> None:
    jobs = desk.jobs(TEXTS[:6])
    jobs[0].cassette.path.write_text("interactions: [")
    outcomes = desk.count(jobs)
    assert [isinstance(one, CountCassetteError) for one in outcomes] == [True, False] * 3


def test_a_client_that_cannot_be_made_is_an_error_at_once(desk: Desk) -> None:
    with pytest.raises(CountError, match=r"no messages.count_tokens"):
        count_all(Counter(object), desk.jobs(TEXTS))


def test_without_jobs_nothing_happens() -> None:
    assert count_all(Counter(object), []) == []
