from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_llmcost.cli.main import main
from pytest_llmcost.prices.rate_card import shipped_card

ON = ("--on", "2026-11-22")
CARD_LINE = (
    f"US dollars per million tokens on 2026-11-22, rate card {shipped_card().version}, "
    f"checked on {shipped_card().checked_on}\n"
)


def rates(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["rates", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def rows(text: str, model: str) -> list[list[str]]:
    return [line.split()[1:] for line in text.splitlines() if line.split()[:1] == [model]]


def test_every_model_of_the_day_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    text = rates(capsys, *ON)
    assert rows(text, "claude-opus-4-7")[0] == ["5", "6.25", "10", "0.5", "25"]
    assert "these rates since" not in text, "the facts are of one model"
    assert text.endswith(CARD_LINE)


def test_speeds_bands_and_ends_are_rows_and_remarks(capsys: pytest.CaptureFixture[str]) -> None:
    text = rates(capsys, *ON)
    assert rows(text, "claude-haiku-5-5")[1][:2] == ["above", "100,000"]
    assert rows(text, "claude-opus-5")[1] == ["fast", "10", "12.5", "20", "1", "50"]
    assert rows(text, "claude-opus-4-7")[1][:3] == ["fast", "ended", "2026-07-24"]
    assert rows(text, "claude-3-opus-20240229")[0][:2] == ["retired", "2026-01-05"]


def test_a_model_that_was_not_there_yet_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    text = rates(capsys, "--on", "2026-11-08")
    assert rows(text, "claude-fable-5-2") == []
    assert rows(text, "claude-fable-5-1") != []


def test_one_model_is_told_with_all_that_the_card_says_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert rates(capsys, "us.anthropic.claude-haiku-5-5", *ON) == (
        "model                            input  5m write  1h write  read  output\n"
        "claude-haiku-5-5                   0.1     0.125       0.2  0.01     0.5\n"
        "claude-haiku-5-5  above 100,000    0.5     0.625         1  0.05     2.5\n"
        "\n"
        "these rates since 2026-10-07, checked on 2026-11-22\n"
        "times 1.1 where inference_geo is 'us'\n"
        "times 1.1 at a cloud's regional endpoint\n"
        "prompts are cached from 512 tokens on\n"
        "source: https://platform.claude.com/docs/en/about-claude/pricing\n"
        "source: https://platform.claude.com/docs/en/release-notes/overview\n"
        "source: https://github.com/pydantic/genai-prices\n"
        "source: https://github.com/BerriAI/litellm\n"
        "source: https://github.com/kurofune/claudit/releases\n"
        "\n"
        f"{CARD_LINE}"
    )
    assert "also called claude-opus-4-5" in rates(capsys, "claude-opus-4-5-20251101", *ON)
    assert "retires on 2026-11-30" in rates(capsys, "claude-sonnet-4-5", *ON)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["claude-opsu-5"], "Did you mean claude-opus-5?"),
        (["claude-fable-5-2", "--on", "2026-11-08"], "its first rates are from 2026-11-09"),
        (["--diff", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_what_has_no_rates_is_an_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["rates", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("name", "first"),
    [("haiku", "claude-3-haiku-20240307, from 2024-03-"), ("", "claude-3-")],
)
def test_a_day_without_any_rate_is_no_empty_table(
    capsys: pytest.CaptureFixture[str], name: str, first: str, form: str
) -> None:
    names = [name] if name else []
    assert main(["rates", *names, "--on", "2020-01-01", f"--format={form}"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"llmcost: no rate is known on 2020-01-01; the first one is of {first}")


def test_a_part_of_a_name_shows_all_models_that_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = rates(capsys, "opus-5", *ON)
    models = {line.split()[0] for line in text.splitlines()[1:] if line.startswith("claude")}
    assert {"claude-opus-5", "claude-opus-5-5"} <= models
    assert all("opus-5" in model for model in models)


def test_rates_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(rates(capsys, "haiku-5-5", "--format=json", *ON))
    assert [each["above"] for each in found] == [0, 100_000]
    assert found[0] == {
        "model": "claude-haiku-5-5",
        "on": "2026-11-22",
        "speed": "standard",
        "above": 0,
        "input": "0.1",
        "cache_write_5m": "0.125",
        "cache_write_1h": "0.2",
        "cache_read": "0.01",
        "output": "0.5",
    }


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[models.claude-opus-4-6]\n"
        "rates = [{ from = 2026-01-01, speed = 'standard', factor = 0.9 }]\n"
        "[models.gateway]\n"
        "rates = [{ from = 2026-01-01, input = 0, cache_write_5m = 1, cache_write_1h = 1, "
        "cache_read = 1, output = 1 }]\n"
    )
    return path


def test_a_price_file_is_shown_as_what_it_changes(
    capsys: pytest.CaptureFixture[str], mine: Path
) -> None:
    text = rates(capsys, "--diff", mine, *ON)
    assert rows(text, "claude-opus-4-6")[0] == ["input", "5", "4.5", "-10.0%"]
    assert rows(text, "gateway")[1] == ["cache_write_5m", "-", "1", "new"]
    assert len(text.splitlines()) == 1 + 5 + 5 + 2
    card = f"rate card {shipped_card().version}+mine.toml, checked on {shipped_card().checked_on}"
    assert text.endswith(f"US dollars per million tokens on 2026-11-22, {card}\n")


def test_a_model_of_ones_own_has_no_more_than_was_said_of_it(
    capsys: pytest.CaptureFixture[str], mine: Path
) -> None:
    text = rates(capsys, "gateway", "--prices", mine, *ON)
    assert "these rates since 2026-01-01, checked on no known day\n\n" in text


def test_a_diff_may_be_of_one_model(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    assert rows(rates(capsys, "gateway", "--diff", mine, *ON), "claude-opus-4-6") == []
    text = rates(capsys, "claude-opus-5", "--diff", mine, *ON)
    assert text == f"{mine} changes no rate on 2026-11-22\n"


def test_a_diff_may_be_of_models_with_a_part_of_their_name_in_common(
    capsys: pytest.CaptureFixture[str], mine: Path
) -> None:
    text = rates(capsys, "opus-4", "--diff", mine, *ON)
    assert len(rows(text, "claude-opus-4-6")) == 5
    assert rows(text, "gateway") == []


def test_a_diff_is_text_alone(capsys: pytest.CaptureFixture[str], mine: Path) -> None:
    assert main(["rates", f"--diff={mine}", "--format=json"]) == 2
    assert "--prices" in capsys.readouterr().err


def test_names_that_a_price_file_adds_are_among_what_it_changes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = tmp_path / "names.toml"
    names.write_text('[models.claude-opus-5]\naliases = ["acme/best", "acme/a"]\n')
    added = "claude-opus-5 is also called acme/best, acme/a"
    assert rates(capsys, "--diff", names, *ON) == (
        f"{names} changes no rate on 2026-11-22\n{added}\n"
    )
    names.write_text(names.read_text() + "rates = [{ from = 2026-11-01, input = 1 }]\n")
    assert f"\n{added}\n" in rates(capsys, "--diff", names, *ON)


def test_names_of_a_price_file_cannot_move_the_cursor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    odd = tmp_path / "odd.toml"
    odd.write_text(
        '[models."mine\\u001b[2J"]\naliases = ["small\\u001b[2J"]\nrates = [{ from = 2026-01-01, '
        "input = 1, output = 2, cache_write_5m = 1, cache_write_1h = 2, cache_read = 1 }]\n"
    )
    for shown in (rates(capsys, "mine", "--prices", odd, *ON), rates(capsys, "--diff", odd, *ON)):
        assert "mine\\x1b[2J" in shown
        assert "also called small\\x1b[2J" in shown
        assert "\x1b" not in shown


def test_a_rate_that_was_nothing_has_no_percentage(
    capsys: pytest.CaptureFixture[str], mine: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more.toml"
    more.write_text("[models.gateway]\nrates = [{ from = 2026-01-01, input = 2 }]\n")
    text = rates(capsys, "--prices", mine, "--diff", more, *ON)
    assert rows(text, "gateway") == [["input", "0", "2"]]
