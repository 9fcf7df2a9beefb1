"""The `llmcost` fixture: what a test can count, state and limit, and what it can read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from inspect import currentframe
from pathlib import Path
from traceback import walk_stack
from typing import TYPE_CHECKING, Any, get_args

import pytest
from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.call import Call
from pytest_llmcost.counting.payload import Payload, changed_parts, describe_changes
from pytest_llmcost.counting.segments import (
    CachedPrompt,
    PromptState,
    calls_until_it_pays,
    plan_caching,
)
from pytest_llmcost.errors import (
    CountError,
    CountMissingError,
    LlmCostError,
    PriceError,
    SettingsError,
)
from pytest_llmcost.files import path_in_project
from pytest_llmcost.ledger.builder import settled
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.money import parse_usd, show_value
from pytest_llmcost.plugin.calls import (
    calls_in,
    calls_of,
    note_change,
    record,
)
from pytest_llmcost.plugin.marker import limits_of
from pytest_llmcost.plugin.owners import Owner, entered_blocks, tag
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.plugin.statements import declare
from pytest_llmcost.plugin.verdicts import budget_failure, judge_budget
from pytest_llmcost.prices.bill import Cost, price_request
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import (
    LONGEST,
    WRITTEN,
    SamplingCall,
    Terms,
    Usage,
    is_quantity,
    mapping,
    reply_limit,
)
from pytest_llmcost.responses.declared import read_declared, stated_body
from pytest_llmcost.responses.endpoints import Endpoint, bedrock_platform
from pytest_llmcost.responses.message import Answer, unknown_answer

if TYPE_CHECKING:
    from pytest_llmcost.counting.segments import PromptParts, Segment


OFF = "llmcost is off (--no-llmcost), so there is no figure to look at"
"""A test that looks at a figure is skipped then; one that only counts runs on."""
_STATES = get_args(PromptState)


@dataclass(frozen=True)
class Counted:
    """What a payload costs, by a count of its tokens.

    A figure raises PriceError if the model has no price, and one that `record` was not given. Those
    of the cache need `count(..., cache=...)` and raise SettingsError without it.
    """

    call: Call | None
    session: Session | None = field(default=None, repr=False, compare=False)
    prompt: CachedPrompt | None = field(default=None, repr=False, compare=False)

    @property
    def input_tokens(self) -> int:
        """The whole prompt in tokens, as `count_tokens` states it."""
        tokens = self._known().usage.prompt_tokens
        if not tokens:  # no prompt is empty
            raise PriceError("the tokens of this call were not stated; its price was")
        return tokens

    @property
    def fingerprint(self) -> str | None:
        """Tells this payload from others."""
        return self._known().fingerprint

    @property
    def evidence(self) -> str:
        """`counted`."""
        return self._known().evidence

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why the figure is a bound, if it is one."""
        return self._known().caveats

    @property
    def cost(self) -> Cost:
        """The itemised bill, with its bounds."""
        return self._bill()

    @property
    def usd(self) -> Decimal:
        """The list price in US dollars, or what `record` was given."""
        stated = self._known().declared_usd
        return self.cost.usd if stated is None else stated

    @property
    def cold(self) -> Cost:
        """The bill of the first call, which writes everything that is cached."""
        return self._bill("cold")

    @property
    def warm(self) -> Cost:
        """The bill of each later call within the life of the cache, which reads all of it."""
        return self._bill("warm")

    @property
    def uncached(self) -> Cost:
        """The bill of a call without caching."""
        return self._bill("none")

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The tokens up to each breakpoint and after the last; together the whole prompt."""
        return self._cached().segments

    @property
    def cache_notes(self) -> tuple[str, ...]:
        """What is not cached and why, for example a prefix that is too short for the model."""
        return self._cached().notes

    @property
    def calls_until_caching_pays(self) -> int | None:
        """The number of calls from which caching is cheaper; None if it never is."""
        return calls_until_it_pays(
            cold_usd=self.cold.usd, warm_usd=self.warm.usd, none_usd=self.uncached.usd
        )

    def _cached(self) -> CachedPrompt:
        self._known()
        if self.prompt is None:
            raise SettingsError(
                "the cached prefixes were not counted; write llmcost.count(..., "
                'cache="cold"), or "warm", or "none"'
            )
        return self.prompt

    def _bill(self, state: PromptState | None = None) -> Cost:
        """Return the bill of the call, or of its prompt in a state of the cache."""
        call, session = self._known(), self.session
        assert session is not None
        sampling_calls, cache_state = call.sampling_calls, session.settings.cache
        if state is not None:
            usage = self._cached().usage(state)
            (sampling,) = sampling_calls
            usage = replace(usage, output_tokens=sampling.usage.output_tokens)
            sampling_calls, cache_state = (replace(sampling, usage=usage),), "as-billed"
        elif call.declared_usd is not None:  # whatever its tokens would cost
            raise PriceError("a price that was stated has no itemised bill; read usd instead")
        on = session.price_date
        return price_request(
            session.card, sampling_calls, call.context, on=on, cache_state=cache_state
        )

    def _known(self) -> Call:
        if self.call is None:
            pytest.skip(OFF)
        return self.call


def _given(
    method: str, payload: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the payload, in whichever of the two ways it was given."""
    __tracebackhide__ = True
    if payload is not None and keywords:
        names = ", ".join(f"{name}=" for name in keywords)
        raise SettingsError(
            f"{method} takes a payload or keywords, not both; got a payload and {names}"
        )
    return keywords if payload is None else payload


