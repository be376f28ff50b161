"""A local Gemini Files API: over HTTP for the unmodified google-genai client, and inline without HTTP.

Sources: the Gemini API Files reference (https://ai.google.dev/api/files), its resumable upload protocol,
and what google-genai 3.4 sends. Contents are hashed as they stream in and never kept; nor are keys.
"""

from __future__ import annotations

import binascii
import hashlib
import io
import json
import os
import random
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, NoReturn
from urllib.parse import parse_qsl, urlsplit

from simulator.errors import HarnessError, PodraceError, UsageError

SIZE_LIMIT_BYTES = 2 * 1024**3
IDENTIFY_LIMIT_BYTES = 32 * 1024**2
LIFETIME_S = 48 * 3600.0
KEPT_UPLOADS = 1024  # as many open ones, and as many finished ones for a finalize that is sent again
STOP_TIMEOUT_S = 10.0
READ_BYTES = 256 * 1024
ROUTE = re.compile(r"(/upload)?/v1(?:alpha|beta)?/files(/.+)?")  # google-genai 3.4 asks for v1 by default
NAME_RULE = re.compile(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

Phase = Literal["start", "upload", "finalize", "query", "get", "list", "delete"]
Kind = Literal["delay", "status", "hang", "drop", "no_status_header", "lost_reply"]
# In this order, because "upload, finalize" is a finalize.
UPLOAD_PHASES: tuple[Phase, ...] = ("start", "query", "finalize", "upload")
METHODS: dict[tuple[str, str | None, bool], Phase] = {
    ("POST", "/upload", False): "start",  # or what the X-Goog-Upload-Command says
    ("GET", None, False): "list",
    ("GET", None, True): "get",
    ("DELETE", None, True): "delete",
}
Identify = Callable[[bytes], str | None]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One stored file. `mark` is what `identify` said of its content, `created_at` is in epoch seconds.

    `create_time`, `expiration_time` and `sha256_hash` are what google-genai's `types.File` calls so.
    """

    name: str
    uri: str
    sha256: str
    size_bytes: int
    created_at: float
    mark: str | None = None
    file_name: str | None = None
    display_name: str | None = None
    mime_type: str | None = None

    @property
    def create_time(self) -> datetime:
        return datetime.fromtimestamp(self.created_at, UTC)

    @property
    def expiration_time(self) -> datetime:
        return datetime.fromtimestamp(self.created_at + LIFETIME_S, UTC)

    @property
    def sha256_hash(self) -> str:
        """The base64 form of the hexadecimal digest, as the service answers it: not of the 32 bytes."""
        return binascii.b2a_base64(self.sha256.encode(), newline=False).decode()

    def as_json(self, *, now: float, processing_s: float) -> dict[str, Any]:
        """The `File` resource of the reference, as it is at `now`."""
        active = now >= self.created_at + processing_s
        updated_at = self.created_at + processing_s if active else self.created_at
        fields = {
            "name": self.name,
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(self.size_bytes),
            "createTime": _rfc3339(self.create_time),
            "updateTime": _rfc3339(datetime.fromtimestamp(updated_at, UTC)),
            "expirationTime": _rfc3339(self.expiration_time),
            "sha256Hash": self.sha256_hash,
            "uri": self.uri,
            "state": "ACTIVE" if active else "PROCESSING",
            "source": "UPLOADED",
        }
        return {key: value for key, value in fields.items() if value is not None}


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Plan = Callable[[Request], Fault | None]


class _RefusalError(Exception):
    """The service refuses a request: an HTTP status code and a message for the caller."""

    def __init__(self, code: int, message: str, *, upload_status: str = "final") -> None:
        super().__init__(message)
        self.code = code
        self.upload_status = upload_status
        status = STATUS_NAMES[code]
        self.body: dict[str, Any] = {"error": {"code": code, "message": message, "status": status}}


class _HangUpError(Exception):
    """End the connection without a reply."""


def _check_metadata(name: str | None, display_name: str | None, size_bytes: int | None) -> None:
    if name is not None and not NAME_RULE.fullmatch(name):
        rule = "at most 40 lowercase alphanumeric characters or dashes (-), no dash first or last"
        raise _RefusalError(400, f"CreateFileRequest.file.name: expected {rule}.")
    if display_name is not None and len(display_name) > 512:
        raise _RefusalError(400, "CreateFileRequest.file.display_name: expected at most 512 characters.")
    if size_bytes is not None and size_bytes > SIZE_LIMIT_BYTES:
        raise _RefusalError(400, f"File size: expected at most {SIZE_LIMIT_BYTES} bytes, got {size_bytes}.")


class _FileStore:
    """The stored files and their rules, without any transport. Thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.RLock()
        self._records: dict[str, tuple[int, FileRecord]] = {}  # with serials, the page tokens: see page()
        self._added = 0

    def _alive(self) -> dict[str, tuple[int, FileRecord]]:
        oldest = self._now() - LIFETIME_S
        while self._records:
            name, (_, record) = next(iter(self._records.items()))  # insertion order is creation order
            if record.created_at > oldest:
                break
            del self._records[name]
        return self._records

    def files(self) -> dict[str, FileRecord]:
        with self._lock:
            return {name: record for name, (_, record) in self._alive().items()}

    def check_free(self, name: str | None) -> None:
        with self._lock:
            if name in self._alive():
                raise _RefusalError(409, f"Requested entity already exists: {name}")

    def add(self, *, name: str | None, make_name: Callable[[], str], base_url: str, **known: Any) -> FileRecord:
        with self._lock:
            self.check_free(name)
            while name is None or name in self._records:
                name = make_name()
            uri = f"{base_url}/v1beta/{name}"
            record = FileRecord(name=name, uri=uri, created_at=self._now(), **known)
            self._added += 1
            self._records[name] = self._added, record
            return record

    def get(self, name: str, *, delete: bool = False) -> FileRecord:
        with self._lock:
            if name not in self._alive():
                raise _RefusalError(404, f"File {name} does not exist.")
            return (self._records.pop if delete else self._records.__getitem__)(name)[1]

    def page(self, size: int, after: int) -> tuple[list[FileRecord], int | None]:
        """At most `size` files, oldest first, and the serial that the next page follows (None: the last).

        Serials rather than positions, so that no file is skipped where others are deleted between two pages.
        """
        with self._lock:
            rest = [item for item in self._alive().values() if item[0] > after]
        more = rest[size - 1][0] if len(rest) > size else None
        return [record for _, record in rest[:size]], more


def _raise_as_client(refusal: _RefusalError) -> NoReturn:
    """Raise what google-genai raises for this answer. Imported late: it takes a third of a second."""
    from google.genai import errors

    raise (errors.ClientError if refusal.code < 500 else errors.ServerError)(refusal.code, refusal.body)


class InProcessFiles:
    """The service without HTTP, deterministic: a name depends on the content and how often it came before.

    `now` gives epoch seconds; files are ACTIVE at once. Errors are those of google-genai's files service:
    FileNotFoundError, ValueError for an unknown MIME type, UnicodeEncodeError for a file name that is not
    ASCII, google.genai.errors.ClientError for what the service refuses. Thread-safe.
    """

    url = "http://files.invalid"

    def __init__(self, *, now: Callable[[], float] = time.time, identify: Identify | None = None) -> None:
        self._store = _FileStore(now)
        self._identify = identify
        self._copies: dict[str, int] = {}

    def files(self) -> dict[str, FileRecord]:
        """Every stored file, neither deleted nor expired, by its name, `files/...`."""
        return self._store.files()

    def upload(self, *, file: str | os.PathLike[str], config: dict[str, Any] | None = None) -> FileRecord:
        """Store the file at a path; `config` may hold `name`, `display_name` and `mime_type`."""
        import mimetypes

        path, asked = os.fspath(file), config or {}
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{file} is not a valid file path.")
        mime_type = asked.get("mime_type") or mimetypes.guess_type(path)[0]
        if mime_type is None:
            raise ValueError(f"Unknown mime type: {file}: expected a known suffix, or mime_type in config")
        file_name = os.path.basename(path)
        file_name.encode("ascii")  # google-genai sends it as a header, and fails so on any other letter
        name, display_name = asked.get("name"), asked.get("display_name")
        name = name if name is None else "files/" + name.removeprefix("files/")
        try:
            _check_metadata(name, display_name, os.path.getsize(path))
            with open(path, "rb") as stream:
                content = stream.read()
            sha256 = hashlib.sha256(content).hexdigest()
            return self._store.add(
                name=name,
                make_name=lambda: self._next_name(sha256),
                base_url=self.url,
                sha256=sha256,
                size_bytes=len(content),
                mark=_mark_of(content, self._identify),
                file_name=file_name,
                display_name=display_name,
                mime_type=mime_type,
            )
        except _RefusalError as refusal:
            _raise_as_client(refusal)

    def _next_name(self, sha256: str) -> str:
        self._copies[sha256] = self._copies.get(sha256, 0) + 1  # the store calls this under its lock
        return f"files/{sha256[:24]}-{self._copies[sha256]}"

    def get(self, *, name: str) -> FileRecord:
        """The file of a name, `files/...` or without the prefix."""
        return self._look_up(name, delete=False)

    def delete(self, *, name: str) -> None:
        """Forget the file of a name."""
        self._look_up(name, delete=True)

    def _look_up(self, name: str, delete: bool) -> FileRecord:
        try:
            return self._store.get("files/" + name.removeprefix("files/"), delete=delete)
        except _RefusalError as refusal:
            _raise_as_client(refusal)


def _mark_of(content: bytes, identify: Identify | None) -> str | None:
    return identify(content) if identify is not None and len(content) <= IDENTIFY_LIMIT_BYTES else None


@dataclass(slots=True, kw_only=True, eq=False)
class _Upload:
    """One resumable upload. Its lock is held while its bytes come in and while it is finalized."""

    base_url: str
    metadata: dict[str, str | None]  # name, file_name, display_name, mime_type
    declared_bytes: int | None
    content: bytearray | None  # only where it must be identified, and only until it is
    digest: Any = field(default_factory=hashlib.sha256)
    received_bytes: int = 0
    record: FileRecord | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def feed(self, chunk: bytes) -> None:
        limit_bytes = SIZE_LIMIT_BYTES if self.declared_bytes is None else self.declared_bytes
        if self.received_bytes + len(chunk) > limit_bytes:
            raise _RefusalError(400, f"More bytes than the {limit_bytes} that the upload may have.")
        self.digest.update(chunk)
        self.received_bytes += len(chunk)
        if self.content is not None and self.received_bytes <= IDENTIFY_LIMIT_BYTES:
            self.content += chunk
        else:
            self.content = None


@dataclass(slots=True, kw_only=True)
class _Call:
    """One HTTP request being read: its head, and how much of its body is still to come."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    has_key: bool
    reader: io.BufferedReader
    body_left: int
    keep_alive: bool

    def read(self, limit_bytes: int = READ_BYTES) -> bytes:
        chunk = self.reader.read1(min(self.body_left, limit_bytes))
        if not chunk:
            raise _HangUpError  # the client is gone
        self.body_left -= len(chunk)
        return chunk


def _whole_number(values: Mapping[str, str], key: str) -> int | None:
    text = values.get(key)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _RefusalError(400, f"{key}: expected a whole number.")
    return int(text)


def _read_call(reader: io.BufferedReader, connection: socket.socket) -> _Call | None:
    """The next request of a connection; None where there is none or where it is no HTTP/1.1.

    Parsed here, not by http.server: its email parser costs more than all that we do for a request.
    """
    words = reader.readline(65536).split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline(65536)) not in (b"\r\n", b"\n", b""):
        key, _, value = line.decode("utf-8", "replace").partition(":")
        headers[key.strip().lower()] = value.strip()
    length = headers.get("content-length", "0")
    if not line or "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
        return None
    has_key = bool(headers.pop("x-goog-api-key", ""))  # only whether there is one: a key goes no further
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    target = urlsplit(words[1].decode("latin-1"))
    return _Call(
        method=words[0].decode("latin-1"),
        path=target.path,
        query=dict(parse_qsl(target.query)),
        headers=headers,
        has_key=has_key,
        reader=reader,
        body_left=int(length),
        keep_alive=words[2] != b"HTTP/1.0" and headers.get("connection", "").lower() != "close",
    )


def _phase_of(call: _Call) -> Phase:
    route = ROUTE.fullmatch(call.path)
    if route is None or (call.method, route[1], bool(route[2])) not in METHODS:
        raise _RefusalError(404, f"There is no {call.method} {call.path} here.")
    if call.method == "POST":
        commands = {word.strip() for word in call.headers.get("x-goog-upload-command", "").split(",")}
        for phase in UPLOAD_PHASES:
            if phase in commands:
                return phase
        raise _RefusalError(400, "X-Goog-Upload-Command: expected start, query, upload or finalize.")
    return METHODS[call.method, route[1], bool(route[2])]


def _render(code: int, body: dict[str, Any] | None, headers: dict[str, str], keep_alive: bool) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {code} {STATUS_NAMES.get(code, 'OK')}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    lines += ["Content-Type: application/json; charset=UTF-8", f"Content-Length: {len(content)}"]
    lines += [] if keep_alive else ["Connection: close"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


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
        self._store = _FileStore(now)
        self._lock = threading.Lock()
        self._uploads: OrderedDict[str, _Upload] = OrderedDict()
        self._finished: OrderedDict[str, _Upload] = OrderedDict()
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
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="files-api-connection", daemon=True
            )
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as reader:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while (call := _read_call(reader, connection)) is not None:
                    reply = self._reply(call)
                    while call.body_left:  # what a refusal has not read would be taken for the next request
                        call.read()
                    connection.sendall(reply)
                    if not call.keep_alive:
                        return
        except (_HangUpError, OSError, ValueError):  # ValueError: a head that is no HTTP
            pass
        finally:
            with self._lock:
                del self._connections[connection]

    def _reply(self, call: _Call) -> bytes:
        fault, code = Fault(), 200
        body: dict[str, Any] | None
        headers: dict[str, str]
        try:
            phase = _phase_of(call)
            upload = self._find_upload(call) if phase in ("upload", "finalize", "query") else None
            fault = self._fault_of(call, phase, upload)
            body, headers = self._perform(call, phase, upload, fault)
        except _RefusalError as refusal:
            code, body = refusal.code, refusal.body
            headers = {"X-Goog-Upload-Status": refusal.upload_status} if "upload_id" in call.query else {}
        except (_HangUpError, OSError):
            raise
        except Exception as error:  # the caller's plan or identify: told by stop(), not lost in a thread
            self._failure = self._failure or error
            code, body = 500, _RefusalError(500, "plan or identify failed").body
            headers = {"X-Goog-Upload-Status": "final"}
        if fault.kind == "lost_reply":
            raise _HangUpError
        if fault.kind == "no_status_header":
            headers.pop("X-Goog-Upload-Status", None)
        elif code != 200 and headers.get("X-Goog-Upload-Status") == "final":
            self._forget(call)
        return _render(code, body, headers, call.keep_alive)

    def _forget(self, call: _Call) -> None:
        with self._lock:
            self._uploads.pop(call.query.get("upload_id", ""), None)

    def _fault_of(self, call: _Call, phase: Phase, upload: _Upload | None) -> Fault:
        file_name = (
            upload.metadata["file_name"] if upload is not None else call.headers.get("x-goog-upload-file-name")
        )
        with self._lock:
            self._requests += 1
            number = self._requests
        if self._plan is None:
            return Fault()
        request = Request(number=number, method=call.method, path=call.path, phase=phase, file_name=file_name)
        return self._plan(request) or Fault()

    def _perform(self, call: _Call, phase: Phase, upload: _Upload | None, fault: Fault) -> Answer:
        if upload is None and not call.has_key:  # the address of an upload is its own permission
            raise _RefusalError(403, "Method doesn't allow unregistered callers: expected x-goog-api-key.")
        if upload is not None and phase != "query":
            self._receive(call, upload, part=0.5 if fault.kind == "drop" else 1.0)
        if fault.kind == "drop":
            raise _HangUpError
        latency_s = fault.latency_s + (self._latency_s if phase == "finalize" else 0.0)
        if self._stopping.wait(None if fault.kind == "hang" else latency_s):
            raise _HangUpError
        if fault.code:
            raise _RefusalError(fault.code, f"{STATUS_NAMES[fault.code]}, as planned.")
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

    def _start(self, call: _Call) -> Answer:
        content = b""
        while call.body_left:
            content += call.read()
            if len(content) > 65536:
                raise _RefusalError(400, "CreateFileRequest: expected at most 64 KiB of JSON.")
        try:
            asked = json.loads(content or b"{}").get("file") or {}
            # Protobuf's JSON takes both spellings; google-genai sends the second.
            name, display_name = asked.get("name"), asked.get("displayName", asked.get("display_name"))
        except (ValueError, AttributeError):
            raise _RefusalError(400, 'CreateFileRequest: expected JSON, {"file": {...}}.') from None
        declared_bytes = _whole_number(call.headers, "x-goog-upload-header-content-length")
        name, display_name = (None if text is None else str(text) for text in (name, display_name))
        _check_metadata(name, display_name, declared_bytes)
        self._store.check_free(name)
        upload = _Upload(
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

    def _find_upload(self, call: _Call) -> _Upload:
        upload_id = call.query.get("upload_id", "")
        with self._lock:
            upload = self._uploads.get(upload_id) or self._finished.get(upload_id)
        if upload is None:
            raise _RefusalError(404, "There is no such upload, or it is over.")
        return upload

    def _receive(self, call: _Call, upload: _Upload, part: float) -> None:
        """Take in the first `part` of the body; bytes of a resent chunk that came before do not count."""
        offset = _whole_number(call.headers, "x-goog-upload-offset")
        stop_at = call.body_left - int(call.body_left * part)
        with upload.lock:
            if upload.record is not None:
                return
            if offset is None or offset > upload.received_bytes:
                message = f"X-Goog-Upload-Offset: expected at most {upload.received_bytes}."
                raise _RefusalError(400, message, upload_status="active")
            known_bytes = upload.received_bytes - offset
            while call.body_left > stop_at:
                chunk = call.read(min(READ_BYTES, call.body_left - stop_at))
                upload.feed(chunk[known_bytes:])
                known_bytes = max(0, known_bytes - len(chunk))

    def _progress(self, upload: _Upload) -> Answer:
        with upload.lock:
            status = "active" if upload.record is None else "final"
            received = str(upload.received_bytes)
        return None, {"X-Goog-Upload-Status": status, "X-Goog-Upload-Size-Received": received}

    def _finalize(self, call: _Call, upload: _Upload) -> Answer:
        """Store the file, once: a resent finalize gets the same answer."""
        with upload.lock:
            if upload.record is None:
                if upload.declared_bytes not in (None, upload.received_bytes):
                    got = f"expected {upload.declared_bytes} bytes, got {upload.received_bytes}"
                    raise _RefusalError(400, f"Upload: {got}.")
                content, upload.content = upload.content, None
                upload.record = self._store.add(
                    **upload.metadata,
                    make_name=lambda: f"files/{self._random_id(12)}",
                    base_url=upload.base_url,
                    sha256=upload.digest.hexdigest(),
                    size_bytes=upload.received_bytes,
                    mark=None if content is None else _mark_of(bytes(content), self._identify),
                )
                with self._lock:
                    upload_id = call.query["upload_id"]
                    self._uploads.pop(upload_id, None)
                    self._finished[upload_id] = upload
                    if len(self._finished) > KEPT_UPLOADS:
                        self._finished.popitem(last=False)
            return {"file": self._as_json(upload.record)}, {"X-Goog-Upload-Status": "final"}

    def _list(self, call: _Call) -> dict[str, Any]:
        size = _whole_number(call.query, "pageSize") or 10
        records, more = self._store.page(min(size, 100), _whole_number(call.query, "pageToken") or 0)
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
