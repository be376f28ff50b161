"""Variants of the correct target with one bug each, which the checks must catch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from planted.correct import ACCEPT, ACK, CLAIM, LEASE_MS, REMEMBER_MS, Correct, Placeholder, claimed
from podrace.simulator.target import PodEnv

CLAIM_FOR_EVER = CLAIM.replace(", 'PX', ARGV[2]", "")
POP = """
local id = redis.call('ZPOPMIN', KEYS[1])[1]
if not id then return false end
local parts = redis.call('HGET', KEYS[2], id)
redis.call('HDEL', KEYS[2], id)
return {id, parts}
"""
READ = """
local id = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
return id and {id, redis.call('HGET', KEYS[2], id)}
"""
ACK_FIRST = """
local id = redis.call('ZPOPMIN', KEYS[1])[1]
if id then redis.call('HDEL', KEYS[2], id) end
redis.call('SET', KEYS[4], 1, 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) == ARGV[1] then redis.call('GETDEL', KEYS[3]) end
return 1
"""
ACK_REMEMBERED_FOR_EVER = ACK.replace(", 'PX', ARGV[3]", "")


class PopBeforeDelivery(Correct):
    """Takes a message out of the queue, then delivers it."""

    def claim(self, user_id: str, token: str) -> Any:
        return claimed(self.script(POP, self.keys(user_id)))

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        """Does nothing: the message was popped already."""


class AcceptInMemory(Correct):
    """Accepts a message that is only in its own memory until it absorbs."""

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
        found = self.claim(user_id, self.env.name)
        if found is None:
            return 0
        self.ack(user_id, self.env.name, found[0])
        self.deliver(user_id, *found)
        return 1


class PushWithoutId(Correct):
    """A push that is applied twice makes two messages."""

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
    """Without a batch id the receiver cannot recognise a batch that it has already."""

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.memory.send(user_id, parts)


class UnlockWithoutOwnership(SendWithoutId):
    """Deletes the lock without checking who owns it."""

    def claim(self, user_id: str, token: str) -> Any:
        return claimed(self.script(READ, self.keys(user_id)))

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
    """A claim without a time to live, which stays when its pod dies."""

    def claim(self, user_id: str, token: str) -> Any:
        return claimed(self.script(CLAIM_FOR_EVER, self.keys(user_id), token))


class AckByPosition(Correct):
    """Acknowledges whatever is first in the queue."""

    def ack(self, user_id: str, token: str, message_id: str) -> None:
        keys = [*self.keys(user_id), self.seen(user_id, message_id)]
        self.script(ACK_FIRST, keys, token, message_id, REMEMBER_MS)


class SwallowedError(Correct):
    """Accepts even if Redis has answered with an error."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        try:
            super().accept(user_id, message_id, parts)
        except Exception:
            pass


class WrongUser(Correct):
    """One queue for users whose names differ only in their type."""

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
        placeholders = [self.upload(image) if isinstance(image, Path) else image for image in images]
        parts = [{"type": "text", "text": text}]
        parts += [part for part in map(self.part, placeholders) if part["type"] != "missing_image"]
        self.accept(user_id, message_id, parts)
        return placeholders


class PoisonStops(Correct):
    """Tries a message that the memory agent refuses again for ever, before all others."""

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        self.env.memory.send(user_id, parts, batch_id=f"{user_id}/{message_id}")


class ForgetsStatus(Correct):
    """A status key that the absorber deletes while readers still ask."""

    otherwise = "unknown"

    def add_message(self, user_id: str, text: str, images: Sequence[Path | Placeholder], message_id: str) -> Any:
        placeholders = super().add_message(user_id, text, images, message_id)
        self.env.redis.set(f"{self.env.prefix}status", "completed", ex=50)
        return placeholders

    def absorb(self, user_id: str) -> int:
        delivered = super().absorb(user_id)
        self.env.redis.delete(f"{self.env.prefix}status")
        return delivered

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        if self.env.redis.get(f"{self.env.prefix}status"):
            return super().upload_status(placeholder)
        return {"status": self.otherwise, "result": None}


