"""Options: every one by flag, environment and ini file; what wrong values say; what help shows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from standin import StandIn

from pytest_llmcost.ledger.ledger import Ledger, write_ledger
from pytest_llmcost.plugin.session import KEY
from pytest_llmcost.settings import OPTIONS, Settings

VALUES: Mapping[str, tuple[str, str, Any, Any]] = {
    # two values of each as one writes them, and what they are read as; paths by their names
    "disabled": ("false", "no", False, False),
    "max_test": ("$0.02", "3c", Decimal("0.02"), Decimal("0.03")),
    "max_worst": ("$0.10", "9c", Decimal("0.1"), Decimal("0.09")),
    "max_call": ("2c", "$0.01", Decimal("0.02"), Decimal("0.01")),
    "max_suite": ("1.5", "$2", Decimal("1.5"), Decimal(2)),
    "budgets": ("tests/** = $1", "a/b = 2c", ("tests/** = $1",), ("a/b = 2c",)),
    "max_parts": ("tools = 3k", "system=9", (("tools", 3_000),), (("system", 9),)),
    "allowed_models": ("claude-haiku-*", "a/**=c-5", ("claude-haiku-*",), ("a/** = c-5",)),
    "require_budget": ("true", "no", True, False),
    "live": ("fail", "a/**=off", ("fail",), ("a/** = off",)),
    "stand_ins": ("127.0.0.1", "http://LOCALHOST:80/v1", ("127.0.0.1",), ("localhost:80",)),
    "stable_prefix": ("off", "fail", "off", "fail"),
    "max_live": ("$0.50", "3c", Decimal("0.5"), Decimal("0.03")),
    "warn_at": ("80%", "50%", Decimal("0.8"), Decimal("0.5")),
    "mocks": ("count", "trust", "count", "trust"),
    "unverified": ("warn", "fail", "warn", "fail"),
    "record_mode": ("once", "rewrite", "once", "rewrite"),
    "count_timeout": ("0.5", "90", 0.5, 90.0),
    "key_guard": ("warn", "off", "warn", "off"),
    "prices": ("a.toml", "b.toml", "a.toml", "b.toml"),
    "price_date": ("2026-11-01", "2026-10-01", date(2026, 11, 1), date(2026, 10, 1)),
    "cache": ("cold", "warm", "cold", "warm"),
    "report": ("r.json", "r.md", ("r.json",), ("r.md",)),
    "history": ("a.jsonl", "b.jsonl", "a.jsonl", "b.jsonl"),
    "vanished": ("off", "fail", "off", "fail"),
    "baseline": ("a.json", "b.json", "a.json", "b.json"),
    "baseline_fetch": ("./fetch", "fetch it", "./fetch", "fetch it"),
    "max_increase": ("10%", "$0.05", ("10%",), ("$0.05",)),
    "max_test_increase": ("10%", "$0.05", ("10%",), ("$0.05",)),
    "update_baseline": ("true", "no", True, False),
    "model": ("claude-opus-4-7", "claude-opus-5", ("claude-opus-4-7",), ("claude-opus-5",)),
    "columns": ("cold", "warm", ("cold",), ("warm",)),
    "parts": ("true", "no", True, False),
    "per": ("1000", "10k", 1000, 10_000),
    "rows": ("0", "3", 0, 3),
    "github": ("no", "yes", False, True),
}


class Files:
    """Writes settings in every place that pytest reads, and settles them as a run does."""

    def __init__(self, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        self.project = project
        self.monkeypatch = monkeypatch
        for name in ("a", "b"):
            write_ledger(Ledger(price_date="2026-11-22"), project.path / f"{name}.json")
            (project.path / f"{name}.toml").write_text("", encoding="utf-8")

    def write_ini(self, texts: Mapping[str, str], name: str = "pytest.ini") -> None:
        head = "[tool:pytest]" if name == "setup.cfg" else "[pytest]"
        lines = [f"llmcost_{option} =\n    {text}" for option, text in texts.items()]
        (self.project.path / name).write_text("\n".join([head, *lines]), encoding="utf-8")

    def write_toml(self, table: str, texts: Mapping[str, str]) -> None:
        lists = {option.name for option in OPTIONS if option.repeatable}
        lines = [
            f"llmcost_{name} = " + (f'["{text}"]' if name in lists else f'"{text}"')
            for name, text in texts.items()
        ]
        text = "\n".join([table, *lines])
        (self.project.path / "pyproject.toml").write_text(text, encoding="utf-8")

    def set_environment(self, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            self.monkeypatch.setenv(f"PYTEST_LLMCOST_{name.upper()}", text)

    def settle(self, *args: str) -> Settings:
        config = self.project.pytester.parseconfigure("-p", "llmcost", *args)
        return config.stash[KEY].settings


@pytest.fixture
def files(project: Project, monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(project, monkeypatch)


def texts(which: int) -> dict[str, str]:
    return {name: value[which] for name, value in VALUES.items()}


def found(settings: Settings) -> dict[str, Any]:
    return {name: named(getattr(settings, name)) for name in VALUES}


def expected(which: int) -> dict[str, Any]:
    return {name: value[which + 2] for name, value in VALUES.items()}


def named(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(named, value))
    return value.name if isinstance(value, Path) else value


def test_every_option_is_tried_here() -> None:
    assert (
        set(VALUES)
        == {option.name for option in OPTIONS}
        == set(Settings.__annotations__) - {"origins"}
    )


@pytest.mark.parametrize("name", ["pytest.ini", "tox.ini", "setup.cfg"])
def test_every_option_has_an_ini_key(files: Files, name: str) -> None:
    files.write_ini(texts(0), name)
    settings = files.settle()
    assert found(settings) == expected(0)
    assert {settings.origin(name) for name in VALUES} == {f"llmcost_{name}" for name in VALUES}


@pytest.mark.parametrize("table", ["[tool.pytest.ini_options]", "[tool.pytest]"])
def test_every_option_can_stand_in_pyproject_toml(files: Files, table: str) -> None:
    if table == "[tool.pytest]" and pytest.version_tuple < (9,):
        pytest.skip("the native table is new in pytest 9")
    files.write_toml(table, texts(1))
    assert found(files.settle()) == expected(1)


def test_the_environment_wins_over_the_ini_file_and_a_flag_over_both(files: Files) -> None:
    files.write_ini(texts(0))
    files.set_environment(texts(1))
    settings = files.settle()
    assert found(settings) == expected(1)
    flags = {
        option.name: f"{option.flag}={VALUES[option.name][0]}" if option.metavar else option.flag
        for option in OPTIONS
        if option.flag and option.name != "disabled"
    }
    settings = files.settle(*flags.values())
    without_flag = {name: expected(1)[name] for name in expected(1).keys() - flags.keys()}
    assert found(settings) == {**expected(0), **without_flag}
    assert settings.origin("max_test") == "--llmcost-max-test"
    assert settings.origin("budgets") == "PYTEST_LLMCOST_BUDGETS"


def test_pytest_s_own_override_of_an_ini_key_holds_too(files: Files) -> None:
    files.write_ini({"max_test": "$1"})
    assert files.settle("-o", "llmcost_max_test=$0.5").max_test == Decimal("0.5")


def test_a_repeated_flag_makes_a_list(files: Files) -> None:
    settings = files.settle("--llmcost-report=a.json", "--llmcost-report", "b.md")
    assert named(settings.report) == ("a.json", "b.md")


WRONG = [
    ("max_test", "cheap", "'cheap' is not an amount of money"),
    ("rows", "-1", "is not a whole number"),
    ("cache", "hot", "is not one of as-billed, cold, warm"),
    ("max_suite", "-1", "is not an amount of money"),
    ("allowed_models", "claude-opus-5 claude-opus-6", "is not a model id or a glob"),
    ("allowed_models", "= claude-opus-5", "for a path write `tests/agents/** = claude-haiku-*`"),
    ("allowed_models", "a/** = b = c d", "'c d' is not a model id or a glob"),
    ("live", "never", "'never' is not one of off, warn, fail"),
    ("live", "= off", "for a path write `tests/live/** = off`"),
    ("stand_ins", "a b", "'a b' is not an address"),
    *(
        ("stand_ins", text, f"{text!r} is not an address; write 127.0.0.1 or localhost:8080")
        for text in ("http://[::1", "http://", "localhost:port", "localhost:99999")
    ),
    ("stable_prefix", "on", "'on' is not one of off, warn, fail"),
    ("warn_at", "80", "'80' is not a percentage"),
    ("warn_at", "0%", "'0%' would warn of every budget; write 80%"),
    ("warn_at", "150%", "'150%' would warn of no budget that is kept; write 80%"),
    ("warn_at", "300", "'300' would warn of no budget that is kept; write 80%"),
    ("warn_at", "0", "'0' would warn of every budget; write 80%"),
    ("unverified", "maybe", "'maybe' is not one of fail, warn"),
    ("record_mode", "sometimes", "'sometimes' is not one of none, once"),
    ("count_timeout", "0", "'0' is not a number of seconds between 0 and 86,400"),
    ("count_timeout", "nan", "'nan' is not a number of seconds between 0 and 86,400"),
    ("price_date", "22.11.2026", "is not a date; write it as 2026-11-22"),
    ("report", "ledger.xml", "the ledger (.json), a pull-request comment (.md), a page (.html)"),
    ("columns", "green", "'green' is not one of worst, cold, warm"),
    ("per", "many", "'many' is not a whole number"),
    ("per", "0", "'0' is less than 1 run"),
    ("github", "perhaps", "'perhaps' is neither true nor false"),
    # These are right as they are written; what they name is not there.
    ("prices", "nowhere.toml", "price file *nowhere.toml: No such file or directory"),
    (
        "baseline",
        "nowhere.json",
        "nowhere.json: the baseline does not exist; write it with: pytest",
    ),
    (
        "model",
        "claude-opus-47",
        "no price for model 'claude-opus-47'*Did you mean claude-opus-4-7?",
    ),
]


@pytest.mark.parametrize(("name", "text", "words"), WRONG)
def test_a_wrong_value_is_a_usage_error_that_names_its_place(
    files: Files, name: str, text: str, words: str
) -> None:
    (option,) = (option for option in OPTIONS if option.name == name)
    said = {option.flag: refused(files, f"{option.flag}={text}")}
    files.set_environment({name: text})
    said[option.env] = refused(files)
    files.monkeypatch.delenv(option.env)
    files.write_ini({name: text})
    said[option.ini] = refused(files)
    for origin, message in said.items():
        assert fnmatchcase(message, f"{origin}: *{words}*"), message


def refused(files: Files, *args: str) -> str:
    with pytest.raises(pytest.UsageError) as raised:
        files.settle(*args)
    return str(raised.value)


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="the native table is new in pytest 9")
@pytest.mark.parametrize(
    "line",
    [
        "llmcost_max_test = 0.02",
        "llmcost_max_suite = 1",
        "llmcost_github = false",
        "llmcost_price_date = 2026-11-22",
        'llmcost_max_test = ["$1"]',
        'llmcost_budgets = "tests/** = $1"',
        'llmcost_model = ["claude-opus-4-7", 3]',
    ],
)
def test_the_native_table_wants_text_and_we_say_how_to_write_it(files: Files, line: str) -> None:
    (files.project.path / "pyproject.toml").write_text(f"[tool.pytest]\n{line}\n")
    key = line.partition(" ")[0]
    is_list = key in ("llmcost_budgets", "llmcost_model")
    how = '["...", "..."], a list of texts' if is_list else '"...", in quotes'
    said = f"{key}: *; write it as {key} = {how}"
    assert fnmatchcase(refused(files), said.replace("[", "[[]"))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--llmcost-prices=none.toml"], "--llmcost-prices: price file none.toml: *"),
        (["--llmcost-prices=broken.toml"], "*: price file broken.toml: not TOML*"),
        (["--llmcost-baseline=none.json"], "--llmcost-baseline: none.json: *"),
        (["--llmcost-baseline=broken.toml"], "--llmcost-baseline: broken.toml: *"),
        (["--llmcost-model=claude-opus-99"], "*claude-opus-99*"),
        (["-o", "llmcost_budgets=tests/**"], "llmcost_budgets*tests/[*][*]*"),
    ],
)
def test_what_settings_name_is_read_before_a_test_is_spent(
    files: Files, args: list[str], words: str
) -> None:
    (files.project.path / "broken.toml").write_text("models = [", encoding="utf-8")
    files.project.write(test_app="def test_nothing(): open('ran', 'w')")
    result = files.project.run(*args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {words}"])
    assert not (files.project.path / "ran").exists()


ASKS = """
    import pytest
    from pytest_llmcost import max_cost

    PAYLOAD = {"model": "claude-opus-4-7", "max_tokens": 10,
               "messages": [{"role": "user", "content": "word " * 100}]}

    @max_cost("$0.0000001")
    def test_counts(llmcost):
        llmcost.count(PAYLOAD)

    def test_looks(llmcost):
        assert llmcost.count(PAYLOAD).usd > 0
        raise AssertionError("unreachable when off")

    @pytest.mark.parametrize("name", ["calls", "usd", "usage"])
    def test_looks_at_all(llmcost, name):
        getattr(llmcost, name)
        raise AssertionError("unreachable when off")
