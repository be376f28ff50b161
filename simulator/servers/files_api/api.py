"""A local Gemini Files API over HTTP, for the unmodified google-genai client.

Sources: the Gemini API Files reference (https://ai.google.dev/api/files), its resumable upload protocol,
and what google-genai 3.4 sends. Contents are hashed as they come in and never kept; nor are keys.
"""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qsl

from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.servers.files_api.http import Listener, Reply, RequestHandler
from podrace.simulator.servers.files_api.store import (
    STATUS_NAMES,
    FileRecord,
    FileStore,
    Identify,
    RefusalError,
    Upload,
    check_metadata,
)

KEPT_UPLOADS = 1024
"""Open uploads: more are abandoned ones, which must not pile up."""
ROUTE = re.compile(r"(?P<upload>/upload)?/v1(?:alpha|beta)?/files(?:/(?P<name>.+))?")  # google-genai 3.4 asks for v1

Phase = Literal["start", "upload", "finalize", "get", "list", "delete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request, after `latency_s` seconds.

    - `delay`: nothing else. `status`: refused with HTTP status `code`; an upload so refused is over.
    - `hang`: neither an effect nor an answer until the server stops.
    - `drop`: the connection is closed after half the body, at once, before any effect.
    """

    kind: Literal["delay", "status", "hang", "drop"] = "delay"
    code: int = 0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, for a plan to decide on: `number` counts from 1 for each server.

    `file_name` is the X-Goog-Upload-File-Name of the upload it belongs to (None for get, list and delete).
    """

    number: int
    phase: Phase
    file_name: str | None = None


Plan = Callable[[Request], Fault | None]


class FilesApi:
    """A Gemini Files API on `url`, from construction until `stop()`; a context manager. Thread-safe.

    `latency_s`: seconds that every upload takes. `identify`: called once with the content of each upload of
    at most 32 MiB; its answer becomes the record's `mark`. `plan`: the fault of a request, or None; called
    in the server's threads. `processing_s`: how long a file stays PROCESSING. `now`: epoch seconds. `rng`:
    names the files. Raises HarnessError where it cannot listen on `host` and `port` (0: any free port).
    """

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        identify: Identify | None = None,
        plan: Plan | None = None,
        processing_s: float = 0.0,
        now: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._latency_s = latency_s
        self._identify = identify
        self._plan = plan
        self._rng = rng or random.Random()
        self._now = now
        self._processing_s = processing_s
        self._store = FileStore(now)
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}
        self._requests = 0
        self._stopping = threading.Event()
        try:
            self._listener = Listener((host, port), self._answer)
        except (OSError, OverflowError) as error:
            raise HarnessError(f"files API: cannot listen on {host} port {port}: {error}") from error
        self._address = ("127.0.0.1" if host == "0.0.0.0" else host, self._listener.server_address[1])
        self.url = f"http://{self._address[0]}:{self._address[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="files-api", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> FilesApi:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def files(self) -> dict[str, FileRecord]:
        """Every stored file, neither deleted nor expired, by its name, `files/...`; oldest first."""
        return self._store.files()

    def stop(self) -> None:
        """Close every connection and end every thread, hanging requests included. May be called again.

        Raises HarnessError where `plan` or `identify` has raised.
        """
        if self._stopping.is_set():
            return
        self._stopping.set()
        socket.create_connection(self._address, timeout=1.0).close()  # wakes accept() on every platform
        self._acceptor.join()
        self._listener.end()
        failure = self._listener.failure
        if failure is not None:
            raise HarnessError(f"files API: plan or identify raised {failure!r}") from failure

    def _accept(self) -> None:
        while not self._stopping.is_set():
            self._listener.handle_request()

    def _answer(self, call: RequestHandler) -> Reply:
        path, _, query_text = call.path.partition("?")
        query = dict(parse_qsl(query_text))
        phase, name = _phase_of(call, path)
        upload = self._take(query) if phase in ("upload", "finalize") else None
        fault = self._fault_of(call, phase, upload)
        if fault.kind == "drop":
            call.read(part=0.5)
            raise ConnectionAbortedError
        body = call.read()
        latency_s = fault.latency_s + (self._latency_s if phase == "finalize" else 0.0)
        if self._stopping.wait(None if fault.kind == "hang" else latency_s):
            raise ConnectionAbortedError
        if fault.kind == "status":
            raise RefusalError(fault.code, f"{STATUS_NAMES[fault.code]}, as planned.")
        if upload is not None:
            upload.feed(body, _whole_number(call.headers, "X-Goog-Upload-Offset"))
            return self._finalize(upload) if phase == "finalize" else self._go_on(query["upload_id"], upload)
        if phase == "start":
            return self._start(call, body)
        if phase == "list":
            return self._list(query), {}
        record = self._store.get(f"files/{name}", delete=phase == "delete")
        return ({} if phase == "delete" else self._as_json(record)), {}

    def _fault_of(self, call: RequestHandler, phase: Phase, upload: Upload | None) -> Fault:
        file_name = upload.metadata["file_name"] if upload else call.headers.get("X-Goog-Upload-File-Name")
        with self._lock:
            self._requests += 1
            request = Request(number=self._requests, phase=phase, file_name=file_name)
        return (self._plan and self._plan(request)) or Fault()

    def _as_json(self, record: FileRecord) -> dict[str, Any]:
        return record.as_json(now=self._now(), processing_s=self._processing_s)

    def _start(self, call: RequestHandler, body: bytes) -> Reply:
        try:
            asked = json.loads(body or b"{}").get("file") or {}
            # Protobuf's JSON takes both spellings; google-genai sends the second.
            name, display_name = asked.get("name"), asked.get("displayName", asked.get("display_name"))
        except (ValueError, AttributeError):
            raise RefusalError(400, 'CreateFileRequest: expected JSON, {"file": {...}}.') from None
        name = None if name is None else str(name)
        declared_bytes = _whole_number(call.headers, "X-Goog-Upload-Header-Content-Length")
        check_metadata(name, declared_bytes)
        upload = Upload(
            # as it was asked by: google-genai goes to this address whatever its base_url
            base_url=f"http://{call.headers.get('Host', self.url.removeprefix('http://'))}",
            metadata={
                "name": name,
                "display_name": display_name,
                "mime_type": call.headers.get("X-Goog-Upload-Header-Content-Type"),
                "file_name": call.headers.get("X-Goog-Upload-File-Name"),
            },
            declared_bytes=declared_bytes,
            content=bytearray() if self._identify else None,
        )
        upload_id = self._random_id(32)
        _, headers = self._go_on(upload_id, upload)
        url = f"{upload.base_url}/upload/v1beta/files?upload_id={upload_id}&upload_protocol=resumable"
        return None, {"X-Goog-Upload-URL": url, **headers}

    def _random_id(self, length: int) -> str:
        return "".join(self._rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))

    def _take(self, query: Mapping[str, str]) -> Upload:
        """An open upload belongs to one request at a time, and is over where that fails."""
        with self._lock:
            upload = self._uploads.pop(query.get("upload_id", ""), None)
        if upload is None:
            raise RefusalError(404, "There is no such upload, or it is over.")
        return upload

    def _go_on(self, upload_id: str, upload: Upload) -> Reply:
        with self._lock:
            self._uploads[upload_id] = upload
            if len(self._uploads) > KEPT_UPLOADS:
                del self._uploads[next(iter(self._uploads))]
        return None, {"X-Goog-Upload-Status": "active"}

    def _finalize(self, upload: Upload) -> Reply:
        if upload.declared_bytes not in (None, upload.received_bytes):
            raise RefusalError(400, f"Upload: expected {upload.declared_bytes} bytes, got {upload.received_bytes}.")
        mark = None
        if self._identify is not None and upload.content is not None:
            mark = self._identify(bytes(upload.content))
        record = self._store.add(
            **upload.metadata,
            make_name=lambda: f"files/{self._random_id(12)}",
            base_url=upload.base_url,
            sha256=upload.digest.hexdigest(),
            size_bytes=upload.received_bytes,
            mark=mark,
        )
        return {"file": self._as_json(record)}, {"X-Goog-Upload-Status": "final"}

    def _list(self, query: Mapping[str, str]) -> dict[str, Any]:
        size = _whole_number(query, "pageSize") or 10
        records, more = self._store.page(min(size, 100), _whole_number(query, "pageToken") or 0)
        page: dict[str, Any] = {"files": [self._as_json(record) for record in records]} if records else {}
        return page if more is None else page | {"nextPageToken": str(more)}


