"""What a reader of a run should know: old rates, long prompts, task budgets, misspelt names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from difflib import get_close_matches
from functools import partial

from msgspec.structs import replace

from pytest_llmcost.budgets.path_globs import TAG
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.ledger.ledger import Ledger, calls_of, function_of, own_verdicts
from pytest_llmcost.ledger.totals import counted_calls, spenders_of
from pytest_llmcost.money import EXACT, format_usd
from pytest_llmcost.prices.bill import price_sampling
from pytest_llmcost.prices.rate_card import RateCard

_NEAR = Decimal("0.9")
"""A prompt of this share of a length band is worth a note."""
_FAR_ABOVE = 10
"""Replies to one kind of prompt seldom differ by more than this; a `max_tokens` farther above the
longest of them cuts none, and only raises the worst case."""
_STALE_CARD_DAYS = 90
_MOST_NOTES = 5
_MOST_NAMES = 3
_MILLION = 6


def notes_of_run(ledger: Ledger, card: RateCard, *, every_test: bool) -> Iterator[str]:
    """Yield all that a ledger and its rate card tell; `every_test` as in `max_tokens_notes`."""
    on = date.fromisoformat(ledger.price_date)
    if calls_of(ledger) and (age := (on - card.checked_on).days) > _STALE_CARD_DAYS:
        yield (
            f"the rates were last updated {age} days before the price date ({card.checked_on}): "
            "update pytest-llmcost, or see `llmcost rates`"
        )
    yield from length_band_notes(ledger, card, on)
    yield from task_budget_notes(ledger, card, on=on)
    yield from max_tokens_notes(ledger, every_test=every_test)
    yield from missing_notes(ledger)


def length_band_notes(ledger: Ledger, card: RateCard, on: date) -> tuple[str, ...]:
    """Note the prompts that are within 10% under a length band, and what crossing it costs.

    The most expensive prompts come first, at most five.
    """
    found: set[tuple[Decimal, str]] = set()
    price = partial(price_sampling, card, on=on, cache_state=ledger.cache_state)
    for spender in spenders_of(ledger):
        for call in spender.calls:
            for each in call.sampling_calls:
                usage, tokens = each.usage, each.usage.prompt_tokens
                try:
                    bands = card.bands(each.model, on=on, speed=call.context.speed)
                    above = next((band.above for band in bands if tokens <= band.above), 0)
                    if not above or tokens < _NEAR * above:
                        continue
                    here = price(each, call.context).usd
                    more = usage.input_tokens + above + 1 - tokens
                    longer = replace(each, usage=replace(usage, input_tokens=more))
                    beyond = price(longer, call.context).usd
                except UnknownModelError:
                    continue
                note = (
                    f"{spender.name}: a prompt of {tokens:,} tokens is {above - tokens:,} under "
                    f"the band of {each.model}; above {above:,} the request costs "
                    f"{format_usd(beyond)} instead of {format_usd(here)}"
                )
                found.add((here.copy_negate(), note))
    return tuple(note for _, note in sorted(found)[:_MOST_NOTES])


def missing_notes(ledger: Ledger) -> Iterator[str]:
    """Yield a sentence for each budget of something that a run does not have; shards may."""
    # For each budget or marker, by its origin, whether something is there that it limits: a name
    # that is misspelt limits nothing.
    tools: dict[tuple[str, str], bool] = {}
    caches: dict[str, bool] = {}
    for test in ledger.tests:
        # A test without a call, skipped perhaps, does not say what it would have sent.
        for verdict in own_verdicts(test) if test.calls else ():
            origin, part = verdict.origin, verdict.part or ""
            if part.startswith("tools.") and verdict.actual is not None:
                tools[part, origin] = tools.get((part, origin), False) or bool(verdict.actual)
            elif verdict.kind == "stable_prefix" and verdict.label == "max_cost":
                prompts = [ledger.payloads.get(call.fingerprint or "") for call in test.calls]
                may_cache = any(each is None or each.breakpoints for each in prompts)
                caches[origin] = caches.get(origin, False) or may_cache
    parts = {part for facts in ledger.payloads.values() if tools for part in facts.parts}
    names = [part.removeprefix("tools.") for part in parts if part.startswith("tools.")]
    for (part, origin), is_there in sorted(tools.items()):
        alike = get_close_matches(part.removeprefix("tools."), names, 1)
        if not is_there and (alike or ledger.complete):
            hint = f"; did you mean tools.{alike[0]}?" if alike else ""
            yield f"no prompt has {part}, which {origin} limits{hint}"
    if ledger.complete:
        tags = ledger.totals.by_tag
        for budget in ledger.verdicts:
            tag = (budget.pattern or "").removeprefix(TAG)
            if budget.scope == "tag" and tag not in tags:
                hint = f"; the tags of the run are {', '.join(tags)}" if tags else ""
                if alike := get_close_matches(tag, tags, 1):
                    hint = f"; did you mean {TAG}{alike[0]}?"
                yield f"no call has the tag of the budget for {TAG}{tag}{hint}"
        for origin, may_cache in sorted(caches.items()):
            if not may_cache:
                yield f"no prompt has a cache_control, although {origin} requires a stable prefix"


def task_budget_notes(ledger: Ledger, card: RateCard, *, on: date) -> Iterator[str]:
    """Yield a sentence for each task budget in a run's payloads, with the tests that state it.

    Its tokens are thinking, tool calls, their results and text together, over a whole task; their
    highest price is that of output, which is the most expensive kind.
    """
    tests: dict[tuple[str, int], dict[str, None]] = {}
    for spender in spenders_of(ledger):
        for call in spender.calls:
            payload = ledger.payloads.get(call.fingerprint or "")
            if payload is not None and payload.task_budget is not None:
                key = (payload.model, payload.task_budget)
                tests.setdefault(key, {})[function_of(spender.name)] = None
    for (model, tokens), names in sorted(tests.items()):
        shown = ", ".join([*names][:_MOST_NAMES])
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        try:
            rate = card.rates(model, on=on).usd["output"]
            usd = EXACT.scaleb(EXACT.multiply(rate, tokens), -_MILLION)
            price = f"; all of it as output of {model} would be {format_usd(usd)}"
        except UnknownModelError:
            price = ""
        yield (
            f"task budget of {tokens:,} tokens in {shown}{more}: advisory, nothing enforces it, "
            f"so it bounds no price{price}"
        )


def max_tokens_notes(ledger: Ledger, *, every_test: bool) -> tuple[str, ...]:
    """Note requests whose `max_tokens` is far above every reply of the same test, at most five.

    Of tests with a worst-case budget, or of every test. A count says nothing of a reply's length.
    """
    longest: dict[str, tuple[int, int]] = {}
    for test in ledger.tests:
        if every_test or any(each.kind == "worst" for each in own_verdicts(test)):
            for call in test.calls:
                used = call.billed_usage.output_tokens
                if call.max_tokens and used and call.evidence in ("billed", "recounted", "mocked"):
                    name = function_of(test.nodeid)
                    most, longest_used = longest.get(name, (0, 0))
                    longest[name] = max(most, call.max_tokens), max(longest_used, used)
    far = [
        (
            used - most,
            f"{name}: max_tokens of {most:,} is {most // used:,} times its longest "
            f"reply ({used:,} token{'s' if used > 1 else ''}), and the worst case pays for all "
            "of it",
        )
        for name, (most, used) in longest.items()
        if most > _FAR_ABOVE * used
    ]
    return tuple(note for _, note in sorted(far)[:_MOST_NOTES])


def mock_notes(ledger: Ledger) -> list[str]:
    """Note how many calls cost what a mock says."""
    mocked = sum(call.evidence == "mocked" for call in counted_calls(ledger))
    note = (
        f"{mocked:,} call{'s' if mocked > 1 else ''} cost what a mock says, even if the prompt "
        "grows; to count the prompts instead: pytest --llmcost-mocks=count"
    )
    return [note] if mocked else []
