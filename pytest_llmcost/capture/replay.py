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

from pytest_llmcost.counting.payload import fingerprint
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.endpoints import Endpoint, find_unmetered, recognise

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


class Recordings:
    """What this run knows of one opened cassette, by the index of the recording."""

    def __init__(self) -> None:
        self.claimed: set[int] = set()
        """Those whose responses count for calls of this run."""
        self.fingerprints: dict[tuple[int, tuple[str, ...]], object] = {}
        """Of recorded requests, with these betas."""
        self._bodies: dict[int, Mapping[str, Any] | None] = {}

    def body(self, index: int, cassette: Any) -> Mapping[str, Any] | None:
        """Return the JSON of a recorded request; None if it is none."""
        if index not in self._bodies:
            self._bodies[index] = _as_mapping(_as_bytes(cassette.data[index][0].body))
        return self._bodies[index]


Fingerprint = Callable[[Mapping[str, Any], tuple[str, ...], "str | None"], object]
"""Body, betas and the URL's model -> what equals if the requests do; None if it cannot be read."""


class VcrPlay:
    """A response that VCR has played for a request."""

    def __init__(self, cassette: Any, request: Any, response: Any, sent: bytes) -> None:
        """Keep VCR's own objects; the recording is found by the identity of its response.

        That holds when several threads replay at once.
        """
        self.cassette = cassette
        self._request = request
        self._sent = sent or _as_bytes(request.body)  # a stream, which VCR has read to the end
        # `data` is public by habit alone: pairs of recorded request and response, only appended to.
        pairs = enumerate(cassette.data)
        self._played = next((index for index, (_, reply) in pairs if reply is response), None)

    def choose(
        self, recordings: Recordings, fingerprint_of: Fingerprint, *, may_differ: bool
    ) -> int | None:
        """Return the index of the recording that counts, and claim it if its request is equal.

        Return None if no equal one is left, unless another may be taken: all calls claim first.
        """
        if self._played is None or not self._sent:
            return self._played
        claimed = set() if self.cassette.allow_playback_repeats else recordings.claimed
        in_order = [self._played, *range(len(self.cassette.data))]
        free = [index for index in in_order if index not in claimed and self._is_alike(index)]
        # A cassette that is rewound plays once more what has been claimed.
        equal = self._find_equal([*free, self._played], recordings, fingerprint_of)
        if equal is not None:
            recordings.claimed.add(equal)
        elif may_differ:
            return next(iter(free), self._played)
        return equal

    def _find_equal(
        self, indices: Sequence[int], recordings: Recordings, fingerprint_of: Fingerprint
    ) -> int | None:
        """Find the same request, or else one that differs in nothing that costs."""
        for index in indices:
            if self._is_same(self.cassette.data[index][0]):
                return index
        sent, betas = _as_mapping(self._sent), _betas(self._request)
        now = None if sent is None else fingerprint_of(sent, betas, _model(self._request))
        if now is None:
            return None
        equal = []
        for index in indices:
            recorded, body = self.cassette.data[index][0], recordings.body(index, self.cassette)
            known = self._betas_of(recorded)
            key = (index, betas if known is None else known)  # hidden betas are no difference
            if body is not None and key not in recordings.fingerprints:
                recordings.fingerprints[key] = fingerprint_of(body, key[1], _model(recorded))
            if now == recordings.fingerprints.get(key):
                equal.append(index)
        # A serializer may write the same JSON in other bytes. `max_tokens` costs nothing by itself.
        same = (index for index in equal if recordings.body(index, self.cassette) == sent)
        return next(same, equal[0] if equal else None)

    def _is_alike(self, index: int) -> bool:
        return _kind(self.cassette.data[index][0]) == _kind(self._request)

    def response(self, index: int) -> Any:
        """Return a recorded response; None if it is the one that was played."""
        return None if index == self._played else self.cassette.data[index][1]

    def describe(self, index: int | None) -> Replay:
        """Tell what is known of a recording.

        VCR's filters have run over what was recorded, so a filter that changes what counts hides
        whether the prompt has changed.
        """
        recorded = None if index is None else self.cassette.data[index][0]
        body = _as_bytes(getattr(recorded, "body", None))
        if recorded is None or not body:
            return Replay(obstacle="the cassette holds no request body")
        is_same = self._is_same(recorded)
        parsed = _as_mapping(body)
        if parsed is None and not is_same:
            return Replay(obstacle="the recorded request body is not JSON")
        if body != self._sent and self._is_hidden(parsed or {}):
            return Replay(obstacle="a filter of the cassette changes the request body")
        return Replay(
            body=parsed, model=_model(recorded), betas=self._betas_of(recorded), is_same=is_same
        )

    def _is_same(self, recorded: Any) -> bool:
        same_names = _model(recorded) == _model(self._request)
        same_betas = self._betas_of(recorded) == _betas(self._request)
        return _as_bytes(recorded.body) == self._sent and same_names and same_betas

    def _betas_of(self, recorded: Any) -> tuple[str, ...] | None:
        found, now = _betas(recorded), _betas(self._request)
        # Every client sends its version: without it, or redacted, the headers say nothing.
        version = _header(recorded, "anthropic-version")
        if not _VERSION.fullmatch(version) or not all(map(_BETA.fullmatch, found)):
            return None
        if found != now and _betas(self.cassette.filter_request(self._request)) != now:
            return None
        return found

    def _is_hidden(self, recorded: Mapping[str, Any]) -> bool:
        """Whether what was recorded agrees with what is sent only where the filter has been."""
        kept = self.cassette.filter_request(self._request)
        filtered, sent = (
            _as_mapping(_as_bytes(getattr(kept, "body", None))),
            _as_mapping(self._sent),
        )
        if sent is None or filtered == sent:
            return False
        if filtered is None:
            return True
        if fingerprint(filtered) == fingerprint(sent):
            return False
        return fingerprint(filtered) == fingerprint(recorded)


