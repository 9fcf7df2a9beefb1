"""Replay: the recorded request to which the response belongs that counts.

VCR matches method and URL by default: a prompt may have grown a hundredfold, and the cassette still
plays yesterday's reply. It also writes concurrent calls in the order in which they ended and plays
them in the order in which they are sent. So of a cassette's recordings the one counts whose request
equals what is sent, whichever VCR has played; only if there is none has the prompt changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmcost.capture.headers import as_bytes, read_headers
from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.counting.payload import fingerprint
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.converse import to_payload
from pytest_llmcost.responses.endpoints import Endpoint, find_unmetered, recognise
from pytest_llmcost.responses.recorded_files import read_status

_VERSION = re.compile(r"\d{4}-\d\d-\d\d")
_BETA = re.compile(r"[a-z][a-z\d.-]*")
"""`REDACTED` and the like are no betas."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the request that was recorded with the response that counts."""

    body: Mapping[str, Any] | None = None
    """Its JSON; None if it cannot be compared."""
    model: str | None = None
    """The model if its URL named it (Bedrock, Google Cloud)."""
    betas: tuple[str, ...] | None = ()
    """From its `anthropic-beta` header; None if a filter of the cassette hides or redacts it."""
    is_same: bool = False
    """Byte for byte what is sent now, under the same names of model and betas."""
    obstacle: str | None = None
    """Why it cannot be compared, for people."""


Fingerprint = Callable[[Mapping[str, Any], tuple[str, ...], "str | None"], object]
"""Body, betas and the URL's model -> what equals if the requests do; None if it cannot be read."""


class Asked:
    """A request as VCR keeps it."""

    def __init__(self, request: Any) -> None:
        """Read its names; None has none, for a filter may drop a request."""
        self.body = as_bytes(getattr(request, "body", None))
        method, url = getattr(request, "method", ""), getattr(request, "uri", "")
        endpoint = recognise(method, url) or find_unmetered(method, url, self.body)
        self._endpoint = endpoint
        self.kind = endpoint.kind if endpoint else None
        self.model = endpoint.model if endpoint else None
        headers = read_headers(getattr(request, "headers", None))
        self.betas = read_betas(headers.get("anthropic-beta", ""))
        # Every client sends its version: without it, or redacted, the headers say nothing.
        is_shown = _VERSION.fullmatch(headers.get("anthropic-version", "")) is not None
        self.shows_betas = is_shown and all(map(_BETA.fullmatch, self.betas))

    @cached_property
    def json(self) -> Mapping[str, Any] | None:
        """Its body in the Messages API's form; None if that is no JSON object."""
        return read_body(self._endpoint, self.body)[0]


class Recording(Asked):
    """A recorded request with its response, and what this run has done with them."""

    is_claimed = False
    """Whether the response counts for a call of this run."""
    is_taken = False
    """Whether it counts for a changed prompt as long as no equal one claims it."""
    was_played = False
    """Whether VCR has played it for a call that has a recording by now."""

    def __init__(self, request: Any, response: Any) -> None:
        """Read a pair of a cassette."""
        super().__init__(request)
        self.response = response
        self.fingerprints: dict[tuple[str, ...], object] = {}
        """Of the request, with these betas."""

    @cached_property
    def is_success(self) -> bool:
        """Whether the response is no error."""
        return 200 <= read_status(self.response) < 300


