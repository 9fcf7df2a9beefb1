"""The ledger of a run: its rows, totals, verdicts and comparisons, as every file holds them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Clamped, Context, Decimal, Inexact, InvalidOperation, Overflow
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.files import write_atomic
from pytest_llmcost.json_values import written
from pytest_llmcost.money import EXACT, plain_usd, read_digits
from pytest_llmcost.prices.bill import ByCategory, CacheState
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat
from pytest_llmcost.prices.usage import Count, PromptCount, Usage, find_impossible

SCHEMA = "pytest-llmcost/1"

OwnerKind = Literal["test", "fixture", "outside"]
_ZERO = Decimal(0)


class PayloadFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a fingerprint stands for: its model, and a short digest of every part.

    Everything else is there only where it was asked for.
    """

    model: str
    parts: Mapping[str, str] = {}
    counts: Mapping[str, PromptCount] = {}
    """Another model -> the tokens that this prompt is there."""
    rejected: Mapping[str, str] = {}
    """Another model -> what it rejects, so that there is no count."""
    dropped: Mapping[str, str] = {}
    """Another model -> settings it rejects that have no tokens; the count holds without them."""
    left_out: Mapping[str, str] = {}
    """Another model -> the parts that the count leaves out, so that it is too low."""
    task_budget: int | None = None
    """Tokens that the model is asked to keep to; advisory."""
    breakpoints: int = 0
    """How many cached prefixes the prompt asks for."""
    prefixes: Mapping[str, str] = {}
    """Block at which a cached prefix ends -> a digest of all up to there, byte by byte."""
    cached: Mapping[str, Count] = {}
    """Life of a cache entry, `5m` or `1h` -> the tokens that a first call writes, where counted."""
    parts_tokens: Mapping[str, Count] = {}
    """Part of the prompt -> its tokens, where counted. A part such as `tools`, which has parts of
    its own, stands beside them only if it has a budget."""

    def joined(self, other: PayloadFacts) -> PayloadFacts:
        """Return all that two sources know of the same payload, whichever came first."""
        base = min(self, other, key=lambda each: (each.model, sorted(each.parts.items())))
        facts: dict[str, Any] = {}
        for name in self.__struct_fields__:
            one, two = getattr(self, name), getattr(other, name)
            # Where the two differ the greater, so that their order never shows.
            if isinstance(one, Mapping):
                names = sorted({*one, *two})
                facts[name] = {key: max(x[key] for x in (one, two) if key in x) for key in names}
            else:
                facts[name] = max((x for x in (one, two) if x is not None), default=None)
        return PayloadFacts(**{**facts, "model": base.model, "parts": base.parts})


class TestRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of one test."""

    __test__ = False

    nodeid: str
    path: str = ""
    line: int | None = None
    """Counted from 1."""
    attempt: int = 1
    outcome: str = ""
    usd: Decimal | None = _ZERO
    """List price of what could be priced; null where nothing could."""
    verdict: Verdict | None = None
    """The decisive budget of the test: the worst of all that apply."""
    blocks: tuple[Verdict, ...] = ()
    """Every further budget: other quantities of the marker, and `budget(...)` blocks."""
    calls: tuple[Call, ...] = ()


class FixtureRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One set-up (and teardown) of a fixture wider than a function, in one process."""

    name: str
    scope: str
    baseid: str = written("")
    """The node under which it is defined; empty for the whole session."""
    node: str = written("")
    """The module, class or package it was set up for; empty for the whole session."""
    worker: str | None = written(None)
    param: str | None = None
    usd: Decimal | None = written(_ZERO)
    """List price of what could be priced; null where nothing could."""
    calls: tuple[Call, ...] = written(())


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one model's sampling calls, or over the calls of one tag."""

    usd: Decimal | None = _ZERO
    """List price of what could be priced; null where nothing could."""
    is_least: bool = False
    """Whether nothing bounds the cost from above: a call may have cost more, or was lost."""
    live_usd: Decimal | None = _ZERO
    """What this run itself spent: every call that went over the network, or may have; all
    set-ups of every fixture."""
    live_is_least: bool = False
    """Whether nothing bounds that from above."""
    by_category: ByCategory = ByCategory()
    """The list price by what it is for; empty in an older ledger."""
    calls: int = 0
    """Calls in which the model took part."""
    usage: Usage = Usage()


class Totals(ModelTotals, frozen=True, kw_only=True):
    """Sums over a whole run; a fixture set up several times counts once, by its most expensive."""

    unpriced_calls: int = 0
    """Calls whose list price is unknown."""
    by_model: Mapping[str, ModelTotals] = {}
    by_tag: Mapping[str, ModelTotals] = {}
    """A call with several tags is in each of them."""