def _phase_of(call: RequestHandler, path: str) -> tuple[Phase, str | None]:
    """What a request asks for, and the name in its path."""
    route = ROUTE.fullmatch(path)
    if route and route["upload"] and call.command == "POST":
        command = call.headers.get("X-Goog-Upload-Command", "")
        phases: tuple[Phase, ...] = ("start", "finalize", "upload")  # "upload, finalize" is a finalize
        for phase in phases:
            if phase in command:
                return phase, None
        raise RefusalError(400, "X-Goog-Upload-Command: expected start, upload or finalize.")
    if route and not route["upload"]:
        if call.command == "GET":
            return ("get" if route["name"] else "list"), route["name"]
        if call.command == "DELETE" and route["name"]:
            return "delete", route["name"]
    raise RefusalError(404, f"There is no {call.command} {path} here.")


def _whole_number(values: Any, key: str) -> int | None:
    """A header's or query's number; None where it is not there."""
    text = values.get(key)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RefusalError(400, f"{key}: expected a whole number.")
    return int(text)


def main() -> int:
    """Serve until stdin ends, SIGTERM or SIGINT; prints the URL on one line. Returns the exit code."""
    import argparse
    import signal
    import sys

    parser = argparse.ArgumentParser(prog="python -m podrace.simulator.servers.files_api.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; loopback by default")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="what every upload takes")
    options = parser.parse_args()

    def end(*_: object) -> NoReturn:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        with FilesApi(host=options.host, port=options.port, latency_s=options.latency_ms / 1000) as api:
            print(api.url, flush=True)
            while sys.stdin.readline():
                pass
    except PodraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
