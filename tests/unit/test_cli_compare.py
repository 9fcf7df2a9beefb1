from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from sample_reports import a_fixture, a_test, make_call, make_report

from pytest_llmcost.call import Call, PricedSamplingCall, reprice
from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.builder import Owner
from pytest_llmcost.ledger.ledger import CardId, Ledger, PayloadFacts, read_ledger, write_ledger
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.settings import parse_date

MODEL = "claude-opus-4-7"
ON = "2026-11-22"
CARD = CardId(version=shipped_card().version, sha256=shipped_card().sha256)


def call(units: int, *, model: str = MODEL, fingerprint: str | None = None) -> Call:
    """A unit is five tokens of input: a million units are $25."""
    usage = Usage(input_tokens=5 * units)
    sampling = PricedSamplingCall(model=model, usage=usage)
    unpriced = Call(
        model=model,
        evidence="billed",
        usage=usage,
        sampling_calls=(sampling,),
        fingerprint=fingerprint,
    )
    return reprice(unpriced, shipped_card(), on=parse_date(ON))


def base() -> Ledger:
    spent: dict[Owner, list[Call]] = {
        a_test("t.py::test_grows"): [call(1000, fingerprint="1:a")],
        a_test("t.py::test_gone"): [call(100)],
        a_test("t.py::test_same"): [call(100)],
        a_fixture("client"): [call(100)],
    }
    payloads = {"1:a": PayloadFacts(model=MODEL, parts={"system": "aaaaaaaa"})}
    return make_report(spent, price_date=ON, rate_card=CARD, payloads=payloads)


def head() -> Ledger:
    spent: dict[Owner, list[Call]] = {
        a_test("t.py::test_grows"): [call(2000, fingerprint="1:b"), call(100)],
        a_test("t.py::test_new"): [call(400)],
        a_test("t.py::test_same"): [call(100)],
        a_fixture("client"): [call(100)],
    }
    payloads = {"1:b": PayloadFacts(model=MODEL, parts={"system": "bbbbbbbb"})}
    return make_report(spent, price_date=ON, rate_card=CARD, payloads=payloads)


@pytest.fixture
def ledgers(tmp_path: Path) -> list[str]:
    write_ledger(base(), tmp_path / "base.json")
    write_ledger(head(), tmp_path / "head.json")
    return [str(tmp_path / "base.json"), str(tmp_path / "head.json")]


def test_what_grew_is_shown_with_what_made_it_grow(
    ledgers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *ledgers]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:9] == [
        "+$0.035 against the baseline (+108 %): $0.0325 → $0.0675, 2 unchanged",
        "  t.py::test_gone: not in this run (baseline: $0.0025 in 1 call)",
        "t.py           before     after    change",
        "  test_grows  $0.0250   $0.0525  +$0.0275",
        "    +5,500 input, +1 call, system",
        "  test_new        new   $0.0100  +$0.0100",
        "    +2,000 input, +1 call",
        "  test_gone   $0.0025  no calls  -$0.0025",
        "    -500 input, -1 call",
    ]


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (["--max-increase", "$0.035"], 0),
        (["--max-increase", "$0.0349"], 1),
        (["--max-increase", "108%"], 0),
        (["--max-increase", "107%"], 1),
        (["--max-increase", "108%", "--max-increase", "1c"], 1),
        (["--max-test-increase", "110%"], 0),
        (["--max-test-increase", "109%"], 1),
    ],
)
def test_an_increase_beyond_a_limit_exits_with_1(
    ledgers: list[str], limits: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *ledgers, *limits]) == status
    assert (" over the " in capsys.readouterr().out) == bool(status)


