"""Replay: the recorded request to which the response belongs that counts.

VCR matches method and URL by default: a prompt may have grown a hundredfold, and the cassette still
plays yesterday's reply. It also writes concurrent calls in the order in which they ended and plays
them in the order in which they are sent. So of a cassette's recordings the one counts whose request
equals what is sent, whichever VCR has played; only if there is none has the prompt changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

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
        self.body = _as_bytes(getattr(request, "body", None))
        method, url = getattr(request, "method", ""), getattr(request, "uri", "")
        endpoint = recognise(method, url) or find_unmetered(method, url, self.body)
        self._endpoint = endpoint
        self.kind = endpoint.kind if endpoint else None
        self.model = endpoint.model if endpoint else None
        self.betas = read_betas(_header(request, "anthropic-beta"))
        # Every client sends its version: without it, or redacted, the headers say nothing.
        version = _header(request, "anthropic-version")
        is_shown = _VERSION.fullmatch(version) is not None
        self.shows_betas = is_shown and all(map(_BETA.fullmatch, self.betas))

    @cached_property
    def json(self) -> Mapping[str, Any] | None:
        """Its body in the Messages API's form; None if that is no JSON object."""
        return read_body(self._endpoint, self.body)[0]


class Recordings:
    """What this run knows of one opened cassette, by the index of the recording."""

    def __init__(self) -> None:
        self.claimed: set[int] = set()
        """Those whose responses count for calls of this run."""
        self.taken: set[int] = set()
        """Those that count for a changed prompt as long as no equal one claims them."""
        self.played: set[int] = set()
        """Those that VCR has played for calls that have a recording by now."""
        self.fingerprints: dict[tuple[int, tuple[str, ...]], object] = {}
        """Of recorded requests, with these betas."""
        self._asked: dict[int, Asked] = {}

    def asked(self, index: int, cassette: Any) -> Asked:
        """Return a recorded request."""
        if index not in self._asked:
            self._asked[index] = Asked(cassette.data[index][0])
        return self._asked[index]


class VcrPlay:
    """A response that VCR has played for a request."""

    def __init__(self, cassette: Any, request: Any, response: Any, sent: bytes) -> None:
        """Keep VCR's own objects; the recording is found by the identity of its response.

        That holds when several threads replay at once.
        """
        self.cassette = cassette
        self._request = request
        self._now = Asked(request)
        self._now.body = sent or self._now.body  # of a stream, what VCR has read to the end
        # `data` is public by habit alone: pairs of recorded request and response, only appended to.
        pairs = enumerate(cassette.data)
        self._played = next((index for index, (_, reply) in pairs if reply is response), None)

    def choose(
        self, recordings: Recordings, fingerprint_of: Fingerprint, *, may_differ: bool
    ) -> int | None:
        """Return the index of the recording that counts, and claim it if its request is equal.

        Return None if no equal one is left, unless another may be taken: all calls claim first.
        """
        if self._played is None or not self._now.body:
            return self._played
        # A cassette that plays what it has played begins anew: it may repeat, or was rewound.
        is_again = self.cassette.allow_playback_repeats or self._played in recordings.played
        asked = {
            index: recordings.asked(index, self.cassette)
            for index in (self._played, *range(len(self.cassette.data)))
        }
        # One that was played an error is sent again, and its retry is played a success.
        is_success = self._is_success(self._played)
        free = {
            index: asked[index]
            for index in sorted(asked, key=recordings.claimed.__contains__)
            if (is_again or index not in recordings.claimed)
            and asked[index].kind == self._now.kind
            and self._is_success(index) == is_success
        }
        chosen = self._find_equal(free, recordings, fingerprint_of)
        if chosen is not None:
            recordings.claimed.add(chosen)
        elif may_differ:
            chosen = self._played
            if not is_again:
                chosen = min(free, key=recordings.taken.__contains__, default=chosen)
            recordings.taken.add(chosen)
        else:
            return None
        recordings.played.add(self._played)
        return chosen

    def _find_equal(
        self, candidates: Mapping[int, Asked], recordings: Recordings, fingerprint_of: Fingerprint
    ) -> int | None:
        """Find the same request, or else one that differs in nothing that costs."""
        for index, recorded in candidates.items():
            if self._is_same(recorded):
                return index
        sent, betas = self._now.json, self._now.betas
        now = None if sent is None else fingerprint_of(sent, betas, self._now.model)
        if now is None:
            return None
        equal = []
        for index, recorded in candidates.items():
            known = self._betas_of(recorded)
            key = (index, betas if known is None else known)  # hidden betas are no difference
            if recorded.json is not None and key not in recordings.fingerprints:
                found = fingerprint_of(recorded.json, key[1], recorded.model)
                recordings.fingerprints[key] = found
            if now == recordings.fingerprints.get(key):
                equal.append(index)
        # A serializer may write the same JSON in other bytes. `max_tokens` costs nothing by itself.
        same = (index for index in equal if candidates[index].json == sent)
        return next(same, equal[0] if equal else None)

    def _is_success(self, index: int) -> bool:
        return 200 <= read_status(self.cassette.data[index][1]) < 300

    def response(self, index: int) -> Any:
        """Return a recorded response; None if it is the one that was played."""
        return None if index == self._played else self.cassette.data[index][1]

    def describe(self, index: int | None) -> Replay:
        """Tell what is known of a recording.

        VCR's filters have run over what was recorded, so a filter that changes what counts hides
        whether the prompt has changed.
        """
        recorded = Asked(None if index is None else self.cassette.data[index][0])
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

    def _is_same(self, recorded: Asked) -> bool:
        same_names = recorded.model == self._now.model
        return (
            recorded.body == self._now.body
            and same_names
            and (self._betas_of(recorded) == self._now.betas)
        )

    def _betas_of(self, recorded: Asked) -> tuple[str, ...] | None:
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
        if fingerprint(filtered) == fingerprint(sent):
            return False
        return fingerprint(filtered) == fingerprint(recorded)


def vcr_obstacle(sent: bytes, can_play: object, cassette: Any, request: Any) -> Replay | None:
    """Tell what is known once VCR has a response for a request: nothing yet, but that it has."""
    if not can_play or Asked(request).kind is None:
        return None
    return Replay(obstacle="VCR does not tell which recording it replayed")


def vcr_play(sent: bytes, response: Any, cassette: Any, request: Any) -> VcrPlay | None:
    """Keep what VCR plays; None for what is no Claude call, as a log-in inside one."""
    return VcrPlay(cassette, request, response, sent) if Asked(request).kind else None


def cassetter_obstacle(sent: bytes, *played: Any, **how: Any) -> Replay:
    """Tell what is known of what cassetter plays."""
    return Replay(obstacle="cassetter replayed it")


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


def _header(request: Any, name: str) -> str:
    """Return a header that VCR keeps as a text or as a list of texts; "" without a request."""
    found = getattr(request, "headers", {}).get(name) or ""
    return found if isinstance(found, str) else ",".join(map(str, found))


def _as_bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    if isinstance(body, dict):  # what aiohttp was given as `json=`
        with suppress(TypeError):
            return msgspec.json.encode(body)
    return bytes(body) if isinstance(body, (bytes, bytearray)) else b""
