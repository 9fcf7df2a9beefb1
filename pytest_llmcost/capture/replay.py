"""Replay: the recorded request to which the response belongs that counts.

VCR matches method and URL by default: a prompt may have grown a hundredfold, and the cassette still
plays yesterday's reply. It also writes concurrent calls in the order in which they ended and plays
them in the order in which they are sent. So of a cassette's recordings the one counts whose request
equals what is sent, whichever VCR has played; only if there is none has the prompt changed.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_llmcost.capture.headers import as_bytes, read_headers
from pytest_llmcost.capture.request import (
    CapturedRequest,
    Replay,
    Unclaimed,
    read_betas,
    read_body,
)
from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.counting.payload import fingerprint
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.endpoints import recognise
from pytest_llmcost.responses.recorded_files import (
    Allowance,
    read_calls,
    read_interaction,
    read_status,
)

_VERSION = re.compile(r"\d{4}-\d\d-\d\d")
_BETA = re.compile(r"[a-z][a-z\d.-]*")
"""`REDACTED` and the like are no betas."""

Fingerprint = Callable[[CapturedRequest, Mapping[str, Any], tuple[str, ...], "str | None"], object]
"""Of a body, with betas and the URL's model, that is or was sent as a request is: what equals if
the requests do; None if it cannot be read."""


class Recording:
    """A request as VCR keeps it, with its response, and what this run has done with them."""

    is_claimed = False
    """Whether the response counts for a call of this run."""
    is_taken = False
    """Whether it counts for a changed prompt as long as no equal one claims it."""
    was_played = False
    """Whether VCR has played it for a call that has a recording by now."""

    def __init__(self, request: Any, response: Any = None) -> None:
        """Read its names; None has none, for a filter may drop a request."""
        self.response = response
        self.body = as_bytes(getattr(request, "body", None))
        method, url = getattr(request, "method", ""), getattr(request, "uri", "")
        endpoint = recognise(method, url, self.body)
        self._endpoint = endpoint
        self._asked = {"method": method, "uri": url}
        self.kind = endpoint.kind if endpoint else None
        self.model = endpoint.model if endpoint else None
        headers = read_headers(getattr(request, "headers", None))
        self.betas = read_betas(headers.get("anthropic-beta", ""))
        # Every client sends its version: without it, or redacted, the headers say nothing.
        is_shown = _VERSION.fullmatch(headers.get("anthropic-version", "")) is not None
        self.shows_betas = is_shown and all(map(_BETA.fullmatch, self.betas))
        self.fingerprints: dict[tuple[str, ...], object] = {}
        """Of the request, with these betas."""

    @cached_property
    def json(self) -> Mapping[str, Any] | None:
        """Its body in the Messages API's form; None if that is no JSON object."""
        return read_body(self._endpoint, self.body)[0]

    @cached_property
    def usage(self) -> Usage:
        """What its response states; nothing if that cannot be read."""
        exchange = {"request": self._asked, "response": self.response}
        found = read_calls([read_interaction(exchange, "", Allowance())])
        answers = [each.answer for each in found if each.answer is not None]
        return answers[0].usage if answers else Usage()

    @cached_property
    def is_success(self) -> bool:
        """Whether the response is no error."""
        return 200 <= read_status(self.response) < 300


def _strand() -> object:
    if threading.current_thread() is not threading.main_thread():
        return object()  # of a pool: what is replayed is over before it needs another thread
    asyncio = sys.modules.get("asyncio")
    try:
        task = asyncio and asyncio.current_task()
    except RuntimeError:  # no loop runs
        task = None
    return id(task) if task else None  # two that are there at the same time have not the same