Status = Literal["new", "changed", "removed", "skipped", "no calls"]
"""The last three have no call in this run; `no calls` if it is there, or if it is not known why."""


class BeforeAndAfter(msgspec.Struct, frozen=True, kw_only=True):
    """What some calls cost in the baseline and in the run, both at today's prices."""

    base_usd: Decimal | None = _ZERO
    """A lower bound where something has no price, null where nothing has."""
    head_usd: Decimal | None = _ZERO
    base_is_least: bool = False
    """Whether nothing bounds the amount from above."""
    head_is_least: bool = False


class Change(BeforeAndAfter, frozen=True, kw_only=True):
    """What changed in one test, one shared fixture, or the calls outside tests."""

    kind: OwnerKind = "test"
    name: str
    """The node id; a fixture's name with the node it belongs to."""
    path: str = ""
    line: int | None = None
    status: Status
    usd: Decimal | None
    """What it adds to the bill, negative when it costs less; null where that is unknown."""
    tokens: Mapping[str, int] = {}
    """By billing category, the differences that are not zero."""
    calls: int = 0
    parts: tuple[str, ...] = ()
    """The parts of the payloads that differ."""
    verdicts: tuple[Verdict, ...] = ()


class ChangedPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """A cached prefix that the baseline has not: it is written once more than it is read."""

    name: str
    """The first test, fixture or the like that caches it."""
    owners: int = 1
    """How many of them do."""
    parts: tuple[str, ...] = ()
    """The parts of the prompt in it that differ from the baseline."""
    tokens: int | None = None
    """Those that a cold cache writes; null where that is unknown."""
    usd: Decimal | None = None
    """What writing it once costs; null where that is unknown."""
    is_most: bool = False
    """Whether that is a bound, because an earlier breakpoint of the prompt did not change."""


How = Literal[
    "skipped", "deselected", "deleted or renamed", "without its budget", "not in this run"
]


class Vanished(msgspec.Struct, frozen=True, kw_only=True):
    """A test of the baseline with a budget or calls that this run no longer has."""

    name: str
    how: How
    base_usd: Decimal | None
    """What it cost in the baseline, at the prices of that run."""
    base_calls: int
    base_is_least: bool = False
    """Whether nothing bounds the amount from above."""
    verdict: Verdict | None = None
    """The budget that it had."""


