"""The correct target with one thing wrong in each: what the checks must catch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planted.correct import ACCEPT, ACK, LEASE_MS, REMEMBER_MS, Correct
from podrace.simulator.target import Placeholder, PodEnv

CLAIM_FOR_EVER = """
local owner = redis.call('GET', KEYS[3])
if owner and owner ~= ARGV[1] then return false end
local id = redis.call('LINDEX', KEYS[1], 0)
if not id then redis.call('DEL', KEYS[3]) return false end
redis.call('SET', KEYS[3], ARGV[1])
return {id, redis.call('HGET', KEYS[2], id)}
"""
POP = """
local id = redis.call('LPOP', KEYS[1])
if not id then return false end
local parts = redis.call('HGET', KEYS[2], id)
redis.call('HDEL', KEYS[2], id)
return {id, parts}
"""
READ = """
local id = redis.call('LINDEX', KEYS[1], 0)
return id and {id, redis.call('HGET', KEYS[2], id)}
"""
ACK_FIRST = """
local id = redis.call('LPOP', KEYS[1])
if id then redis.call('HDEL', KEYS[2], id) end
redis.call('SET', KEYS[4], 1, 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('DEL', KEYS[3]) end
return 1
"""
ACK_REMEMBERED_FOR_EVER = ACK.replace(", 'PX', ARGV[3]", "")


class PopBeforeDelivery(Correct):
    """Takes a message out of the queue, then delivers it."""

    def claim(self, user_id: str, token: str) -> Any:
        found = self.script(POP, self.keys(user_id))
        return (found[0].decode(), json.loads(found[1])) if found else None

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        """Popped already."""


class AcceptInMemory(Correct):
    """Promises what its own memory alone knows, until it absorbs."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.kept: list[tuple[str, str, list[dict[str, Any]]]] = []

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.kept.append((user_id, message_id, parts))

    def absorb(self, user_id: str) -> int:
        while self.kept:
            super().accept(*self.kept.pop(0))
        return super().absorb(user_id)


class CleanUpBeforeSend(Correct):
    """Acknowledges, then sends."""

    def absorb(self, user_id: str) -> int:
        claimed = self.claim(user_id, self.env.name)
        if claimed is None:
            return 0
        self.ack(user_id, self.env.name, claimed[0])
        self.deliver(user_id, *claimed)
        return 1


class PushWithoutId(Correct):
    """Every application of a push is another message."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.redis.rpush(self.keys(user_id)[0], json.dumps(parts))

    def absorb(self, user_id: str) -> int:
        queue = self.keys(user_id)[0]
        delivered = 0
        while (item := self.env.redis.lindex(queue, 0)) is not None:
            self.env.memory.send(user_id, json.loads(item), batch_id=str(self.env.redis.llen(queue)))
            self.env.redis.lpop(queue)
            delivered += 1
        return delivered


class SendWithoutId(Correct):
    """The receiver cannot tell a batch that it has already from a new one."""

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.memory.send(user_id, parts)


class UnlockWithoutOwnership(SendWithoutId):
    """A lock that whoever is done with it frees."""

    def claim(self, user_id: str, token: str) -> Any:
        found = self.script(READ, self.keys(user_id))
        return (found[0].decode(), json.loads(found[1])) if found else None

    def absorb(self, user_id: str) -> int:
        lock = self.keys(user_id)[2]
        if not self.env.redis.set(lock, self.env.name, nx=True, px=LEASE_MS):
            return 0
        delivered = super().absorb(user_id)
        self.env.redis.delete(lock)
        return delivered

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        super().ack(user_id, "nobody", message_id)


class NoLease(Correct):
    """A claim that outlives whoever made it."""

    def claim(self, user_id: str, token: str) -> Any:
        found = self.script(CLAIM_FOR_EVER, self.keys(user_id), token)
        return (found[0].decode(), json.loads(found[1])) if found else None


class AckByPosition(Correct):
    """Whatever is first in the queue is what was delivered."""

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        keys = [*self.keys(user_id), self.seen(user_id, message_id)]
        self.script(ACK_FIRST, keys, token, message_id, REMEMBER_MS)


class SwallowedError(Correct):
    """Accepts, whatever Redis says."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        try:
            super().accept(user_id, message_id, parts)
        except Exception:
            pass


class WrongUser(Correct):
    """One queue for users whose names differ in nothing but their type."""

    def add_message(self, user_id: Any, text: str, images: Sequence[Path | Placeholder], message_id: str) -> Any:
        return super().add_message(str(user_id), text, images, message_id)


class Leaks(Correct):
    """Remembers every id for ever."""

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        keys = [*self.keys(user_id), self.seen(user_id, message_id)]
        self.script(ACK_REMEMBERED_FOR_EVER, keys, token, message_id, REMEMBER_MS)


class SkipsFailedImages(Correct):
    """An image that could not be uploaded is left out, and nobody is told."""

    def add_message(self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str) -> Any:
        placeholders = [image if isinstance(image, dict) else self.upload(image) for image in images]
        parts = [{"type": "text", "text": text}]
        parts += [part for part in map(self.part, placeholders) if part["type"] != "missing_image"]
        self.accept(user_id, message_id, parts)
        return placeholders


class PoisonStops(Correct):
    """What the memory agent refuses is tried again, for ever, before all else."""

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.memory.send(user_id, parts, batch_id=f"{user_id}/{message_id}")


class ForgetsStatus(Correct):
    """A status key that the absorber deletes while readers still ask."""

    def add_message(self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str) -> Any:
        placeholders = super().add_message(user_id, text, images, message_id)
        self.env.redis.set(f"{self.env.prefix}status", "completed", ex=50)
        return placeholders

    def absorb(self, user_id: str) -> int:
        delivered = super().absorb(user_id)
        self.env.redis.delete(f"{self.env.prefix}status")
        return delivered

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        found = self.env.redis.get(f"{self.env.prefix}status")
        return {"status": found.decode() if found else "unknown", "result": None}


class StatusGoesBack(ForgetsStatus):
    """A status that is no longer there is taken for one that is not there yet."""

    def add_message(self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str) -> Any:
        placeholders = super().add_message(user_id, text, images, message_id)
        self.env.redis.set(f"{self.env.prefix}status", '{"status": "completed"}', ex=50)
        return placeholders

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        found = self.env.redis.get(f"{self.env.prefix}status")
        return {"status": "completed" if found else "pending", "result": None}


class CompletedBeforeUploaded(Correct):
    """Says completed at once, and uploads when it finds the time."""

    def upload(self, path: Path) -> Placeholder:
        result = {"type": "google_cloud", "uri": f"https://files.invalid/{path.stem}"}
        self.env.runtime.spawn("upload", lambda: self.env.gemini.upload(file=str(path)))
        return {"upload_uuid": path.stem, "filename": str(path), "result": result}


class AcceptsInTwoSteps(Correct):
    """The id is noted first, the message queued after: between the two, it counts as accepted."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        seen = self.seen(user_id, message_id)
        if self.env.redis.set(seen, 1, nx=True, px=REMEMBER_MS):
            queue, messages, _ = self.keys(user_id)
            self.script(ACCEPT, [queue, messages, f"{seen}:never"], message_id, json.dumps(parts))
