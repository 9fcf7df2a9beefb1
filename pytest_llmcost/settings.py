"""Every option, declared once: its flag, ini key, environment variable, parser, default and help.

Knows how settings are spelled and which source wins, and must know neither pytest nor what the
settings are for: `plugin/options.py` hands the values in.
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
_HERE = Path()


def parse_choice(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes one of the choices."""

    def parse(text: str) -> str:
        if text not in choices:
            raise SettingsError(f"{text!r} is not one of {', '.join(choices)}")
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
        raise SettingsError(f"{text!r} has no known suffix; the name of a report ends in {formats}")
    return path


def parse_scale(text: str) -> int:
    """Read how many runs a price is shown for: `1000` or `1k`, one at least."""
    number = parse_quantity(text)
    if number < 1:
        raise SettingsError(f"{text!r} is less than 1 run; write 1000 or 1k")
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


def parse_glob(text: str) -> str:
    """Read a glob over model ids; a list of them in one text would match no model."""
    if not text.strip() or any(each in text.strip() for each in ", \t\n"):
        raise SettingsError(f"{text!r} is not a model id or a glob; write one, as claude-haiku-*")
    return text.strip()


class Option(NamedTuple):  # making a dataclass takes several times as long, in every run
    """One setting and every way to set it."""

    name: str
    """The ini key and the environment variable follow from it: `llmcost_<name>`."""
    parse: Callable[[str], Any]
    help: str
    metavar: str | None = None
    """What the help shows for the flag's value; none, unless it takes no value, means no flag."""
    repeatable: bool = False
    """A list: the flag may be given several times, the ini key has one value per line."""
    takes_no_value: bool = False
    """It is set by its name alone, without a value."""
    is_limit: bool = False
    """An empty value, for example from an unset shell variable, would silently limit nothing."""
    is_path: bool = False
    """An ini value is relative to the ini file's folder, a flag's to the current one."""

    @property
    def flag(self) -> str | None:
        """The command line's name for it."""
        if self.name == "disabled":
            return "--no-llmcost"
        has_flag = self.takes_no_value or self.metavar is not None
        return f"--llmcost-{self.name.replace('_', '-')}" if has_flag else None

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
        "Turn pytest-llmcost off. The marker and the fixture stay known; nothing is counted.",
        takes_no_value=True,
    ),
    Option(
        "max_test",
        parse_usd,
        "Budget of every test that has no max_cost marker, for example $0.02.",
        metavar="USD",
        is_limit=True,
    ),
    Option(
        "max_call",
        parse_usd,
        "Budget of every single call. A test fails if its most expensive call costs more.",
        metavar="USD",
        is_limit=True,
    ),
    Option(
        "max_suite",
        parse_usd,
        "Budget of the whole run. The run fails if it costs more.",
        metavar="USD",
        is_limit=True,
    ),
    Option(
        "budgets",
        str,
        "Path budgets, one per line: `tests/agents/** = $0.50`.",
        repeatable=True,
        is_limit=True,
    ),
    Option(
        "allowed_models",
        parse_glob,
        "Models that the suite may call, by exact id or glob: claude-haiku-*. A call of another "
        "one fails its test. Repeatable.",
        metavar="GLOB",
        repeatable=True,
        is_limit=True,
    ),
    Option(
        "require_budget",
        parse_bool,
        "Fail tests that call Claude without a budget of their own or of their path.",
        takes_no_value=True,
    ),
    Option(
        "warn_at",
        parse_percent,
        "Share of a budget from which the reports warn, for example 80%.",
        metavar="PERCENT",
        is_limit=True,
    ),
    Option(
        "unverified",
        parse_choice("fail", "warn"),
        "What happens if a budget cannot be checked: fail (default), or only warn.",
        metavar="fail|warn",
    ),
    Option(
        "mocks",
        parse_choice("trust", "count"),
        "How a mock's answer is priced: by what it says (trust, default), or with the input from a "
        "count of what is sent (count).",
        metavar="trust|count",
    ),
    Option(
        "record_mode",
        parse_choice(*RECORD_MODES),
        f"How token counts are recorded: {', '.join(RECORD_MODES)}. Only count_tokens is "
        "called, which is free. Default: pytest-recording's mode, otherwise none.",
        metavar="MODE",
    ),
    Option(
        "count_timeout",
        parse_seconds,
        "Seconds that one count may take, including retries and the pauses that the API asks "
        "for. Default 60.",
        metavar="SECONDS",
    ),
    Option(
        "prices",
        Path,
        "TOML file with your own prices: new models, other rates, discounts.",
        metavar="FILE",
        is_path=True,
    ),
    Option(
        "price_date",
        parse_date,
        "Price everything as of this date. Default: today, UTC.",
        metavar="DATE",
    ),
    Option(
        "cache",
        parse_choice(*CACHE_STATES),
        "Price the prompt cache as billed (default), as if cold, or as if warm.",
        metavar="as-billed|cold|warm",
    ),
    Option(
        "report",
        parse_report_path,
        "Write the ledger (.json) or a pull-request comment (.md) to this path. Repeatable.",
        metavar="PATH",
        repeatable=True,
        is_path=True,
    ),
    Option(
        "baseline", Path, "Ledger of an earlier run to compare with.", metavar="PATH", is_path=True
    ),
    Option(
        "max_increase",
        parse_increase,
        "How much more than its baseline the suite may cost: 10% or $0.05. Repeatable.",
        metavar="LIMIT",
        repeatable=True,
        is_limit=True,
    ),
    Option(
        "max_test_increase",
        parse_increase,
        "How much more than its baseline a single test may cost: 10% or $0.05. Repeatable.",
        metavar="LIMIT",
        repeatable=True,
        is_limit=True,
    ),
    Option(
        "update_baseline",
        parse_bool,
        "Write this run as the new baseline, if it is complete.",
        takes_no_value=True,
    ),
    Option(
        "model",
        str,
        "Count every prompt for this model too, and show what it would cost. Repeatable.",
        metavar="MODEL",
        repeatable=True,
    ),
    Option(
        "columns",
        parse_choice(*COLUMNS),
        f"Add a column to the summary: {', '.join(COLUMNS)}. Repeatable.",
        metavar="COLUMN",
        repeatable=True,
    ),
    Option("per", parse_scale, "Show prices per this many runs, for example 1000.", metavar="N"),
    Option(
        "rows",
        parse_quantity,
        "Rows of the table in the summary; 0 shows all. Default 10.",
        metavar="N",
    ),
    Option(
        "github",
        parse_bool,
        "Write a job summary and annotations if GitHub Actions runs pytest. Default yes.",
        metavar="yes|no",
    ),
)


