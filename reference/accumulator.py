"""Takes a user's messages in, and absorbs them, in order, into the memory agent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from podrace.reference.runtime import Runtime
from podrace.reference.status import COMPLETED, PENDING, Placeholder
from podrace.reference.upload_manager import UploadManager

if TYPE_CHECKING:
    import redis

Message = dict[str, Any]
"""`{"message_id": str, "text": str, "images": [Placeholder], "timestamp": float}`: an item of the list."""

LOCK_TTL_S = 30


class MemoryAgent(Protocol):
    def send(
        self,
        user_id: str,
        parts: Sequence[Mapping[str, Any]],
        batch_id: str | None = None,
        fence: int | None = None,
    ) -> None: ...


class Accumulator:
    """One pod's end of the users' message lists, as the published fix has it."""

    def __init__(
        self,
        client: redis.Redis,
        upload_manager: UploadManager,
        memory: MemoryAgent,
        runtime: Runtime,
        *,
        pod_name: str,
        prefix: str = "mirix:",
        absorb_limit: int = 20,
        compress: bool = True,
    ) -> None:
        self._redis = client
        self._upload_manager = upload_manager
        self._memory = memory
        self._runtime = runtime
        self._pod_name = pod_name
        self._prefix = prefix
        self._absorb_limit = absorb_limit
        self._compress = compress

    def add_message(
        self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str
    ) -> list[Placeholder]:
        """Start the uploads, then push the message with its placeholders, which are returned."""
        now = self._runtime.now()
        placeholders = [
            image
            if isinstance(image, dict)
            else self._upload_manager.upload_file_async(str(image), now, self._compress)
            for image in images
        ]
        message = {"message_id": message_id, "text": text, "images": placeholders, "timestamp": now}
        self._redis.rpush(self._messages_key(user_id), json.dumps(message))
        return placeholders

    def should_absorb_content(self, user_id: str) -> bool:
        """True when as many messages are ready, before the first with a pending image, as the limit asks."""
        return len(self._ready_messages(user_id)) >= self._absorb_limit

    def absorb_content_into_memory(self, user_id: str) -> int:
        """Deliver the ready messages in one batch. Returns their number; 0 while another pod has the lock."""
        lock_key = f"{self._prefix}lock:{user_id}"
        if not self._redis.set(lock_key, self._pod_name, nx=True, ex=LOCK_TTL_S):
            return 0
        try:
            ready = self._ready_messages(user_id)
            if ready:
                self._memory.send(user_id, self._build_memory_message(ready))
                for message, _ in ready:
                    for placeholder in message["images"]:
                        self._upload_manager.cleanup_resolved_upload(placeholder)
                self._redis.ltrim(self._messages_key(user_id), len(ready), -1)
            return len(ready)
        finally:
            self._redis.delete(lock_key)

    def _ready_messages(self, user_id: str) -> list[tuple[Message, list[Any]]]:
        """Messages in order up to the first with a pending image, each with its images' file references.

        Images that failed or that nobody knows are dropped: this is where a foreign pod loses them.
        """
        ready: list[tuple[Message, list[Any]]] = []
        for item in self._redis.lrange(self._messages_key(user_id), 0, -1):
            message: Message = json.loads(item)
            answers = [self._upload_manager.get_upload_status(image) for image in message["images"]]
            if any(answer["status"] == PENDING for answer in answers):
                break
            ready.append((message, [a["result"] for a in answers if a["status"] == COMPLETED]))
        return ready

    def _build_memory_message(self, ready: list[tuple[Message, list[Any]]]) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for message, files in ready:
            parts.append({"type": "text", "text": message["text"]})
            for file in files:
                uri = file["uri"] if isinstance(file, dict) else file.uri
                parts.append({"type": "google_cloud_file_uri", "google_cloud_file_uri": uri})
        return parts

    def _messages_key(self, user_id: str) -> str:
        return f"{self._prefix}temp_messages:{user_id}"
