"""`http.client`, on which urllib sends, and urllib3: requests as they leave, and bodies as read.

A call that is followed above is seen to wait for its answer on a socket. Light, as `urllib3` is.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_llmcost.capture.lost_answer import read_failure
from pytest_llmcost.capture.transports import CURRENT, begin_light, url_of, wrap_method

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_KEY = "_pytest_llmcost_captured"
"""Where a connection remembers a Claude call until its answer is asked for."""


def wrap(module: ModuleType) -> None:
    """Wrap how a connection sends a request, and how it gets the answer."""
    wrap_method(module.HTTPConnection, "endheaders", _wrap_endheaders)
    wrap_method(module.HTTPConnection, "getresponse", _wrap_getresponse)


def _wrap_endheaders(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def endheaders(connection: Any, message_body: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        # Inside a call that is followed already, its client reads the answer.
        captured = CURRENT.get() or _begin(connection, message_body)
        if captured is None:
            return original(connection, message_body, **options)
        captured.leave()  # nothing is sent before: the lines of the head are kept until now
        try:
            result = original(connection, message_body, **options)
        except BaseException as error:
            if captured.source is connection:
                captured.do(_failed, error)
            raise
        if captured.source is connection:
            vars(connection)[_KEY] = captured
        return result

    return endheaders


def _begin(connection: Any, body: Any) -> CapturedRequest | None:
    first, *rest = connection._buffer  # private, and the same in all versions of Python 3
    method, target, _ = first.decode("latin-1").split(" ")
    host = getattr(connection, "_tunnel_host", None) or connection.host
    port = getattr(connection, "_tunnel_port", None) or connection.port
    url = url_of("https", host, port, target)
    pairs = (line.partition(b":") for line in rest)
    headers = {name: value.strip() for name, _, value in pairs}
    how = {"client": connection, "method": method, "url": url}
    return begin_light(connection, headers=headers, body=body, **how)


def _wrap_getresponse(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def getresponse(connection: Any, *args: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        captured = vars(connection).pop(_KEY, None)
        if (current := CURRENT.get()) is not None:
            current.is_on_wire = True
        if captured is None:
            return original(connection, *args, **options)
        try:
            response = original(connection, *args, **options)
        except BaseException as error:
            captured.do(_failed, error)
            raise
        captured.do(_answered, response)
        return response

    return getresponse


def _failed(captured: CapturedRequest, error: BaseException) -> None:
    failure = read_failure(error)
    captured.failed(may_be_billed=failure.may_be_billed, is_seen=failure.is_seen, live=True)


def _answered(captured: CapturedRequest, response: Any) -> None:
    captured.answered(status=response.status, live=True, headers=response.headers)
    if not captured.is_over:
        is_packed = response.headers.get("content-encoding", "") in ("gzip", "x-gzip", "deflate")
        decode = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress if is_packed else bytes
        response._llmcost_tee = captured, decode
        kind: Any = type(response)
        response.__class__ = _tee_of(kind)


@functools.cache
def _tee_of(kind: Any) -> type[Any]:
    """Return a response class whose bytes are read along; so the response stays what it is."""

    class Tee(kind):  # type: ignore[misc]
        """The ways of reading that all others use; some of them use one another."""

        _llmcost_tee: Any

        def read(self, *args: Any) -> Any:
            return self._llmcost_read(super().read, *args)

        def read1(self, *args: Any) -> Any:
            return self._llmcost_read(super().read1, *args)

        def readline(self, *args: Any) -> Any:
            return self._llmcost_read(super().readline, *args)

        def readinto(self, buffer: Any) -> Any:
            return self._llmcost_read(super().readinto, buffer)

        def close(self) -> None:
            try:
                super().close()
            finally:
                if self._llmcost_tee is not None:
                    self._llmcost_tee[0].close(is_whole=False)

        def _llmcost_read(self, read: Callable[..., Any], *args: Any) -> Any:
            outermost, self._llmcost_tee = self._llmcost_tee, None
            try:
                data = read(*args)
            except BaseException:
                if outermost is not None:
                    outermost[0].close(is_whole=False)
                raise
            finally:
                self._llmcost_tee = outermost
            if outermost is not None:
                captured, decode = outermost
                taken = memoryview(args[0]).cast("B")[:data] if isinstance(data, int) else data
                captured.do(_feed, decode, bytes(taken))
                if self.isclosed():
                    captured.close(is_whole=not self.length)
            return data

    functools.update_wrapper(Tee, kind, updated=())
    return Tee


def _feed(captured: CapturedRequest, decode: Callable[[bytes], bytes], data: bytes) -> None:
    captured.feed(decode(data))