def vcr_obstacle(sent: bytes, can_play: object, cassette: Any, request: Any) -> Replay | None:
    """Tell what is known once VCR has a response for a request: nothing yet, but that it has."""
    if not can_play or _kind(request) is None:
        return None
    return Replay(obstacle="VCR does not tell which recording it replayed")


def vcr_play(sent: bytes, response: Any, cassette: Any, request: Any) -> VcrPlay | None:
    """Keep what VCR plays; None for what is no Claude call, as a log-in inside one."""
    return VcrPlay(cassette, request, response, sent) if _kind(request) else None


def cassetter_obstacle(sent: bytes, *played: Any, **how: Any) -> Replay:
    """Tell what is known of what cassetter plays."""
    return Replay(obstacle="cassetter replayed it")


def read_betas(header: str) -> tuple[str, ...]:
    """Return the names in an `anthropic-beta` header, sorted, each once.

    Example:
        >>> read_betas("b, a,b,")
        ('a', 'b')
    """
    return tuple(sorted({name.strip() for name in header.split(",")} - {""}))


def _kind(request: Any) -> str | None:
    endpoint = _endpoint(request)
    return endpoint.kind if endpoint is not None else None


def _endpoint(request: Any) -> Endpoint | None:
    method, url = request.method, request.uri
    return recognise(method, url) or find_unmetered(method, url, _as_bytes(request.body))


def _model(request: Any) -> str | None:
    endpoint = _endpoint(request)
    return endpoint.model if endpoint is not None else None


def _betas(request: Any) -> tuple[str, ...]:
    return read_betas(_header(request, "anthropic-beta"))


def _header(request: Any, name: str) -> str:
    """Return a header that VCR keeps as a text or as a list of texts; "" without a request."""
    found = getattr(request, "headers", {}).get(name) or ""
    return found if isinstance(found, str) else ",".join(map(str, found))


def _as_bytes(body: object) -> bytes:
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    return bytes(body) if isinstance(body, (bytes, bytearray)) else b""


def _as_mapping(body: bytes) -> Mapping[str, Any] | None:
    value = decode_json(body)
    return value if isinstance(value, dict) else None
