"""A local Gemini Files API over HTTP, for the unmodified google-genai client.

Sources: the Gemini API Files reference (https://ai.google.dev/api/files), its resumable upload protocol,
and what google-genai 3.4 sends. Contents are hashed as they stream in and never kept; nor are keys.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NoReturn

from simulator.errors import HarnessError, PodraceError, UsageError
from simulator.files_http import READ_BYTES, Call, HangUpError, Phase, phase_of, read_call, render, whole_number
from simulator.files_store import (
    STATUS_NAMES,
    FileRecord,
    FileStore,
    Identify,
    RefusalError,
    Upload,
    check_metadata,
    mark_of,
)

KEPT_UPLOADS = 1024  # as many open ones, and as many finished ones for a finalize that is sent again
STOP_TIMEOUT_S = 10.0

Kind = Literal["delay", "status", "hang", "drop", "no_status_header", "lost_reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request, after `latency_s` seconds.

    - `delay`: nothing else. `status`: refused with HTTP status `code`; an upload so refused is over.
    - `hang`: neither an effect nor an answer until the server stops.
    - `drop`: the connection is closed after half the body, before any effect.
    - `no_status_header`: done (refused, where `code` is given), but X-Goog-Upload-Status is missing, so that
      google-genai resends the chunk blindly, three times in all.
    - `lost_reply`: done, but the connection is closed instead of answering.
    """

    kind: Kind = "delay"
    code: int = 0
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if self.kind == "status" and self.code not in STATUS_NAMES:
            raise UsageError(f"fault status: expected a code of {sorted(STATUS_NAMES)}, got {self.code}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, for a plan to decide on: `number` counts from 1 for each server, `path` has no query.

    `file_name` is the X-Goog-Upload-File-Name of the upload it belongs to (None for get, list and delete).
    """

    number: int
    method: str
    path: str
    phase: Phase
    file_name: str | None = None


Plan = Callable[[Request], Fault | None]


Answer = tuple[dict[str, Any] | None, dict[str, str]]
"""The JSON body (None: empty) and the headers of a reply that is no error."""


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
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._finished: OrderedDict[str, Upload] = OrderedDict()
        self._requests = 0
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._connections: dict[socket.socket, threading.Thread] = {}
        try:
            self._listener = socket.create_server((host, port), backlog=1024)
        except (OSError, OverflowError) as error:
            raise HarnessError(f"files API: cannot listen on {host} port {port}: {error}") from error
        self._any_host = host in ("", "0.0.0.0")
        self._address = ("127.0.0.1" if self._any_host else host, self._listener.getsockname()[1])
        self.url = f"http://{self._address[0]}:{self._address[1]}"
        self._acceptor = threading.Thread(target=self._accept, name="files-api-accept", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> FilesApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except HarnessError:
            if error is None:  # else what ended the block is the better message
                raise

    def files(self) -> dict[str, FileRecord]:
        """Every stored file, neither deleted nor expired, by its name, `files/...`; oldest first."""
        return self._store.files()

    def stop(self) -> None:
        """Close every connection and end every thread, hanging requests included. May be called again.

        Raises HarnessError where `plan` or `identify` has raised, or where one of them does not come back.
        """
        if not self._stopping.is_set():
            self._stopping.set()
            try:
                socket.create_connection(self._address, timeout=1.0).close()  # wakes accept() on every platform
            except OSError:
                pass
            self._acceptor.join(STOP_TIMEOUT_S)
            self._listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            _shut(connection)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in connections.values():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise HarnessError(f"files API: plan or identify did not come back within {STOP_TIMEOUT_S:g} s")
        failure, self._failure = self._failure, None
        if failure is not None:
            raise HarnessError(f"files API: plan or identify raised {failure!r}") from failure

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # for one, no file descriptor left
                if self._stopping.wait(0.01):
                    return
                continue
            if self._stopping.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="files-api-connection", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as reader:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while (call := read_call(reader, connection)) is not None:
                    reply = self._reply(call)
                    while call.body_left:  # what a refusal has not read would be taken for the next request
                        call.read()
                    connection.sendall(reply)
                    if not call.keep_alive:
                        return
        except (HangUpError, OSError, ValueError):  # ValueError: a head that is no HTTP
            pass
        finally:
            with self._lock:
                del self._connections[connection]

    def _reply(self, call: Call) -> bytes:
        fault, code = Fault(), 200
        body: dict[str, Any] | None
        headers: dict[str, str]
        try:
            phase = phase_of(call)
            upload = self._find_upload(call) if phase in ("upload", "finalize", "query") else None
            fault = self._fault_of(call, phase, upload)
            body, headers = self._perform(call, phase, upload, fault)
        except RefusalError as refusal:
            code, body = refusal.code, refusal.body
            headers = {"X-Goog-Upload-Status": refusal.upload_status} if "upload_id" in call.query else {}
        except (HangUpError, OSError):
            raise
        except Exception as error:  # the caller's plan or identify: told by stop(), not lost in a thread
            self._failure = self._failure or error
            code, body = 500, RefusalError(500, "plan or identify failed").body
            headers = {"X-Goog-Upload-Status": "final"}
        if fault.kind == "lost_reply":
            raise HangUpError
        if fault.kind == "no_status_header":
            headers.pop("X-Goog-Upload-Status", None)
        elif code != 200 and headers.get("X-Goog-Upload-Status") == "final":
            self._forget(call)
        return render(code, body, headers, call.keep_alive)

    def _forget(self, call: Call) -> None:
        with self._lock:
            self._uploads.pop(call.query.get("upload_id", ""), None)

    def _fault_of(self, call: Call, phase: Phase, upload: Upload | None) -> Fault:
        file_name = upload.metadata["file_name"] if upload is not None else call.headers.get("x-goog-upload-file-name")
        with self._lock:
            self._requests += 1
            number = self._requests
        if self._plan is None:
            return Fault()
        request = Request(number=number, method=call.method, path=call.path, phase=phase, file_name=file_name)
        return self._plan(request) or Fault()

    def _perform(self, call: Call, phase: Phase, upload: Upload | None, fault: Fault) -> Answer:
        if upload is None and not call.has_key:  # the address of an upload is its own permission
            raise RefusalError(403, "Method doesn't allow unregistered callers: expected x-goog-api-key.")
        if upload is not None and phase != "query":
            self._receive(call, upload, part=0.5 if fault.kind == "drop" else 1.0)
        if fault.kind == "drop":
            raise HangUpError
        latency_s = fault.latency_s + (self._latency_s if phase == "finalize" else 0.0)
        if self._stopping.wait(None if fault.kind == "hang" else latency_s):
            raise HangUpError
        if fault.code:
            raise RefusalError(fault.code, f"{STATUS_NAMES[fault.code]}, as planned.")
        if phase == "start":
            return self._start(call)
        if upload is not None:
            return self._finalize(call, upload) if phase == "finalize" else self._progress(upload)
        if phase == "list":
            return self._list(call), {}
        name = call.path[call.path.index("files/") :]
        record = self._store.get(name, delete=phase == "delete")
        return ({} if phase == "delete" else self._as_json(record)), {}

    def _as_json(self, record: FileRecord) -> dict[str, Any]:
        return record.as_json(now=self._now(), processing_s=self._processing_s)

    def _start(self, call: Call) -> Answer:
        content = b""
        while call.body_left:
            content += call.read()
            if len(content) > 65536:
                raise RefusalError(400, "CreateFileRequest: expected at most 64 KiB of JSON.")
        try:
            asked = json.loads(content or b"{}").get("file") or {}
            # Protobuf's JSON takes both spellings; google-genai sends the second.
            name, display_name = asked.get("name"), asked.get("displayName", asked.get("display_name"))
        except (ValueError, AttributeError):
            raise RefusalError(400, 'CreateFileRequest: expected JSON, {"file": {...}}.') from None
        declared_bytes = whole_number(call.headers, "x-goog-upload-header-content-length")
        name, display_name = (None if text is None else str(text) for text in (name, display_name))
        check_metadata(name, display_name, declared_bytes)
        self._store.check_free(name)
        upload = Upload(
            base_url=f"http://{call.headers.get('host')}" if self._any_host else self.url,
            metadata={
                "name": name,
                "display_name": display_name,
                "mime_type": call.headers.get("x-goog-upload-header-content-type"),
                "file_name": call.headers.get("x-goog-upload-file-name"),
            },
            declared_bytes=declared_bytes,
            content=bytearray() if self._identify else None,
        )
        with self._lock:
            upload_id = self._random_id(32)
            self._uploads[upload_id] = upload
            if len(self._uploads) > KEPT_UPLOADS:  # abandoned ones must not pile up
                self._uploads.popitem(last=False)
        url = f"{upload.base_url}/upload/v1beta/files?upload_id={upload_id}&upload_protocol=resumable"
        return None, {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"}

    def _random_id(self, length: int) -> str:
        return "".join(self._rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))

    def _find_upload(self, call: Call) -> Upload:
        upload_id = call.query.get("upload_id", "")
        with self._lock:
            upload = self._uploads.get(upload_id) or self._finished.get(upload_id)
        if upload is None:
            raise RefusalError(404, "There is no such upload, or it is over.")
        return upload

    def _receive(self, call: Call, upload: Upload, part: float) -> None:
        """Take in the first `part` of the body; bytes of a resent chunk that came before do not count."""
        offset = whole_number(call.headers, "x-goog-upload-offset")
        stop_at = call.body_left - int(call.body_left * part)
        with upload.lock:
            if upload.record is not None:
                return
            if offset is None or offset > upload.received_bytes:
                message = f"X-Goog-Upload-Offset: expected at most {upload.received_bytes}."
                raise RefusalError(400, message, upload_status="active")
            known_bytes = upload.received_bytes - offset
            while call.body_left > stop_at:
                chunk = call.read(min(READ_BYTES, call.body_left - stop_at))
                upload.feed(chunk[known_bytes:])
                known_bytes = max(0, known_bytes - len(chunk))

    def _progress(self, upload: Upload) -> Answer:
        with upload.lock:
            status = "active" if upload.record is None else "final"
            received = str(upload.received_bytes)
        return None, {"X-Goog-Upload-Status": status, "X-Goog-Upload-Size-Received": received}

    def _finalize(self, call: Call, upload: Upload) -> Answer:
        """Store the file, once: a resent finalize gets the same answer."""
        with upload.lock:
            if upload.record is None:
                if upload.declared_bytes not in (None, upload.received_bytes):
                    got = f"expected {upload.declared_bytes} bytes, got {upload.received_bytes}"
                    raise RefusalError(400, f"Upload: {got}.")
                content, upload.content = upload.content, None
                upload.record = self._store.add(
                    **upload.metadata,
                    make_name=lambda: f"files/{self._random_id(12)}",
                    base_url=upload.base_url,
                    sha256=upload.digest.hexdigest(),
                    size_bytes=upload.received_bytes,
                    mark=None if content is None else mark_of(bytes(content), self._identify),
                )
                with self._lock:
                    upload_id = call.query["upload_id"]
                    self._uploads.pop(upload_id, None)
                    self._finished[upload_id] = upload
                    if len(self._finished) > KEPT_UPLOADS:
                        self._finished.popitem(last=False)
            return {"file": self._as_json(upload.record)}, {"X-Goog-Upload-Status": "final"}

    def _list(self, call: Call) -> dict[str, Any]:
        size = whole_number(call.query, "pageSize") or 10
        records, more = self._store.page(min(size, 100), whole_number(call.query, "pageToken") or 0)
        page: dict[str, Any] = {"files": [self._as_json(record) for record in records]} if records else {}
        return page if more is None else page | {"nextPageToken": str(more)}


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)  # unlike close(), this wakes a thread that reads from it
    except OSError:
        pass


def main(arguments: list[str] | None = None) -> int:
    """Serve until stdin ends, SIGTERM or SIGINT; prints the URL on one line. Returns the exit code."""
    import argparse
    import signal
    import sys

    parser = argparse.ArgumentParser(prog="python -m simulator.files_api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; loopback by default")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="what every upload takes")
    options = parser.parse_args(arguments)

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