class PartChange(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the largest prompt of a test, a shared fixture, or the calls outside tests."""

    name: str
    """The owner's name, as in `Change`."""
    part: str
    before: int | None
    """Tokens in the baseline; null if its parts are not counted there. 0 if the part is new."""
    after: int
    """Tokens in the run; 0 if the part was removed."""


class Comparison(BeforeAndAfter, frozen=True, kw_only=True):
    """A run against its baseline, over the tests that both could have run.

    `price_change_usd` is what new prices, or another cache state, add to the baseline's calls;
    `change_usd` is what the run's calls add, both priced as the run is.
    """

    base_price_date: str = ""
    base_rate_card: str = ""
    """The card's version."""
    base_commit: str = ""
    """What the baseline was measured at, where that is known."""
    base_cache_state: str = ""
    """The baseline's cache state, where it is not the run's."""
    base_path: str = ""
    """Where the baseline was read."""
    base_fetch: str = ""
    """The command that fetches it to there, where it was named."""
    partial: bool = False
    """The run left tests out; only those that ran are compared."""
    failed: tuple[str, ...] = ()
    """Tests that failed by something else than a budget: what they cost is not what they will."""
    base_usd_then: Decimal | None = _ZERO
    """The baseline's calls at its own prices and in its own cache state."""
    price_change_usd: Decimal | None = _ZERO
    """Null where the baseline's calls have no price on one of the two days."""
    change_usd: Decimal | None = _ZERO
    """Null where part of it is unknown; it then lies between the bounds."""
    low_usd: Decimal | None = _ZERO
    high_usd: Decimal | None = _ZERO
    tokens: Mapping[str, int] = {}
    unchanged: int = 0
    """Tests, fixtures and the like that cost the same, call by call."""
    by_tag: Mapping[str, BeforeAndAfter] = {}
    """Each tag of which the cost changed."""
    changes: tuple[Change, ...] = ()
    """The one that adds most comes first."""
    prefixes: tuple[ChangedPrefix, ...] = ()
    """Cached prefixes that changed; the one that costs most to write again comes first."""
    vanished: tuple[Vanished, ...] = ()
    parts: tuple[PartChange, ...] = ()
    """All parts of the prompts, where the run has counted them."""
    verdicts: tuple[Verdict, ...] = ()
    """Of scope `increase`, for the run as a whole."""
    notes: tuple[str, ...] = ()


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """This model and the other one, over the calls that could be compared; null where none could.

    The sum of two covers the calls of both.
    """

    calls: int = 0
    """Those compared; the figures are of these alone, for both models."""
    unknown_calls: int = 0
    """Those that could not be compared; they are in none of the figures."""
    unbounded_calls: int = 0
    """Of those compared, those that may cost more than their price on one of the models."""
    input_tokens: int | None = None
    """The whole prompts as they are."""
    input_tokens_then: int | None = None
    """The same prompts on the other model."""
    usd: Decimal | None = None
    """List price; the output is the same on both models, as recorded or stated."""
    usd_then: Decimal | None = None

    def __add__(self, other: Figures) -> Figures:
        mine, sums = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        for name, value in mine.items():
            if sums[name] is None:
                sums[name] = value
            elif value is not None:
                is_usd = isinstance(value, Decimal)
                sums[name] = EXACT.add(sums[name], value) if is_usd else sums[name] + value
        return Figures(**{name: sums[name] for name in Figures.__struct_fields__})


class OtherModelRow(Figures, frozen=True, kw_only=True):
    """One attempt of a test, a shared fixture, or the calls outside tests."""

    kind: OwnerKind = "test"
    name: str
    attempt: int = 1
    reasons: tuple[str, ...] = ()
    """Why calls could not be compared, sorted, each once."""


class OtherModel(Figures, frozen=True, kw_only=True):
    """A whole run on another model."""

    model: str
    rows: tuple[OtherModelRow, ...] = ()
    """As the ledger has them: tests, shared fixtures, then the calls outside tests."""
    missing: int = 0
    """Payloads whose count for the model is not recorded."""
    rejected: Mapping[str, int] = {}
    """What the model rejects -> how many payloads have it; these are not priced."""
    dropped: Mapping[str, int] = {}
    """Rejected settings without tokens -> how many payloads have them; the rest is priced."""
    notes: tuple[str, ...] = ()


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """When and how the run went; the only part that differs between equal runs."""

    started_at: str | None = None
    finished_at: str | None = None
    exit_status: int | None = None
    has_tests: bool = True
    """Whether there were tests to run; true in a ledger of a version that did not say."""
    workers: int = 0
    commit: str = ""
    """What was tested, where CI says so; of a pull request its last commit."""


class CardId(msgspec.Struct, frozen=True, kw_only=True):
    """Which prices were used."""

    version: str = ""
    sha256: str = ""
    sources: tuple[str, ...] = ()

    @property
    def own(self) -> str:
        """The name of the user's price file, which follows the shipped card; or nothing."""
        return self.version.partition("+")[2]


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, as every file holds it."""

    schema: str = SCHEMA
    generator: Mapping[str, str] = {}
    run: RunRecord = RunRecord()
    complete: bool = True
    incomplete: tuple[str, ...] = ()
    lost_calls: tuple[str, ...] = ()
    """Why calls may be missing: `worker-crashed`, `interrupted`, `forked-child`, `internal-error`
    or, if pytest ran no test because of them, `collection-errors`.
    What the run cost then has no upper bound; a run that only left tests out has one."""
    skipped: tuple[str, ...] = ()
    """Tests with a budget of their own that were skipped, sorted."""
    price_date: str = ""
    cache_state: CacheState = "as-billed"
    rate_card: CardId = CardId()
    unverified: Literal["fail", "warn"] = "fail"
    """The setting `llmcost_unverified`: whether a budget that could not be checked fails."""
    allowed_models: tuple[str, ...] = ()
    """The setting `llmcost_allowed_models`, its lines in order; empty if every model is allowed."""
    live: tuple[str, ...] = ()
    """The setting `llmcost_live`, its lines in order; empty if it is off."""
    stable_prefix: Literal["off", "warn", "fail"] = "warn"
    """The setting `llmcost_stable_prefix`: what follows if a call breaks a cached prefix."""
    totals: Totals = Totals()
    verdicts: tuple[Verdict, ...] = ()
    """Budgets over several tests: the suite's and those of paths."""
    comparison: Comparison | None = None
    """Against the baseline, with the verdicts on increases in it."""
    payloads: Mapping[str, PayloadFacts] = {}
    tests: tuple[TestRow, ...] = ()
    fixtures: tuple[FixtureRow, ...] = ()
    outside_tests: tuple[Call, ...] = ()
    other_models: tuple[OtherModel, ...] = ()
    """The run on other models, where it was asked for, sorted by model."""
    notes: tuple[str, ...] = ()
    """What a reader should know: length bands, old prices, calls that could not be compared."""


def function_of(nodeid: str) -> str:
    """Return a test without its parameters; a folder may have brackets in its name, too.

    Example:
        >>> function_of("dir [x]/test_a.py::test_a[y]")
        'dir [x]/test_a.py::test_a'
    """
    path, joint, name = nodeid.partition("::")
    return f"{path}{joint}{name.partition('[')[0]}"


def fixture_name(row: FixtureRow) -> str:
    """Name a shared fixture: the node it belongs to, its own name, its parameter, its scope."""
    node = row.node or row.baseid
    param = "" if row.param is None else f"[{row.param}]"
    return f"{node}{'::' if node else ''}{row.name}{param} ({row.scope} fixture)"


def failed_otherwise(test: TestRow) -> bool:
    """Whether a test failed by something else than its budget: it will cost more when it passes."""
    if test.outcome not in ("failed", "error"):
        return False
    is_within = all(verdict.state == "within" for verdict in own_verdicts(test))
    return is_within or any(call.is_uncounted for call in test.calls)  # which probably ended it


def calls_of(ledger: Ledger) -> list[Call]:
    """Return every call of a run, every set-up of a fixture included."""
    rows = chain[TestRow | FixtureRow](ledger.tests, ledger.fixtures)
    return [*chain.from_iterable(row.calls for row in rows), *ledger.outside_tests]


def own_verdicts(test: TestRow) -> tuple[Verdict, ...]:
    """Return the verdicts on one attempt of a test, the decisive one first."""
    return test.blocks if test.verdict is None else (test.verdict, *test.blocks)


_LONG = ("fixtures", "outside_tests", "payloads", "tests")
"""What grows with the run. It is written in batches, so that a long run needs no second copy."""
_BATCH = 50
_PLAIN = Context(prec=61, Emin=0, Emax=60, traps=[Clamped, Inexact, InvalidOperation, Overflow])
"""Signals at an amount so long that to show it, or to add it up, could take endlessly."""


def _amount_keys(kind: Any, name: str = "") -> Iterator[str]:
    """Yield the keys of all amounts in a type, at any depth."""
    if kind is Decimal:
        yield name
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield from _amount_keys(field.type, field.encode_name)
    for inner in get_args(kind):
        yield from _amount_keys(inner, name)


# A quote within a text is escaped, so that what these match is a key and its value, and no text.
# They begin with fixed letters, because those are found several times as fast. Compiled when they
# are needed: most runs neither read nor write a ledger.
@cache
def _unusual() -> re.Pattern[bytes]:
    """Find an amount that `str` writes with an exponent, zeros at its end, or as a negative zero.

    It is one of a ledger, or under a key in `usd`.
    """
    names = ["usd", *sorted({f'"{name}' for name in _amount_keys(Ledger)})]
    keys = "|".join(rf'(?<={name}":")' for name in names)
    form = r'":"(?=(?:-?\d+\.\d*0|-?[\d.]+E[+-]?\d+|-0)")(?:{})([^"]*)'
    return re.compile(form.format(keys).encode())


def find_odd_amount(value: Any, *, is_difference: bool = False) -> str | None:
    """Return an amount in a value, at any depth, that is none of money; None if all are.

    It is not finite, endlessly long, or has a sign although it is no difference. A zero may be
    long, too: `0E-999999999`.
    """
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Decimal):
            try:
                is_plain = _PLAIN.plus(value).is_finite()
            except ArithmeticError:
                is_plain = False
            if not is_plain or (value.is_signed() and not is_difference):
                return f"{value!s:.40}"
        elif isinstance(value, msgspec.Struct):
            fields = _with_amounts(type(value))
            # Most of them have their default, of which nothing was written.
            waiting += [each for name, left in fields if (each := getattr(value, name)) is not left]
        elif value:
            waiting += value.values() if isinstance(value, Mapping) else value
    return None


