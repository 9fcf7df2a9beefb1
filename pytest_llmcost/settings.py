"""Every option, declared once: its flag, ini key, environment variable, parser, default and help.

Knows how settings are spelled and which source wins, and must know neither pytest nor what the
settings are for: `plugin/options.py` hands the values in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.errors import LlmCostError, SettingsError
from pytest_llmcost.money import (
    parse_percent,
    parse_quantity,
    parse_share_or_usd,
    parse_usd,
    read_digits,
)

_T = TypeVar("_T")
CACHE_STATES = ("as-billed", "cold", "warm")
PARTS = ("tools", "system", "messages", "rest")
COLUMNS = ("worst", "cold", "warm")
_REACTIONS = ("off", "warn", "fail")


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
    if word in ("0", "false", "no", "off"):
        return False
    raise SettingsError(f"{text!r} is neither true nor false")


def parse_date(text: str) -> date:
    """Read an ISO date, `2026-11-22`."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise SettingsError(f"{text!r} is not a date; write it as 2026-11-22") from None


def parse_path(text: str) -> Path:
    """Read a path; no shell has read the `~` of an ini file, nor the one behind `--option=`."""
    return Path(os.path.expanduser(text))


_REPORTS = {".json": "the ledger", ".md": "a pull-request comment", ".html": "a page"}
"""By the suffix of its name, what `reports/report_file.py` writes."""
FORMATS = ", ".join(f"{what} ({suffix})" for suffix, what in _REPORTS.items())


def parse_report_path(text: str) -> Path:
    """Read the path of a report, whose suffix chooses the format."""
    path = parse_path(text)
    if path.suffix not in _REPORTS:
        raise SettingsError(f"{text!r} has no known suffix; a report is one of {FORMATS}")
    return path


def parse_scale(text: str) -> int:
    """Read how many runs a price is shown for: `1000` or `1k`, one at least."""
    number = parse_quantity(text)
    if number < 1:
        raise SettingsError(f"{text!r} is less than 1 run; write a larger number, for example 100")
    return number


def parse_warning(text: str) -> Decimal:
    """Read from which share of a budget on reports warn."""
    share = parse_percent(f"{text}%" if read_digits(text) is not None else text)
    if not 0 < share <= 1:
        which = "every budget" if not share else "no budget that is kept"
        raise SettingsError(f"{text!r} would warn of {which}; write 80%")
    return parse_percent(text)  # which refuses a number alone