"""


@pytest.mark.parametrize("how", ["flag", "environment", "ini"])
def test_turned_off_marker_and_fixture_are_known_and_nothing_is_counted(
    files: Files, standin: StandIn, how: str
) -> None:
    files.project.online(standin).write(test_app=ASKS)
    args = ["--strict-markers", "--llmcost-report=ledger.json", "--llmcost-record-mode=all"]
    if how == "flag":
        args.append("--no-llmcost")
    elif how == "environment":
        files.set_environment({"disabled": "1"})
    else:
        files.write_ini({"disabled": "on"})
    result = files.project.run(*args, "-rs")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["SKIPPED * llmcost is off (--no-llmcost), so *"])
    result.stdout.no_fnmatch_line("*what the Claude calls cost*")
    assert standin.requests == []
    assert not (files.project.path / "ledger.json").exists()


def test_turned_off_a_user_s_call_still_works_and_nobody_listens(
    files: Files, standin: StandIn
) -> None:
    files.project.online(standin).write(
        test_app="""
    import anthropic
    from pytest_llmcost import max_cost
    import httpx2

    @max_cost("$0.0000001")
    def test_sends(llmcost):
        anthropic.Anthropic().messages.create(
            model="claude-opus-4-7", max_tokens=10, messages=[{"role": "user", "content": "Hi"}])
        with llmcost.budget("$0"):
            pass
        assert not hasattr(httpx2.Client.send, "__wrapped__")
    """
    )
    files.project.run("--no-llmcost").assert_outcomes(passed=1)


def test_a_price_file_and_a_price_date_price_the_run(files: Files, standin: StandIn) -> None:
    (files.project.path / "ours.toml").write_text(
        """
        [models.claude-opus-4-7]
        rates = [{ from = 2026-11-01, input = 1000 }]
        """,
        encoding="utf-8",
    )
    files.write_ini({"prices": "ours.toml"})
    files.project.online(standin).write(
        test_app="""
    def test_counts(llmcost):
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "Hi"}])
    """
    )
    prices = {}
    for day in ("2026-10-31", "2026-11-01"):
        result = files.project.record(f"--llmcost-price-date={day}", "--llmcost-report=l.json")
        result.stdout.fnmatch_lines([f"*prices of {day} with ours.toml"])
        ledger = files.project.ledger("l.json")
        assert ledger["rate_card"]["version"].endswith("+ours.toml")
        prices[day] = Decimal(ledger["totals"]["usd"])
    assert prices["2026-11-01"] == prices["2026-10-31"] / 5 * 1000


def test_help_markers_and_fixtures_read_well(project: Project) -> None:
    help_text = project.run("--help").stdout.str()
    flags = [option.flag for option in OPTIONS if option.flag]
    positions = [help_text.index(f"  {flag}") for flag in flags]
    assert positions == sorted(positions)
    assert "for example 80%.\n" in help_text.replace("\n" + " " * 24, " ")
    for option in OPTIONS:
        assert f"\n  {option.ini} (" in help_text
    markers = project.run("--markers").stdout.str()
    assert "@pytest.mark.max_cost(usd, *, worst=None, input_tokens=None, uncached_input" in markers
    project.run("--fixtures").stdout.fnmatch_lines_random(
        [
            "llmcost -- *plugin/__init__.py:*",
            "    Count and price what a test would send to Claude: `llmcost.count(payload)`.",
            "llmcost_client [[]session scope[]] -- *",
            "    The client that counts tokens, made only when a count must go out.",
        ]
    )


@pytest.mark.parametrize("is_autoloaded", [False, True])
@pytest.mark.parametrize("is_flag", [False, True])
def test_the_name_of_the_package_loads_the_plugin(
    project: Project, monkeypatch: pytest.MonkeyPatch, is_flag: bool, is_autoloaded: bool
) -> None:
    project.write(
        conftest="" if is_flag else "pytest_plugins = ['pytest_llmcost']",
        test_app="""
    import pytest

    @pytest.mark.max_cost("$0.01")
    def test_pays(llmcost):
        usage = {"input_tokens": 20_000, "output_tokens": 0}
        llmcost.record(usage, model="claude-opus-4-7")
    """,
    )
    if is_autoloaded:
        monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    others = {each.name for each in entry_points(group="pytest11")} - {"llmcost"}
    args = (*(f"-pno:{name}" for name in others), *(("-p", "pytest_llmcost") if is_flag else ()))
    result = project.pytester.runpytest_inprocess(*args, "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_pays - $0.10 > $0.01 budget*"])


@pytest.mark.parametrize("name", ["max_increase", "max_suite"])
def test_an_empty_key_is_a_mistake_whether_it_is_a_list_or_not(files: Files, name: str) -> None:
    """As of a shell variable that is not set: the limit would silently be none."""
    result = files.project.run("-o", f"llmcost_{name}=")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*llmcost_{name}: is empty. Set a value or remove it*"])


def test_it_all_holds_under_strict_config_and_warnings_as_errors(files: Files) -> None:
    files.write_ini({"max_test": "$1"})
    files.project.write(test_app="def test_nothing(): pass")
    result = files.project.run("--strict-config", "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=1)


def test_the_environment_of_the_tests_has_none_of_ours() -> None:
    assert [name for name in os.environ if name.startswith("PYTEST_LLMCOST_")] == []


# A value that pytest takes for the path of a test


@pytest.fixture
def neighbour(project: Project) -> str:
    """A project that has a budget in its ini file, and a folder beside it with earlier reports."""
    elsewhere = project.path.parent / f"{project.path.name}-elsewhere"
    elsewhere.mkdir()
    write_ledger(Ledger(price_date="2026-11-22"), elsewhere / "cost.json")
    (elsewhere / "prices.toml").write_text("", encoding="utf-8")
    (elsewhere / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (elsewhere / "1").mkdir()
    project.write(pytest_ini="[pytest]\nllmcost_max_suite = $0", test_app="def test_a(): pass")
    return f"../{elsewhere.name}"


SEPARATE = [
    ("--llmcost-report", "cost.json"),
    ("--llmcost-baseline", "cost.json"),
    ("--llmcost-prices", "prices.toml"),
]


@pytest.mark.parametrize(("flag", "file"), SEPARATE)
@pytest.mark.parametrize("with_ini", [True, False], ids=["another ini file", "none"])
@pytest.mark.parametrize("rootdir", [(), ("--rootdir=.",)], ids=["", "rootdir"])
def test_a_value_that_moves_the_rootdir_away_is_an_error_that_says_what_to_type(
    project: Project, neighbour: str, flag: str, file: str, with_ini: bool, rootdir: tuple[str, ...]
) -> None:
    if not with_ini:
        (project.path / neighbour / "pytest.ini").unlink()
    path = f"{neighbour}/{file}"
    result = project.run(flag, path, *rootdir)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{path}*{project.path / 'pytest.ini'}*{flag}={path}*"])
    assert project.run(f"{flag}={path}", *rootdir).ret == 0


def test_so_is_one_that_comes_from_the_environment(
    project: Project, neighbour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--llmcost-report {neighbour}/cost.json")
    assert project.run().ret == pytest.ExitCode.USAGE_ERROR
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--llmcost-report={neighbour}/cost.json")
    assert project.run().ret == 0


def test_and_one_that_is_no_path_but_has_the_name_of_a_folder(
    project: Project, neighbour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.path / neighbour)
    (project.path / neighbour / "1" / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    result = project.run("--llmcost-max-suite", "1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--llmcost-max-suite=1*"])


@pytest.mark.parametrize(
    "args",
    [
        ("--llmcost-report", "cost.json"),
        ("--llmcost-report", "{neighbour}/new.json"),
        ("test_app.py", "--llmcost-report", "{neighbour}/cost.json"),
        ("-c", "pytest.ini", "--rootdir=.", "--llmcost-report", "{neighbour}/cost.json"),
        ("{neighbour}", "--llmcost-report={neighbour}/cost.json"),
    ],
    ids=" ".join,
)
def test_a_value_that_leaves_the_rootdir_as_it_is_is_fine(
    project: Project, neighbour: str, args: tuple[str, ...]
) -> None:
    write_ledger(Ledger(price_date="2026-11-22"), project.path / "cost.json")
    result = project.run(*(each.replace("{neighbour}", neighbour) for each in args))
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
