from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_message import read_usage

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.message import unknown_quantities


def raw(**more: Any) -> dict[str, Any]:
    return {"input_tokens": 3, "output_tokens": 5} | more


def split(short: object, long: object) -> dict[str, object]:
    return {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}


def test_all_categories_are_read() -> None:
    usage = read_usage(
        raw(
            cache_creation_input_tokens=30,
            cache_creation=split(10, 20),
            cache_read_input_tokens=40,
            server_tool_use={"web_search_requests": 2, "web_fetch_requests": 7},
            output_tokens_details={"thinking_tokens": 4},
            service_tier="standard",
        )
    )
    assert usage == Usage(
        input_tokens=3,
        cache_write_5m_tokens=10,
        cache_write_1h_tokens=20,
        cache_read_tokens=40,
        output_tokens=5,
        web_search_requests=2,
    )
    assert usage.prompt_tokens == 73
    assert usage.cached_tokens == 70


# Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching; automatic
# breakpoints of server tools write 5-minute entries that a stream's first split cannot know.
@pytest.mark.parametrize(
    ("total", "parts", "short", "long"),
    [
        (30, split(10, 20), 10, 20),
        (30, None, 30, 0),
        (30, {}, 30, 0),
        (30, split(None, None), 30, 0),
        (30, split(5, 20), 10, 20),
        (30, {"ephemeral_1h_input_tokens": 20}, 10, 20),
        (30, split(3_068, 0), 30, 0),
        (30, split(10, 40), 0, 30),
        (30, split(40, 20), 10, 20),
        (None, split(10, 20), 10, 20),
        (None, None, 0, 0),
        (0, split(10, 20), 0, 0),
    ],
)
def test_a_split_that_disagrees_gives_way_to_the_total(
    total: int | None, parts: object, short: int, long: int
) -> None:
    usage = read_usage(raw(cache_creation_input_tokens=total, cache_creation=parts))
    assert (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (short, long)


def test_every_field_but_two_may_be_null_or_missing() -> None:
    nulls = dict.fromkeys(
        ["cache_creation_input_tokens", "cache_creation", "cache_read_input_tokens",
         "server_tool_use", "service_tier", "speed", "inference_geo", "iterations"]
    )  # fmt: skip
    assert read_usage(raw(**nulls)) == read_usage(raw()) == Usage(input_tokens=3, output_tokens=5)


@pytest.mark.parametrize(
    ("usage", "path", "what"),
    [
        ({"output_tokens": 1}, "usage.input_tokens", "is missing"),
        ({"input_tokens": 1}, "usage.output_tokens", "is missing"),
        (raw(input_tokens=None), "usage.input_tokens", "got `null`"),
        (raw(input_tokens="12"), "usage.input_tokens", "got `str`"),
        (raw(input_tokens=1.0), "usage.input_tokens", "got `float`"),
        (raw(output_tokens=True), "usage.output_tokens", "got `bool`"),
        (raw(output_tokens=-1), "usage.output_tokens", "Expected `int` >= 0, got -1"),
        (raw(cache_read_input_tokens=[]), "usage.cache_read_input_tokens", "got `array`"),
        (raw(cache_creation=3), "usage.cache_creation", "got `int`"),
        (
            raw(cache_creation=split("12", 0)),
            "usage.cache_creation.ephemeral_5m_input_tokens",
            "got `str`",
        ),
        (
            raw(server_tool_use={"web_search_requests": "1"}),
            "usage.server_tool_use.web_search_requests",
            "got `str`",
        ),
        (raw(server_tool_use="none"), "usage.server_tool_use", "got `str`"),
    ],
)
def test_an_error_names_the_path_what_was_expected_and_what_came(
    usage: dict[str, Any], path: str, what: str
) -> None:
    with pytest.raises(UsageDataError) as caught:
        read_usage(usage)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith(what)


@pytest.mark.parametrize("key", ["input_tokens", "output_tokens", "cache_read_input_tokens"])
def test_no_response_has_more_tokens_than_a_thousand_context_windows(key: str) -> None:
    assert read_usage(raw(**{key: 10**9}))
    for absurd in (10**9 + 1, 10**150, 10**5_000):
        with pytest.raises(UsageDataError, match=r"Expected `int.*` <= 1000000000"):
            read_usage(raw(**{key: absurd}))


@pytest.mark.parametrize(
    "usage", [raw(**{"\ud800tokens": 1}), raw(cache_creation=split(1, 2) | {"\udc00": 3})]
)
def test_half_a_surrogate_pair_in_a_key_is_an_error_as_any_other(usage: dict[str, Any]) -> None:
    with pytest.raises(UsageDataError, match="usage: holds half a surrogate pair"):
        read_usage(usage)


def test_a_long_value_is_cut_in_an_error() -> None:
    with pytest.raises(UsageDataError) as caught:
        read_usage(raw(input_tokens="1" * 10_000))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("usage", "unknown"),
    [
        (raw(), []),
        (raw(cache_creation={"ephemeral_24h_input_tokens": 0}), []),
        (
            raw(cache_creation={"ephemeral_24h_input_tokens": 7}),
            ["cache_creation.ephemeral_24h_input_tokens"],
        ),
        (
            raw(server_tool_use={"web_fetch_requests": 1, "code_execution_requests": 1}),
            [],
        ),
        (raw(server_tool_use={"oracle_requests": 1}), ["server_tool_use.oracle_requests"]),
        (raw(audio_input_tokens=0, oracle_requests=None), []),
        (raw(audio_input_tokens=9, oracle_requests=1), ["audio_input_tokens", "oracle_requests"]),
        (raw(cache_read_input_tokens=9, cache_creation_input_tokens=9), []),
        (raw(output_tokens_details={"thinking_tokens": 4}), []),
        (raw(fallback_credit={"status": {"type": "redeemed"}, "shift": 4}), []),
        (raw(cost=0.95, cost_details={"upstream_inference_cost": 19}, is_byok=True), []),
        (
            raw(web_search_requests=2, cache_creation={"input_tokens": 4}),
            [
                "web_search_requests",
                "cache_creation.input_tokens",
            ],
        ),
        (raw(container_seconds=3_600), ["container_seconds"]),
        (raw(code_execution={"hours": 0.5}), ["code_execution"]),
        (raw(containers=[{"id": "x", "hours": 0}, {"hours": [2]}]), ["containers"]),
        (raw(code_execution={"hours": 0, "region": "us", "none": None}, foo=[], bar="5"), []),
        (raw(iterations=[raw(type="message", model="m")]), []),
        (
            raw(iterations=[raw(), raw(type="message", audio_input_tokens=9)]),
            ["iterations[1].audio_input_tokens"],
        ),
        (
            raw(iterations=[raw(cache_creation={"ephemeral_24h_input_tokens": 7})]),
            ["iterations[0].cache_creation.ephemeral_24h_input_tokens"],
        ),
    ],
)
def test_quantities_without_a_known_price_are_named(
    usage: dict[str, Any], unknown: list[str]
) -> None:
    assert list(unknown_quantities(usage)) == unknown


counts = st.one_of(st.none(), st.integers(min_value=0, max_value=10**7))


@given(counts, st.one_of(st.none(), st.builds(split, counts, counts)))
def test_writes_always_add_up_to_the_total_or_to_their_parts(
    total: int | None, parts: dict[str, int | None] | None
) -> None:
    usage = read_usage(raw(cache_creation_input_tokens=total, cache_creation=parts))
    stated = sum(value or 0 for value in (parts or {}).values())
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    assert written == (stated if total is None else total)
    assert usage.cache_write_1h_tokens <= ((parts or {}).get("ephemeral_1h_input_tokens") or 0)


@given(st.lists(st.builds(Usage, **dict.fromkeys(Usage.__struct_fields__, st.integers(0, 999)))))
def test_usages_add_up_in_any_order(usages: list[Usage]) -> None:
    total = sum(usages)
    assert total == sum(reversed(usages))
    if usages:
        assert isinstance(total, Usage)
        assert bool(total) == any(usages)
        for field in Usage.__struct_fields__:
            assert getattr(total, field) == sum(getattr(each, field) for each in usages)


def test_a_usage_adds_to_nothing_but_usages() -> None:
    with pytest.raises(TypeError):
        Usage() + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        1 + Usage()
