"""HTTP for the local Gemini Files API: the standard library's server, with errors as Google's services tell them."""

from __future__ import annotations

import json
import socket
import socketserver
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from podrace.simulator.servers.files_api.store import STATUS_NAMES, RefusalError

Reply = tuple[dict[str, Any] | None, dict[str, str]]
"""The JSON body (None: empty) and the headers of a reply that is no error."""


class RequestHandler(BaseHTTPRequestHandler):
    """One connection. Its requests are answered by the listener's function, which reads the body by `read`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def read(self, *, part: float = 1.0) -> bytes:
        """A part of the body that is left."""
        size_bytes = int(self._left_bytes * part)
        self._left_bytes -= size_bytes
        return self.rfile.read(size_bytes)

    def answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        self._left_bytes = int(length) if length.isdecimal() else 0
        try:
            self._send(200, *self.server.answer(self))
        except RefusalError as refusal:
            self.read()  # what is left of the body would be taken for the next request
            self.send_error(refusal.code, str(refusal))

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 (http.server asks for these names)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A refusal, ours or the standard library's. The header keeps google-genai from sending a chunk again."""
        status = STATUS_NAMES.get(code, "INVALID_ARGUMENT")
        error = {"code": code, "message": message, "status": status}
        self._send(code, {"error": error}, {"X-Goog-Upload-Status": "final"})

    def _send(self, code: int, body: dict[str, Any] | None, headers: dict[str, str]) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response_only(code, STATUS_NAMES.get(code, "OK"))
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Listener(socketserver.ThreadingTCPServer):
    """Serves each connection in a thread of its own. An OSError that `answer` raises ends the connection.

    `failure` is the first error of another kind: nobody meant it.
    """

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], answer: Callable[[RequestHandler], Reply]) -> None:
        self.answer = answer
        self.failure: BaseException | None = None
        self._connections: set[socket.socket] = set()
        super().__init__(address, RequestHandler)

    def end(self) -> None:
        """Close every connection and wait for their threads."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # unlike close(), this wakes a thread that reads from it
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # else the client is gone, or is to think that we are
            self.failure = self.failure or error