@cache
def _with_amounts(kind: type[msgspec.Struct]) -> list[tuple[str, object]]:
    """Return the fields of a type that are amounts, or have some in them, with their defaults."""
    known = msgspec.structs.fields(kind)
    return [
        (each.name, each.default) for each in known if any(True for _ in _amount_keys(each.type))
    ]


class _Schema(msgspec.Struct):
    schema: str = ""


def read_ledger(path: str | os.PathLike[str]) -> Ledger:
    """Read a ledger; keys that this version does not know are ignored.

    Raises:
        LedgerError: the file cannot be read, is damaged, of a newer schema, or no ledger.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror or error})") from None
    return parse_ledger(data, str(path))


def parse_ledger(data: bytes, source: str) -> Ledger:
    """Read a ledger's JSON as `read_ledger` does; the source names it in errors."""
    try:
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            ours, _, newest = SCHEMA.rpartition("/")
            name, _, version = schema.rpartition("/")
            why = f"not {SCHEMA}; it is not a ledger of pytest-llmcost"
            if name == ours and (read_digits(version) or 0) > int(newest):
                why = f"newer than {SCHEMA}; update pytest-llmcost"
            raise LedgerError(f"{source}: has the schema {schema!r}, {why}")
        ledger = msgspec.json.decode(data, type=Ledger, dec_hook=decode_caveat)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LedgerError(
            f"{source}: is not a ledger of pytest-llmcost, or is damaged ({error})"
        ) from None
    odd = find_odd_amount(msgspec.structs.replace(ledger, comparison=None))
    if odd := odd or find_odd_amount([ledger.comparison], is_difference=True):
        raise LedgerError(f"{source}: is damaged, {odd} is not an amount of money")
    sampling_calls = [each for call in calls_of(ledger) for each in call.sampling_calls]
    if (impossible := find_impossible(sampling_calls)) is not None:
        raise LedgerError(f"{source}: is damaged, a call has {impossible}")
    return ledger


