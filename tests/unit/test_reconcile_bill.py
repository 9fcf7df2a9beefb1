from __future__ import annotations

import json
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reconcile.admin_api import (
    Bucket,
    CostRow,
    UsageRow,
    read_pages,
    read_saved_pages,
)

USAGE_ROW: dict[str, Any] = {
    "uncached_input_tokens": 1500,
    "cache_read_input_tokens": 200,
    "cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
    "output_tokens": 50,
    "server_tool_use": {"web_search_requests": 10},
    "model": "claude-opus-4-7",
}


def cost(amount: str, *, currency: str = "USD") -> CostRow:
    text = answer({"amount": amount, "currency": currency})
    return read_pages(text, CostRow, source="cost.json")[0].data[0].results[0]


def answer(*rows: dict[str, Any], has_more: bool = False, **bucket: Any) -> str:
    span = {"starting_at": "2026-11-22T00:00:00Z", "ending_at": "2026-11-23T00:00:00Z"}
    data = [{**span, "results": rows, **bucket}]
    next_page = "page_2" if has_more else None
    return json.dumps({"data": data, "has_more": has_more, "next_page": next_page})


@pytest.mark.parametrize(
    ("cents", "usd"),
    [
        *(("123.45", "1.2345"), ("1", "0.01"), ("0", "0"), ("0.0001", "0.000001")),
        *(("-50", "-0.5"), ("100.00", "1"), ("999999999.000001", "9999999.99000001")),
    ],
)
def test_an_amount_in_cents_is_a_hundredth_of_it_in_dollars(cents: str, usd: str) -> None:
    assert cost(cents).usd == Decimal(usd)


@pytest.mark.parametrize("amount", ["", "$1.20", "1,200.50", "1e3", "NaN", " 5", "12.", "5\n", "१"])
def test_what_is_no_decimal_string_of_cents_is_refused(amount: str) -> None:
    with pytest.raises(ReconcileError, match=r"cost\.json: .*amount"):
        cost(amount)


def test_another_currency_is_refused() -> None:
    with pytest.raises(ReconcileError, match=r"cost\.json: .*'EUR'.*currency"):
        cost("5", currency="EUR")


def test_a_usage_row_is_read_in_our_categories() -> None:
    (page,) = read_pages(answer(USAGE_ROW), UsageRow, source="usage")
    assert page.data[0].starting_at == datetime(2026, 11, 22, tzinfo=timezone.utc)
    assert page.data[0].results[0].usage == Usage(
        input_tokens=1500,
        cache_write_5m_tokens=500,
        cache_write_1h_tokens=1000,
        cache_read_tokens=200,
        output_tokens=50,
        web_search_requests=10,
    )


def test_dimensions_that_came_later_are_ignored() -> None:
    (page,) = read_pages(answer({**USAGE_ROW, "colour": "red"}), UsageRow, source="usage")
    assert page.data[0].results[0].model == "claude-opus-4-7"


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({**USAGE_ROW, "output_tokens": "50"}, "output_tokens"),
        ({**USAGE_ROW, "output_tokens": -1}, "output_tokens"),
        ({**USAGE_ROW, "cache_creation": None}, "cache_creation"),
        ({**USAGE_ROW, "model": 5}, "model"),
        ({"model": "claude-opus-4-7"}, "uncached_input_tokens"),
    ],
)
def test_a_malformed_row_is_an_error_that_names_the_place(row: dict[str, Any], where: str) -> None:
    with pytest.raises(ReconcileError, match="usage.json.*" + where) as caught:
        read_pages(answer(row), UsageRow, source="usage.json")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html>", "malformed"),
        ("{}", "data"),
        ('{"data": [], "has_more": "no"}', "has_more"),
        (answer(starting_at="yesterday"), "starting_at"),
        (answer(starting_at="2026-11-22T00:00:00"), "starting_at"),
    ],
)
def test_what_is_no_answer_of_the_api_is_an_error(text: str, said: str) -> None:
    with pytest.raises(ReconcileError, match=said):
        read_pages(text, UsageRow, source="usage.json")


def saved(text: str, folder: Path) -> tuple[Bucket[UsageRow], ...]:
    path = folder / "usage.json"
    path.write_text(text)
    return read_saved_pages(str(path), UsageRow)


@pytest.mark.parametrize(
    "text",
    [
        answer(USAGE_ROW),
        f"[{answer(USAGE_ROW)}]",
        json.dumps(json.loads(answer(USAGE_ROW)), indent=2),
    ],
)
def test_a_saved_answer_may_stand_alone_or_in_a_list(text: str, tmp_path: Path) -> None:
    assert len(saved(text, tmp_path)) == 1


@pytest.mark.parametrize("form", ["[{},{}]", "{}\n{}\n", "{}\n\n{}"])
def test_saved_pages_are_read_one_after_another(form: str, tmp_path: Path) -> None:
    day: Any = {"starting_at": "2026-11-23T00:00:00Z", "ending_at": "2026-11-24T00:00:00Z"}
    pages = answer(USAGE_ROW, has_more=True), answer(USAGE_ROW, **day)
    assert len(saved(form.format(*pages), tmp_path)) == 2


def test_a_time_that_was_saved_twice_would_count_twice(tmp_path: Path) -> None:
    hour: Any = {"starting_at": "2026-11-22T09:00:00Z", "ending_at": "2026-11-22T10:00:00Z"}
    with pytest.raises(ReconcileError, match="two saved buckets have the time of 2026-11-22 09:00"):
        saved(answer(USAGE_ROW) + answer(USAGE_ROW, **hour), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (answer(USAGE_ROW, has_more=True), "the last of 1 saved answers has a next page"),
        ("[]", "contains no answer"),
        ("", "contains no answer"),
    ],
)
def test_saved_answers_that_stop_early_are_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ReconcileError, match=rf"usage\.json: {said}"):
        saved(text, tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        *(b"[", b"[1", b"nonsense"),
        answer({**USAGE_ROW, "model": "caf?"}).encode().replace(b"?", b"\xe9"),
        b'{"data": [], "x": %b}' % (b"[" * 1_000_000 + b"]" * 1_000_000),
    ],
    ids=["open", "cut", "words", "Latin-1", "deep"],
)
def test_a_saved_file_that_is_no_json_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_bytes(data)
    with pytest.raises(ReconcileError, match=r"usage\.json"):
        read_saved_pages(str(tmp_path / "usage.json"), UsageRow)
