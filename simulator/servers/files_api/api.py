"""The local Gemini Files API over HTTP, for the unmodified google-genai client, with failures as planned.

The standard library's server, with errors as Google's services tell them.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from podrace.simulator.errors import HarnessError
from podrace.simulator.servers.files_api.store import Clock, FileRecord, FileStore, Identify, RefusalError, owner_of

KEPT_UPLOADS = 1024
"""Open uploads: more are abandoned ones, which must not pile up."""

Phase = Literal["start", "upload", "finalize", "get", "list", "delete"]
ROUTES: dict[Phase, str] = {  # method, path (in it who is meant) and X-Goog-Upload-Command
    "start": r"POST /upload/v1\w*/files() start",
    "upload": r"POST /upload/v1\w*/files\?upload_id=(\w+)\S* upload",
    "finalize": r"POST /upload/v1\w*/files\?upload_id=(\w+)\S* upload, finalize",
    "list": r"GET /v1\w*/files()(?:\?.*)? ",
    "get": r"GET /v1\w*/(files/.+) ",
    "delete": r"DELETE /v1\w*/(files/.+) ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request, after `latency_s` seconds.

    - `delay`: nothing else. `status`: refused with HTTP status `code`; an upload so refused is over.
    - `hang`: neither an effect nor an answer until the server stops.
    - `drop`: the connection is closed without an effect or an answer.
    """

    kind: Literal["delay", "status", "hang", "drop"] = "delay"
    code: int = 0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, for a plan to decide on; `file_name` is that of the upload it belongs to, if any."""

    phase: Phase
    file_name: str | None = None


Plan = Callable[[Request], Fault | None]
Reply = tuple[dict[str, Any] | None, dict[str, str]]
"""The JSON body (None: empty) and the headers of a reply that is no error."""


@dataclass(slots=True, kw_only=True)
class Upload:
    """One resumable upload, open until it is finalized or refused. It belongs to the key that has started it."""

    known: dict[str, Any]  # what the store is told besides the content
    file_name: str | None
    size_bytes: str | None  # as it was declared
    content: bytearray = field(default_factory=bytearray)


class _Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FilesApi

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


class FilesApi(socketserver.ThreadingTCPServer):
    """A Gemini Files API on `url`, from construction until `stop()`; a context manager. Thread-safe.

    `latency_s`: seconds that every upload takes. `plan`: the fault of a request, or None; called in the server's
    threads. `now`, `identify` and `processing_s` are FileStore's, and `store` is the harness's, as InProcessFiles'
    is. Raises HarnessError where it cannot listen on `host` and `port` (0: any free port).
    """

    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        identify: Identify | None = None,
        plan: Plan | None = None,
        processing_s: float = 0.0,
        now: Clock = time.time,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.store = FileStore(now, identify, processing_s, RefusalError)
        self._latency_s = latency_s
        self._plan = plan
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self.stopping = threading.Event()
        self._failure: BaseException | None = None
        self._connections: set[socket.socket] = set()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise HarnessError(f"files API: cannot listen on {host} port {port}: {error}") from error
        self._address = ("127.0.0.1" if host == "0.0.0.0" else host, self.server_address[1])
        self.url = f"http://{self._address[0]}:{self._address[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="files-api", daemon=True)
        self._acceptor.start()

    def files(self) -> dict[str, FileRecord]:
        """Every stored file, whichever key's, by its name, `files/...`; oldest first."""
        return self.store.files()

    def answer(self, call: _Handler, body: bytes) -> Reply:
        asked = f"{call.command} {call.path} {call.headers.get('X-Goog-Upload-Command', '')}"
        found = [(phase, match[1]) for phase, route in ROUTES.items() if (match := re.fullmatch(route, asked))]
        if not found:
            raise RefusalError(404, f"There is no {asked}here.")
        [(phase, name)] = found
        if phase in ("upload", "finalize"):
            return self._take_in(call, phase, name, body)
        self._meet_fault(phase, call.headers.get("X-Goog-Upload-File-Name"))
        owner = owner_of(call.headers.get("x-goog-api-key", ""))
        if not owner:
            raise RefusalError(403, "Method doesn't allow unregistered callers: expected an API key.")
        if phase == "start":
            return self._start(call, owner, body)
        if phase == "list":
            records = self.store.files(owner).values()
            return ({"files": [_as_json(record) for record in records]} if records else {}), {}
        record = self.store.get(name, owner, delete=phase == "delete")
        return ({} if phase == "delete" else _as_json(record)), {}

    def _meet_fault(self, phase: Phase, file_name: str | None) -> None:
        fault = (self._plan and self._plan(Request(phase=phase, file_name=file_name))) or Fault()
        latency_s = fault.latency_s + (self._latency_s if phase == "finalize" else 0.0)
        if self.stopping.wait(None if fault.kind == "hang" else latency_s) or fault.kind == "drop":
            raise ConnectionAbortedError
        if fault.kind == "status":
            raise RefusalError(fault.code, "As planned.")

    def _start(self, call: _Handler, owner: str, body: bytes) -> Reply:
        try:
            asked = json.loads(body or b"{}").get("file") or {}
            # Protobuf's JSON takes both spellings; google-genai sends the second.
            display_name = asked.get("displayName", asked.get("display_name"))
        except (ValueError, AttributeError):
            raise RefusalError(400, 'CreateFileRequest: expected JSON, {"file": {...}}.') from None
        # as it was asked by: google-genai goes to this address whatever its base_url
        base_url = f"http://{call.headers.get('Host', self.url.removeprefix('http://'))}"
        known = {
            "name": None if asked.get("name") is None else str(asked["name"]),
            "owner": owner,
            "base_url": base_url,
            "display_name": display_name,
            "mime_type": call.headers.get("X-Goog-Upload-Header-Content-Type"),
        }
        file_name = call.headers.get("X-Goog-Upload-File-Name")
        size_bytes = call.headers.get("X-Goog-Upload-Header-Content-Length")
        upload_id = secrets.token_hex(16)
        headers = self._keep(upload_id, Upload(known=known, file_name=file_name, size_bytes=size_bytes))
        url = f"{base_url}/upload/v1beta/files?upload_id={upload_id}&upload_protocol=resumable"
        return None, {"X-Goog-Upload-URL": url, **headers}

    def _take_in(self, call: _Handler, phase: Phase, upload_id: str, chunk: bytes) -> Reply:
        """The next bytes. An open upload belongs to one request at a time, and is over where that fails."""
        with self._lock:
            upload = self._uploads.pop(upload_id, None)
        if upload is None:
            raise RefusalError(404, "There is no such upload, or it is over.")
        self._meet_fault(phase, upload.file_name)
        received_bytes = str(len(upload.content))
        if call.headers.get("X-Goog-Upload-Offset") != received_bytes:
            raise RefusalError(400, f"X-Goog-Upload-Offset: expected {received_bytes}.")
        upload.content += chunk
        if phase == "upload":
            return None, self._keep(upload_id, upload)
        if upload.size_bytes not in (None, str(len(upload.content))):
            raise RefusalError(400, f"Upload: expected {upload.size_bytes} bytes, got {len(upload.content)}.")
        record = self.store.add(bytes(upload.content), **upload.known)
        return {"file": _as_json(record)}, {"X-Goog-Upload-Status": "final"}

    def _keep(self, upload_id: str, upload: Upload) -> dict[str, str]:
        with self._lock:
            self._uploads[upload_id] = upload
            if len(self._uploads) > KEPT_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
        return {"X-Goog-Upload-Status": "active"}

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


def _as_json(record: FileRecord) -> dict[str, Any]:
    """The `File` resource of the reference."""
    fields = {
        "name": record.name,
        "displayName": record.display_name,
        "mimeType": record.mime_type,
        "sizeBytes": str(record.size_bytes),
        "createTime": record.create_time.isoformat(),
        "expirationTime": record.expiration_time.isoformat(),
        "sha256Hash": record.sha256_hash,
        "uri": record.uri,
        "state": record.state,
    }
    return {key: value for key, value in fields.items() if value is not None}