def parse_seconds(text: str) -> float:
    """Read how long something may take, in seconds: `60`, or `0.5`; a day at most."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise SettingsError(f"{text!r} is not a number of seconds between 0 and 86,400; write 60")
    return seconds


def parse_increase(text: str) -> str:
    """Check a limit on an increase, `10%` or an amount of money, and keep its text."""
    parse_share_or_usd(text)
    return text.strip()


def parse_glob(text: str) -> str:
    """Read a glob over model ids; a list of them in one text would match no model."""
    if not text.strip() or any(each in text.strip() for each in "=, \t\n"):
        raise SettingsError(f"{text!r} is not a model id or a glob; write one, as claude-haiku-*")
    return text.strip()


def for_path(parse: Callable[[str], str], example: str) -> Callable[[str], str]:
    """Return a parser of a value for all tests, or of a line `tests/live/** = value` for a path."""

    def parse_line(text: str) -> str:
        glob, equals, value = text.rpartition("=")
        try:
            value = parse(value.strip() if glob.strip() else text)
        except SettingsError as error:
            raise SettingsError(f"{error}; for a path write `{example}`") from None
        return f"{glob.strip()} = {value}" if equals else value

    return parse_line


def parse_address(text: str) -> str:
    """Read the address of a stand-in: a host, `host:port`, or a URL that begins with one."""
    address = text.rpartition("://")[2].partition("/")[0].lower()
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"  # IPv6
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or any(each in address for each in " @"):
        raise SettingsError(f"{text!r} is not an address; write 127.0.0.1 or localhost:8080")
    return host if port is None else address


def parse_part(name: object) -> str:
    """Read the name of a part of a prompt, such as `system` or `tools.search_orders`."""
    if not isinstance(name, str) or name.partition(".")[0] not in PARTS or name.endswith("."):
        raise SettingsError(
            f"{name!r} is not a part of a prompt; write system, tools, tools.NAME, messages, "
            "messages.0, messages.0.image, or rest"
        )
    return name


def parse_part_limit(text: str) -> tuple[str, int]:
    """Read a budget of a part: `tools = 3k`."""
    name, equals, limit = text.partition("=")
    if not equals:
        raise SettingsError(f"{text!r} is not a part and its limit; write tools = 3k")
    try:
        return parse_part(name.strip()), parse_quantity(limit.strip())
    except SettingsError as error:
        raise SettingsError(f"{text.strip()!r}: {error}") from None


_ENV = "PYTEST_LLMCOST_"
"""How the names of all environment variables begin."""


class Option:
    """One setting and every way to set it; declared in `Settings`, where its default stays."""

    # Written out: to make a dataclass or a NamedTuple takes several times as long, in every run.
    def __init__(
        self, default: object, parse: Callable[[str], Any], metavar: str | None, help: str
    ) -> None:
        self.default = default
        self.parse = parse
        self.metavar = metavar
        """What the help shows for the flag's value; None if it takes none, or there is no flag."""
        self.help = help
        self.repeatable = isinstance(default, tuple)
        """A list: the flag may be given several times, the ini key has one value per line."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self.ini = f"llmcost_{name}"
        """The key in pytest's configuration file."""
        self.env = f"{_ENV}{name.upper()}"
        self.flag: str | None = f"--llmcost-{name.replace('_', '-')}"
        """The command line's name for it."""
        if name == "disabled":
            self.flag = "--no-llmcost"
        elif self.metavar is None and self.parse is not parse_bool:
            self.flag = None
        OPTIONS.append(self)
        setattr(owner, name, self.default)  # as a descriptor it would be slower to read


OPTIONS: list[Option] = []
"""Those of `Settings`, in its order."""


def _setting(default: _T, parse: Callable[[str], Any], metavar: str | None, help: str) -> _T:
    return cast("_T", Option(default, parse, metavar, help))


def _choice(default: _T, choices: Sequence[str], help: str) -> _T:
    return _setting(default, parse_choice(*choices), "|".join(choices), help)


