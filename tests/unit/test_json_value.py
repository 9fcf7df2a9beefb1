"""From what callers hand in to the plain JSON that would be sent."""

from __future__ import annotations

import enum
import io
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.errors import PayloadError
from pytest_llmcost.json_values import canonical, to_json_value


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_json_stays_what_it_is(value: Any) -> None:
    assert to_json_value(value) == value


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=6), st.randoms())
def test_the_order_of_keys_does_not_change_the_canonical_form(
    value: dict[str, int], shuffler: Any
) -> None:
    keys = list(value)
    shuffler.shuffle(keys)
    assert canonical({key: value[key] for key in keys}) == canonical(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, 2), [1, 2]),
        ((part for part in "ab"), ["a", "b"]),
        (map(str, (1, 2)), ["1", "2"]),
        ({"a": 1}.values(), [1]),
        (OrderedDict(a=(1,)), {"a": [1]}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (Colour.RED, "red"),
        (Level.LOW, 1),
        (True, True),
        (date(2026, 11, 22), "2026-11-22"),
        (type("Text", (str,), {})("x"), "x"),
        (type("Number", (float,), {})(1.5), 1.5),
    ],
)
def test_other_containers_and_scalars_are_sent_as_json(value: object, plain: object) -> None:
    found = to_json_value(value)
    assert found == plain
    assert type(found) is type(plain)


def test_sdk_objects_are_dumped_as_the_sdk_sends_them() -> None:
    types = pytest.importorskip("anthropic.types")
    block = types.ToolUseBlock(type="tool_use", id="toolu_1", name="find", input={"q": "x"})
    assert to_json_value({"content": [block]}) == {
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"q": "x"}}]
    }


def test_what_the_sdk_leaves_away_is_left_away() -> None:
    anthropic = pytest.importorskip("anthropic")
    sent = to_json_value({"a": anthropic.NOT_GIVEN, "b": anthropic.omit, "c": None})
    assert sent == {"c": None}


def test_an_sdk_tool_made_from_a_function_is_sent_as_its_definition() -> None:
    anthropic = pytest.importorskip("anthropic")

    def find(query: str) -> str:
        """Find something."""
        return query

    (tool,) = to_json_value({"tools": [anthropic.beta_tool(find)]})["tools"]
    assert (tool["name"], tool["description"]) == ("find", "Find something.")


def circle() -> dict[str, Any]:
    content: list[Any] = []
    content.append({"again": content})
    return {"messages": content}


def tower() -> object:
    value: object = "top"
    for _ in range(500):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"a": [{"b": b"x"}]}, "a.0.b", "is of type bytes.*base64"),
        ({"a": float("nan")}, "a", "is nan, which JSON cannot hold"),
        ({"a": [1, float("inf")]}, "a.1", "is inf"),
        ({"a": {1, 2}}, "a", "set.*pass a list"),
        ({"a": object()}, "a", "of type object, which is not JSON$"),
        ({"a": Decimal(1)}, "a", "Decimal"),
        ({"a": dict}, "a", "the class dict.*JSON schema"),
        ({"a": {1: "x"}}, "a.1", "a.1 has a key of type int"),
        ({"a": "\ud800"}, "a", "half a surrogate pair at character 0"),
        ({"\ud800": 1}, "\ud800", "half a surrogate pair"),
        (circle(), "messages" + ".0.again" * 49 + ".0", "or contains itself"),
        (tower(), ".".join("0" * 100), "nested 100 levels deep"),
        (object(), "", "the payload is of type object"),
        ({"a": io.BytesIO(b"x")}, "a", "BytesIO, .*; read it, and encode it as base64"),
        ({"a": Path("cat.png")}, "a", "Path, .*; read it, and encode it as base64"),
    ],
)
def test_what_is_not_json_is_named_with_its_path(value: object, path: str, message: str) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        to_json_value(value)
    assert caught.value.path == path


def test_the_same_object_twice_is_no_circle() -> None:
    shared = {"type": "text", "text": "x"}
    assert to_json_value([shared, shared]) == [shared, shared]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_too_large_to_be_written_is_named_by_its_path(sign: int) -> None:
    class Level(enum.IntEnum):
        ABSURD = sign * 10**5_000

    assert to_json_value({"a": sign * 10**999}) == {"a": sign * 10**999}
    for absurd in (sign * 10**1_000, sign * 10**5_000, Level.ABSURD):
        with pytest.raises(PayloadError, match=r"a\.0 is a whole number of [\d,]+ bits"):
            to_json_value({"a": [absurd]})
