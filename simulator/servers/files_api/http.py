"""HTTP for the local Gemini Files API: the standard library's server, with errors as Google's services tell them."""

from __future__ import annotations

import json
import socket
import socketserver
import sys
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from podrace.simulator.errors import HarnessError
from podrace.simulator.servers.files_api.store import RefusalError

Reply = tuple[dict[str, Any] | None, dict[str, str]]
"""The JSON body (None: empty) and the headers of a reply that is no error."""


class RequestHandler(BaseHTTPRequestHandler):
    """One connection, whose requests the listener answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length) if length.isdecimal() else 0)
        try:
            self._send(200, *self.server.answer(self, body))
        except RefusalError as refusal:
            self.send_error(refusal.code, str(refusal))

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 (http.server asks for these names)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A refusal, ours or the standard library's. The header keeps google-genai from sending a chunk again."""
        self._send(code, RefusalError(code, message or "").body, {"X-Goog-Upload-Status": "final"})

    def _send(self, code: int, body: dict[str, Any] | None, headers: dict[str, str]) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response_only(code)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Listener(ABC, socketserver.ThreadingTCPServer):
    """Listens on `url` from construction until `stop()`, each connection in a thread of its own.

    `answer` is the subclass's; an OSError that it raises ends the connection.
    """

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int) -> None:
        self.stopping = threading.Event()
        self._failure: BaseException | None = None
        self._connections: set[socket.socket] = set()
        try:
            super().__init__((host, port), RequestHandler)
        except (OSError, OverflowError) as error:
            raise HarnessError(f"files API: cannot listen on {host} port {port}: {error}") from error
        self._address = ("127.0.0.1" if host == "0.0.0.0" else host, self.server_address[1])
        self.url = f"http://{self._address[0]}:{self._address[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="files-api", daemon=True)
        self._acceptor.start()

    @abstractmethod
    def answer(self, call: RequestHandler, body: bytes) -> Reply:
        """What is answered to a request."""

    def stop(self) -> None:
        """Close every connection and end every thread, hanging requests included. May be called again.

        Raises HarnessError where a function of the caller's has raised.
        """
        if self.stopping.is_set():
            return
        self.stopping.set()
        socket.create_connection(self._address, timeout=1.0).close()  # wakes accept() on every platform
        self._acceptor.join()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # unlike close(), this wakes a thread that reads from it
        self.server_close()
        if self._failure is not None:
            raise HarnessError(f"files API: plan or identify raised {self._failure!r}") from self._failure

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            self.handle_request()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # else the client is gone, or is to think that we are
            self._failure = self._failure or error