def write_ledger(ledger: Ledger, path: str | os.PathLike[str]) -> None:
    """Write a ledger as JSON, whole or not at all; its folders are made.

    Raises:
        LedgerError: the file cannot be written.
    """
    write_file(path, _chunks(ledger))


def render_json(ledger: Ledger) -> bytes:
    """Render a ledger as JSON: sorted, indented by one space, ending in a line feed."""
    return b"".join(_chunks(ledger))


def to_json(value: Any) -> Any:
    """Make builtins of a value of ours, money as text in plain digits."""
    return msgspec.json.decode(_compact(value))


def _compact(value: Any, order: Literal["sorted"] | None = None) -> bytes:
    try:
        text = msgspec.json.encode(value, enc_hook=encode_caveat, order=order)
    except UnicodeEncodeError:  # a node id from a file name that is no UTF-8
        whole = msgspec.to_builtins(value, enc_hook=encode_caveat, order=order)
        written = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        # As the text of its escape sequence: a reader refuses the sequence itself.
        text = re.sub("[\ud800-\udfff]", lambda half: f"\\\\u{ord(half[0]):x}", written).encode()

    def plain(amount: re.Match[bytes]) -> bytes:
        return b'":"' + plain_usd(Decimal(amount[1].decode())).encode()

    text = text.replace(b'"by_category":{},', b"")
    if isinstance(value, (Totals, Comparison)):
        text = text.replace(b'"by_tag":{},', b"").replace(b'"vanished":[],', b"")
    return _unusual().sub(plain, text)


def _batches(rows: Any) -> Iterator[Any]:
    """Cut a mapping, by its sorted keys, or a sequence; yield it whole if it is short."""
    keys = sorted(rows) if isinstance(rows, Mapping) else rows
    for start in range(0, max(len(keys), 1), _BATCH):
        batch = keys[start : start + _BATCH]
        yield {key: rows[key] for key in batch} if isinstance(rows, Mapping) else batch


def _chunks(ledger: Ledger) -> Iterator[bytes]:
    opening = b"{"
    for name in sorted(ledger.__struct_fields__):
        yield opening + b"\n " + msgspec.json.encode(name) + b": "
        value, closing = getattr(ledger, name), b""
        for batch in _batches(value) if name in _LONG else [value]:
            # Within brackets, so that it is indented once more; these are cut off.
            text = msgspec.json.format(b"[%b]" % _compact(batch, "sorted"), indent=1)[3:-2]
            yield b"," + text[1:-3] if closing else text[:-3]
            closing = text[-3:]
        yield closing
        opening = b","
    yield b"\n}\n"


def write_file(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Replace a file by one that is complete, so that no reader ever sees half of it.

    Raises:
        LedgerError: the file cannot be written; what stood there before is left as it was.
    """
    try:
        write_atomic(Path(path), chunks)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror or error})") from None
