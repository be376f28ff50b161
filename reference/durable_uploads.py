"""Who uploads: a pool of workers, the leases they hold with one heartbeat, and Gemini's rules.

An upload is tried until Gemini has the file ACTIVE, refuses it for good, or the attempts are used up. No pod owns it:
a pod only has a lease on the uploads of a message, and when that lapses, the next absorber takes them over. So two
pods may work on one upload. That is harmless: the first result stays (`finish.lua`), the other's file is deleted.
"""

from __future__ import annotations

import io
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from podrace.reference.durable_heartbeat import Heartbeat
from podrace.reference.durable_input import NewMessage, Settings, mime_type, new_placeholder
from podrace.reference.durable_store import DurableStore
from podrace.reference.runtime import Runtime
from podrace.reference.status import COMPLETED, FAILED, Placeholder, Status, file_reference
from podrace.reference.upload_manager import FilesService

_log = logging.getLogger("podrace.durable")
_T = TypeVar("_T")

PASSING = (
    *(RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError),
    *(ClusterDownError, RedisClusterException),  # the latter is no RedisError
)
"""Errors of Redis that may pass. The command may have been applied already; it is safe to send it again."""

PASSING_CODES = frozenset({408, 409, 425, 429})
"""Codes of Gemini that may pass, as all from 500 on may. Any other from 400 on is final."""

LONGEST_PAUSE_S = 5.0
PROGRESS_EVERY_S = 1.0


class RefusedFileError(Exception):
    """Gemini has processed the file and cannot use it."""


class ImageFile(io.BytesIO):
    """An image as google-genai reads it. `on_read` gets, before each read, the bytes read (and so sent) so far."""

    def __init__(self, content: bytes, name: str, on_read: Callable[[int], None] = lambda sent: None) -> None:
        super().__init__(content)
        self.name = name
        self.mime_type = mime_type(content) or "application/octet-stream"
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        self._on_read(self.tell())
        return super().read(size)

    def __str__(self) -> str:
        return str(self.name)


@dataclass(eq=False)
class Upload:
    """One upload that this pod works on. `moved_at`: when Gemini last read some of its bytes."""

    placeholder: Placeholder
    content: bytes
    lease: str
    attempt: int = 1
    moved_at: float | None = None
    told_at: float = 0.0
    progress: int = 0
    given_up: bool = False

    @property
    def upload_id(self) -> str:
        return str(self.placeholder["upload_uuid"])


