from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from sample_reports import OUTSIDE, a_fixture, a_test, make_call, make_report, suite_budget

from pytest_llmcost.ledger.ledger import SCHEMA, Ledger, PayloadFacts, render_json

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = DOCS / "ledger.schema.json"


def ledger_schema() -> dict[str, Any]:
    """Return the JSON Schema of ledgers, made from the types."""
    schema = msgspec.json.schema(
        Ledger, ref_template="#/$defs/{name}", schema_hook=lambda kind: {"type": "string"}
    )
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"A ledger of pytest-llmcost, schema {SCHEMA}"
    plain: dict[str, Any] = _with_plain_decimals(schema)
    return plain


def _with_plain_decimals(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_plain_decimals(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "decimal":
        return {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"}
    plain = {key: _with_plain_decimals(each) for key, each in node.items()}
    if isinstance(text := plain.get("description"), str):
        plain["description"] = inspect.cleandoc(text)  # as Python does itself from 3.13 on
    return plain


def render_schema() -> str:
    return json.dumps(ledger_schema(), indent=1, sort_keys=True) + "\n"


def a_report() -> Ledger:
    return make_report(
        {
            a_test("t.py::test"): [make_call("1", fingerprint="1:a"), make_call(None)],
            a_fixture(): [make_call("0.0000001")],
            OUTSIDE: [make_call("2")],
        },
        budgets=[suite_budget("1")],
        payloads={"1:a": PayloadFacts(model="m", parts={"system": "0a1b2c3d"})},
    )


def test_the_published_schema_is_what_the_types_say() -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        PUBLISHED.write_text(render_schema())
    assert PUBLISHED.read_text() == render_schema()


def test_every_key_is_explained() -> None:
    page = (DOCS / "reference" / "ledger.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    assert {*Ledger.__struct_fields__} <= {*re.findall(r"`(\w+)`", " ".join(cells))}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(ledger_schema())


@pytest.mark.parametrize("report", [a_report(), Ledger()], ids=["full", "empty"])
def test_ledgers_are_valid(report: Ledger) -> None:
    jsonschema.validate(json.loads(render_json(report)), ledger_schema())


@pytest.mark.parametrize("usd", ["1E-7", "", "$1", 1, "NaN"])
def test_amounts_that_are_no_plain_digits_are_not_valid(usd: object) -> None:
    ledger = json.loads(render_json(a_report()))
    ledger["tests"][0]["calls"][0]["usd"] = usd
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(ledger, ledger_schema())


def test_the_schema_tells_money_from_text() -> None:
    call = ledger_schema()["$defs"]["Call"]["properties"]
    assert call["usd_low"]["pattern"]
    assert "pattern" not in call["model"]
