"""Every option, declared once: flag, ini key, environment variable, parser, default, help.

Data flow: flags, environment and ini values -> `resolve` -> Settings, frozen, each with the
origin it came from. Flags win over the environment, that over ini keys, those over defaults.
Imports no pytest: `plugin/options.py` hands the values in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import parse_percent, parse_quantity, parse_usd

RECORD_MODES = ("none", "once", "new_episodes", "all", "rewrite")
CACHE_STATES = ("as-billed", "cold", "warm")
COLUMNS = ("worst", "cold", "warm")
REPORT_SUFFIXES = (".json", ".md")
_MOST_SECONDS = 86_400


def parse_choice(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of the choices."""

    def parse(text: str) -> str:
        if text not in choices:
            raise SettingsError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return parse


def parse_bool(text: str) -> bool:
    """Read `true`/`false`, `yes`/`no`, `on`/`off` or `1`/`0`."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise SettingsError(f"{text!r} is neither true nor false")


def parse_date(text: str) -> date:
    """Read an ISO date, `2026-11-22`."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise SettingsError(f"{text!r} is not a date; write it as 2026-11-22") from None


def parse_report_path(text: str) -> Path:
    """Read the path of a report, whose suffix chooses the format."""
    path = Path(text)
    if path.suffix not in REPORT_SUFFIXES:
        formats = " or ".join(REPORT_SUFFIXES)
        raise SettingsError(f"{text!r} has no known suffix; a report ends in {formats}")
    return path


def parse_scale(text: str) -> int:
    """Read how many runs a price is shown for: `1000` or `1k`, one at least."""
    number = parse_quantity(text)
    if number < 1:
        raise SettingsError(f"{text!r} runs cost nothing; write 1000 or 1k")
    return number


def parse_seconds(text: str) -> float:
    """Read how long something may take, in seconds: `60`, or `0.5`; a day at most."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise SettingsError(
            f"{text!r} is not a number of seconds between 0 and {_MOST_SECONDS:,}; write 60"
        )
    return seconds


def parse_increase(text: str) -> str:
    """Check a limit on an increase, `10%` or an amount of money, and keep its text."""
    if text.strip().endswith("%"):
        parse_percent(text)
    else:
        parse_usd(text)
    return text.strip()


class Option(NamedTuple):  # dataclasses are several times as dear to make, in every run
    """One setting and every way to state it."""

    name: str
    """The ini key and environment variable follow from it: `llmcost_<name>`."""
    parse: Callable[[str], Any]
    help: str
    default: Any = None
    flag: str | None = None
    """The command line's name for it; None where it is an ini key alone."""
    metavar: str | None = None
    repeatable: bool = False
    """A list: the flag may be given again, the ini key has a line for each."""
    switch: bool = False
    """The flag takes no value."""
    is_limit: bool = False
    """Stated empty, as by a variable that is not set, it would silently limit nothing."""
    is_path: bool = False
    """An ini value is relative to the ini file's folder, a flag's to the current one."""

    @property
    def ini(self) -> str:
        """The key in pytest's configuration file."""
        return f"llmcost_{self.name}"

    @property
    def env(self) -> str:
        """The environment variable."""
        return f"PYTEST_LLMCOST_{self.name.upper()}"


