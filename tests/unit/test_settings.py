from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.settings import OPTIONS, Option, Settings, parse_bool, resolve

INI_FOLDER = Path("/project")


def settle(
    flags: dict[str, object] | None = None,
    env: dict[str, str] | None = None,
    ini: Mapping[str, str | Sequence[str] | None] | None = None,
) -> Settings:
    return resolve(flags or {}, env or {}, ini or {}, INI_FOLDER)


def test_nothing_stated_is_the_defaults_of_the_table() -> None:
    settings = settle()
    assert vars(settings) == {"origins": {}}
    for option in OPTIONS:
        assert settings.origin(option.name) == "default"


def test_a_flag_wins_over_the_environment_and_that_over_the_ini_file() -> None:
    flags: dict[str, object] = {"max_test": "$0.01"}
    env = {"PYTEST_LLMCOST_MAX_TEST": "$0.02"}
    ini: dict[str, str | list[str] | None] = {"max_test": "$0.03"}
    for given, amount, origin in (
        ((flags, env, ini), "0.01", "--llmcost-max-test"),
        (({}, env, ini), "0.02", "PYTEST_LLMCOST_MAX_TEST"),
        (({}, {}, ini), "0.03", "llmcost_max_test"),
    ):
        settings = settle(*given)
        assert settings.max_test == Decimal(amount)
        assert settings.origin("max_test") == origin


@pytest.mark.parametrize("option", OPTIONS)
def test_an_empty_value_is_a_mistake_and_not_the_absence_of_one(option: Option) -> None:
    for text in ("", " \n"):
        with pytest.raises(SettingsError, match=f"^{option.env}: is empty"):
            settle(env={option.env: text})
    empty: tuple[str, str | list[str]] = ("", [""] if option.repeatable else " ")
    for value in empty:
        with pytest.raises(SettingsError, match=f"^{option.ini}: is empty"):
            settle(ini={option.name: value})
        if option.flag:
            with pytest.raises(SettingsError, match=f"^{option.flag}: is empty"):
                settle(flags={option.name: value})
    if option.repeatable:
        with pytest.raises(SettingsError, match=f"^{option.ini}: is empty"):
            settle(ini={option.name: []})
    absent = settle(ini={option.name: () if option.repeatable else None})
    assert vars(absent) == {"origins": {}}


def test_one_of_several_limits_may_not_be_empty_and_one_that_is_overruled_may() -> None:
    with pytest.raises(SettingsError, match=r"^--llmcost-max-increase: is empty"):
        settle({"max_increase": ["10%", ""]})
    settings = settle({"max_suite": "$1"}, {"PYTEST_LLMCOST_MAX_SUITE": ""}, {"max_suite": ""})
    assert settings.max_suite == 1


def test_lists_come_as_lines_or_with_commas() -> None:
    ini: dict[str, str | list[str] | None] = {"budgets": ["tests/** = $1", "", "x = $2"]}
    assert settle(ini=ini).budgets == ("tests/** = $1", "x = $2")
    env = {"PYTEST_LLMCOST_MODEL": "claude-opus-5-5, claude-opus-5\nclaude-opus-4-8"}
    assert settle(env=env).model == ("claude-opus-5-5", "claude-opus-5", "claude-opus-4-8")


def test_paths_of_the_ini_file_are_relative_to_it_and_those_of_flags_to_where_one_is() -> None:
    ini: dict[str, str | list[str] | None] = {"baseline": "base.json", "report": ["out/cost.md"]}
    settings = settle(ini=ini)
    assert settings.baseline == INI_FOLDER / "base.json"
    assert settings.report == (INI_FOLDER / "out" / "cost.md",)
    assert settle({"baseline": "base.json"}).baseline == Path("base.json")
    assert settle({"baseline": "/abs/base.json"}).baseline == Path("/abs/base.json")


def test_a_path_may_begin_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "/home/me")
    settings = settle({"report": ["~/cost.md"]}, ini={"history": "~/history.jsonl"})
    assert settings.report == (Path("/home/me/cost.md"),)
    assert settings.history == Path("/home/me/history.jsonl")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("LocalHost:8080", "localhost:8080"),
        ("http://fake-claude:8080/v1", "fake-claude:8080"),
        # As it is compared with a request's host, which has no brackets.
        *(("http://[::1]/", "::1"), ("::1", "::1"), ("[::1]:8080", "[::1]:8080")),
    ],
)
def test_an_address_is_a_host_with_or_without_a_port(text: str, address: str) -> None:
    assert settle({"stand_ins": [text]}).stand_ins == (address,)


def test_a_wrong_budget_of_a_part_names_its_line() -> None:
    lines = ["system = 2k", "tools = many"]
    with pytest.raises(SettingsError, match=r"^llmcost_max_parts: 'tools = many': 'many' is not a"):
        settle(ini={"max_parts": lines})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_suite", '"$1.00"'),
        ("max_suite", '""'),
        ("prices", "'p.toml'"),
        ("model", ["claude-opus-5", '"opus"']),
    ],
)
def test_quotes_that_no_shell_and_no_toml_took_away_are_a_mistake(
    name: str, value: str | list[str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        settle(ini={name: value})
    assert str(caught.value).startswith(f"llmcost_{name}: ")
    assert str(caught.value).endswith("the quotes are part of the value; remove them")


def test_quotes_inside_a_value_are_its_own() -> None:
    command = '"a b" run "c"'
    assert settle(ini={"baseline_fetch": command}).baseline_fetch == command


def test_a_variable_that_is_no_setting_is_a_mistake_and_names_the_most_similar_one() -> None:
    with pytest.raises(SettingsError) as caught:
        settle(env={f"PYTEST_LLMCOST_{name}": "$1" for name in ("Z", "Y", "X", "MAX_SUIT")})
    assert str(caught.value) == (
        "PYTEST_LLMCOST_MAX_SUIT: no setting of this version has this name. "
        "Did you mean PYTEST_LLMCOST_MAX_SUITE?"
    )
    with pytest.raises(SettingsError, match=r"has this name$"):
        settle(env={"PYTEST_LLMCOST_XYZ": ""})


@pytest.mark.parametrize("path", ["ledger", "ledger.yaml", "ledger.JSON"])
def test_a_report_needs_a_suffix_that_says_what_it_is(path: str) -> None:
    with pytest.raises(SettingsError, match=r"comment \(\.md\), a page \(\.html\)"):
        settle({"report": [path]})


@pytest.mark.parametrize("limit", ["10%", "$0.05", "5c"])
def test_an_increase_is_a_share_or_an_amount(limit: str) -> None:
    assert settle({"max_increase": [limit]}).max_increase == (limit,)


@pytest.mark.parametrize("limit", ["ten", "10 percent", "%", "10", "0.05"])
def test_any_other_increase_is_wrong(limit: str) -> None:
    expected = rf"--llmcost-max-increase: '{limit}' is .*; write 10% or 5c"
    with pytest.raises(SettingsError, match=expected):
        settle({"max_increase": [limit]})


@pytest.mark.parametrize("text", ["1", "TRUE", " yes ", "on"])
def test_words_for_true(text: str) -> None:
    assert parse_bool(text)


def test_no_two_options_share_a_name_and_each_has_its_prefix() -> None:
    flags = [option.flag for option in OPTIONS if option.flag]
    assert len(set(flags)) == len(flags)
    assert all(flag.startswith(("--llmcost-", "--no-llmcost")) for flag in flags)
    assert {option.name for option in OPTIONS} == set(Settings.__annotations__) - {"origins"}
