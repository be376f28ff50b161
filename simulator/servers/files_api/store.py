"""The stored files and their rules, without any transport. Neither contents nor keys are kept."""

from __future__ import annotations

import binascii
import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, ClassVar

LIFETIME = timedelta(hours=48)
NAME_RULE = re.compile(r"files/[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}

Clock = Callable[[], float]
Identify = Callable[[bytes], str | None]
Refuse = Callable[[int, str], Exception]


class FileState(str, Enum):  # noqa: UP042 (google-genai's is no StrEnum either, and str() of one differs)
    """Equal to the member of google-genai's `types.FileState` with the same name, and to that name."""

    PROCESSING = "PROCESSING"
    ACTIVE = "ACTIVE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file as it was when it was asked for, with the attributes of google-genai's `types.File`.

    Of ours are `mark`, what `identify` said of the content, `owner`, which stands for the API key, and `life`.
    """

    name: str
    uri: str
    sha256: str
    size_bytes: int
    create_time: datetime
    mark: str | None
    display_name: str | None
    mime_type: str | None
    owner: str = field(repr=False)
    state: FileState = FileState.ACTIVE
    life: timedelta = LIFETIME

    is_immutable: ClassVar[bool] = True
    update_time = source = error = download_uri = video_metadata = None  # which this service does not tell

    @property
    def expiration_time(self) -> datetime:
        return self.create_time + self.life

    @property
    def sha256_hash(self) -> str:
        """The base64 form of the hexadecimal digest, as the service answers it: not of the 32 bytes."""
        return binascii.b2a_base64(self.sha256.encode(), newline=False).decode()


class RefusalError(Exception):
    """The service refuses a request: an HTTP status code and a message for the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"error": {"code": code, "message": message, "status": STATUS_NAMES.get(code, "UNKNOWN")}}


def owner_of(key: str) -> str:
    """What is kept of an API key: enough to know it again, too little to find it out. "" where there is no key."""
    return key and hashlib.sha256(key.encode()).hexdigest()[:16]


class FileStore:
    """The files of every key. Thread-safe.

    `now` gives epoch seconds. `identify` is called once with the content of each upload; its answer becomes the
    record's `mark`. `processing_s` is how long a file stays PROCESSING, `life` how long it is kept; both may be set at
    any time. `refuse` makes the error that is raised from an HTTP status code and a message.
    """

    def __init__(self, now: Clock, identify: Identify | None, processing_s: float, refuse: Refuse) -> None:
        self.processing_s = processing_s
        self.life = LIFETIME
        self._now_s = now
        self._identify = identify
        self._refuse = refuse
        self._lock = threading.Lock()
        self._records: dict[str, FileRecord] = {}
        self._copies: dict[str, int] = {}
        self.marks: dict[str, str | None] = {}
        """By URI, the mark of every file that was ever stored."""
        self.fails: frozenset[str] = frozenset()
        """Marks of the files that are never made usable."""
        self.failed: list[FileRecord] = []
        """Every file that was made FAILED."""

    def files(self, owner: str | None = None) -> dict[str, FileRecord]:
        """The files that are neither deleted nor expired, by name, oldest first; of one owner or of all."""
        with self._lock:
            records = [record for record in self._alive().values() if owner in (None, record.owner)]
            return {record.name: self._as_it_is(record) for record in records}

    def find(self, name: str) -> FileRecord | None:
        """The file of that name, whosever it is; None where there is none, or none any more."""
        with self._lock:
            record = self._alive().get(name)
            return record and self._as_it_is(record)

    def change(self, name: str, *, state: str | None = None, key: str | None = None) -> None:
        """Make a file FAILED, PROCESSING for good, or ACTIVE (once `processing_s` are over), or another key's.

        KeyError where there is no such file.
        """
        with self._lock:
            record = self._alive()[name]
            owner = record.owner if key is None else owner_of(key)
            self._records[name] = replace(record, state=FileState(state or record.state), owner=owner)
            if state == FileState.FAILED:
                self.failed.append(record)

    def add(self, content: bytes, *, name: str | None, owner: str, base_url: str, **known: Any) -> FileRecord:
        """Store a file. One without a name gets one that depends on its content, its owner and how often it came.

        Refused for a name that breaks the rule (400) or is taken (409).
        """
        if name is not None and not NAME_RULE.fullmatch(name):
            rule = "at most 40 lowercase alphanumeric characters or dashes (-), no dash first or last"
            raise self._refuse(400, f"CreateFileRequest.file.name: expected {rule}.")
        sha256 = hashlib.sha256(content).hexdigest()
        mark = self._identify(content) if self._identify else None
        with self._lock:
            if name in self._alive():
                raise self._refuse(409, f"Requested entity already exists: {name}")
            name = name or self._next_name(sha256, owner)
            known |= {"sha256": sha256, "size_bytes": len(content), "create_time": self._now(), "mark": mark}
            known |= {"life": self.life}
            record = FileRecord(name=name, uri=f"{base_url}/v1beta/{name}", owner=owner, **known)
            if mark in self.fails:
                record = replace(record, state=FileState.FAILED)
                self.failed.append(record)
            self._records[name] = record
            self.marks[record.uri] = mark
            return self._as_it_is(record)

    def get(self, name: str, owner: str, *, delete: bool = False) -> FileRecord:
        """Refused for a file that is not there, or not any more (404), and for another owner's (403)."""
        with self._lock:
            record = self._alive().get(name)
            if record is None:
                raise self._refuse(404, f"File {name} does not exist.")
            if record.owner != owner:
                raise self._refuse(403, f"You do not have permission to access the File {name} or it may not exist.")
            if delete:
                del self._records[name]
            return self._as_it_is(record)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._now_s(), UTC)

    def _alive(self) -> dict[str, FileRecord]:
        limit = self._now() - self.life
        while self._records and next(iter(self._records.values())).create_time <= limit:
            del self._records[next(iter(self._records))]  # the oldest stands first
        return self._records

    def _as_it_is(self, record: FileRecord) -> FileRecord:
        if self.processing_s and record.state is FileState.ACTIVE:
            ready = record.create_time + timedelta(seconds=self.processing_s)
            return replace(record, state=FileState.PROCESSING) if self._now() < ready else record
        return record

    def _next_name(self, sha256: str, owner: str) -> str:
        digest = hashlib.sha256(f"{owner} {sha256}".encode()).hexdigest() if owner else sha256
        copy = self._copies[digest] = self._copies.get(digest, 0) + 1
        name = f"files/{digest[:24]}-{copy}"
        return self._next_name(sha256, owner) if name in self._records else name
