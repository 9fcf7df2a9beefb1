from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from standin_admin import (
    ADMIN_KEY,
    COST_PATH,
    PLAIN_KEY,
    USAGE_PATH,
    Booked,
    Organisation,
    Refused,
    serve,
)

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.reconcile.admin_api import (
    AdminApi,
    Filters,
    TooManyRequests,
    Width,
    Window,
)

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
HOUR = Window(starting_at=NOON, ending_at=NOON + timedelta(hours=1))
DAY = Window(
    starting_at=datetime(2026, 11, 22, tzinfo=timezone.utc),
    ending_at=datetime(2026, 11, 23, tzinfo=timezone.utc),
)


@pytest.fixture
def organisation() -> Iterator[Organisation]:
    with serve(Organisation()) as served:
        yield served


def connect(organisation: Organisation, **environment: str) -> AdminApi:
    defaults = {"ANTHROPIC_ADMIN_KEY": ADMIN_KEY, "ANTHROPIC_BASE_URL": organisation.base_url}
    return AdminApi({**defaults, **environment})


def booked(minute: int = 0, **fields: Any) -> Booked:
    at = NOON + timedelta(minutes=minute)
    return Booked(**{"at": at, "model": "claude-opus-4-7", "output_tokens": 7, **fields})


def test_the_key_goes_in_x_api_key_and_no_authorization_is_sent(
    organisation: Organisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "a-token")
    monkeypatch.setenv(
        "ANTHROPIC_CUSTOM_HEADERS", "authorization: Bearer gateway\nX-API-Key: gateway"
    )
    connect(organisation).usage([HOUR], "1m", Filters())
    [(_, _, headers)] = organisation.requests
    assert headers["x-api-key"] == ADMIN_KEY
    assert "authorization" not in headers


def test_what_is_asked_is_spelt_as_the_api_documents_it(organisation: Organisation) -> None:
    filters = Filters(api_key_ids=("apikey_1", "apikey_2"), workspace_ids=("wrkspc_1",))
    connect(organisation).usage([HOUR], "1m", filters)
    [(path, query, headers)] = organisation.requests
    assert path == USAGE_PATH
    assert query["starting_at"] == ["2026-11-22T12:00:00Z"]
    assert query["bucket_width"] == ["1m"]
    assert query["limit"] == ["61"]
    assert headers["anthropic-version"] == "2023-06-01"


def test_lists_carry_one_pair_of_brackets(organisation: Organisation) -> None:
    organisation.raw_answers = ['{"data": []}'] * 2
    api = connect(organisation)
    api.usage([HOUR], "1m", Filters(api_key_ids=("apikey_1", "apikey_2")))
    api.cost([HOUR])
    (_, usage, _), (_, cost, _) = organisation.requests
    assert usage["api_key_ids[]"] == ["apikey_1", "apikey_2"]
    assert "model" in usage["group_by[]"]
    assert cost["group_by[]"] == ["workspace_id", "description"]


def test_only_buckets_of_the_window_come_back_its_last_one_among_them(
    organisation: Organisation,
) -> None:
    organisation.booked = [booked(-1), booked(0), booked(59), booked(60)]
    buckets = connect(organisation).usage([HOUR], "1m", Filters())
    assert [each.starting_at.minute for each in buckets if each.results] == [0, 59]


@pytest.mark.parametrize(
    ("width", "days", "pages"), [("1m", 1, 2), ("1m", 3, 4), ("1h", 7, 2), ("1d", 62, 3)]
)
def test_every_page_is_fetched_within_the_limit_of_its_width(
    organisation: Organisation, width: Width, days: int, pages: int
) -> None:
    ends = DAY.starting_at + timedelta(days=days)
    window = Window(starting_at=DAY.starting_at, ending_at=ends)
    last = booked(0, at=ends - timedelta(seconds=1))
    organisation.booked = [booked(0), last]
    buckets = connect(organisation).usage([window], width, Filters())
    assert len(organisation.requests) == pages
    assert sum(row.output_tokens for each in buckets for row in each.results) == 14


def test_cost_is_asked_by_whole_days_and_each_day_once(organisation: Organisation) -> None:
    later = Window(starting_at=NOON + timedelta(hours=3), ending_at=NOON + timedelta(hours=4))
    buckets = connect(organisation).cost([HOUR, later])
    [(path, query, _)] = organisation.requests
    assert path == COST_PATH
    assert query["starting_at"] == ["2026-11-22T00:00:00Z"]
    assert [each.starting_at.day for each in buckets] == [22]


def test_the_default_workspace_is_no_id_and_so_not_sent(organisation: Organisation) -> None:
    connect(organisation).usage([HOUR], "1m", Filters(workspace_ids=("default", "wrkspc_1")))
    assert "workspace_ids[]" not in organisation.requests[0][1]


REFUSALS = [
    (Refused(401, "authentication_error", f"invalid x-api-key {ADMIN_KEY}"), "ANTHROPIC_ADMIN_KEY"),
    (Refused(403, "permission_error", "no"), "Admin key of an organisation"),
    (Refused(400, "invalid_request_error", "starting_at: too long ago"), "too long ago"),
    (Refused(404, "not_found_error", "Not found"), "gateway"),
    (Refused(403, "", "Forbidden"), "answered 403: "),
    (Refused(302, "found", "elsewhere", location="http://127.0.0.1:1/"), "302"),
]


