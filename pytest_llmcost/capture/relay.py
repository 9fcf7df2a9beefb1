"""Relay: an endpoint on loopback that passes requests on to the API.

For what runs in another process: an agent, a server in another language, a container. Everything is
passed on as it comes, streams piece by piece; nothing is kept. Only the address of a batch's
results is changed, so that they come through here as well. It sends by `http.client`, whose
transport follows what passes.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection, IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from pytest_llmcost.capture.lost_answer import is_before_body
from pytest_llmcost.capture.transports import RELAYS
from pytest_llmcost.errors import LiveCapError

_OF_ONE_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"),
        *("transfer-encoding", "content-length", "host", "accept-encoding", "expect"),
    }
)
"""Headers that are not passed on. Without `accept-encoding` the answer comes uncompressed."""
_SECONDS = 600.0
"""As the SDK waits for an answer, or for its next piece."""
_LOOK_SECONDS = 0.02
"""How often it looks whether to stop; a run ends that much later."""
_PIECE = 65_536
_BATCHES, _JSON = "/v1/messages/batches", "application/json"


class Relay(ThreadingHTTPServer):
    """The endpoint, between `start` and `stop`."""

    daemon_threads, block_on_close = True, False

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.rstrip("/")
        self.url = f"http://127.0.0.1:{self.server_port}"
        """What to give to the other process as `ANTHROPIC_BASE_URL`."""
        self._listening = threading.Thread(
            target=self.serve_forever, args=(_LOOK_SECONDS,), daemon=True
        )

    def start(self) -> None:
        """Begin to listen."""
        RELAYS.add(self.server_port)
        self._listening.start()

    def stop(self) -> None:
        """Stop listening; what is under way is cut off when the process ends."""
        if self._listening.is_alive():  # a forked child has no such thread, and would wait for it
            self.shutdown()
        self.server_close()
        RELAYS.discard(self.server_port)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show what went wrong here; that a client has gone, for example killed, is no error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def relay(self) -> None:
        upstream = self.server.upstream
        try:
            body = self._read_body()
        except ValueError:
            self.close_connection = True  # where the next request begins is not known
            self._refuse(400, "invalid_request_error", "llmcost_relay cannot read the request")
            return
        parts = urlsplit(upstream)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.netloc, timeout=_SECONDS)
        response = None
        try:
            headers: dict[str, str] = {}
            for name, value in _passed_on(self.headers.items()):
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            connection.request(self.command, parts.path + self.path, body or None, headers)
            response = connection.getresponse()
            self.send_response_only(response.status, response.reason)
            for name, value in _passed_on(response.getheaders()):
                self.send_header(name, value)
            has_body = self.command != "HEAD" and response.status not in (204, 304)
            if has_body:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            pieces = iter(partial(response.read1, _PIECE), b"") if has_body else iter(())
            if self.path.startswith(_BATCHES) and response.headers.get_content_type() == _JSON:
                # The results are at an address that the batch names, which is to be here, too.
                body = b"".join(pieces).replace(upstream.encode(), self.server.url.encode())
                pieces = filter(None, [body])
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if response.length:  # `read1` does not say that some is missing
                raise IncompleteRead(b"", response.length)
            if has_body:
                self.wfile.write(b"0\r\n\r\n")
        except LiveCapError as error:
            self._refuse(403, "permission_error", str(error))  # which no client tries again
        except (OSError, HTTPException) as error:
            self.close_connection = True
            if response is None:  # else the client has gone, or the API in mid-answer
                what = "cannot reach" if is_before_body(error) else "got no answer from"
                self._refuse(502, "api_error", f"llmcost_relay {what} {parts.netloc}: {error}")
        finally:
            if response is not None:
                response.close()
            connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = relay

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            length = self.headers.get("content-length") or "0"
            if not length.isascii() or not length.isdigit():  # below zero, it would wait for more
                raise ValueError(length)
            return self.rfile.read(int(length))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(pieces)

    def _refuse(self, status: int, kind: str, text: str) -> None:
        content = {"type": "error", "error": {"type": kind, "message": text}}
        body = json.dumps(content).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing on the terminal of the tests."""


def _passed_on(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in headers if name.lower() not in _OF_ONE_HOP)
