"""Counter: how many tokens a payload is, from the test's count cassette or from the API.

Data flow: Payload -> the cassette, by fingerprint -> else, where the mode allows, the API's
`count_tokens` through the real SDK -> Count, and an entry in the cassette.
"""

from __future__ import annotations

import inspect
import shlex
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

import msgspec

from pytest_llmcost.errors import CountError, CountMissingError
from pytest_llmcost.metering.api_error import (
    explain_block,
    explain_failure,
    message_of,
    status_of,
)
from pytest_llmcost.metering.cassette import CountCassette, Entry
from pytest_llmcost.metering.count_file import show_path
from pytest_llmcost.metering.countable import NEEDS_BETA, countable
from pytest_llmcost.metering.payload import Payload, changed_parts, describe_changes
from pytest_llmcost.metering.refusal import Trimmed, leave_out, sampling_tools
from pytest_llmcost.metering.sending import (
    OWN_REQUEST,
    NetworkBlocked,
    own_request,
    past_recorders,
)

__all__ = ["MODES", "OWN_REQUEST", "Asker", "Count", "Counter", "Mode", "make_client"]

Mode = Literal["none", "once", "new_episodes", "all", "rewrite", "live"]
MODES: tuple[Mode, ...] = ("none", "once", "new_episodes", "all", "rewrite", "live")
"""pytest-recording's, and `live` (--disable-recording): count, read nothing, write nothing."""

_MOST_REFUSALS = 30


class Asker(NamedTuple):
    """Who counts: a test's node id, or a fixture's name."""

    name: str
    """As it stands in the cassette."""
    run: str | None = None
    """What to give to pytest to have it counted; nothing where it is the name."""
    options: tuple[str, ...] = ()
    """Further options that the count needs, `--llmcost-model X` say."""

    @property
    def command(self) -> str:
        """The exact command that records its counts."""
        words = ["pytest", self.run or self.name, *self.options]
        return f"{shlex.join(words)} --llmcost-record-mode=new_episodes"


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a payload is."""

    input_tokens: int
    """The whole prompt; a lower bound where something is left out."""
    model: str
    fingerprint: str
    parts: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    recorded: bool = False
    """From a cassette, not from the API in this run."""


class _Answer(NamedTuple):
    input_tokens: int
    left_out: tuple[str, ...]


class Counter:
    """Counts for a whole session; any number of threads may count at once.

    A memo of what the API said only spares requests: every test still reads and writes its own
    cassette.
    """

    def __init__(self, make_client: Callable[[], object]) -> None:
        """Take what makes a synchronous SDK client; it is called once, when first needed."""
        self._make_client = make_client
        self._client: object | None = None
        self._memo: dict[str, Future[_Answer]] = {}
        self._lock = threading.Lock()
        self.requests = 0
        """How many counts the API was asked for, retries and refusals not counted."""

    def count(
        self, payload: Payload, *, cassette: CountCassette, mode: Mode, asker: Asker
    ) -> Count:
        """Count a payload as the mode allows; what the API says is saved at once.

        Raises:
            CountMissingError: not recorded, and the mode forbids to ask.
            CountCassetteError: the cassette could not be written.
            CountError: the API did not count it; the text says what to do.
        """
        if mode == "live":
            return _count_of(payload, self.ask(payload), recorded=False)
        known = None if mode in ("all", "rewrite") else cassette.find(payload.fingerprint)
        if known is None and not may_record(cassette, mode, asker):
            raise _missing(payload, cassette, mode, asker)
        answer = _Answer(known.input_tokens, known.left_out) if known else self.ask(payload)
        if may_record(cassette, mode, asker):
            cassette.put(_entry(payload, answer, asker))
            cassette.save_soon()
        return _count_of(payload, answer, recorded=known is not None)

    def ask(self, payload: Payload) -> _Answer:
        """Ask the API, unless it was asked the same in this session."""
        with self._lock:
            waiting = self._memo.get(payload.fingerprint)
            if waiting is None:
                self._memo[payload.fingerprint] = mine = Future[_Answer]()
        if waiting is not None:
            return waiting.result()
        try:
            mine.set_result(self._request(payload))
        except BaseException as error:
            del self._memo[payload.fingerprint]
            mine.set_exception(error)
            raise
        return mine.result()

    def client(self) -> Any:
        """The SDK client, made when first needed.

        Raises:
            CountError: when it is an asynchronous one, or cannot count.
        """
        with self._lock:
            if self._client is None:
                self._client = _checked_client(self._make_client())
            return self._client

    def _request(self, payload: Payload) -> _Answer:
        client = self.client()
        body, betas = countable(payload.body, beta=payload.needs_beta)[0], payload.betas
        body["model"] = _model_for(client, payload)
        left_out: list[str] = []
        with self._lock:
            self.requests += 1
        while True:
            try:
                tokens = _send(client, body, betas, payload.headers)
                return _Answer(tokens, tuple(sorted(left_out)))
            except CountError:
                raise
            except NetworkBlocked as blocked:
                raise explain_block(str(blocked), _host(client)) from None
            except Exception as error:  # noqa: BLE001 - the SDK's, httpx's and credentials' all
                trimmed = _trim(error, body, betas) if len(left_out) < _MOST_REFUSALS else None
                if trimmed is None:
                    raise _explain(error, payload, client) from None
            body, betas = trimmed.body, trimmed.betas
            left_out.append(trimmed.left_out)


def may_record(cassette: CountCassette, mode: Mode, asker: Asker) -> bool:
    """Whether a count may be asked for and written; `once` only for those new to the file."""
    if mode == "once":
        return not cassette.has_recorded(asker.name)
    return mode in ("new_episodes", "all", "rewrite")


def _trim(error: Exception, body: dict[str, Any], betas: tuple[str, ...]) -> Trimmed | None:
    return leave_out(body, betas, message_of(error)) if status_of(error) == 400 else None


def _explain(error: Exception, payload: Payload, client: object) -> CountError:
    return explain_failure(error, model=payload.model, host=_host(client))


def _send(
    client: Any, body: Mapping[str, Any], betas: tuple[str, ...], headers: Mapping[str, str]
) -> int:
    """One call of the SDK's `count_tokens`, unseen by VCR and by our capture."""
    rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
    asked: dict[str, Any] = {"model": body["model"], "messages": body.get("messages", [])}
    if rest:  # as the SDK's own extra, so that an older one takes what it does not know
        asked["extra_body"] = rest
    if headers:
        asked["extra_headers"] = dict(headers)
    with own_request():
        unseen = past_recorders(client)
        if betas or not NEEDS_BETA.isdisjoint(rest):
            counted = unseen.beta.messages.count_tokens(betas=list(betas), **asked)
        else:
            counted = unseen.messages.count_tokens(**asked)
    tokens = getattr(counted, "input_tokens", None)
    if not isinstance(tokens, int):
        raise CountError(
            f"{_host(client)} answered without a number of tokens ({counted!r:.200}); it may not "
            "be the Messages API: check ANTHROPIC_BASE_URL or the fixture llmcost_client"
        )
    return tokens


