from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_llmcost.prices.caveats import (
    CAVEATS,
    caveat_name,
    may_be_higher,
    may_be_lower,
    without_card_caveats,
)

DOCS_PATH = Path(__file__).parents[2] / "docs" / "caveats.md"
_ROW = re.compile(r"^\| `(?P<name>[a-z0-9-]+)` \| (?P<direction>\w+) \| (?P<meaning>.+) \|$", re.M)


@pytest.mark.parametrize("name", CAVEATS)
def test_a_caveat_is_known_by_its_name_and_opens_its_direction(name: str) -> None:
    caveat = CAVEATS[name]
    assert caveat.name == name == caveat_name(f"{name}: some detail: more")
    assert may_be_lower(f"{name}: x") is (caveat.direction in ("lower", "either"))
    assert may_be_higher(name) is (caveat.direction in ("higher", "either"))
    assert len(caveat.meaning) < 80
    assert not caveat.meaning.endswith(".")


def test_a_caveat_of_a_newer_version_opens_both_directions() -> None:
    assert may_be_lower("invented-later: x")
    assert may_be_higher("invented-later: x")
    assert without_card_caveats(["invented-later: x"]) == ("invented-later: x",)


def test_what_the_card_finds_is_left_out_before_it_prices_anew() -> None:
    texts = ["unknown-model: a", "truncated-stream", "retired-model: b", "left-out: tools.x"]
    assert without_card_caveats(texts) == ("truncated-stream", "left-out: tools.x")


def test_the_documentation_lists_every_caveat_with_its_direction() -> None:
    documented = {
        match["name"]: (match["direction"], match["meaning"])
        for match in _ROW.finditer(DOCS_PATH.read_text(encoding="utf-8"))
    }
    assert {name: direction for name, (direction, _) in documented.items()} == {
        name: caveat.direction for name, caveat in CAVEATS.items()
    }
    for name, caveat in CAVEATS.items():
        assert documented[name][1].startswith(f"{caveat.meaning}.")