class Uploader:
    """The uploads of one pod."""

    def __init__(self, store: DurableStore, gemini: FilesService, runtime: Runtime, settings: Settings) -> None:
        self._store = store
        self._gemini: Any = gemini
        self._runtime = runtime
        self._settings = settings
        self.heartbeat = Heartbeat(store, runtime, lease_s=settings.lease_s, before=self._give_up_the_hung)
        self._lock = runtime.lock()
        self._same_key = {store.holder}
        """Pods whose files this pod can read."""
        self._waiting: deque[Upload] = deque()
        self._mine: dict[str, Upload] = {}
        self._workers = 0
        self._closed = False

    def start(self, message: NewMessage) -> None:
        """Upload the images of an accepted message, unless they are being uploaded already (it came twice)."""
        for placeholder, content in message.new:
            self._submit(self._new(placeholder, content))

    def take_over(self, user_id: str, pending: Iterable[tuple[str, str]]) -> None:
        """Go on with waiting uploads on which no pod has a lease."""
        for upload_id, owner in pending:
            with self._lock:
                if upload_id in self._mine:
                    continue
            upload = self._new(new_placeholder(upload_id, "", user_id, owner), b"")
            if self._take(upload, self._store.new_id()):
                self._submit(upload)

    def close(self) -> None:
        """Start nothing more; the leases lapse and other pods go on."""
        self._closed = True
        with self._lock:
            self._waiting.clear()

    def usable(self, placeholder: Placeholder, status: Status) -> Status:
        """The status; if this pod cannot read the file, upload it again and return the new status, or `failed`."""
        while status["status"] == COMPLETED and self._is_gone(status):
            status = self._upload_again(placeholder, status)
        return status

    def _upload_again(self, placeholder: Placeholder, status: Status) -> Status:
        upload = self._new(placeholder, self._store.image_bytes(placeholder["user_id"], placeholder["upload_uuid"]))
        fresh = self._tried(upload, self._count)
        if fresh["status"] == FAILED:
            return {**fresh, "reason": f"Gemini has dropped the file, and: {fresh['reason']}"}
        return self._finish(upload, fresh, replaces=status["result"]["name"]) or fresh

    # -- the pool

    def _submit(self, upload: Upload) -> None:
        with self._lock:
            if self._closed or upload.upload_id in self._mine:
                return
            self._mine[upload.upload_id] = upload
            self._waiting.append(upload)
        self.heartbeat.hold(upload.lease, self._store.holder)
        self._add_worker()

    def _add_worker(self) -> None:
        with self._lock:
            if self._workers >= self._settings.max_workers or not self._waiting:
                return
            self._workers += 1
        self._runtime.spawn("upload", self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._workers -= 1
                    return
                upload = self._waiting.popleft()
            try:
                self._upload(upload)
            except Exception:
                _log.exception("upload %s: left for the next absorber", upload.upload_id)
            self._forget(upload)
            if upload.given_up:  # another worker has replaced this one
                return

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            if self._mine.get(upload.upload_id) is upload:
                del self._mine[upload.upload_id]
            if not any(other.lease == upload.lease for other in self._mine.values()):
                self.heartbeat.let_go(upload.lease)

    def _give_up_the_hung(self) -> None:
        """Before each heartbeat: give up uploads of which Gemini reads nothing any more; the next absorber has them."""
        now = self._runtime.now()
        with self._lock:
            hung = [
                upload
                for upload in self._mine.values()
                if upload.moved_at is not None and now - upload.moved_at > self._settings.upload_timeout_s
            ]
            for upload in hung:
                upload.given_up = True
                self._workers -= 1
        for upload in hung:
            _log.warning("upload %s: hangs at Gemini, given up", upload.upload_id)
            self._forget(upload)
            self._add_worker()

    # -- one upload

    def _upload(self, upload: Upload) -> None:
        status = self._tried(upload, self._take_again)
        if status:
            self._finish(upload, status)

    def _tried(self, upload: Upload, begin_again: Callable[[Upload], bool]) -> Status:
        """Try until it succeeds or no attempt is left. Returns the final status; empty if another pod goes on."""
        limit = self._settings.upload_attempts
        while upload.content and upload.attempt <= limit:
            try:
                return self._put(upload)
            except Exception as error:
                told = f"{type(error).__name__}: {str(error)[:200]}"
                if _is_final(error):
                    return self._failed(upload, told)
                if upload.attempt == limit:
                    return self._failed(upload, f"after {limit} attempts: {told}")
            self._runtime.sleep(min(self._settings.retry_s * 2 ** (upload.attempt - 1), LONGEST_PAUSE_S))
            if not begin_again(upload):
                return {}
        return self._failed(upload, f"{limit} attempts are used up" if upload.content else "its bytes were not kept")

    def _take_again(self, upload: Upload) -> bool:
        return self._insist(partial(self._take, upload, self._store.new_id()))

    def _count(self, upload: Upload) -> bool:
        upload.attempt += 1
        return True

    def _put(self, upload: Upload) -> Status:
        """Upload, and wait until Gemini has the file ready: the completed status. Errors of Gemini are raised."""
        started = upload.moved_at = upload.told_at = self._runtime.now()
        try:
            file = self._gemini.upload(
                file=ImageFile(
                    upload.content, upload.placeholder["filename"], lambda sent: self._progress(upload, sent)
                )
            )
            pause_s = self._settings.retry_s
            while _state(file) == "PROCESSING" and hasattr(self._gemini, "get"):
                if self._runtime.now() - started > self._settings.upload_timeout_s:
                    self._delete(file.name)
                    raise TimeoutError(f"Gemini is still processing it after {self._settings.upload_timeout_s:g} s")
                self._runtime.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                upload.moved_at = self._runtime.now()
                file = self._gemini.get(name=file.name)
        finally:
            upload.moved_at = None
        if _state(file) == "FAILED":
            self._delete(file.name)
            raise RefusedFileError("Gemini cannot use the file")
        ended = self._ended(upload.placeholder, COMPLETED, progress=100)
        known = {"by": self._store.holder, "usable_until": started + self._settings.file_life_s}
        return {**ended, "result": file_reference(file), **known}

    def _progress(self, upload: Upload, sent: int) -> None:
        """Write to Redis how much was sent, at most once a second. Nothing depends on it."""
        now = upload.moved_at = self._runtime.now()
        percent = 100 * sent // len(upload.content)
        if percent <= upload.progress or now - upload.told_at < PROGRESS_EVERY_S:
            return
        upload.progress, upload.told_at = percent, now
        try:
            self._store.renew(upload.lease, self._store.holder, progress=(upload.placeholder, percent))
        except RedisError as error:
            _log.info("upload %s: progress not told: %s", upload.upload_id, error)

    def _take(self, upload: Upload, attempt_id: str) -> bool:
        user_id, owner = upload.placeholder["user_id"], upload.placeholder["message_id"]
        taken = self._store.take(user_id, upload.upload_id, owner, attempt_id)
        if taken is None:
            return False
        upload.attempt, upload.placeholder["filename"], kept = taken
        upload.content = upload.content or kept
        return True

    def _finish(self, upload: Upload, status: Status, *, replaces: str = "") -> Status | None:
        """Write how an upload ended. Returns the status now in Redis; None if nobody needs the upload any more."""
        user_id = upload.placeholder["user_id"]
        stands = self._insist(lambda: self._store.finish(user_id, upload.upload_id, status, replaces=replaces))
        if stands is not status and status["status"] == COMPLETED:
            ours = status["result"]["name"]
            if not stands or (stands.get("result") or {}).get("name") != ours:
                self._delete(ours)  # nobody will use it
        return stands

    def _insist(self, send: Callable[[], _T]) -> _T:
        """Send until the server has answered. It is safe to run any of our scripts twice."""
        pause_s = self._settings.retry_s
        while True:
            try:
                return send()
            except PASSING as error:
                if self._closed:
                    raise
                _log.warning("redis: %s; again in %g s", error, pause_s)
            self._runtime.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    # -- Gemini's rules

    def _is_gone(self, status: Status) -> bool:
        """Whether a file has expired or our key cannot read it, which is tried until one of that pod's is readable."""
        if self._runtime.now() >= status["usable_until"]:
            return True
        if status["by"] in self._same_key or not hasattr(self._gemini, "get"):
            return False
        try:
            self._gemini.get(name=status["result"]["name"])
        except Exception as error:  # 403: another key's file. If unclear, uploading it again is right too
            _log.info("file of upload %s: cannot be read, uploaded again: %s", status["filename"], error)
            return True
        self._same_key.add(status["by"])
        return False

    def _delete(self, name: str | None) -> None:
        if not name or not hasattr(self._gemini, "delete"):
            return
        try:
            self._gemini.delete(name=name)
        except Exception as error:
            _log.info("file %s: not deleted, goes after 48 h by itself: %s", name, error)

    def _failed(self, upload: Upload, reason: str) -> Status:
        return {**self._ended(upload.placeholder, FAILED, progress=0), "reason": reason}

    def _ended(self, placeholder: Placeholder, status: str, *, progress: int) -> Status:
        known = {"filename": placeholder["filename"], "message_id": placeholder["message_id"]}
        return {"status": status, "result": None, **known, "progress": progress}

    def _new(self, placeholder: Placeholder, content: bytes) -> Upload:
        lease = self._store.key(placeholder["user_id"], "lease", placeholder["message_id"])
        return Upload(placeholder, content, lease)


def _is_final(error: Exception) -> bool:
    """Whether another attempt would be refused again. All other errors are tried again, up to the limit."""
    code = getattr(error, "code", None)
    refused = isinstance(code, int) and 400 <= code < 500 and code not in PASSING_CODES
    return refused or isinstance(error, RefusedFileError)


def _state(file: Any) -> str:
    """The state of a file; ACTIVE if the service does not tell one."""
    state = getattr(file, "state", None)
    return str(getattr(state, "value", state) or "ACTIVE")
