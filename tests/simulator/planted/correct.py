"""The smallest target that keeps the promise: one Lua script a transition, images uploaded before accepting.

A message is delivered under its own id as batch id, and leaves the queue by id. A claim is a lease that
only its owner gives up. Whatever cannot be delivered is named as missing, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podrace.simulator.target import Placeholder, PodEnv

LEASE_MS = 30_000
REMEMBER_MS = 60_000
ATTEMPTS = 3

ACCEPT = """
if redis.call('EXISTS', KEYS[3]) == 1 or redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then return 0 end
return redis.call('RPUSH', KEYS[1], ARGV[1])
"""
CLAIM = """
local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[1] then return false end
local id = redis.call('LINDEX', KEYS[1], 0)
if not id then redis.call('DEL', KEYS[3]) return false end
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
return {id, redis.call('HGET', KEYS[2], id)}
"""
ACK = """
if redis.call('HDEL', KEYS[2], ARGV[2]) == 1 then redis.call('LREM', KEYS[1], 1, ARGV[2]) end
redis.call('SET', KEYS[4], 1, 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
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
        placeholders = [image if isinstance(image, dict) else self.upload(image) for image in images]
        parts = [{"type": "text", "text": text}, *(self.part(placeholder) for placeholder in placeholders)]
        self.accept(user_id, message_id, parts)
        return placeholders

    def absorb(self, user_id: str) -> int:
        delivered = 0
        token = f"{self.env.name}-{self.env.rng.getrandbits(64):x}"
        while (claimed := self.claim(user_id, token)) is not None:
            message_id, parts = claimed
            self.deliver(user_id, message_id, parts)
            self.ack(user_id, token, message_id)
            delivered += 1
        return delivered

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        result = placeholder["result"]
        return {"status": "completed" if result["type"] == "google_cloud" else "failed", "result": result}

    def close(self) -> None:
        """Nothing to stop."""

    def upload(self, path: Path) -> Placeholder:
        result: dict[str, Any]
        try:
            file = self.env.gemini.upload(file=str(path))
            result = {"type": "google_cloud", "uri": file.uri}
        except Exception as error:
            result = {"type": "missing_image", "filename": path.stem, "reason": str(error)}
        return {"upload_uuid": f"{self.env.rng.getrandbits(64):x}", "filename": str(path), "result": result}

    def part(self, placeholder: Placeholder) -> dict[str, Any]:
        result: dict[str, Any] = placeholder["result"]
        if result["type"] == "missing_image":
            return result
        return {"type": "google_cloud_file_uri", "google_cloud_file_uri": result["uri"]}

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.script(ACCEPT, [*self.keys(user_id)[:2], self.seen(user_id, message_id)], message_id, json.dumps(parts))

    def claim(self, user_id: str, token: str) -> tuple[str, list[dict[str, Any]]] | None:
        found = self.script(CLAIM, self.keys(user_id), token, LEASE_MS)
        return (found[0].decode(), json.loads(found[1])) if found else None

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        for attempt in range(ATTEMPTS):
            try:
                return self.env.memory.send(user_id, parts, batch_id=f"{user_id}/{message_id}")
            except Exception as error:
                if attempt + 1 == ATTEMPTS:
                    missing = {"type": "missing_message", "message_id": message_id, "reason": str(error)}
                    return self.env.memory.send(user_id, [missing], batch_id=f"{user_id}/{message_id}")
        return None

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        self.script(ACK, [*self.keys(user_id), self.seen(user_id, message_id)], token, message_id, REMEMBER_MS)

    def keys(self, user_id: str) -> list[str]:
        """The queue of ids, the messages by id, the claim."""
        return [f"{self.env.prefix}{kind}:{user_id}" for kind in ("queue", "messages", "claim")]

    def seen(self, user_id: str, message_id: str) -> str:
        return f"{self.env.prefix}seen:{json.dumps([user_id, message_id])}"

    def script(self, text: str, keys: list[str], *args: Any) -> Any:
        return self.env.redis.eval(text, len(keys), *keys, *args)


def correct(env: PodEnv) -> Correct:
    return Correct(env)


class Registered(Correct):
    """By EVALSHA, as redis-py's register_script does it."""

    def script(self, text: str, keys: list[str], *args: Any) -> Any:
        return self.env.redis.register_script(text)(keys=keys, args=args)


def registered(env: PodEnv) -> Registered:
    return Registered(env)