class StatusGoesBack(ForgetsStatus):
    """Treats a status that is gone as one that is not there yet."""

    otherwise = "pending"


class NotInTheContract(Correct):
    """Returns a status word that is not in the contract."""

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        return super().upload_status(placeholder) | {"status": "done"}


class CompletedWithoutAFile(Correct):
    """Says completed without saying where the file is."""

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        return {"status": "completed", "result": None}


class CompletedBeforeUploaded(Correct):
    """Says completed at once, and uploads later."""

    def upload(self, path: Path) -> Placeholder:
        name = f"files/{path.stem}"
        result = {"filename": path.stem, "uri": f"https://files.invalid/{path.stem}", "name": name, "content": ""}
        self.env.runtime.spawn("upload", lambda: self.env.gemini.upload(file=str(path)))
        return {"filename": str(path), "result": result}


class NamesEverything(Correct):
    """Delivers no image, and names every one as missing."""

    def usable(self, part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] != "uploaded":
            return part
        return {"type": "missing_image", "filename": part["filename"], "reason": "not today"}


class NamesTheMessage(Correct):
    """Delivers no message, and names every one as missing."""

    def deliver(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        missing = {"type": "missing_message", "message_id": message_id, "reason": "not today"}
        super().deliver(user_id, message_id, [missing])


class SendsWhatIsNotReady(Correct):
    """Sends an uploaded file without checking that it is usable."""

    def usable(self, part: dict[str, Any]) -> dict[str, Any]:
        return {"type": "google_cloud_file_uri", "google_cloud_file_uri": part["uri"]} if "uri" in part else part


class NewestFirst(Correct):
    """Uses a stack instead of a queue."""

    def claim(self, user_id: str, token: str) -> Any:
        return claimed(self.script(CLAIM.replace("'ZRANGE'", "'ZREVRANGE'"), self.keys(user_id), token, LEASE_MS))


class OneQueue(Correct):
    """One queue for all users: absorbing delivers the next message, even of another user."""

    def keys(self, user_id: str) -> list[str]:
        return super().keys("everybody")


class TwoLocks(Correct):
    """Takes two locks in one order to absorb, and in the other order to return a status."""

    def __init__(self, env: PodEnv) -> None:
        super().__init__(env)
        self.first, self.second = env.runtime.lock(), env.runtime.lock()

    def upload_status(self, placeholder: Placeholder) -> dict[str, Any]:
        with self.second:
            self.env.redis.get(f"{self.env.prefix}paused")
            with self.first:
                return super().upload_status(placeholder)

    def absorb(self, user_id: str) -> int:
        with self.first:
            self.env.redis.get(f"{self.env.prefix}paused")
            with self.second:
                return super().absorb(user_id)


class Waits(Correct):
    """Waits for something that nobody ever writes."""

    def absorb(self, user_id: str) -> int:
        self.env.redis.blpop([f"{self.env.prefix}never"], timeout=0)
        return super().absorb(user_id)


class PollsAsleep(Correct):
    """Before it delivers, it polls for something that nobody ever writes."""

    def absorb(self, user_id: str) -> int:
        while not self.env.redis.get(f"{self.env.prefix}never"):
            self.env.runtime.sleep(0.1)
        return super().absorb(user_id)


class AcceptsInTwoSteps(Correct):
    """Stores the id first and queues the message afterwards: in between it counts as accepted."""

    def accept(self, user_id: str, message_id: str, parts: list[dict[str, Any]]) -> None:
        seen = self.seen(user_id, message_id)
        if self.env.redis.set(seen, 1, nx=True, px=REMEMBER_MS):
            queue, messages, _ = self.keys(user_id)
            self.script(ACCEPT, [queue, messages, f"{seen}:never"], message_id, json.dumps(parts))
