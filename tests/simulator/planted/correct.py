"""The smallest correct target: one Lua script for each transition, images uploaded before accepting.

A message is delivered with its own id as batch id, and leaves the queue by id. A claim is a lease that
only its owner gives up. A message keeps the content of its images, so that the pod that delivers it can upload a
file again if it is gone or belongs to another key. What cannot be delivered is named as missing, with the reason.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podrace.reference.gemini import GeminiFiles
from podrace.simulator.target import PodEnv

Placeholder = dict[str, Any]

LEASE_MS = 30_000
REMEMBER_MS = 60_000
ATTEMPTS = 3
POLL_S = 5.0

ACCEPT = """
if redis.call('GET', KEYS[3]) or redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then return 0 end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return redis.call('ZADD', KEYS[1], (last[2] or 0) + 1, ARGV[1])
"""
CLAIM = """
local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[1] then return false end
local id = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
if not id then redis.call('GETDEL', KEYS[3]) return false end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return {id, redis.call('HGET', KEYS[2], id)}
"""
ACK = """
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('SET', KEYS[4], 1, 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('GETDEL', KEYS[3]) end
return 1
"""


class Correct:
    def __init__(self, env: PodEnv) -> None:
        self.env = env

    def add_message(
        self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str
    ) -> list[Placeholder]:
        if not isinstance(user_id, str) or not user_id:
            raise ValueError(f"user id: expected a text, got {user_id!r}")
        placeholders = [self.upload(image) if isinstance(image, Path) else image for image in images]
        parts = [{"type": "text", "text": text}, *(self.part(placeholder) for placeholder in placeholders)]
        self.accept(user_id, message_id, parts)
        return placeholders

    def absorb(self, user_id: str) -> int:
        delivered = 0
        token = f"{self.env.name}-{self.env.rng.getrandbits(64):x}"
        while (claimed := self.claim(user_id, token)) is not None:
            message_id, parts = claimed
            self.deliver(user_id, message_id, [self.usable(part) for part in parts])
            self.ack(user_id, token, message_id)
            delivered += 1
        return delivered

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        result = placeholder["result"]
        return {"status": "completed" if "uri" in result else "failed", "result": result}

    def wait_for_upload(self, placeholder: Placeholder) -> dict[str, Any]:
        """Returns at once: the upload ends before anybody has the placeholder."""
        result: dict[str, Any] = placeholder["result"]
        return result

    def upload(self, path: Path) -> Placeholder:
        result: dict[str, Any]
        try:
            file = self.env.gemini.upload(file=str(path))
            content = base64.b64encode(path.read_bytes()).decode()
            result = {"filename": path.stem, "uri": file.uri, "name": file.name, "content": content}
        except Exception as error:
            result = missing_image(path.stem, error)
        return {"filename": str(path), "result": result}

    def part(self, placeholder: Placeholder) -> dict[str, Any]:
        result: dict[str, Any] = placeholder["result"]
        return {"type": "uploaded", **result} if "uri" in result else result

    def usable(self, part: dict[str, Any]) -> dict[str, Any]:
        """The part with a file that is ready and readable with this pod's key, so that the memory agent takes it."""
        if part["type"] != "uploaded":
            return part
        try:
            file = self.file_of(part)
            while state_of(file) == "PROCESSING":
                self.env.runtime.sleep(POLL_S)
                file = self.env.gemini.get(name=file.name)
            if state_of(file) != "ACTIVE":
                raise ValueError(f"the file is {state_of(file)}")
        except Exception as error:
            return missing_image(part["filename"], error)
        return {"type": "google_cloud_file_uri", "google_cloud_file_uri": file.uri}

    def file_of(self, part: dict[str, Any]) -> Any:
        try:
            return self.env.gemini.get(name=part["name"])
        except Exception:  # the file is gone, or belongs to another key
            content = io.BytesIO(base64.b64decode(part["content"]))
            return self.env.gemini.upload(file=content, config={"mime_type": "image/png"})

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.script(ACCEPT, [*self.keys(user_id)[:2], self.seen(user_id, message_id)], message_id, json.dumps(parts))

    def claim(self, user_id: str, token: str) -> tuple[str, list[dict[str, Any]]] | None:
        return claimed(self.script(CLAIM, self.keys(user_id), token, LEASE_MS))

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self.env.memory.send(user_id, parts, batch_id=f"{user_id}/{message_id}")
                return
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    self.env.memory.send(
                        user_id, [missing_message(message_id, error)], batch_id=f"{user_id}/{message_id}"
                    )

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        self.script(ACK, [*self.keys(user_id), self.seen(user_id, message_id)], token, message_id, REMEMBER_MS)

    def keys(self, user_id: str) -> list[str]:
        """The keys of the ordered ids, of the messages by id, and of the claim."""
        return [f"{self.env.prefix}{kind}:{user_id}" for kind in ("queue", "messages", "claim")]

    def seen(self, user_id: str, message_id: str) -> str:
        return f"{self.env.prefix}seen:{json.dumps([user_id, message_id])}"

    def script(self, text: str, keys: list[str], *args: Any) -> Any:
        return self.env.redis.eval(text, len(keys), *keys, *args)


def claimed(found: Any) -> tuple[str, list[dict[str, Any]]] | None:
    """The id and the parts that a script has found; a damaged message is named as missing."""
    if not found:
        return None
    message_id = found[0].decode()
    try:
        return message_id, json.loads(found[1])
    except ValueError as error:
        return message_id, [missing_message(message_id, error)]


def missing_image(filename: str, error: Exception) -> dict[str, Any]:
    return {"type": "missing_image", "filename": filename, "reason": str(error)}


def missing_message(message_id: str, error: Exception) -> dict[str, Any]:
    return {"type": "missing_message", "message_id": message_id, "reason": str(error)}


def state_of(file: Any) -> str:
    return str(file.state.name)


def correct(env: PodEnv) -> Correct:
    return Correct(env)


class Registered(Correct):
    """Calls its scripts by EVALSHA, as redis-py's register_script does."""

    def script(self, text: str, keys: list[str], *args: Any) -> Any:
        return self.env.redis.register_script(text)(keys=keys, args=args)


class Files(GeminiFiles):
    """The real client with the two other methods that this target needs."""

    def upload(self, *, file: Any, config: Any = None) -> Any:
        return self.files.upload(file=file, config=config)

    def get(self, *, name: str) -> Any:
        return self.files.get(name=name)

    @property
    def files(self) -> Any:
        with self._lock:
            self._client = self._client or self._make_client()
        return self._client.files
