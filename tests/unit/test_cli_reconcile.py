from __future__ import annotations

import io
import json
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sample_reports import OUTSIDE, a_test, make_call, make_report
from standin_admin import (
    ADMIN_KEY,
    COST_PATH,
    USAGE_PATH,
    Booked,
    Charged,
    Organisation,
    Refused,
    serve,
)

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.cli import reconcile
from pytest_llmcost.cli.main import main
from pytest_llmcost.cli.reconcile import Clock
from pytest_llmcost.ledger.ledger import RunRecord, write_ledger
from pytest_llmcost.prices.usage import Terms, Usage
from pytest_llmcost.reconcile.admin_api import TooManyRequests

CALLED_AT = datetime(2026, 11, 20, 12, 0, 30, tzinfo=timezone.utc)
MODEL = "claude-opus-4-7"
RUN = RunRecord(started_at="2026-11-20T12:00:30Z", finished_at="2026-11-20T12:10:30Z")
USAGE = Usage(input_tokens=1000, cache_read_tokens=4000, output_tokens=100)
"""At 5, 0.50 and 25 USD per million tokens: $0.0095, or 0.95 cents."""


@pytest.fixture
def organisation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Organisation]:
    with serve(Organisation()) as served:
        monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", ADMIN_KEY)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", served.base_url)
        yield served


