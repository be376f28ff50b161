"""Where upload statuses live: in the pod's own memory (the bug) or in Redis (the published fix)."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from podrace.reference.runtime import Runtime
from podrace.reference.status import (
    DEFAULT_TTL_S,
    Status,
    checked_upload_id,
    decode,
    encode,
    file_reference,
    unknown,
)

if TYPE_CHECKING:
    import redis

SCAN_COUNT = 1000
"""Keys a SCAN round trip looks at: at 1000 a listing is bound by decoding, not by round trips."""


class LocalStore:
    """A dict in the pod's memory: no other pod can see it, nothing in it expires."""

    def __init__(self, runtime: Runtime) -> None:
        self.lock = runtime.lock()
        """What a caller holds to check and then write without another actor between."""
        self._statuses: dict[str, Status] = {}

    def set_upload_status(
        self,
        upload_id: str,
        status: str,
        result: Any = None,
        filename: str | None = None,
        ttl: int = DEFAULT_TTL_S,
    ) -> None:
        """Write a status. `result` is a Gemini file, its dict form or None; `ttl` is in seconds."""
        entry = {"status": status, "result": file_reference(result), "filename": filename}
        with self.lock:
            self._statuses[checked_upload_id(upload_id)] = entry

    def get_upload_status(self, upload_id: str) -> Status:
        """The status; `unknown` for what is not there."""
        with self.lock:
            return dict(self._statuses.get(checked_upload_id(upload_id)) or unknown())

    def delete_upload_status(self, upload_id: str) -> None:
        with self.lock:
            self._statuses.pop(checked_upload_id(upload_id), None)

    def get_all_upload_statuses(self) -> dict[str, Status]:
        """Every status by upload id, for monitoring; no atomic snapshot."""
        with self.lock:
            return {upload_id: dict(entry) for upload_id, entry in self._statuses.items()}


class RedisStore:
    """A string a status, with a time to live, in the Redis that all pods share."""

    # Nothing guards a check and the write after it: that is the published fix (failure mode 2).
    lock: AbstractContextManager[Any] = nullcontext()

    def __init__(self, client: redis.Redis, runtime: Runtime, *, prefix: str = "mirix:") -> None:
        self._redis = client
        self._runtime = runtime
        self._key_prefix = f"{prefix}upload_status:"

    def set_upload_status(
        self,
        upload_id: str,
        status: str,
        result: Any = None,
        filename: str | None = None,
        ttl: int = DEFAULT_TTL_S,
    ) -> None:
        value = encode(status, result=result, filename=filename, timestamp=self._runtime.now())
        self._redis.set(self._key(upload_id), value, ex=ttl)

    def get_upload_status(self, upload_id: str) -> Status:
        return decode(self._redis.get(self._key(upload_id)))

    def delete_upload_status(self, upload_id: str) -> None:
        self._redis.delete(self._key(upload_id))

    def get_all_upload_statuses(self) -> dict[str, Status]:
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", self._key_prefix) + "*"
        statuses: dict[str, Status] = {}
        cursor = -1
        while cursor != 0:
            cursor, keys = self._redis.scan(max(cursor, 0), match=pattern, count=SCAN_COUNT)
            for key, value in zip(keys, self._redis.mget(keys) if keys else (), strict=True):
                if value is not None:  # gone between SCAN and MGET
                    name = key.decode() if isinstance(key, bytes) else key
                    statuses[name[len(self._key_prefix) :]] = decode(value)
        return statuses

    def _key(self, upload_id: str) -> str:
        return self._key_prefix + checked_upload_id(upload_id)


UploadStore = LocalStore | RedisStore
"""The four functions of the specification. All raise InvalidUploadIdError for an id that is no UUID."""