OPTIONS: tuple[Option, ...] = (
    Option(
        "disabled",
        parse_bool,
        "Turn pytest-llmcost off; marker and fixture stay known, and nothing is counted.",
        default=False,
        flag="--no-llmcost",
        switch=True,
    ),
    Option(
        "max_test",
        parse_usd,
        "Ceiling of every test without a max_cost of its own, such as $0.02.",
        flag="--llmcost-max-test",
        metavar="USD",
        is_limit=True,
    ),
    Option(
        "max_suite",
        parse_usd,
        "Ceiling of the whole run; over it, the run fails.",
        flag="--llmcost-max-suite",
        metavar="USD",
        is_limit=True,
    ),
    Option(
        "budgets",
        str,
        "Ceilings by place, a line each: `tests/agents/** = $0.50`.",
        repeatable=True,
        default=(),
        is_limit=True,
    ),
    Option(
        "warn_at",
        parse_percent,
        "Share of a ceiling from which the summary warns, such as 80%.",
        flag="--llmcost-warn-at",
        metavar="PERCENT",
        is_limit=True,
    ),
    Option(
        "unverified",
        parse_choice("fail", "warn"),
        "What an unverified ceiling does: fail (default), or warn alone.",
        default="fail",
        flag="--llmcost-unverified",
        metavar="fail|warn",
    ),
    Option(
        "record_mode",
        parse_choice(*RECORD_MODES),
        f"How counts are recorded: {', '.join(RECORD_MODES)}. Sends count_tokens alone, which "
        "is free. Default: pytest-recording's mode, else none.",
        flag="--llmcost-record-mode",
        metavar="MODE",
    ),
    Option(
        "count_timeout",
        parse_seconds,
        "Seconds that a single count may take in all, with retries and pauses that the API asks "
        "for. Default 60.",
        default=60.0,
        flag="--llmcost-count-timeout",
        metavar="SECONDS",
    ),
    Option(
        "prices",
        Path,
        "TOML file with prices of your own: new models, other rates, discounts.",
        flag="--llmcost-prices",
        metavar="FILE",
        is_path=True,
    ),
    Option(
        "price_date",
        parse_date,
        "Price everything as of this date; default today, UTC.",
        flag="--llmcost-price-date",
        metavar="DATE",
    ),
    Option(
        "cache",
        parse_choice(*CACHE_STATES),
        "Price the prompt cache as billed (default), as if cold, or as if warm.",
        default="as-billed",
        flag="--llmcost-cache",
        metavar="as-billed|cold|warm",
    ),
    Option(
        "report",
        parse_report_path,
        "Write the ledger (.json) or a pull-request comment (.md); repeatable.",
        default=(),
        flag="--llmcost-report",
        metavar="PATH",
        repeatable=True,
        is_path=True,
    ),
    Option(
        "baseline",
        Path,
        "Ledger of an earlier run to compare with.",
        flag="--llmcost-baseline",
        metavar="PATH",
        is_path=True,
    ),
    Option(
        "max_increase",
        parse_increase,
        "Most that the suite may add to its baseline: 10% or $0.05; repeatable.",
        default=(),
        flag="--llmcost-max-increase",
        metavar="LIMIT",
        repeatable=True,
        is_limit=True,
    ),
    Option(
        "max_test_increase",
        parse_increase,
        "Most that a single test may add to its baseline: 10% or $0.05; repeatable.",
        default=(),
        flag="--llmcost-max-test-increase",
        metavar="LIMIT",
        repeatable=True,
        is_limit=True,
    ),
    Option(
        "update_baseline",
        parse_bool,
        "Accept this run as the new baseline; only a complete one is written.",
        default=False,
        flag="--llmcost-update-baseline",
        switch=True,
    ),
    Option(
        "model",
        str,
        "Count every payload for this model too, and show what it would cost; repeatable.",
        default=(),
        flag="--llmcost-model",
        metavar="MODEL",
        repeatable=True,
    ),
    Option(
        "columns",
        parse_choice(*COLUMNS),
        f"Further columns of the summary: {', '.join(COLUMNS)}; repeatable.",
        default=(),
        flag="--llmcost-columns",
        metavar="COLUMN",
        repeatable=True,
    ),
    Option(
        "per",
        parse_scale,
        "Show prices per so many runs, such as 1000.",
        default=1,
        flag="--llmcost-per",
        metavar="N",
    ),
    Option(
        "rows",
        parse_quantity,
        "Rows of the summary's table; 0 shows all. Default 10.",
        default=10,
        flag="--llmcost-rows",
        metavar="N",
    ),
    Option(
        "github",
        parse_bool,
        "Write a job summary and annotations under GitHub Actions; default yes.",
        default=True,
        flag="--llmcost-github",
        metavar="yes|no",
    ),
)