class Hours:
    """A clock that is moved by waiting alone."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)

    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.sleep)


def booked(**fields: Any) -> Booked:
    whole = {
        "at": CALLED_AT + timedelta(seconds=5),
        "model": MODEL,
        "uncached_input_tokens": 1000,
        "cache_read_input_tokens": 4000,
        "output_tokens": 100,
        "cents": "0.95",
    }
    return Booked(**{**whole, **fields})


def live() -> Call:
    return make_call("0.0095", live=True, at="2026-11-20T12:00:30Z", usage=USAGE)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    report = make_report({a_test("t.py::test_a"): [live()], OUTSIDE: [make_call("1")]}, run=RUN)
    write_ledger(report, tmp_path / "ledger.json")
    return str(tmp_path / "ledger.json")


def run(
    *arguments: str, now: datetime | None = None, hours: Hours | None = None
) -> tuple[int, str, str]:
    parser = ArgumentParser()
    reconcile.add_arguments(parser)
    out, err = io.StringIO(), io.StringIO()
    hours = hours or Hours(now or CALLED_AT + timedelta(hours=1))
    with redirect_stdout(out), redirect_stderr(err):
        status = reconcile.run(parser.parse_args(arguments), hours.clock())
    return status, out.getvalue(), err.getvalue()


def test_what_agrees_exits_with_0_and_shows_both_sides(
    organisation: Organisation, ledger: str
) -> None:
    organisation.booked = [booked()]
    organisation.charged = [Charged(at=CALLED_AT, cost_type="code_execution", cents="5")]
    status, out, err = run(ledger, "--api-key-id", "apikey_ci")
    assert status == 0
    assert err == "llmcost: asking 127.0.0.1 for usage and cost\n"
    assert out == (
        "agrees: 1 live call in 1 ledger, $0.0095 at the list prices of their dates\n"
        "2026-11-20 12:00 to 2026-11-20 12:11 UTC in buckets of 1m; apikey_ci; all workspaces; "
        "tolerance 0%\n"
        "\n"
        "model            category           ledger  reported  difference\n"
        "claude-opus-4-7  input_tokens        1,000     1,000           0\n"
        "claude-opus-4-7  cache_read_tokens   4,000     4,000           0\n"
        "claude-opus-4-7  output_tokens         100       100           0\n"
        "\n"
        "cost              ledger  reported  difference\n"
        "claude-opus-4-7  $0.0095   $0.0095      ±$0.00\n"
        "code execution         -     $0.05           -\n"
        "\n"
        "notes:\n"
        "  - replayed or counted calls, left out as free: 1\n"
        "  - the cost report has whole UTC days, so cost is only shown; --whole-days checks it\n"
    )


def test_what_differs_exits_with_1_and_says_what_may_be_the_reason(
    organisation: Organisation, ledger: str
) -> None:
    organisation.booked = [
        booked(),
        booked(uncached_input_tokens=7, cents="0.96"),
        booked(model="a|b", service_tier="priority"),
    ]
    status, out, _ = run(ledger, "--whole-days", "--format", "md")
    assert status == 1
    assert out == (
        "### ❌ The bill differs\n"
        "\n"
        "1 live call in 1 ledger, $0.0095 at the list prices of their dates.\n"
        "\n"
        "2026-11-20 00:00 to 2026-11-21 00:00 UTC in buckets of 1d; all API keys; "
        "all workspaces; tolerance 0%\n"
        "\n"
        "| model | category | ledger | reported | difference |\n"
        "| --- | --- | ---: | ---: | ---: |\n"
        "| claude-opus-4-7 | input_tokens | 1,000 | 1,007 | +7 ! |\n"
        "| claude-opus-4-7 | cache_read_tokens | 4,000 | 8,000 | +4,000 ! |\n"
        "| claude-opus-4-7 | output_tokens | 100 | 200 | +100 ! |\n"
        "\n"
        "| cost | ledger | reported | difference |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| claude-opus-4-7 | $0.0095 | $0.0191 | +$0.0096 ! |\n"
        "\n"
        "**not comparable**\n"
        "\n"
        "- usage report: 5,000 prompt and 100 output tokens, service tier priority\n"
        "\n"
        "**likely reasons**\n"
        "\n"
        "- other traffic: pass --api-key-id with an API key that only these runs use\n"
        "- buckets of 1d: other requests shortly before or after the runs are in them\n"
        "- calls outside the ledger: by subprocesses or other programs, or with --no-llmcost\n"
        "\n"
        "**notes**\n"
        "\n"
        "- replayed or counted calls, left out as free: 1\n"
        "- no --api-key-id or --workspace-id: this is the usage of the whole organisation\n"
    )


def test_what_stands_on_one_side_alone_is_listed_with_its_size(
    organisation: Organisation, tmp_path: Path
) -> None:
    organisation.booked = [booked()]
    organisation.charged = [Charged(at=CALLED_AT, cost_type="session_usage", cents="40")]
    cloud = Terms(platform="bedrock")
    calls = [
        live(),
        replace(live(), context=cloud),
        replace(live(), sampling_calls=(), model="claude-next"),
    ]
    write_ledger(make_report({OUTSIDE: calls}, run=RUN), tmp_path / "ledger.json")
    status, out, _ = run(str(tmp_path / "ledger.json"))
    assert status == 0
    assert (
        "not comparable:\n"
        "  - ledger: 1 live call, no readable usage\n"
        "  - ledger: 1 live call, on bedrock, billed by that cloud\n"
        "  - cost report: $0.40, cost type session_usage\n"
    ) in out


def test_calls_without_a_price_make_the_sum_a_lower_bound(
    organisation: Organisation, tmp_path: Path
) -> None:
    organisation.booked = [booked(), booked(model="claude-next", cents="3")]
    sampling_calls = (PricedSamplingCall(model="claude-next", usage=USAGE),)
    calls = [live(), replace(live(), sampling_calls=sampling_calls)]
    write_ledger(make_report({OUTSIDE: calls}, run=RUN), tmp_path / "ledger.json")
    status, out, _ = run(str(tmp_path / "ledger.json"))
    assert status == 0
    assert "2 live calls in 1 ledger, at least $0.0095 at the list prices of their dates " in out
    assert "claude-next" in out
    assert "likely reasons" not in out
    status, out, _ = run(str(tmp_path / "ledger.json"), "--whole-days")
    assert status == 1
    assert ["claude-next", "-", "$0.03", "-", "!"] in [line.split() for line in out.splitlines()]
    assert "  - cost: a price that the rate card does not have yet; see `llmcost rates`\n" in out


def test_less_than_was_spent_is_a_negative_difference(
    organisation: Organisation, ledger: str
) -> None:
    organisation.booked = [booked(output_tokens=99, cents="0.9")]
    status, out, _ = run(ledger)
    assert status == 1
    assert "claude-opus-4-7  output_tokens         100        99        -1 !" in out
    assert [MODEL, "$0.0095", "$0.009", "-$0.0005"] in [line.split() for line in out.splitlines()]


def test_json_has_every_field_and_money_as_text(organisation: Organisation, ledger: str) -> None:
    organisation.booked = [booked(output_tokens=101)]
    _, out, _ = run(ledger, "--format", "json", "--tolerance", "1%")
    outcome = json.loads(out)
    assert outcome["schema"] == "pytest-llmcost-reconcile/1"
    assert outcome["state"] == "agrees"
    assert outcome["live_usd"] == "0.0095"
    assert outcome["terms"]["tolerance"] == "0.01"
    assert outcome["terms"]["windows"] == [
        {"starting_at": "2026-11-20T12:00:00Z", "ending_at": "2026-11-20T12:11:00Z"}
    ]
    assert outcome["cost"] == [
        {
            "item": MODEL,
            "ledger_usd": "0.0095",
            "reported_usd": "0.0095",
            "decides": False,
            "agrees": True,
        }
    ]


def test_the_runs_key_and_workspace_are_asked_for(organisation: Organisation, ledger: str) -> None:
    organisation.booked = [
        booked(workspace_id="wrkspc_1"),
        booked(api_key_id="apikey_other", workspace_id="wrkspc_1"),
        booked(workspace_id="wrkspc_2"),
    ]
    ids = ("--api-key-id", "apikey_ci", "--workspace-id", "wrkspc_1")
    status, _, _ = run(ledger, *ids)
    assert status == 0


def test_the_default_workspace_has_a_name(organisation: Organisation, ledger: str) -> None:
    organisation.booked = [booked(workspace_id=None), booked(workspace_id="wrkspc_1")]
    status, out, _ = run(ledger, "--workspace-id", "default", "--whole-days")
    assert (status, "$0.0191" in out) == (0, False)


def test_waiting_begins_when_the_data_may_be_there_and_goes_on_until_it_is(
    organisation: Organisation, ledger: str
) -> None:
    organisation.booked = [booked(visible_after=2)]
    hours = Hours(CALLED_AT + timedelta(minutes=3, seconds=30))
    status, _, err = run(ledger, "--wait", hours=hours)
    assert status == 0
    assert hours.slept == [60, 30, 60, 60]
    assert organisation.usage_requests == 3
    assert err.splitlines() == [
        "llmcost: usage takes about 5 min to appear; asking again in 90 s",
        "llmcost: usage takes about 5 min to appear; asking again in 30 s",
        "llmcost: asking 127.0.0.1 for usage and cost",
        "llmcost: some usage in the ledgers is not reported yet; asking again in 60 s",
        "llmcost: asking 127.0.0.1 for usage and cost",
        "llmcost: some usage in the ledgers is not reported yet; asking again in 60 s",
        "llmcost: asking 127.0.0.1 for usage and cost",
    ]


def test_waiting_ends(organisation: Organisation, ledger: str) -> None:
    hours = Hours(CALLED_AT + timedelta(hours=1))
    status, out, _ = run(ledger, "--wait", hours=hours)
    assert status == 1
    assert sum(hours.slept) == 20 * 60
    assert organisation.usage_requests == 21
    assert "nothing is reported at all" in out


def test_waiting_does_not_go_on_when_more_is_reported_than_was_spent(
    organisation: Organisation, ledger: str
) -> None:
    organisation.booked = [booked(), booked()]
    hours = Hours(CALLED_AT + timedelta(hours=1))
    assert run(ledger, "--wait", hours=hours)[0] == 1
    assert hours.slept == []


def test_without_waiting_late_data_differ_and_the_reason_is_named(
    organisation: Organisation, ledger: str
) -> None:
    status, out, _ = run(ledger, now=CALLED_AT + timedelta(minutes=2))
    assert status == 1
    assert "late data: usage takes 5 min, the last call was 2 min ago; use --wait" in out


LIMIT = Refused(429, "rate_limit_error", "slow down", retry_after_ms="1")


def test_a_rate_limit_is_waited_out(organisation: Organisation, ledger: str) -> None:
    organisation.booked = [booked()]
    organisation.refusals = [LIMIT] * 3
    hours = Hours(CALLED_AT + timedelta(hours=1))
    status, _, err = run(ledger, "--wait", hours=hours)
    assert (status, hours.slept) == (0, [60])
    assert "too many requests; asking again in 60 s" in err


def test_a_rate_limit_that_lasts_is_an_error(
    organisation: Organisation, ledger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    organisation.refusals = [LIMIT] * 3
    assert main(["reconcile", ledger]) == 2
    assert "slow down" in capsys.readouterr().err


def test_an_endless_rate_limit_ends_the_waiting(organisation: Organisation, ledger: str) -> None:
    organisation.refusals = [LIMIT] * 1000
    with pytest.raises(TooManyRequests):
        run(ledger, "--wait")


@pytest.mark.parametrize(
    "at", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"]
)
def test_a_time_that_no_other_can_be_counted_from_is_refused(
    at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(
        make_report({OUTSIDE: [replace(live(), at=at)]}, run=RUN), tmp_path / "ledger.json"
    )
    assert main(["reconcile", str(tmp_path / "ledger.json")]) == 2
    assert f"'{at}' in the ledger is not a date and time" in capsys.readouterr().err


def test_what_the_reports_name_cannot_move_the_cursor(
    organisation: Organisation, ledger: str
) -> None:
    organisation.booked = [booked(model="a\x1b[2J"), booked(service_tier="b\x1b[2J")]
    organisation.charged = [Charged(at=CALLED_AT, cost_type="c\x1b[2J", cents="5")]
    _, out, _ = run(ledger)
    for name in "abc":
        assert f"{name}\\x1b[2J" in out
    assert "\x1b" not in out


# --- without the network ------------------------------------------------------------------------


@pytest.fixture
def saved(organisation: Organisation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers as a user would keep them; after that there is neither key nor API."""
    organisation.booked = [booked(), booked(api_key_id="apikey_other")]
    span = {"starting_at": ["2026-11-20T00:00:00Z"], "ending_at": ["2026-11-21T00:00:00Z"]}
    by = {"group_by[]": ["model", "api_key_id"], "bucket_width": ["1h"]}
    headers = {"x-api-key": ADMIN_KEY}
    (tmp_path / "usage.json").write_text(organisation.answer(USAGE_PATH, span | by, headers))
    (tmp_path / "cost.json").write_text(organisation.answer(COST_PATH, {**span}, headers))
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY")
    organisation.requests.clear()
    return tmp_path