def test_the_parts_that_changed_most_are_named_with_the_tests_that_have_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    def write(name: str, **tokens: int) -> str:
        parts = {each.replace("__", "."): number for each, number in tokens.items()}
        facts = PayloadFacts(model=MODEL, parts_tokens={**parts, "rest": 3} if parts else {})
        spent: dict[Owner, list[Call]] = {
            a_test(f"t.py::test_{letter}"): [call(300 + len(tokens), fingerprint="1:a")]
            for letter in "abc"
        }
        ledger = make_report(spent, price_date=ON, rate_card=CARD, payloads={"1:a": facts})
        write_ledger(ledger, tmp_path / name)
        return str(tmp_path / name)

    base = write("base", system=500, tools__find=890, tools__old=200, messages__0__text=10)
    head = write("head", system=500, tools__find=1402, tools__new=60, messages__0__text=15)
    assert main(["compare", base, head]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:5] == [
        "  tools.find: 890 → 1,402 tokens (+58 %) in t.py::test_a and 2 more",
        "  tools.old: 200 → 0 tokens (removed) in t.py::test_a and 2 more",
        "  tools.new: 60 tokens (new) in t.py::test_a and 2 more",
        "  1 more part changed",
    ]
    # Without a count of the parts in both, nothing is said of what they grew by.
    assert main(["compare", *[write("plain"), head]]) == 0
    assert "tokens (" not in capsys.readouterr().out
    # Neither of a test whose new prompt is not counted, although another one's is.
    facts = PayloadFacts(model=MODEL, parts_tokens={"system": 500, "rest": 3})
    spent: dict[Owner, list[Call]] = {
        a_test("t.py::test_a"): [call(304, fingerprint="1:b")],
        a_test("t.py::test_other"): [call(304, fingerprint="1:a")],
    }
    ledger = make_report(spent, price_date=ON, rate_card=CARD, payloads={"1:a": facts})
    write_ledger(ledger, tmp_path / "half")
    assert main(["compare", base, str(tmp_path / "half")]) == 0
    assert "(removed)" not in capsys.readouterr().out