class VcrPlay:
    """A response that VCR has played for a request."""

    def __init__(self, cassette: Any, request: Any, response: Any, sent: bytes) -> None:
        """Keep VCR's own objects; the recording is found by the identity of its response.

        That holds when several threads replay at once.
        """
        self.cassette = cassette
        self.response = response
        self._request = request
        self._now = Asked(request)
        self._now.body = sent or self._now.body  # of a stream, what VCR has read to the end

    def choose(
        self, recordings: dict[int, Recording], fingerprint_of: Fingerprint, *, may_differ: bool
    ) -> Recording | None:
        """Return the recording that counts, and claim it if its request is equal.

        Return None if no equal one is left, unless another may be taken: all calls claim first.
        `recordings` is what this run knows of the opened cassette.
        """
        # `data` is public by habit alone: pairs of recorded request and response, only appended to.
        data = self.cassette.data
        for index in range(len(recordings), len(data)):
            recordings.setdefault(index, Recording(*data[index]))  # others may drain at once
        known = [*recordings.values()]
        played = next((each for each in known if each.response is self.response), None)
        if played is None or not self._now.body:
            return played or Recording(None, self.response)
        # A cassette that plays what it has played begins anew: it may repeat, or was rewound.
        is_again = self.cassette.allow_playback_repeats or played.was_played
        free = [
            each
            for each in sorted((played, *known), key=lambda each: each.is_claimed)
            if (is_again or not each.is_claimed)
            and each.kind == self._now.kind
            # One that was played an error is sent again, and its retry is played a success.
            and each.is_success == played.is_success
        ]
        chosen = self._find_equal(free, fingerprint_of)
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
        self, candidates: Sequence[Recording], fingerprint_of: Fingerprint
    ) -> Recording | None:
        """Find the same request, or else one that differs in nothing that costs."""
        for recorded in candidates:
            if self._is_same(recorded):
                return recorded
        sent, betas = self._now.json, self._now.betas
        now = None if sent is None else fingerprint_of(sent, betas, self._now.model)
        if now is None:
            return None
        equal = []
        for recorded in candidates:
            known = self._betas_of(recorded)
            key = betas if known is None else known  # hidden betas are no difference
            if recorded.json is not None and key not in recorded.fingerprints:
                recorded.fingerprints[key] = fingerprint_of(recorded.json, key, recorded.model)
            if now == recorded.fingerprints.get(key):
                equal.append(recorded)
        # A serializer may write the same JSON in other bytes. `max_tokens` costs nothing by itself.
        return next((each for each in equal if each.json == sent), equal[0] if equal else None)

    def describe(self, recorded: Recording) -> Replay:
        """Tell what is known of a recording.

        VCR's filters have run over what was recorded, so a filter that changes what counts hides
        whether the prompt has changed.
        """
        if not recorded.body:
            return Replay(obstacle="the cassette holds no request body")
        is_same = self._is_same(recorded)
        if recorded.json is None and not is_same:
            return Replay(obstacle="the recorded request body is not JSON")
        if recorded.body != self._now.body and self._is_hidden(recorded.json or {}):
            return Replay(obstacle="a filter of the cassette changes the request body")
        betas = self._betas_of(recorded)
        return Replay(body=recorded.json, model=recorded.model, betas=betas, is_same=is_same)

    @cached_property
    def _filtered(self) -> Asked:
        return Asked(self.cassette.filter_request(self._request))

    def _is_same(self, recorded: Recording) -> bool:
        now = self._now
        is_alike = (recorded.body, recorded.model) == (now.body, now.model)
        return is_alike and self._betas_of(recorded) == now.betas

    def _betas_of(self, recorded: Recording) -> tuple[str, ...] | None:
        """Return the recorded betas; None if the cassette, or a filter of it, hides them."""
        now = self._now.betas
        is_hidden = recorded.betas != now and self._filtered.betas != now
        return None if is_hidden or not recorded.shows_betas else recorded.betas

    def _is_hidden(self, recorded: Mapping[str, Any]) -> bool:
        """Whether what was recorded agrees with what is sent only where the filter has been."""
        filtered, sent = self._filtered.json, self._now.json
        if sent is None or filtered == sent:
            return False
        if filtered is None:
            return True
        return fingerprint(sent) != fingerprint(filtered) == fingerprint(recorded)


def read_body(
    endpoint: Endpoint | None, body: bytes
) -> tuple[Mapping[str, Any] | None, str | None]:
    """Return a body in the Messages API's form, and why that cannot be counted, if it cannot."""
    value = decode_json(body)
    if not isinstance(value, dict):
        return None, None
    form = endpoint.form if endpoint else "messages"
    if form == "chat":
        return value, "count_tokens does not take OpenAI's form of a request"
    return to_payload(value) if form == "converse" else (value, None)


def read_betas(header: str) -> tuple[str, ...]:
    """Return the names in an `anthropic-beta` header, sorted, each once.

    Example:
        >>> read_betas("b, a,b,")
        ('a', 'b')
    """
    return tuple(sorted({name.strip() for name in header.split(",")} - {""}))
