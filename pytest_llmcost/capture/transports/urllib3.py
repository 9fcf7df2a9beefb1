"""urllib3, on which requests and botocore send: `urlopen` of its pools, and mocks of requests.

botocore's signer and the session of requests are above, VCR's connections below. Of a body we see
what urllib3 takes from the socket, and decompress it a second time for us. Light, for many a suite
imports urllib3 and never calls Claude.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.lost_answer import note_failure
from pytest_llmcost.capture.transports import CURRENT, begin, passed_on, url_of, wrap_method
from pytest_llmcost.capture.transports.bodies import tee_of

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_READ = ("_fp_read", "_handle_chunk", "_update_chunk_length")
"""All ways of reading end in these methods, which are private, in urllib3 1.26 and 2."""


def wrap(module: ModuleType) -> None:
    """Wrap how a pool sends a request, retries and redirects within one host included.

    And how an adapter of requests makes a response of urllib3's.
    """
    wrap_method(getattr(module, "HTTPConnectionPool", None), "urlopen", _wrap_urlopen)
    wrap_method(getattr(module, "HTTPAdapter", None), "build_response", _wrap_build_response)


def _wrap_urlopen(original: Callable[..., Any]) -> Callable[..., Any]:
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
        captured, before = None, CURRENT.get()
        # Inside a call that is followed already, as of its own retries, its client reads.
        if passed_on(body) is None and isinstance(url, str):
            captured = begin(
                object(),  # urllib3 has none for a request
                pool,
                method,
                url_of(pool.scheme, pool.host, pool.port, url),
                pool.headers if headers is None else headers,
                body,
            )
        if captured is None:
            return original(pool, method, url, body, headers, *rest, **how)
        CURRENT.set(captured)
        try:
            response = original(pool, method, url, body, headers, *rest, **how)
        except BaseException as error:
            reason = getattr(error, "reason", None)  # of a MaxRetryError: what its last try raised
            cause = reason if isinstance(reason, BaseException) else error
            captured.do(note_failure, cause, captured.is_on_wire)
            raise
        finally:
            CURRENT.set(before)
        # Without VCR, nothing tells that it did not go over a socket.
        captured.do(_answered, response, captured.is_on_wire or None)
        return response

    return urlopen


def _answered(captured: CapturedRequest, response: Any, live: bool | None) -> None:
    # VCR answers with a class of its own, whether it plays or records.
    recorded = getattr(response, "recorded_response", None)
    body = getattr(response, "_body", None)  # where `preload_content` has put it
    content = next((each for each in (recorded, body) if isinstance(each, (dict, bytes))), None)
    captured.answered(status=response.status, live=live, content=content)
    response._llmcost = captured
    if not captured.is_over:
        kind: Any = type(response)
        if "content-encoding" in response.headers:
            twin = kind(headers={"content-encoding": response.headers["content-encoding"]})
            captured.decoder = twin._decoder  # private, and the same since urllib3 1.26
        response.__class__ = tee_of(kind, _READ, _how_ended)


def _how_ended(response: Any, data: object) -> bool | None:
    if data is None:  # the length of a chunk was read
        return True if response.chunk_left == 0 else None
    body = response._fp
    is_closed = getattr(body, "isclosed", None)
    # That of `responses` closes it instead, and says so the next time.
    is_over = not data or (is_closed is not None and is_closed()) or getattr(body, "closed", False)
    # `length_remaining` is not brought up to date yet.
    return not getattr(body, "length", None) if is_over else None


def _wrap_build_response(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_response(adapter: Any, request: Any, raw: Any) -> Any:
        __tracebackhide__ = True
        # Mocks such as `responses` and `requests-mock` replace the adapters of requests, and come
        # here, too. What an adapter of its own has sent is followed by `urlopen`.
        if not hasattr(raw, "_llmcost") and passed_on(request.body) is None:
            captured = begin(
                request, adapter, request.method, request.url, request.headers, request.body
            )
            if captured is not None:
                captured.do(_answered, raw, False)
        return original(adapter, request, raw)

    return build_response
