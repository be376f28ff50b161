"""The files of the local Gemini Files API: records, their rules, and the service inline, without HTTP.

Sources: the Gemini API Files reference (https://ai.google.dev/api/files). Contents are never kept.
"""

from __future__ import annotations

import binascii
import hashlib
import mimetypes
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIZE_LIMIT_BYTES = 2 * 1024**3
IDENTIFY_LIMIT_BYTES = 32 * 1024**2
"""A longer upload is no workload image, and is not held in memory to be looked at."""
LIFETIME_S = 48 * 3600.0
NAME_RULE = re.compile(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

Identify = Callable[[bytes], str | None]


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


class RefusalError(Exception):
    """The service refuses a request: an HTTP status code and a message for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def check_metadata(name: str | None, size_bytes: int | None) -> None:
    """Raises RefusalError where a name or a size breaks the rules."""
    if name is not None and not NAME_RULE.fullmatch(name):
        rule = "at most 40 lowercase alphanumeric characters or dashes (-), no dash first or last"
        raise RefusalError(400, f"CreateFileRequest.file.name: expected {rule}.")
    if size_bytes is not None and size_bytes > SIZE_LIMIT_BYTES:
        raise RefusalError(400, f"File size: expected at most {SIZE_LIMIT_BYTES} bytes, got {size_bytes}.")


class FileStore:
    """The stored files and their rules, without any transport. Thread-safe."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
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

    def add(self, *, name: str | None, make_name: Callable[[], str], base_url: str, **known: Any) -> FileRecord:
        with self._lock:
            if name in self._alive():
                raise RefusalError(409, f"Requested entity already exists: {name}")
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
                raise RefusalError(404, f"File {name} does not exist.")
            return (self._records.pop if delete else self._records.__getitem__)(name)[1]

    def page(self, size: int, after: int) -> tuple[list[FileRecord], int | None]:
        """At most `size` files, oldest first, and the serial that the next page follows (None: the last).

        Serials rather than positions, so that no file is skipped where others are deleted between two pages.
        """
        with self._lock:
            rest = [item for item in self._alive().values() if item[0] > after]
        more = rest[size - 1][0] if len(rest) > size else None
        return [record for _, record in rest[:size]], more


class InProcessFiles:
    """The part of the service that a pod uses, without HTTP: a name depends on the content and how often it came.

    `now` gives epoch seconds; files are ACTIVE at once. Errors are those of google-genai's files service:
    FileNotFoundError, ValueError for an unknown MIME type, UnicodeEncodeError for a file name that is not
    ASCII. Thread-safe.
    """

    url = "http://files.invalid"

    def __init__(self, *, now: Callable[[], float] = time.time, identify: Identify | None = None) -> None:
        self._store = FileStore(now)
        self._identify = identify
        self._copies: dict[str, int] = {}

    def files(self) -> dict[str, FileRecord]:
        """Every stored file that has not expired, by its name, `files/...`."""
        return self._store.files()

    def upload(self, *, file: str | os.PathLike[str]) -> FileRecord:
        """Store the file at a path."""
        content = Path(file).read_bytes()
        mime_type, _ = mimetypes.guess_type(file)
        if mime_type is None:
            raise ValueError(f"Unknown mime type: {file}: expected a known suffix")
        file_name = os.path.basename(file)
        file_name.encode("ascii")  # google-genai sends it as a header, and fails so on any other letter
        sha256 = hashlib.sha256(content).hexdigest()
        return self._store.add(
            name=None,
            make_name=lambda: self._next_name(sha256),
            base_url=self.url,
            sha256=sha256,
            size_bytes=len(content),
            mark=self._identify(content) if self._identify else None,
            file_name=file_name,
            mime_type=mime_type,
        )

    def _next_name(self, sha256: str) -> str:
        self._copies[sha256] = self._copies.get(sha256, 0) + 1  # the store calls this under its lock
        return f"files/{sha256[:24]}-{self._copies[sha256]}"


@dataclass(slots=True, kw_only=True)
class Upload:
    """One resumable upload, open until it is finalized or refused."""

    base_url: str
    metadata: dict[str, str | None]  # name, file_name, display_name, mime_type
    declared_bytes: int | None
    content: bytearray | None  # only where it must be identified
    digest: Any = field(default_factory=hashlib.sha256)
    received_bytes: int = 0

    def feed(self, chunk: bytes, offset: int | None) -> None:
        """Take in the next bytes; RefusalError where they are not the next, or too many."""
        if offset != self.received_bytes:
            raise RefusalError(400, f"X-Goog-Upload-Offset: expected {self.received_bytes}.")
        self.received_bytes += len(chunk)
        check_metadata(None, self.received_bytes)
        self.digest.update(chunk)
        if self.content is not None and self.received_bytes <= IDENTIFY_LIMIT_BYTES:
            self.content += chunk
        else:
            self.content = None