class Settings(NamedTuple):
    """What the run is to do, with each value's origin in `origins`."""

    disabled: bool = False
    max_test: Decimal | None = None
    max_suite: Decimal | None = None
    budgets: tuple[str, ...] = ()
    warn_at: Decimal | None = None
    unverified: Literal["fail", "warn"] = "fail"
    record_mode: str | None = None
    count_timeout: float = 60.0
    prices: Path | None = None
    price_date: date | None = None
    cache: Literal["as-billed", "cold", "warm"] = "as-billed"
    report: tuple[Path, ...] = ()
    baseline: Path | None = None
    max_increase: tuple[str, ...] = ()
    max_test_increase: tuple[str, ...] = ()
    update_baseline: bool = False
    model: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    per: int = 1
    rows: int = 10
    github: bool = True
    origins: Mapping[str, str] = MappingProxyType({})

    def origin(self, name: str) -> str:
        """Where a setting was stated: its flag, variable or ini key, or `default`."""
        return self.origins.get(name, "default")


def resolve(
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    ini: Mapping[str, str | Sequence[str] | None],
    ini_folder: Path,
) -> Settings:
    """Settle every option from its sources, all keyed by the option's name but `env`.

    Raises:
        SettingsError: a value that makes no sense; names the flag, variable or key.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        for origin, texts, folder in _sources(option, flags, env, ini, ini_folder):
            if option.is_limit and _is_blank(flags, env, ini, option, origin):
                raise SettingsError(f"{origin}: is empty, so it limits nothing; {_EMPTY}")
            if texts:
                values[option.name] = _parse_all(option, texts, origin, folder)
                origins[option.name] = origin
                break
    return Settings(**values, origins=origins)


_EMPTY = "state a limit, or leave it away (a shell's variable that is not set is empty, too)"


def _is_blank(
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    ini: Mapping[str, str | Sequence[str] | None],
    option: Option,
    origin: str,
) -> bool:
    """Whether a source states an option without a value, or a flag one of several so."""
    if origin == option.env:
        text = env.get(option.env)
        return text is not None and not _split(option, text)
    value = ini.get(option.name) if origin == option.ini else flags.get(option.name)
    if value is None or isinstance(value, bool):
        return False
    blank = [not str(each).strip() for each in ([value] if isinstance(value, str) else value)]
    return bool(blank) and (all(blank) if origin == option.ini else any(blank))


def _sources(
    option: Option,
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    ini: Mapping[str, str | Sequence[str] | None],
    ini_folder: Path,
) -> list[tuple[str, list[str], Path]]:
    here = Path()
    return [
        (option.flag or "", _texts(flags.get(option.name)), here),
        (option.env, _split(option, env.get(option.env)), here),
        (option.ini, _texts(ini.get(option.name)), ini_folder),
    ]


def _split(option: Option, text: str | None) -> list[str]:
    """An environment variable holds a list as lines, or with commas between."""
    if not text:
        return []
    parts = text.replace("\n", ",").split(",") if option.repeatable else [text]
    return [part.strip() for part in parts if part.strip()]


def _texts(value: Any) -> list[str]:
    if value is None or value is False:
        return []
    values = [value] if isinstance(value, (str, bool)) else list(value)
    return [str(each).strip() for each in values if str(each).strip()]


def _parse_all(option: Option, texts: Sequence[str], origin: str, folder: Path) -> Any:
    values = [_parse(option, text, origin, folder) for text in texts]
    return tuple(values) if option.repeatable else values[-1]


def _parse(option: Option, text: str, origin: str, folder: Path) -> Any:
    try:
        value = option.parse(text)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {error}") from None
    return folder / value if option.is_path else value