class LlmCost:
    """What a test can ask; made anew for every attempt of every test."""

    def __init__(self, session: Session | None, item: pytest.Item) -> None:
        """Work for one test; without a session, everything is off."""
        self._session = session
        self._item = item

    def count(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        output_tokens: int | str | None = None,
        cache: PromptState | None = None,
        **keywords: Any,
    ) -> Counted:
        """Count what one would send to `messages.create`, and price it.

        Args:
            payload: the keywords of `messages.create` as one mapping, or give them as keywords.
            output_tokens: how long the reply will be, in tokens, or `"max"` for the payload's
                `max_tokens`, the worst case; without it the input alone is priced.
            cache: count the prompt's cached prefixes too, and price them as written (`cold`), as
                read (`warm`), or as plain input (`none`). By default the cache state of the test's
                marker or of the run applies, otherwise plain input.
            keywords: the payload, if it is not given as a mapping.

        Raises:
            CountError: no recorded count and no permission to go online, or the API refused.
            PayloadError: the payload is not JSON; names the path inside it.
        """
        __tracebackhide__ = True
        given = _given("count", payload, keywords)
        session, item = self._session, self._item
        if session is None:
            return Counted(None)
        try:
            sender, sent = session.sender(), None
            try:
                sent = session.counts.read(given, item)
                answer, prompt = _expect_answer(
                    session, sender.owner, sent, item, output_tokens, cache
                )
            except Exception as error:
                if sent is not None and (likely := session.card.likely(sent.model)):
                    session.note(f"{sent.model} has no price. Did you mean {likely}?")
                # The payload does not become free if the test catches this, or fails by it.
                record(session, sender, _uncounted_answer(given, sent, error), sent, "counted")
                raise
            call = record(session, sender, answer, sent, "counted", prompt)
            return Counted(call, session, prompt)
        except LlmCostError as error:
            # The message says it all; our own frames would only hide the line that asked.
            raise error.with_traceback(None) from None

    async def acount(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        output_tokens: int | str | None = None,
        cache: PromptState | None = None,
        **keywords: Any,
    ) -> Counted:
        """Count in a thread, so that an event loop goes on; otherwise as `count`."""
        from anyio import to_thread  # comes with the SDK; asyncio and trio alike

        if self._session is not None:
            # A fixture, such as the client, is set up in the thread that runs the tests alone.
            with contextlib.suppress(Exception):  # counting meets it again, and records it
                self._session.counts.make_client_ready(self._session.owner)
        return await to_thread.run_sync(
            lambda: self.count(payload, output_tokens=output_tokens, cache=cache, **keywords)
        )

    def parts(self, payload: Mapping[str, Any] | None = None, **keywords: Any) -> PromptParts:
        """Count what each part of a prompt takes: tools, system prompt, messages, and the rest.

        This is no call: it costs nothing, and counts for no budget.

        Args:
            payload: the keywords of `messages.create` as one mapping, or give them as keywords.
            keywords: the payload, if it is not given as a mapping.

        Raises:
            CountError: no recorded count and no permission to go online, or the API refused.
            PayloadError: the payload is not JSON, or has no messages.
        """
        __tracebackhide__ = True
        given = _given("parts", payload, keywords)
        session = self._session
        if session is None:
            pytest.skip(OFF)
        try:
            sent = session.counts.read(given, self._item)
            owner = session.owner
            owner.has_spent = True  # so that its counts are saved, and an error is explained
            return session.counts.parts(owner, sent)
        except LlmCostError as error:
            raise error.with_traceback(None) from None

    def record(
        self, response: Any, *, model: str | None = None, usd: object | None = None
    ) -> Counted:
        """State what a call cost that cannot be seen: a mocked SDK method, a subprocess.

        If the cost of a call of this test is unknown, for example because its stream was not read
        to its end, a message with its id takes its place, or a usage if there is only one such
        call. Region, speed and the like are then those of its request, if the usage names none.

        Args:
            response: an SDK `Message`, a usage object or mapping, or an agent's result with
                `total_cost_usd`. Results with the same `session_id` state a running total, so only
                what the total has grown by within this test is added.
            model: the model, if the response does not name it.
            usd: the price itself, if you know it better.

        Raises:
            UsageDataError: the response has no usage that can be read.
        """
        __tracebackhide__ = True
        if self._session is None:
            return Counted(None)
        try:
            stated = None if usd is None else parse_usd(usd)
            read = partial(read_declared, stated_body(response), model=model, usd=stated)
            call = declare(self._session, read)
        except LlmCostError as error:
            raise error.with_traceback(None) from None
        return Counted(call, self._session)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The test's calls so far; a payload that was counted and then sent is one."""
        session = self._session
        if session is None:
            pytest.skip(OFF)
        return tuple(calls_of(session, session.owner))

    @property
    def usd(self) -> Decimal:
        """The list price of the test so far.

        Raises:
            PriceError: a call has no price; the message says why.
        """
        calls = self.calls
        if unpriced := [call for call in calls if call.usd is None]:
            caveats = sorted({caveat for call in unpriced for caveat in call.caveats})
            raise PriceError("no price: " + ("; ".join(caveats) or "unknown"))
        return Amounts.of(calls).priced_usd

    @property
    def usage(self) -> Usage:
        """The tokens of the test so far that are paid for."""
        return Amounts.of(self.calls).usage

    tag = staticmethod(tag)

    @contextmanager
    def budget(self, limit: object, *, reason: str | None = None) -> Iterator[None]:
        """Give the calls inside the block a budget of their own.

        Args:
            limit: an amount, such as `"$0.01"`.
            reason: why this much, for whoever reads the failure.
        """
        amount, session = parse_usd(limit), self._session
        if session is None:
            yield
            return
        stack = ((frame.f_code.co_filename, line) for frame, line in walk_stack(currentframe()))
        path, line = next(each for each in stack if each[0] not in (__file__, contextlib.__file__))
        origin = f"{path_in_project(Path(path), session.config.rootpath)}:{line}"
        budget = Budget(
            scope="block",
            limit=amount,
            origin=origin,
            label="budget",
            reason=reason,
            warn_at=session.settings.warn_at,
        )
        sender, calls = session.sender(), list[Call]()
        owner = sender.owner
        settings, test = session.settings, owner.item
        state = settings.cache if test is None else limits_of(test, settings).cache
        if state != settings.cache:
            budget = replace(budget, cache_state=state)
        session.settle(owner)
        owner.open_blocks[id(calls)] = calls, sender.phase
        entered_blocks.set((*entered_blocks.get(), calls))
        try:
            yield
        finally:  # what a block has spent by the time it raises is spent
            session.settle(owner)
            del owner.open_blocks[id(calls)]
            # By identity: a block inside this one may hold the very same calls.
            entered = (each for each in entered_blocks.get() if each is not calls)
            entered_blocks.set(tuple(entered))
            spent = calls_in(session, settled(calls), state)
            verdict = judge_budget(session, owner, budget, spent)
            owner.has_spent = True
            owner.blocks.append((verdict, spent))
            note_change(session, owner)
        if verdict.fails(session.settings.unverified):
            raise budget_failure(owner, verdict, spent)