class Settings(NamedTuple):
    """The value of every option, and where each was set; the defaults stand here alone."""

    disabled: bool = False
    max_test: Decimal | None = None
    max_call: Decimal | None = None
    max_suite: Decimal | None = None
    budgets: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    require_budget: bool = False
    warn_at: Decimal | None = None
    unverified: Literal["fail", "warn"] = "fail"
    mocks: Literal["trust", "count"] = "trust"
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
        """Where a setting was set: its flag, variable or ini key, or `default`."""
        return self.origins.get(name, "default")


def resolve(
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    ini: Mapping[str, str | Sequence[str] | None],
    ini_folder: Path,
) -> Settings:
    """Settle every option: a flag wins over the environment, that over the ini file.

    Flags and ini values are keyed by the option's name.

    Raises:
        SettingsError: a wrong value; the message names the flag, variable or key.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        for origin, stated, folder in (
            (option.flag, flags.get(option.name), _HERE),
            (option.env, env.get(option.env), _HERE),
            (option.ini, ini.get(option.name), ini_folder),
        ):
            if stated is None or stated is False or origin is None:
                continue
            texts = _texts(stated, is_list=option.repeatable and origin == option.env)
            filled = [text for text in texts if text]
            # One empty flag of several is a mistake; an ini file may have an empty line.
            is_empty = not filled or (origin == option.flag and len(filled) < len(texts))
            if option.is_limit and texts and is_empty:
                raise SettingsError(
                    f"{origin}: is empty. Set a limit or remove the option (an unset shell "
                    "variable expands to an empty string)."
                )
            if filled:
                parsed = [_parse(option, text, origin, folder) for text in filled]
                values[option.name] = tuple(parsed) if option.repeatable else parsed[-1]
                origins[option.name] = origin
                break
    return Settings(**values, origins=origins)


def _texts(stated: Any, *, is_list: bool) -> list[str]:
    """Return what a source states; a list in an environment variable has lines or commas."""
    if is_list:
        stated = stated.replace("\n", ",").split(",")
    listed = stated if isinstance(stated, (list, tuple)) else [stated]
    return [str(each).strip() for each in listed]


def _parse(option: Option, text: str, origin: str, folder: Path) -> Any:
    try:
        value = option.parse(text)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {error}") from None
    return folder / value if option.is_path else value