class VcrPlay:
    """A response that VCR has played for a request."""

    def __init__(self, cassette: Any, request: Any, response: Any) -> None:
        """Keep VCR's own objects; the recording is found by the identity of its response.

        That holds when several threads replay at once.
        """
        self.cassette = cassette
        self.response = response
        self._request = request
        self._strand = _strand()
        self.chosen: Recording | None = None
        """The recording that counts."""

    def choose(
        self,
        sent: CapturedRequest,
        recordings: dict[int, Recording],
        fingerprint_of: Fingerprint,
        *,
        may_differ: bool,
    ) -> Recording | None:
        """Return the recording that counts, and claim it if its request is equal.

        Return None if no equal one is left, unless another may be taken: all calls claim first.
        `recordings` is what this run knows of the opened cassette.
        """
        # `data` is public by habit alone: pairs of recorded request and response, only appended to.
        data = self.cassette.data
        for index in range(len(recordings), len(data)):
            recordings.setdefault(index, Recording(*data[index]))  # others may drain at once
        known = [each for _, each in sorted(recordings.items())]
        at = next((at for at, each in enumerate(known) if each.response is self.response), None)
        if at is None:
            return Recording(None, self.response)
        played = known[at]
        if not sent.sent:
            return played
        # A cassette that plays what it has played begins anew: it may repeat, or was rewound.
        is_again = self.cassette.allow_playback_repeats or played.was_played
        free = [
            each
            # What is behind it comes first: if calls are gone, the others are played too early.
            for each in sorted(known[at:] + known[:at], key=lambda each: each.is_claimed)
            if (is_again or not each.is_claimed)
            and each.kind == sent.endpoint.kind
            # One that was played an error is sent again, and its retry is played a success.
            and each.is_success == played.is_success
        ]
        chosen = self._find_equal(sent, free, fingerprint_of)
        if chosen is not None:
            chosen.is_claimed = True
        elif may_differ:
            chosen = played
            if not is_again:
                chosen = min(free, key=lambda each: each.is_taken, default=played)
            chosen.is_taken = True
        else:
            return None
        played.was_played = True
        return chosen

    def _find_equal(
        self, sent: CapturedRequest, candidates: Sequence[Recording], fingerprint_of: Fingerprint
    ) -> Recording | None:
        """Find the same request, or else one that differs in nothing that costs."""
        for recorded in candidates:
            if self._is_same(sent, recorded):
                return recorded
        body, betas = sent.payload, sent.betas
        now = None if body is None else fingerprint_of(sent, body, betas, sent.endpoint.model)
        if now is None:
            return None
        equal = []
        for recorded in candidates:
            known = self._betas_of(sent, recorded)
            key = betas if known is None else known  # hidden betas are no difference
            if recorded.json is not None and key not in recorded.fingerprints:
                made = fingerprint_of(sent, recorded.json, key, recorded.model)
                recorded.fingerprints[key] = made
            if now == recorded.fingerprints.get(key):
                equal.append(recorded)
        # A serializer may write the same JSON in other bytes. `max_tokens` costs nothing by itself.
        return next((each for each in equal if each.json == body), equal[0] if equal else None)

    def describe(self, sent: CapturedRequest, recorded: Recording) -> Replay:
        """Tell what is known of a recording.

        VCR's filters have run over what was recorded, so a filter that changes what counts hides
        whether the prompt has changed.
        """
        if not recorded.body:
            return Replay(obstacle="the cassette holds no request body")
        is_same = self._is_same(sent, recorded)
        if recorded.json is None and not is_same:
            return Replay(obstacle="the recorded request body is not JSON")
        if recorded.body != sent.sent and self._is_hidden(sent.payload, recorded.json or {}):
            return Replay(obstacle="a filter of the cassette changes the request body")
        return Replay(
            body=recorded.json,
            model=recorded.model,
            betas=self._betas_of(sent, recorded),
            is_same=is_same,
            strand=self._strand,
        )

    def unclaimed_before(
        self, sent: CapturedRequest, recordings: Mapping[int, Recording]
    ) -> tuple[Unclaimed, ...]:
        """Return what was recorded before it, wrote to the cache, and equals nothing sent."""
        known = [each for _, each in sorted(recordings.items())]
        before = known[: known.index(self.chosen)] if self.chosen in known else []
        return tuple(
            Unclaimed(
                each.json,
                each.model,
                self._betas_of(sent, each),
                each.usage.cache_read_tokens,
                each.usage.cached_tokens,
            )
            for each in before
            if not each.is_claimed and each.kind == "messages" and each.is_success
            if each.json is not None and each.usage.written_tokens
        )

    @cached_property
    def _filtered(self) -> Recording:
        return Recording(self.cassette.filter_request(self._request))

    def _is_same(self, sent: CapturedRequest, recorded: Recording) -> bool:
        is_alike = (recorded.body, recorded.model) == (sent.sent, sent.endpoint.model)
        return is_alike and self._betas_of(sent, recorded) == sent.betas

    def _betas_of(self, sent: CapturedRequest, recorded: Recording) -> tuple[str, ...] | None:
        """Return the recorded betas; None if the cassette, or a filter of it, hides them."""
        now = sent.betas
        is_hidden = recorded.betas != now and self._filtered.betas != now
        return None if is_hidden or not recorded.shows_betas else recorded.betas

    def _is_hidden(self, sent: Mapping[str, Any] | None, recorded: Mapping[str, Any]) -> bool:
        """Whether what was recorded agrees with what is sent only where the filter has been."""
        filtered = self._filtered.json
        if sent is None or filtered == sent:
            return False
        if filtered is None:
            return True
        return fingerprint(sent) != fingerprint(filtered) == fingerprint(recorded)
