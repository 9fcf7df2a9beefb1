from __future__ import annotations

import pytest

from pytest_llmcost.prices.caveats import CAVEATS, Caveat, decode_caveat, encode_caveat


@pytest.mark.parametrize("name", CAVEATS)
def test_a_caveat_is_known_by_its_name_and_opens_its_direction(name: str) -> None:
    caveat, rule = Caveat(f"{name}: some detail: more"), CAVEATS[name]
    assert (caveat.name, caveat.detail, caveat.rule) == (name, "some detail: more", rule)
    assert caveat.may_be_lower is (rule.direction in ("lower", "either"))
    assert Caveat(name).may_be_higher is (rule.direction in ("higher", "either"))
    assert 0 < len(rule.meaning) < 90
    assert not rule.what.endswith(".")


def test_a_caveat_of_a_newer_version_opens_both_directions() -> None:
    caveat = Caveat("invented-later: x")
    assert caveat.may_be_lower
    assert caveat.may_be_higher
    assert not caveat.rule.by_card


@pytest.mark.parametrize(
    "name", [name for name, rule in CAVEATS.items() if rule.direction != "none"]
)
def test_what_opens_a_bound_has_a_sentence_for_a_message(name: str) -> None:
    assert CAVEATS[name].what


@pytest.mark.parametrize("name", CAVEATS)
def test_a_call_can_be_stated_where_the_message_says_so(name: str) -> None:
    rule = CAVEATS[name]
    assert rule.may_be_stated is ("llmcost.record(" in rule.remedy)


def test_msgspec_s_hooks_take_nothing_but_caveats() -> None:
    assert decode_caveat(Caveat, "batched") == Caveat("batched")
    with pytest.raises(NotImplementedError, match="encoder"):
        encode_caveat(object())