class Settings:
    """The value of every option, and where each was set."""

    # fmt: off
    disabled: bool = _setting(False, parse_bool, None,
        "Turn pytest-llmcost off. The marker and the fixture still exist; nothing is counted.")
    max_test: Decimal | None = _setting(None, parse_usd, "USD",
        "Budget of every test that has no max_cost marker, for example $0.02.")
    max_worst: Decimal | None = _setting(None, parse_usd, "USD",
        "Worst-case budget of every test that sets none itself: what its calls cost with a cold "
        "cache if every reply reaches its max_tokens.")
    max_call: Decimal | None = _setting(None, parse_usd, "USD",
        "Budget of every single call. A test fails if its most expensive call costs more.")
    max_suite: Decimal | None = _setting(None, parse_usd, "USD",
        "Budget of the whole run. The run fails if it costs more.")
    budgets: tuple[str, ...] = _setting((), str, None,
        "Path budgets, one per line: `tests/agents/** = $0.50`; of a tag: `tag:judge = $0.10`.")
    max_parts: tuple[tuple[str, int], ...] = _setting((), parse_part_limit, None,
        "Budgets of parts of every single prompt, in tokens, one per line: `tools = 3k`.")
    allowed_models: tuple[str, ...] = _setting(
        (), for_path(parse_glob, "tests/agents/** = claude-haiku-*"), "GLOB",
        "Model that tests may call: an id, an alias or a glob, for example claude-haiku-*. A call "
        "of any other model fails its test. Lines `tests/agents/** = claude-haiku-*` are for a "
        "path; those of the last one that matches apply. Repeatable.")
    require_budget: bool = _setting(False, parse_bool, None,
        "Fail tests that call Claude without a budget, either their own or one for their path, and "
        "the run if other calls have none.")
    live: tuple[str, ...] = _setting(
        (), for_path(parse_choice(*_REACTIONS), "tests/live/** = off"), "|".join(_REACTIONS),
        "What happens to a test that sends a request to Claude over a socket instead of replaying "
        "it: off (default, the summary names it), warn or fail. A line `tests/live/** = off` is "
        "for a path; the last one that matches applies. Repeatable.")
    stand_ins: tuple[str, ...] = _setting((), parse_address, "ADDRESS",
        "Address of a stand-in that spends nothing, for example 127.0.0.1 or localhost:8080: "
        "requests to it are not live. Repeatable.")
    stable_prefix: Literal["off", "warn", "fail"] = _choice("warn", _REACTIONS,
        "What happens if a later call of a test breaks the cached prefix of an earlier one: "
        "nothing, a line in the summary (warn, default), or the test fails.")
    max_live: Decimal | None = _setting(None, parse_usd, "USD",
        "Cap on what this run may spend live. A request whose worst case exceeds what is left is "
        "refused before it is sent, and its test fails.")
    warn_at: Decimal | None = _setting(None, parse_warning, "PERCENT",
        "Warn when this share of a budget is used, for example 80%.")
    unverified: Literal["fail", "warn"] = _choice("fail", ("fail", "warn"),
        "What happens if a budget cannot be checked: fail (default), or only warn.")
    mocks: Literal["trust", "count"] = _choice("trust", ("trust", "count"),
        "How the answer of a mock is priced: by the usage that it states (trust, default), or "
        "with the input tokens counted from the request (count).")
    record_mode: str | None = _setting(None, parse_choice(*MODES), "MODE",
        f"How token counts are recorded: {', '.join(MODES)}. Only count_tokens is "
        "called, which is free. Default: pytest-recording's mode, otherwise none.")
    count_timeout: float = _setting(60.0, parse_seconds, "SECONDS",
        "Seconds that one count may take, including retries and the pauses that the API asks "
        "for. Default 60.")
    key_guard: Literal["fail", "warn", "off"] = _choice("fail", ("fail", "warn", "off"),
        "What happens if a cassette that VCR wrote in this run holds what looks like a key: the "
        "run fails (default), the summary warns, or nothing.")
    prices: Path | None = _setting(None, parse_path, "FILE",
        "TOML file with your own prices: new models, other rates, discounts.")
    price_date: date | None = _setting(None, parse_date, "DATE",
        "Price everything as of this date. Default: today, UTC.")
    cache: Literal["as-billed", "cold", "warm"] = _choice("as-billed", CACHE_STATES,
        "Price the prompt cache as billed (default), as if cold, or as if warm.")
    report: tuple[Path, ...] = _setting((), parse_report_path, "PATH",
        f"Write to this path, by its suffix: {FORMATS}. Repeatable.")
    history: Path | None = _setting(None, parse_path, "FILE",
        "Append a line of JSON about the run to this file, for `llmcost history` and the page.")
    baseline: Path | None = _setting(None, parse_path, "PATH",
        "Ledger of an earlier run to compare this run with.")
    baseline_fetch: str = _setting("", str, "COMMAND",
        "Command that fetches the baseline to that path; the comment shows it to those who want to "
        "reproduce the run, with the path's folder in place of `{folder}`.")
    max_increase: tuple[str, ...] = _setting((), parse_increase, "LIMIT",
        "How much more than the baseline the suite may cost: 10% or $0.05. Repeatable.")
    max_test_increase: tuple[str, ...] = _setting((), parse_increase, "LIMIT",
        "How much more than in the baseline a single test may cost: 10% or $0.05. Repeatable.")
    vanished: Literal["off", "warn", "fail"] = _choice("warn", _REACTIONS,
        "What happens if tests with a budget or calls in the baseline are skipped, deselected or "
        "deleted, or lost their budget: they are named (warn, default), or also fail the run.")
    update_baseline: bool = _setting(False, parse_bool, None,
        "Write this run as the new baseline, if it is complete.")
    model: tuple[str, ...] = _setting((), str, "MODEL",
        "Count every prompt for this model too, and show what it would cost. Repeatable.")
    columns: tuple[str, ...] = _setting((), parse_choice(*COLUMNS), "COLUMN",
        f"Add a column to the summary: {', '.join(COLUMNS)}. Repeatable.")
    parts: bool = _setting(False, parse_bool, None,
        "Count what each part of the prompts takes: show the largest ones of every test, and "
        "write all of them to the reports.")
    per: int = _setting(1, parse_scale, "N", "Show prices for this many runs, for example 1000.")
    rows: int = _setting(10, parse_quantity, "N",
        "Rows of the table in the summary; 0 shows all. Default 10. A broken budget has a row in "
        "any case, unless the summary names one cause for several tests.")
    github: bool = _setting(True, parse_bool, "yes|no",
        "Write a job summary and annotations if GitHub Actions runs pytest. Default yes.")
    # fmt: on
    origins: Mapping[str, str] = MappingProxyType({})

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def origin(self, name: str) -> str:
        """Where a setting was set: its flag, variable or ini key, or `default`."""
        return self.origins.get(name, "default")

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Say in an error about what a setting names (a file, a model) where it was set."""
        try:
            yield
        except LlmCostError as error:
            raise SettingsError(f"{self.origin(name)}: {error}") from error


def resolve(
    flags: Mapping[str, Any],
    env: Mapping[str, str],
    ini: Mapping[str, str | Sequence[str] | None],
    ini_folder: Path,
) -> Settings:
    """Settle every option: a flag wins over the environment, that over the ini file.

    Flags and ini values are keyed by the option's name.

    Raises:
        SettingsError: a wrong value; the message names the flag, variable or key. Also a variable
            with our prefix that is none of the options: a misspelt limit would limit nothing.
    """
    for name in sorted(set(env) - {option.env for option in OPTIONS}):
        if name.startswith(_ENV):
            from difflib import get_close_matches

            words = name.removeprefix(_ENV).lower()
            similar = get_close_matches(words, [option.name for option in OPTIONS], n=1)
            hint = f". Did you mean {_ENV}{similar[0].upper()}?" if similar else ""
            raise SettingsError(f"{name}: no setting of this version has this name{hint}")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    here = Path()
    for option in OPTIONS:
        for origin, stated, folder in (
            (option.flag, flags.get(option.name), here),
            (option.env, env.get(option.env), here),
            (option.ini, ini.get(option.name), ini_folder),
        ):
            if stated in (None, False, ()) or origin is None:
                continue
            try:
                parsed = _parse(option, stated, is_flag=origin == option.flag)
            except SettingsError as error:
                raise SettingsError(f"{origin}: {error}") from None
            # A path in an ini file is relative to that file.
            parsed = [folder / each if isinstance(each, Path) else each for each in parsed]
            values[option.name] = tuple(parsed) if option.repeatable else parsed[-1]
            origins[option.name] = origin
            break
    return Settings(**values, origins=origins)


def _parse(option: Option, stated: Any, *, is_flag: bool) -> list[Any]:
    if option.repeatable and isinstance(stated, str):  # in the environment
        stated = stated.replace("\n", ",").split(",")
    texts = [str(text).strip() for text in (stated if option.repeatable else [stated])]
    if not is_flag:  # a list may have empty lines, or end in a comma
        texts = [text for text in texts if text] or [""]
    for text in texts:
        if not text:  # which would silently limit nothing, or compare with nothing
            remedy = "remove it (an unset shell variable expands to an empty string)"
            raise SettingsError(f"is empty. Set a value or {remedy}.")
        if len(text) > 1 and text[0] == text[-1] in "\"'" and text[0] not in text[1:-1]:
            raise SettingsError(f"{text}: the quotes are part of the value; remove them")
    return [option.parse(text) for text in texts]