def _model_for(client: object, payload: Payload) -> str:
    """The name as asked for, unless it is a cloud's and the client is not."""
    asked: str = payload.body["model"]
    of_cloud = "anthropic." in asked or not set("@:[").isdisjoint(asked)
    at_cloud = type(client).__name__.startswith(("AnthropicVertex", "AnthropicBedrock"))
    return payload.model if of_cloud and not at_cloud else asked


def _checked_client(client: object) -> object:
    counting = getattr(getattr(client, "messages", None), "count_tokens", None)
    name = type(client).__name__
    if counting is None:
        raise CountError(
            f"llmcost_client gave {name}, which has no messages.count_tokens; return a client "
            "of the anthropic SDK, anthropic.Anthropic() say"
        )
    if inspect.iscoroutinefunction(counting) or name.startswith("Async"):
        raise CountError(
            f"llmcost_client gave {name}; return the synchronous client, "
            f"{name.removeprefix('Async')}(): acount runs it in a thread of its own"
        )
    return client


def _host(client: object) -> str:
    return str(getattr(getattr(client, "base_url", None), "host", None) or "the API")


def make_client() -> object:
    """The client that is used without an override: key and address from the environment."""
    import anthropic

    return anthropic.Anthropic()


def _entry(payload: Payload, answer: _Answer, asker: Asker) -> Entry:
    return Entry(
        fingerprint=payload.fingerprint,
        model=payload.model,
        asked_by=(asker.name,),
        parts=payload.parts,
        left_out=answer.left_out,
        input_tokens=answer.input_tokens,
    )


def _count_of(payload: Payload, answer: _Answer, *, recorded: bool) -> Count:
    return Count(
        input_tokens=answer.input_tokens,
        model=payload.model,
        fingerprint=payload.fingerprint,
        parts=payload.parts,
        left_out=answer.left_out,
        caveats=_caveats(payload, answer.left_out),
        recorded=recorded,
    )


def _caveats(payload: Payload, left_out: tuple[str, ...]) -> tuple[str, ...]:
    counted, unknown = countable(payload.body, beta=True)
    sampled = sorted(
        {name for name in sampling_tools(counted)} - {part.partition(".")[2] for part in left_out}
    )
    return tuple(
        sorted(
            [
                *(f"left-out: {part}" for part in left_out),
                *(f"unknown-field: {key}" for key in unknown),
                *(f"first-call-only: {name}" for name in sampled),
            ]
        )
    )


def _missing(
    payload: Payload, cassette: CountCassette, mode: Mode, asker: Asker
) -> CountMissingError:
    nearest = cassette.nearest(payload.parts, asker.name)
    changed = tuple(changed_parts(nearest.parts, payload.parts)) if nearest else ()
    where = show_path(cassette.path)
    if nearest is None:
        compared = f"{where} holds no counts yet"
    else:
        others = "" if asker.name in nearest.asked_by else f" of {nearest.asked_by[0]}"
        compared = (
            f"changed against the nearest payload{others} in {where}: "
            f"{describe_changes(changed) or 'only what has no digest'}"
        )
    return CountMissingError(
        f"no recorded token count for this payload of {payload.model} "
        f"({payload.fingerprint[:10]}, record mode {mode}); {compared}. "
        f"Count it, free of charge: {asker.command}",
        fingerprint=payload.fingerprint,
        changed=changed,
        command=asker.command,
    )
