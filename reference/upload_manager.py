"""Starts uploads in the background, hands out placeholders at once, and answers for them later."""

from __future__ import annotations

import random
import tempfile
import uuid
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from podrace.reference.runtime import Runtime
from podrace.reference.status import (
    COMPLETED,
    FAILED,
    PENDING,
    UNKNOWN,
    Placeholder,
    Status,
    UploadFailedError,
    is_pending_placeholder,
)
from podrace.reference.store import LocalStore, UploadStore

COMPRESSIBLE = frozenset({".png", ".jpg", ".jpeg"})
MAX_SIZE_PX = (1920, 1080)
JPEG_QUALITY = 85
POLL_S = 0.1


class FilesService(Protocol):
    """What is used of the google-genai client's `files`."""

    def upload(self, *, file: Any) -> Any: ...


class UploadManager:
    """Uploads of one pod.

    The local dict is always written. With `store=None` it is all there is (the bug); with a shared
    store it is what a status falls back to where the store says `unknown` (the published fix).
    """

    def __init__(
        self,
        google_client: FilesService,
        runtime: Runtime,
        *,
        rng: random.Random,
        store: UploadStore | None = None,
        max_workers: int = 4,
        upload_timeout_s: float = 10.0,
    ) -> None:
        self._google_client = google_client
        self._runtime = runtime
        self._rng = rng
        self._upload_status = LocalStore(runtime)
        self._store: UploadStore = store or self._upload_status
        self._pool = _WorkerPool(runtime, max_workers)
        self._upload_timeout_s = upload_timeout_s

    def upload_file_async(self, filename: str, timestamp: float, compress: bool = True) -> Placeholder:
        """Start an upload and return its placeholder at once. `timestamp`: seconds since the epoch."""
        upload_uuid = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._set_status(upload_uuid, PENDING, filename=filename)

        def upload() -> None:
            compressed_file = compress_image(filename) if compress else None
            self._upload_single_file(upload_uuid, filename, timestamp, compressed_file)

        self._pool.submit(upload)
        self._runtime.spawn("timeout", lambda: self._fail_when_late(upload_uuid, filename))
        return {"upload_uuid": upload_uuid, "filename": filename, "pending": True}

    def _upload_single_file(
        self, upload_uuid: str, filename: str, timestamp: float, compressed_file: str | None
    ) -> None:
        try:
            file = self._google_client.upload(file=compressed_file or filename)
            self._set_status(upload_uuid, COMPLETED, result=file, filename=filename)
        except Exception:
            self._set_status(upload_uuid, FAILED, filename=filename)
        finally:
            if compressed_file:
                Path(compressed_file).unlink(missing_ok=True)

    def _fail_when_late(self, upload_uuid: str, filename: str) -> None:
        """The timeout handler: an upload still pending when its time is over becomes failed."""
        self._runtime.sleep(self._upload_timeout_s)
        with self._store.lock:
            if self._store.get_upload_status(upload_uuid)["status"] == PENDING:
                self._set_status(upload_uuid, FAILED, filename=filename)

    def _set_status(self, upload_uuid: str, status: str, *, result: Any = None, filename: str) -> None:
        self._store.set_upload_status(upload_uuid, status, result=result, filename=filename)
        if self._store is not self._upload_status:
            self._upload_status.set_upload_status(upload_uuid, status, result=result, filename=filename)

    def get_upload_status(self, placeholder: Any) -> Status:
        """`{"status": …, "result": …}`; what is no pending placeholder has been resolved already."""
        if not is_pending_placeholder(placeholder):
            return {"status": COMPLETED, "result": placeholder}
        answer = self._store.get_upload_status(placeholder["upload_uuid"])
        if answer["status"] == UNKNOWN:
            return self._upload_status.get_upload_status(placeholder["upload_uuid"])
        return answer

    def try_resolve_upload(self, placeholder: Any) -> Any:
        """The result when completed, else None."""
        answer = self.get_upload_status(placeholder)
        return answer["result"] if answer["status"] == COMPLETED else None

    def wait_for_upload(self, placeholder: Any, timeout: float = 30) -> Any:
        """The result, waited for up to `timeout` seconds.

        Raises UploadFailedError when it failed or nobody knows it, TimeoutError when time is over.
        """
        deadline = self._runtime.now() + timeout
        while True:
            answer = self.get_upload_status(placeholder)
            if answer["status"] == COMPLETED:
                return answer["result"]
            if answer["status"] != PENDING:
                raise UploadFailedError(f"upload of {placeholder.get('filename')}: {answer['status']}")
            if self._runtime.now() >= deadline:
                raise TimeoutError(f"upload of {placeholder.get('filename')}: still pending after {timeout} s")
            self._runtime.sleep(POLL_S)

    def upload_file(self, filename: str, timestamp: float) -> Any:
        """The blocking form: the result, or what `wait_for_upload` raises."""
        return self.wait_for_upload(self.upload_file_async(filename, timestamp))

    def cleanup_resolved_upload(self, placeholder: Any) -> None:
        """Forget an upload. Never done while querying: it would race another reader."""
        if is_pending_placeholder(placeholder):
            self._store.delete_upload_status(placeholder["upload_uuid"])
            self._upload_status.delete_upload_status(placeholder["upload_uuid"])

    def get_upload_status_summary(self) -> dict[str, int]:
        """How many uploads there are of each status."""
        return dict(Counter(entry["status"] for entry in self._store.get_all_upload_statuses().values()))


class _WorkerPool:
    """At most `max_workers` actors that take jobs in order; an idle one ends."""

    def __init__(self, runtime: Runtime, max_workers: int) -> None:
        self._runtime = runtime
        self._max_workers = max_workers
        self._lock = runtime.lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._workers = 0

    def submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._workers == self._max_workers:
                return
            self._workers += 1
        self._runtime.spawn("upload", self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._workers -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                pass  # as in a ThreadPoolExecutor: the worker lives on, and nobody asks for the outcome


def compress_image(filename: str) -> str | None:
    """A temporary JPEG that fits 1920×1080; None for what is no PNG or JPEG, or cannot be read as one."""
    path = Path(filename)
    if path.suffix.lower() not in COMPRESSIBLE:
        return None
    from PIL import Image

    with tempfile.NamedTemporaryFile(prefix=f"{path.stem[:40]}-", suffix=".jpg", delete=False) as compressed:
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
                rgb.thumbnail(MAX_SIZE_PX, Image.Resampling.LANCZOS)
                rgb.save(compressed, "JPEG", quality=JPEG_QUALITY)
        except Exception:  # Pillow raises SyntaxError, ValueError and more besides OSError
            Path(compressed.name).unlink()
            return None
    return compressed.name