# The answer that a payload is expected to get


def _expect_answer(
    session: Session,
    owner: Owner,
    payload: Payload,
    item: pytest.Item,
    asked_output: int | str | None,
    state: PromptState | None,
) -> tuple[Answer, CachedPrompt | None]:
    """Count a payload, and its cached prefixes if the test, its marker or the run asks for them.

    Without an output, the answer is that of the input alone. Its errors are those of `count(...)`.
    """
    output_tokens = _read_output(payload, asked_output)
    if state is not None and state not in _STATES:
        raise SettingsError(f"cache={show_value(state)} is not one of {', '.join(_STATES)}")
    is_column, prompt = False, None
    if state is None and payload.breakpoints:
        limits = limits_of(item, session.settings)
        state = None if limits.cache == "as-billed" else limits.cache
        has_worst = any(budget.kind == "worst" for budget in limits.budgets)
        is_column = state is None and (has_worst or bool(session.settings.columns))
    count = session.counts.count(owner, payload)
    if state is not None or is_column:
        read = session.counts.reader(item, payload)
        # A column that cannot be filled fails no test; a budget may.
        harmless = (CountError,) if is_column else ()
        with contextlib.suppress(*harmless):
            prompt = session.counts.split(owner, plan_caching(payload, read=read))
            cold = prompt.usage("cold")
            written: dict[str, int] = {life: getattr(cold, name) for life, name in WRITTEN.items()}
            facts = PayloadFacts(model=payload.model, parts=payload.parts, cached=written)
            session.ledger.learn(payload.fingerprint, facts)
    usage = Usage(input_tokens=count.input_tokens, output_tokens=output_tokens or 0)
    cached: dict[str, Any] = {}
    if prompt is not None and state is not None:
        usage = replace(prompt.usage(state), output_tokens=usage.output_tokens)
        cached["read_lifetime"] = payload.lifetime if usage.cache_read_tokens else None
    elif payload.breakpoints:
        least = session.least_cacheable(payload.model)
        if least is None or count.input_tokens >= least:
            # A prompt priced as plain input may be cached: a bound, the most expensive of several.
            cached["may_cache"] = payload.lifetime or LONGEST
    caveats = [*count.caveats]
    if output_tokens is None:
        caveats.append("input-only")
    before = None
    if count.before is not None:
        before = count.before.input_tokens
        changes = describe_changes(changed_parts(count.before.parts, payload.parts))
        caveats += [f"changed-prompt: {changes}"] if changes else []
    return _answer(payload, usage, caveats=caveats, before=before, **cached), prompt


