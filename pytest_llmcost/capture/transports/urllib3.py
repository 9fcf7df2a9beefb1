"""urllib3, on which requests and botocore send: `urlopen` of its pools.

botocore's signer and the session of requests are above, VCR's connections below. Of a body we see
what urllib3 takes from the socket, and decompress it a second time for us. Light, for many a suite
imports urllib3 and never calls Claude.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.lost_answer import read_failure
from pytest_llmcost.capture.transports import CURRENT, begin_light, url_of, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest


def wrap(module: ModuleType) -> None:
    """Wrap how a pool sends a request, retries and redirects within one host included."""
    wrap_method(getattr(module, "HTTPConnectionPool", None), "urlopen", _wrap_urlopen)


def _wrap_urlopen(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def urlopen(
        pool: Any,
        method: Any,
        url: Any,
        body: Any = None,
        headers: Any = None,
        *rest: Any,
        **how: Any,
    ) -> Any:
        __tracebackhide__ = True
        captured = None
        # Inside a call that is followed already, as of its own retries, its client reads.
        if isinstance(url, str) and CURRENT.get() is None:
            captured = begin_light(
                object(),  # urllib3 has none for a request
                client=pool,
                method=method,
                url=url_of(pool.scheme, pool.host, pool.port, url),
                headers=pool.headers if headers is None else headers,
                body=body,
            )
        if captured is None:
            return original(pool, method, url, body, headers, *rest, **how)
        CURRENT.set(captured)
        try:
            response = original(pool, method, url, body, headers, *rest, **how)
        except BaseException as error:
            captured.do(_failed, error)
            raise
        finally:
            CURRENT.set(None)
        captured.do(_answered, response)
        return response

    return urlopen


def _failed(captured: CapturedRequest, error: BaseException) -> None:
    reason = getattr(error, "reason", None)  # of a MaxRetryError: what its last try raised
    failure = read_failure(reason if isinstance(reason, BaseException) else error)
    captured.failed(
        may_be_billed=failure.may_be_billed,
        is_seen=failure.is_seen,
        live=captured.is_on_wire or None,
    )


def _answered(captured: CapturedRequest, response: Any) -> None:
    history = getattr(getattr(response, "retries", None), "history", ())
    errors = [each.error for each in history if isinstance(each.error, Exception)]
    captured.note_lost(sum(read_failure(error).may_be_billed for error in errors))
    # VCR answers with a class of its own, whether it plays or records.
    recorded = getattr(response, "recorded_response", None)
    content = getattr(response, "_body", None)  # where `preload_content` has put it
    if isinstance(recorded, dict):
        content = captured.read_recorded(recorded)
    captured.answered(
        status=response.status,
        live=captured.is_on_wire or None,  # without VCR, nothing tells that it was not
        headers=response.headers,
        content=content if isinstance(content, bytes) else None,
    )
    response._llmcost_is_followed = True
    tee(captured, response)


def is_followed(response: Any) -> bool:
    """Whether `urlopen` gave this response for a request that is followed."""
    return hasattr(response, "_llmcost_is_followed")


def tee(captured: CapturedRequest, response: Any) -> None:
    """Let a captured request read along what is read of a response, unless it is over."""
    if not captured.is_over:
        response._llmcost_tee = captured, _decoder(response)
        kind: Any = type(response)
        response.__class__ = _tee_of(kind)


def _decoder(response: Any) -> Any:
    """Return what undoes the content encoding, with a state of its own; None for none."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.strip().lower() in ("", "identity"):
        return None
    twin = type(response)(headers={"content-encoding": encoding})
    twin._init_decoder()  # private, and the same since urllib3 1.26
    return twin._decoder


@functools.cache
def _tee_of(kind: Any) -> type[Any]:
    """Return a response class whose bytes are read along; so the response stays what it is."""

    class Tee(kind):  # type: ignore[misc]
        """All ways of reading end in one of three private methods, in urllib3 1.26 and 2."""

        def _fp_read(self, *args: Any, **how: Any) -> Any:
            data = self._llmcost_read(super()._fp_read, *args, **how)
            is_closed = getattr(self._fp, "isclosed", None)
            if not data or (is_closed is not None and is_closed()):
                # `length_remaining` is not brought up to date yet.
                self._llmcost_end(is_whole=not getattr(self._fp, "length", None))
            return data

        def _handle_chunk(self, *args: Any) -> Any:
            return self._llmcost_read(super()._handle_chunk, *args)

        def _update_chunk_length(self) -> None:
            super()._update_chunk_length()
            if self.chunk_left == 0:
                self._llmcost_end(is_whole=True)

        def close(self) -> None:
            try:
                super().close()
            finally:
                self._llmcost_end(is_whole=False)

        def _llmcost_read(self, read: Callable[..., Any], *args: Any, **how: Any) -> Any:
            captured, decoder = self._llmcost_tee
            try:
                data = read(*args, **how)
            except BaseException:
                self._llmcost_end(is_whole=False)
                raise
            if data:
                captured.feed(data) if decoder is None else captured.do(_decode, decoder, data)
            return data

        def _llmcost_end(self, *, is_whole: bool) -> None:
            captured, decoder = self._llmcost_tee
            if decoder is not None:
                captured.do(_decode, decoder, None)
            captured.close(is_whole=is_whole)

    functools.update_wrapper(Tee, kind, updated=())
    return Tee


def _decode(captured: CapturedRequest, decoder: Any, data: bytes | None) -> None:
    try:
        captured.feed(decoder.flush() if data is None else decoder.decompress(data))
    except Exception:  # noqa: BLE001 - zlib, brotli and zstd each raise their own
        # The caller's own decoder meets the same bytes and says what is wrong with them.
        captured.close(is_whole=False)
