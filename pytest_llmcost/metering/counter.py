"""Counter: how many tokens a payload is, from the test's count cassette or from the API.

Data flow: Payload -> the cassette, by fingerprint -> else, where the mode allows, the API's
`count_tokens` through the real SDK -> Count, and an entry in the cassette.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from pytest_llmcost.errors import CountError
from pytest_llmcost.metering.api_error import (
    explain_block,
    explain_failure,
    message_of,
    show_body,
    status_of,
)
from pytest_llmcost.metering.cassette import CountCassette
from pytest_llmcost.metering.count import (
    MODES,
    Answer,
    Asker,
    Count,
    Mode,
    explain_missing,
    make_count,
    make_entry,
    recorded_answer,
)
from pytest_llmcost.metering.countable import NEEDS_BETA, countable
from pytest_llmcost.metering.patience import Patience, start
from pytest_llmcost.metering.payload import Payload
from pytest_llmcost.metering.refusal import Trimmed, leave_out
from pytest_llmcost.metering.sending import (
    OWN_REQUEST,
    NetworkBlocked,
    own_request,
    past_recorders,
)
from pytest_llmcost.metering.turn import Turn
from pytest_llmcost.pricing.usage import is_quantity

__all__ = ["MODES", "OWN_REQUEST", "Asker", "Count", "Counter", "Mode", "make_client"]

_MOST_REFUSALS = 30


class Counter:
    """Counts for a whole session; any number of threads may count at once.

    A memo of what the API said only spares requests: every test still reads and writes its own
    cassette.
    """

    def __init__(
        self,
        make_client: Callable[[], object],
        *,
        seconds: float = 60.0,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        """Take what makes a synchronous SDK client; it is called once, when first needed.

        One count takes `seconds` at most; `waiting` is told what one that takes long waits for.
        """
        self.seconds = seconds
        self.waiting = waiting
        self._make_client = make_client
        self._making = Turn()
        self._client: object | None = None
        self._memo: dict[str, Future[Answer]] = {}
        self._lock = threading.Lock()
        self.requests = 0
        """How many counts the API was asked for, retries and refusals not counted."""

    def count(
        self,
        payload: Payload,
        *,
        cassette: CountCassette,
        mode: Mode,
        asker: Asker,
        retries: int | None = None,
        patience: Patience | None = None,
    ) -> Count:
        """Count a payload as the mode allows; what the API says is saved at once.

        Args:
            payload: What would be sent.
            cassette: The asker's.
            mode: What may be asked and written.
            asker: Whose count it is.
            retries: How often the SDK tries again; the client's own setting unless given.
            patience: What is left of the time that this count may take; all of it unless given.

        Raises:
            CountMissingError: not recorded, and the mode forbids to ask.
            CountCassetteError: the cassette could not be written.
            CountError: the API did not count it; the text says what to do.
        """
        if mode == "live":
            return make_count(payload, self.ask(payload, retries, patience), recorded=False)
        known = None if mode in ("all", "rewrite") else cassette.find(payload.fingerprint)
        if known is None and not may_record(cassette, mode, asker):
            raise explain_missing(payload, cassette, mode, asker)
        answer = recorded_answer(known) if known else self.ask(payload, retries, patience)
        if may_record(cassette, mode, asker):
            cassette.put(make_entry(payload, answer, asker))
            cassette.save_soon()
        return make_count(payload, answer, recorded=known is not None)

    def ask(
        self, payload: Payload, retries: int | None = None, patience: Patience | None = None
    ) -> Answer:
        """Ask the API, unless it was asked the same in this session."""
        if OWN_REQUEST.get():
            raise CountError("the client of llmcost_client counts while it is sending a count")
        patience = patience or Patience(self.seconds, self.waiting)
        waiting = self._memo.get(payload.fingerprint)
        if waiting is None:
            client = self.client(patience)  # which may take a while, and count itself
            with self._lock:
                waiting = self._memo.get(payload.fingerprint)
                if waiting is None:
                    self._memo[payload.fingerprint] = mine = Future[Answer]()
        if waiting is not None:
            patience.wait(waiting, model=payload.model, host=_host(self._client))
            return waiting.result()
        try:
            mine.set_result(self._request(client, payload, retries, patience))
        except BaseException as error:
            del self._memo[payload.fingerprint]
            mine.set_exception(error)
            raise
        return mine.result()

    def client(self, patience: Patience | None = None) -> Any:
        """The SDK client, made when first needed, and anew once it has been closed.

        Raises:
            CountError: when it is an asynchronous one, or cannot count.
        """
        if self._making.is_mine:
            raise CountError(
                "llmcost_client counts while it is being made, and there is no client to count "
                "with; let the fixture count nothing"
            )
        seconds = self.seconds if patience is None else patience.left
        with self._making.taken(seconds) as is_free:
            if not is_free:
                raise CountError(
                    f"another thread has been making llmcost_client for {seconds:g} s; if the "
                    "fixture waits for this thread, let it not"
                )
            if self._client is None or _is_closed(self._client):
                self._client = _checked_client(self._make_client())
            return self._client

    def _request(
        self, client: Any, payload: Payload, retries: int | None, patience: Patience
    ) -> Answer:
        options = {} if retries is None else {"max_retries": retries}
        body, betas = countable(payload.body, beta=payload.needs_beta)[0], payload.betas
        body["model"] = _model_for(client, payload)
        left_out: list[str] = []
        with self._lock:
            self.requests += 1

        def send() -> int:
            watched = past_recorders(client, patience, **options)
            return _send(watched, body, betas, payload.headers)

        while True:
            asked = start(send)
            patience.wait(asked, model=payload.model, host=_host(client))
            error = asked.exception()
            if error is None:
                return Answer(asked.result(), tuple(sorted(left_out)))
            if isinstance(error, NetworkBlocked):
                raise explain_block(str(error), _host(client))
            if isinstance(error, CountError) or not isinstance(error, Exception):
                raise error
            # The SDK's, httpx's and credentials' all.
            trimmed = _trim(error, body, betas) if len(left_out) < _MOST_REFUSALS else None
            if trimmed is None:
                raise _explain(error, payload, client, patience.seconds)
            body, betas = trimmed.body, trimmed.betas
            left_out.append(trimmed.left_out)


def may_record(cassette: CountCassette, mode: Mode, asker: Asker) -> bool:
    """Whether a count may be asked for and written; `once` only for those new to the file."""
    if mode == "once":
        return not cassette.has_recorded(asker.name)
    return mode in ("new_episodes", "all", "rewrite")


def _trim(error: Exception, body: dict[str, Any], betas: tuple[str, ...]) -> Trimmed | None:
    return leave_out(body, betas, message_of(error)) if status_of(error) == 400 else None


def _explain(error: Exception, payload: Payload, client: object, seconds: float) -> CountError:
    return explain_failure(error, model=payload.model, host=_host(client), seconds=seconds)


def _send(
    client: Any, body: Mapping[str, Any], betas: tuple[str, ...], headers: Mapping[str, str]
) -> int:
    """One call of the SDK's `count_tokens`, marked as ours."""
    rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
    asked: dict[str, Any] = {"model": body["model"], "messages": body.get("messages", [])}
    if rest:  # as the SDK's own extra, so that an older one takes what it does not know
        asked["extra_body"] = rest
    if headers:
        asked["extra_headers"] = dict(headers)
    with own_request():
        if betas or not NEEDS_BETA.isdisjoint(rest):
            counted = client.beta.messages.count_tokens(betas=list(betas), **asked)
        else:
            counted = client.messages.count_tokens(**asked)
    tokens = getattr(counted, "input_tokens", None)
    if not is_quantity(tokens, least=1):
        raise CountError(
            f"{_host(client)} answered without a number of tokens that a prompt can have "
            f"({_show(counted)}); it may not be the Messages API: check ANTHROPIC_BASE_URL or the "
            "fixture llmcost_client"
        )
    return tokens


def _show(answer: object) -> str:
    return show_body(answer if isinstance(answer, str) else repr(answer))


def _model_for(client: object, payload: Payload) -> str:
    """The name as asked for, unless it is a cloud's and the client is not."""
    asked: str = payload.body["model"]
    of_cloud = "anthropic." in asked or not set("@:[").isdisjoint(asked)
    at_cloud = type(client).__name__.startswith(("AnthropicVertex", "AnthropicBedrock"))
    return payload.model if of_cloud and not at_cloud else asked


def _is_closed(client: object) -> bool:
    is_closed = getattr(client, "is_closed", None)
    return callable(is_closed) and bool(is_closed())


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
