"""The cap on live spend: a request's worst case is reserved before it leaves, and settled later.

What is reserved by all processes of a run stands in one file, changed under a lock. What cannot be
bounded is refused: the cap is never exceeded by what the API bills.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import reduce
from typing import Any

import msgspec

from pytest_llmcost.call import price
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.errors import LiveCapError, LlmCostError
from pytest_llmcost.files import LockError, locked, write_atomic
from pytest_llmcost.money import EXACT, format_usd, format_whole_usd
from pytest_llmcost.plugin.owners import Sender
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.prices.usage import HELD, LONGEST, reply_limit, tools_of
from pytest_llmcost.responses.message import Answer, model_of, read_answer, read_lifetime
from pytest_llmcost.responses.stream import StreamedMessage

_ZERO = Decimal(0)
_MOST_PER_IMAGE = 5_000
"""Source: https://platform.claude.com/docs/en/build-with-claude/vision, 4,784 at most."""
_MOST_ADDED = 1_000
"""Tokens that the API adds to a prompt with tools, 313 to 804, or for the form of an answer."""
_ADDED_PER_TOOL = {
    **dict.fromkeys((
        "custom", "bash_20241022", "bash_20250124", "computer_20241022", "computer_20250124",
        "computer_20251124", "text_editor_20241022", "text_editor_20250124", "text_editor_20250429",
        "text_editor_20250728",
    ), 1_000),
    "memory_20250818": 2_500, "computer_toolset_20260801": 6_000, "browser_toolset_20260801": 9_000,
}  # fmt: skip
"""More tokens than the API adds for each tool, beside what the request says of it.

The page states 244 or 325 for bash, 700 for the text editor, 735 for a computer, about 4,500 and
6,600 for the toolsets; none for memory, which has six commands to the editor's four. Source:
https://platform.claude.com/docs/en/about-claude/pricing, read 2026-11-27."""

_THREAD = threading.local()
"""`is_changing` while the thread changes what is reserved."""


class _UnboundedError(Exception):
    """Why a request has no worst case."""


