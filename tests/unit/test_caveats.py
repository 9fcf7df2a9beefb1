from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_llmcost.prices.caveats import CAVEATS, Caveat

DOCS_PATH = Path(__file__).parents[2] / "docs" / "caveats.md"
_ROW = re.compile(r"^\| `(?P<name>[a-z0-9-]+)` \| (?P<direction>\w+) \| (?P<meaning>.+) \|$", re.M)


@pytest.mark.parametrize("name", CAVEATS)
def test_a_caveat_is_known_by_its_name_and_opens_its_direction(name: str) -> None:
    caveat, rule = Caveat(f"{name}: some detail: more"), CAVEATS[name]
    assert (caveat.name, caveat.detail, caveat.rule) == (name, "some detail: more", rule)
    assert caveat.may_be_lower is (rule.direction in ("lower", "either"))
    assert Caveat(name).may_be_higher is (rule.direction in ("higher", "either"))
    assert len(rule.meaning) < 80
    assert not rule.meaning.endswith(".")


def test_a_caveat_of_a_newer_version_opens_both_directions() -> None:
    caveat = Caveat("invented-later: x")
    assert caveat.may_be_lower
    assert caveat.may_be_higher
    assert not caveat.rule.by_card


@pytest.mark.parametrize(
    "name", [name for name, rule in CAVEATS.items() if rule.direction != "none"]
)
def test_what_opens_a_bound_has_a_sentence_for_a_message(name: str) -> None:
    assert CAVEATS[name].sentence


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