@pytest.mark.parametrize(("refusal", "said"), REFUSALS, ids=lambda each: str(each)[:20])
def test_a_refusal_is_told_with_its_cause_and_without_the_key(
    organisation: Organisation, refusal: Refused, said: str
) -> None:
    organisation.refusals = [refusal]
    with pytest.raises(ReconcileError, match=said) as caught:
        connect(organisation).usage([HOUR], "1m", Filters())
    assert type(caught.value) is ReconcileError, "no wait would help"
    assert ADMIN_KEY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_a_wrong_key_is_refused_by_the_api(organisation: Organisation) -> None:
    with pytest.raises(ReconcileError, match="401") as caught:
        connect(organisation, ANTHROPIC_ADMIN_KEY="wrong-key").usage([HOUR], "1m", Filters())
    assert "wrong-key" not in str(caught.value)


def test_a_key_without_the_admins_rights_is_refused_by_the_api(organisation: Organisation) -> None:
    with pytest.raises(ReconcileError, match="403"):
        connect(organisation, ANTHROPIC_ADMIN_KEY=PLAIN_KEY).usage([HOUR], "1m", Filters())


def test_a_rate_limit_is_waited_out_by_the_sdk(organisation: Organisation) -> None:
    limit = Refused(429, "rate_limit_error", "slow down", retry_after_ms="5")
    organisation.refusals = [limit, limit]
    connect(organisation).usage([HOUR], "1m", Filters())
    assert len(organisation.requests) == 3


def test_a_lasting_rate_limit_is_an_error_of_its_own(organisation: Organisation) -> None:
    limit = Refused(429, "rate_limit_error", "slow down", retry_after_ms="5")
    organisation.refusals = [limit] * 3
    with pytest.raises(TooManyRequests, match=r"slow down.*wait"):
        connect(organisation).usage([HOUR], "1m", Filters())


def test_a_span_that_the_api_no_longer_keeps_is_told_in_its_words(
    organisation: Organisation,
) -> None:
    old = Window(
        starting_at=datetime(2020, 1, 1, tzinfo=timezone.utc),
        ending_at=datetime(2020, 1, 2, tzinfo=timezone.utc),
    )
    with pytest.raises(ReconcileError, match=r"data is kept since 2025-01-01.*no longer keep"):
        connect(organisation).usage([old], "1d", Filters())


@pytest.mark.parametrize(
    "raw",
    [
        '{"data": [], "has_more": true}',
        '{"data": [], "has_more": true, "next_page": ""}',
        *("", "[]", "<html>gateway</html>"),
        '{"data": [{"starting_at": "2026-11-22T12:00:00Z"}]}',
    ],
)
def test_a_malformed_answer_is_an_error(organisation: Organisation, raw: str) -> None:
    organisation.raw_answers = [raw]
    with pytest.raises(ReconcileError, match="usage_report/messages, page 1"):
        connect(organisation).usage([HOUR], "1m", Filters())


@pytest.mark.parametrize("pages", [1, 2])
def test_pages_that_lead_back_are_an_error(organisation: Organisation, pages: int) -> None:
    answer = '{"data": [], "has_more": true, "next_page": "page_%d"}'
    organisation.raw_answers = [answer % number for number in range(pages)] * 2
    with pytest.raises(ReconcileError, match=f"page {pages + 1}: has_more is set"):
        connect(organisation).usage([HOUR], "1m", Filters())


@pytest.mark.parametrize(
    ("url", "host"), [("http://127.0.0.1:1", r"127\.0\.0\.1"), ("http://[::1]:1", "::1")]
)
def test_an_unreachable_api_on_this_machine_is_told_with_its_host(url: str, host: str) -> None:
    environment = {"ANTHROPIC_ADMIN_KEY": ADMIN_KEY, "ANTHROPIC_BASE_URL": url}
    with pytest.raises(ReconcileError, match=f"could not reach {host} for") as caught:
        AdminApi(environment).usage([HOUR], "1m", Filters())
    assert caught.value.__context__ is None


@pytest.mark.parametrize("key", ["", "  \n", "sec\nret", "sécret"])
def test_a_key_that_cannot_be_right_is_refused_before_anything_is_sent(key: str) -> None:
    with pytest.raises(ReconcileError, match="no Admin key: set ANTHROPIC_ADMIN_KEY") as caught:
        AdminApi({"ANTHROPIC_ADMIN_KEY": key})
    assert "cret" not in str(caught.value)


def test_the_space_around_a_key_is_no_part_of_it(organisation: Organisation) -> None:
    connect(organisation, ANTHROPIC_ADMIN_KEY=f" {ADMIN_KEY}\n").usage([HOUR], "1m", Filters())
    [(_, _, headers)] = organisation.requests
    assert headers["x-api-key"] == ADMIN_KEY


@pytest.mark.parametrize(
    "url",
    [
        *("http://gateway.example", "ftp://localhost", "nonsense", "https://", "http://u:p@x.y"),
        *("https://[::1", "https://u:p/w@x.y"),
    ],
)
def test_the_key_is_not_sent_unencrypted_to_another_machine(url: str) -> None:
    with pytest.raises(ReconcileError, match="https only") as caught:
        AdminApi({"ANTHROPIC_ADMIN_KEY": ADMIN_KEY, "ANTHROPIC_BASE_URL": url})
    assert "u:p" not in str(caught.value)


def test_without_a_base_url_it_is_anthropics_own_api() -> None:
    assert AdminApi({"ANTHROPIC_ADMIN_KEY": ADMIN_KEY}).host == "api.anthropic.com"