class LiveCap:
    """What is left of the cap in this run; pickled, it goes to a spawned child."""

    def __init__(self, session: Session) -> None:
        """Nothing is spent yet, or what the file says that the run's other processes have."""
        settings = session.settings
        self._session: Session | None = session
        self._path = session.run_folder / "live-spend"
        self._card, self._on = session.card, session.price_date
        self._cap = settings.max_live or _ZERO
        self._set_by = (
            f"the {format_whole_usd(self._cap)} cap on live spend set by "
            f"{settings.origin('max_live')}"
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session behind: a child has none."""
        return {**vars(self), "_session": None}

    def reserve(self, request: CapturedRequest) -> None:
        """Reserve the worst case of a request that is about to leave.

        Raises:
            LiveCapError: it does not fit, or has no worst case.
        """
        __tracebackhide__ = True
        if request.endpoint.kind not in ("messages", "batch_create", "unmetered"):
            return
        if request.endpoint.model and request.payload and not request.is_claude:
            return  # another vendor's model, by an ARN of Bedrock's that names none
        cap, set_by = self._cap, self._set_by
        name = model_of(request.endpoint, request.payload) or "a request"
        try:
            worst, how = self._worst(request)

            def reserve(spent: Decimal) -> Decimal:
                together = EXACT.add(spent, worst)
                return together if together <= cap else spent

            left = EXACT.subtract(cap, self._change(reserve))
        except _UnboundedError as error:
            why, cause = f"{error}, so {set_by} cannot allow it", None
        except Exception as error:  # noqa: BLE001 - raised below
            why, cause = f"{set_by} cannot be checked: {error}", error
        else:
            if worst <= left:
                request.reserved = worst
                return
            left = max(_ZERO, left)
            dollars, rest = format_usd(worst, against=left), format_usd(left, against=worst)
            why, cause = f"it may cost {dollars} ({how}), and {rest} is left of {set_by}", None
        raise LiveCapError(f"{name} was not sent: {why}") from cause

    def settle(self, request: CapturedRequest) -> None:
        """Keep of the reservation what the request has cost at most; all of it if unknown."""
        reserved, cost = request.reserved, request.reserved
        assert reserved is not None
        try:
            if not (request.is_answered or request.is_lost or request.error):
                cost = _ZERO  # refused by the API, or never sent
            elif request.is_answered and request.endpoint.kind == "messages":
                answer = request.variant(lost_attempts=None).read()  # this attempt's own
                cost = _ZERO if answer is None else self._most(answer, request.payload)
            if cost is not None and cost != reserved:
                free = EXACT.subtract(reserved, cost)
                self._change(lambda spent: EXACT.subtract(spent, free))
        except Exception as error:  # noqa: BLE001 - the code under test has its answer already
            if self._session is not None:
                self._session.note(f"the worst case of a request stays reserved: {error!r}")

    def _change(self, change: Callable[[Decimal], Decimal]) -> Decimal:
        """Change what is spent and reserved, by all processes; return what it was."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        if getattr(_THREAD, "is_changing", False):  # it would wait for the lock that it has
            raise LockError("the garbage collector has ended it while another one was reserved")
        _THREAD.is_changing = True
        try:
            with locked(self._path):
                before = Decimal(self._path.read_text("utf-8")) if self._path.exists() else _ZERO
                write_atomic(self._path, [str(change(before)).encode()])
        finally:
            _THREAD.is_changing = False
        return before

    # The worst case

    def _worst(self, request: CapturedRequest) -> tuple[Decimal, str]:
        endpoint, body = request.endpoint, request.payload
        if endpoint.kind == "unmetered":
            raise _UnboundedError(f"{endpoint.route} is not metered")
        if body is None:
            raise _UnboundedError("its body cannot be read")
        if endpoint.kind == "messages":
            return self._worst_of_one(request, body, len(request.sent))
        listed = body.get("requests")
        params = [each["params"] for each in listed] if isinstance(listed, list) else []
        if not params:
            raise _UnboundedError("its batch cannot be read")
        each = [self._worst_of_one(request, one, len(msgspec.json.encode(one))) for one in params]
        worst = reduce(EXACT.add, (usd for usd, _ in each))
        return worst, f"all {len(each):,} requests of its batch"

    def _worst_of_one(
        self, request: CapturedRequest, body: Mapping[str, Any], size: int
    ) -> tuple[Decimal, str]:
        """Return what the prompt, written to the cache if asked for, and the reply may cost."""
        endpoint = request.endpoint
        try:
            find, model = self._card.find, endpoint.model
            payload = read_payload(body, find=find, betas=request.betas, model=model)
        except LlmCostError as error:
            raise _UnboundedError(str(error)) from None
        if payload.continues is not None:
            raise _UnboundedError(f"{HELD}, which tool_runner(thread=False) does not ask for")
        most = payload.longest_reply
        if most is None:
            again = ", ".join(sorted(payload.samples_again))
            why = f"{again} may call a model again" if again else "it has no usable max_tokens"
            raise _UnboundedError(why)
        tokens = self._recorded_tokens(request, payload)
        how = f"a recorded count of its input, {most:,} output tokens"
        if tokens is None:
            kinds = list(_sources(body))
            if any(kind != ("image", "base64") for kind in kinds):
                raise _UnboundedError("the size of a file or document says nothing of its tokens")
            # A token is a byte at least, and what JSON escapes only makes it longer.
            tokens = size + _added_by_tools(body) + _MOST_PER_IMAGE * len(kinds)
            how = f"at most {tokens:,} input tokens for {size:,} bytes, {most:,} output tokens"
        written = tokens if payload.breakpoints else 0
        lifetime = read_lifetime(body) or LONGEST
        is_by_region = model is not None or str(endpoint.platform).startswith("bedrock")
        usage = {
            "input_tokens": tokens - written,
            "cache_creation_input_tokens": written,
            "cache_creation": {f"ephemeral_{lifetime}_input_tokens": written},
            "output_tokens": most,
            # A workspace may set one that costs more, as may a deployment of Foundry's, and the
            # request does not show it. Bedrock has neither, nor has what names a model in its URL.
            "inference_geo": body.get("inference_geo") or (None if is_by_region else "us"),
        }
        answer = read_answer(
            [StreamedMessage(body={"model": payload.model, "usage": usage})],
            endpoint=endpoint,
            payload=body,
            batch=endpoint.kind == "batch_create" or None,
            headers=request.headers,
        )
        worst = self._most(answer, body)
        if worst is None:
            raise _UnboundedError("its price has no upper bound")
        return worst, how

    def _recorded_tokens(self, request: CapturedRequest, payload: Any) -> int | None:
        # Asks for fixtures of the test, which is for the main thread alone.
        is_main = threading.current_thread() is threading.main_thread()
        if self._session is None or not is_main:
            return None
        assert isinstance(request.owner, Sender)
        try:
            entry = self._session.counts.job(request.owner.owner, payload).recorded
        except LlmCostError:
            return None
        return None if entry is None or entry.left_out or entry.refused else entry.input_tokens

    def _most(self, answer: Answer, body: Mapping[str, Any] | None) -> Decimal | None:
        most = reply_limit(body or {})
        return price(answer, self._card, on=self._on, max_tokens=most).usd_high


def _added_by_tools(body: Mapping[str, Any]) -> int:
    kinds = [str(tool.get("type") or "custom") for tool in tools_of(body)]
    for kind in kinds:
        if kind not in _ADDED_PER_TOOL:
            raise _UnboundedError(f"how many tokens {kind} adds to the prompt is unknown")
    return _MOST_ADDED + sum(_ADDED_PER_TOOL[kind] for kind in kinds)


def _sources(value: Any) -> Iterator[tuple[object, object]]:
    """Yield the kind of each block that has its content elsewhere or encoded."""
    if isinstance(value, Mapping):
        source = value.get("source")
        if isinstance(source, Mapping) and source.get("type") not in ("text", "content"):
            yield value.get("type"), source.get("type")
        value = [*value.values()]
    for each in value if isinstance(value, list) else ():
        yield from _sources(each)