def test_an_increase_that_cannot_be_told_fails(
    ledgers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown: dict[Owner, list[Call]] = {a_test("t.py::test_grows"): [call(5, model="claude-next")]}
    write_ledger(make_report(unknown, price_date=ON, rate_card=CARD), tmp_path / "new.json")
    assert main(["compare", ledgers[0], str(tmp_path / "new.json"), "--max-increase", "$1"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("? against the baseline")
    assert "cannot check the $1.00 increase limit set by --max-increase" in out
    main(["compare", ledgers[0], str(tmp_path / "new.json"), "--max-increase", "1%"])
    out = capsys.readouterr().out
    assert "cannot check the $0.000325 (1 %) increase limit set by --max-increase" in out


@pytest.mark.parametrize(("setting", "status"), [("fail", 1), ("warn", 0)])
def test_the_setting_of_the_run_decides_whether_an_increase_that_cannot_be_told_fails(
    ledgers: list[str], tmp_path: Path, setting: str, status: int
) -> None:
    unknown = replace(
        make_report({a_test("t.py::test_grows"): [call(5, model="claude-next")]}),
        price_date=ON, rate_card=CARD, unverified=setting,
    )  # fmt: skip
    write_ledger(unknown, tmp_path / "new.json")
    judged = ["compare", ledgers[0], str(tmp_path / "new.json")]
    assert main([*judged, "--max-increase", "$1"]) == status
    assert main([*judged, "--vanished=fail"]) == 1, "what is exceeded fails, whatever the setting"


def test_equal_runs_differ_in_nothing(
    ledgers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", ledgers[0], ledgers[0], "--max-increase", "0%"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("±$0.00 against the baseline: $0.0325 → $0.0325, 4 unchanged\n✓ ")


def test_new_prices_are_told_apart_from_new_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = Usage(cache_read_tokens=1_000_000)
    sampling = PricedSamplingCall(model="claude-sonnet-5-5", usage=usage)
    unpriced = Call(
        model="claude-sonnet-5-5", evidence="billed", usage=usage, sampling_calls=(sampling,)
    )
    for on in ("2026-10-06", "2026-10-07"):
        priced = reprice(unpriced, shipped_card(), on=parse_date(on))
        report = make_report({a_test("t.py::a"): [priced]}, price_date=on, rate_card=CARD)
        write_ledger(report, tmp_path / f"{on}.json")
    paths = [str(tmp_path / f"{on}.json") for on in ("2026-10-06", "2026-10-07")]
    assert main(["compare", *paths, "--max-increase", "0%"]) == 0
    out = capsys.readouterr().out
    assert "new prices since 2026-10-06 changed the same calls by -$0.10" in out


def test_another_cache_state_is_not_taken_for_new_prices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = Usage(cache_read_tokens=1_000_000)
    sampling = PricedSamplingCall(model=MODEL, usage=usage)
    bare = Call(model=MODEL, evidence="billed", usage=usage, sampling_calls=(sampling,))
    paths = []
    for state in ("cold", "as-billed"):
        priced = reprice(bare, shipped_card(), on=parse_date(ON), cache_state=state)
        spent: dict[Owner, list[Call]] = {a_test("t.py::a"): [priced]}
        ledger = make_report(spent, price_date=ON, rate_card=CARD, cache_state=state)
        paths.append(str(tmp_path / state))
        write_ledger(ledger, tmp_path / state)
    assert main(["compare", *paths, "--max-increase", "0%"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "new prices" not in out
    assert (
        f"the baseline is of {ON} with llmcost_cache=cold; priced as this run, the same calls "
        "change by -$5.75, which these figures leave out" in out
    )


def test_a_call_without_a_price_on_both_sides_makes_both_figures_lower_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = call(5, model="claude-next", fingerprint="1:x")
    for name, units in (("base", 100), ("head", 200)):
        calls = [unknown, replace(call(units), tags=("judge",)), replace(unknown, tags=("judge",))]
        spent: dict[Owner, list[Call]] = {
            a_test("t.py::a"): [replace(each, live=False) for each in calls]
        }
        write_ledger(make_report(spent, price_date=ON, rate_card=CARD), tmp_path / name)
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "head")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    figures = "at least $0.0025 → at least $0.005"
    assert f"+$0.0025 against the baseline: {figures}, 0 unchanged" in out
    assert f"tag judge: {figures} t.py" in out
    assert "a ≥$0.0025 ≥$0.0050 +$0.0025" in out


def test_json_is_the_ledgers_own_comparison(
    ledgers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["compare", *ledgers, "--format", "json"])
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["change_usd"] == "0.035"
    assert comparison["changes"][0]["name"] == "t.py::test_grows"


@pytest.mark.parametrize("limit", ["much", "-5%"])
def test_a_limit_that_is_none_exits_with_2(
    ledgers: list[str], limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *ledgers, f"--max-increase={limit}"]) == 2
    assert repr(limit) in capsys.readouterr().err


def test_markdown_is_the_comment_of_a_pull_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / name) for name in ("base.json", "head.json")]
    for path, usd in zip(paths, ("1", "2"), strict=True):
        write_ledger(make_report({a_test("t.py::test"): [make_call(usd)]}), path)
    assert main(["compare", *paths, "--format", "md"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!-- pytest-llmcost -->\n### Merging does not change the cost")
    assert "1 unchanged — against the baseline" in out


def test_the_ledger_and_a_comment_are_written_with_the_comparison(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("base.json", "head.json")]
    for path, usd in zip(paths, ("1", "2"), strict=True):
        write_ledger(make_report({a_test("t.py::test"): [make_call(usd)]}), path)
    ledger, comment = tmp_path / "out" / "cost.json", tmp_path / "out" / "cost.md"
    assert main(["compare", *paths, "-o", str(ledger), "-o", str(comment)]) == 0
    assert read_ledger(ledger).comparison is not None
    text = comment.read_text(encoding="utf-8")
    assert text.startswith(
        "<!-- pytest-llmcost -->\n### Merging does not change the cost of the suite\n"
    )
    assert "1 unchanged — against the baseline" in text