def _uncounted_answer(given: object, payload: Payload | None, error: Exception) -> Answer:
    """Return what is known of a payload whose count failed: an unknown price, not $0."""
    if not isinstance(error, CountError):  # its text may quote the prompt
        error = CountError(f"counting ended with {type(error).__name__}")
    if payload is None:  # it could not be read
        why = f"count-failed: {error.for_files}"
        return unknown_answer(Endpoint(kind="messages"), mapping(given), why)
    if not isinstance(error, CountMissingError):
        return _answer(payload, None, caveats=[f"count-failed: {error.for_files}"])
    changes = describe_changes(error.changed)
    why = f"uncounted: changed: {changes}" if changes else "uncounted: no recorded count"
    return _answer(payload, None, caveats=[why], before=error.before)


def _answer(
    payload: Payload,
    usage: Usage | None,
    *,
    caveats: Sequence[str] = (),
    before: int | None = None,
    **cached: Any,
) -> Answer:
    """Return what a payload uses, None if unknown; `before` its input tokens until it changed."""
    asked = str(payload.body.get("model", ""))
    speed, geography = payload.body.get("speed"), payload.body.get("inference_geo")
    then = None
    if before is not None:
        output_tokens = 0 if usage is None else usage.output_tokens
        then = _answer(payload, Usage(input_tokens=before, output_tokens=output_tokens))
    sampling_calls: tuple[SamplingCall, ...] = ()
    if usage is not None:
        sampling_calls = (SamplingCall(model=payload.model, usage=usage, **cached),)
    return Answer(
        model=payload.model,
        usage=Usage() if usage is None else usage,
        sampling_calls=sampling_calls,
        terms=Terms(  # a response may say otherwise
            speed=speed if isinstance(speed, str) else None,
            inference_geo=geography if isinstance(geography, str) else None,
            platform=bedrock_platform(asked) if "anthropic." in asked else None,
        ),
        caveats=sorted_caveats(caveats) if caveats else (),
        before=then,
    )


def _read_output(payload: Payload, output_tokens: int | str | None) -> int | None:
    """Return how long a reply is taken to be; `"max"` is the payload's `max_tokens`."""
    if output_tokens == "max":
        most = reply_limit(payload.body)
        if most is None:
            raise SettingsError(
                'output_tokens="max", but the payload has no usable max_tokens; set it, or pass a '
                "number as output_tokens="
            )
        return most
    if output_tokens is not None and not is_quantity(output_tokens):
        raise SettingsError(
            f"output_tokens={show_value(output_tokens)} is neither a number from 0 to 10^9 nor "
            '"max"'
        )
    return output_tokens