def test_saved_answers_need_neither_a_key_nor_the_network(
    saved: Path, organisation: Organisation, ledger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usage, cost = str(saved / "usage.json"), str(saved / "cost.json")
    key = ("--api-key-id", "apikey_ci")
    assert main(["reconcile", ledger, "--usage", usage, "--cost", cost, *key]) == 0
    out, err = capsys.readouterr()
    assert [MODEL, "$0.0095", "$0.019", "+$0.0095"] in [line.split() for line in out.splitlines()]
    assert err == ""
    assert main(["reconcile", ledger, "--usage", usage, *key]) == 0
    assert "$0.019 " not in capsys.readouterr().out
    assert organisation.requests == []


def test_where_all_agrees_there_is_nothing_to_remark(saved: Path) -> None:
    write_ledger(make_report({OUTSIDE: [live()]}, run=RUN), saved / "live.json")
    arguments = (str(saved / "live.json"), "--usage", str(saved / "usage.json"))
    status, out, err = run(*arguments, "--api-key-id", "apikey_ci", "--format", "md")
    assert (status, err) == (0, "")
    assert out.startswith("### ✅ The bill agrees\n")
    assert out.endswith("| claude-opus-4-7 | output_tokens | 100 | 100 | 0 |\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cost", "cost.json"], "--cost FILE needs --usage FILE"),
        (["--usage", "u.json", "--whole-days"], "--whole-days checks the cost as well; add --cost"),
        (["--usage", "nowhere.json"], "nowhere.json: No such file or directory"),
        (["--tolerance", "much"], "--tolerance: 'much' is not a percentage"),
        ([], "no Admin key: set ANTHROPIC_ADMIN_KEY"),
    ],
)
def test_what_cannot_be_done_exits_with_2(
    ledger: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reconcile", ledger, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"llmcost: {said}")


def test_a_ledger_without_live_calls_asks_nobody(
    organisation: Organisation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(make_report({OUTSIDE: [make_call("1")]}, run=RUN), tmp_path / "replayed.json")
    assert main(["reconcile", str(tmp_path / "replayed.json")]) == 2
    assert "nothing to reconcile" in capsys.readouterr().err
    assert organisation.requests == []


def test_a_copy_of_a_run_is_refused_before_anything_is_asked(
    organisation: Organisation, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "baseline.json").write_bytes(Path(ledger).read_bytes())
    assert main(["reconcile", ledger, str(tmp_path / "baseline.json")]) == 2
    assert "is the same run as another one; name each run once" in capsys.readouterr().err
