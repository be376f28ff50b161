"""What `durable` keeps in Redis: its keys, its scripts, and a function for each change of state.

All keys of a user bear one hash tag, so that a script may touch several of them in Redis Cluster:

    {prefix}durable:{user}:queue        list    message ids in the order of their acceptance
    {prefix}durable:{user}:messages     hash    record/<message id>: text and placeholders (JSON); uploads/<message id>:
                                                the ids of its uploads
    {prefix}durable:{user}:uploads      hash    <upload id>: status (JSON), <upload id>/more: how many messages show it
                                                beside the one that brought it in, <upload id>/attempts, /taken
    {prefix}durable:{user}:bytes        hash    <upload id>: the image, while another pod may have to upload it
    {prefix}durable:{user}:state        hash    the claimed batch, its fence, refusals, bytes kept
    {prefix}durable:{user}:claim        string  who absorbs, for one lease
    {prefix}durable:{user}:lease:<id>   string  who uploads that message's images, for one lease
    {prefix}durable:{user}:done:<id>    string  what became of an acknowledged message, for `remember_s`
    {prefix}durable:{user}:dead         hash    record/, uploads/ and reason/<message id> of what could not be sent
    {prefix}durable:{user}:finished     channel upload ids, as they are finished

Every change is one script (`lua/`): whole or not at all, and without effect when it is sent again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import orjson

from podrace.reference.durable_input import DEFAULTS, InvalidInputError, KeptBytesError, NewMessage, Settings
from podrace.reference.durable_scripts import SCRIPTS, Call, NotReplicatedError, ScriptRunner
from podrace.reference.status import COMPLETED, FAILED, PENDING, Placeholder, Status, unknown

if TYPE_CHECKING:
    import redis

DAMAGED = "its record was damaged"


class DamagedError(RuntimeError):
    """Nobody knows the status of an upload: its record was damaged. An `absorb` has it done again."""


@dataclass(frozen=True)
class Accepted:
    """`images`: what the message shows, as first accepted. `new`: the caller has to upload its images."""

    images: list[dict[str, Any]]
    new: bool


@dataclass(frozen=True)
class Item:
    """One message of a batch. `uploads` holds the statuses of its images, terminal ones all."""

    message_id: str
    record: dict[str, Any]
    uploads: dict[str, Status]


@dataclass(frozen=True)
class Batch:
    batch_id: str
    fence: int
    claimer: str
    more: bool
    items: list[Item]


class DurableStore:
    """The scripts as functions. What they raise is redis-py's; a connection that broke leaves the outcome open."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        prefix: str,
        holder: str = "operator",
        settings: Settings = DEFAULTS,
        scripts: Mapping[str, str] = SCRIPTS,
    ) -> None:
        self.redis = client
        self.holder = holder
        self._prefix = prefix
        self._numbers = count(1)
        self._quoted = lru_cache(maxsize=10_000)(partial(quote, safe=""))
        self._runner = ScriptRunner(
            client, scripts, replicas=settings.wait_replicas, wait_ms=int(settings.replica_timeout_s * 1000)
        )
        self._run = self._runner.run
        self.look_again = self._runner.look_again
        self._settings = settings
        self._lease_ms = int(settings.lease_s * 1000)
        self._remember_ms = int(settings.remember_s * 1000)

    def new_id(self) -> str:
        """Of a claim, or of an attempt at an upload: nobody else has it."""
        return f"{self.holder}-{next(self._numbers)}"

    def key(self, user_id: str, part: str, message_id: str | None = None) -> str:
        """Ids are percent-encoded: braces, stars, colons and newlines in them mean nothing."""
        key = f"{self._prefix}durable:{{{self._quoted(user_id)}}}:{part}"
        return key if message_id is None else f"{key}:{self._quoted(message_id)}"

    def _keys(self, user_id: str, *parts: str) -> list[str]:
        base = f"{self._prefix}durable:{{{self._quoted(user_id)}}}:"
        return [base + name for name in parts]

    # -- accepting

    def accept(self, messages: Sequence[NewMessage]) -> list[Accepted | Exception]:
        """Accept each message, or say why not, in one round trip.

        A placeholder of a message that was acknowledged takes one more: its status is then in the done record.
        """
        calls = [self._accept_call(message, {}) for message in messages]
        replies = self._runner.run_all(calls)
        for number, (message, reply) in enumerate(zip(messages, replies, strict=True)):
            if isinstance(reply, list) and reply[0] == b"unknown":
                wanted = {upload.decode() for upload in reply[1:]}
                known = {
                    p["upload_uuid"]: _in_done(p, self._done(p)) for p in message.again if p["upload_uuid"] in wanted
                }
                (replies[number],) = self._runner.run_all([self._accept_call(message, known)])
        return [_accepted(message, reply) for message, reply in zip(messages, replies, strict=True)]

    def _accept_call(self, message: NewMessage, known: Mapping[str, Status | None]) -> Call:
        user, name, keep_bytes = message.user_id, message.message_id, self._settings.keep_bytes
        quoted = self._quoted(name)
        parts = ["queue", "messages", f"done:{quoted}", "dead"]
        if message.new or message.again:
            parts += ["uploads", f"lease:{quoted}"] + (["bytes", "state"] if keep_bytes else [])
        args: list[Any] = [name, message.record(), self.holder, self._lease_ms, self._settings.max_kept_bytes]
        args.append(len(message.new))
        for placeholder, content in message.new:
            args += [placeholder["upload_uuid"], pending_status(placeholder), content if keep_bytes else b""]
        for placeholder in message.again:
            status = known.get(placeholder["upload_uuid"])
            args += [placeholder["upload_uuid"], orjson.dumps(status) if status else b""]
        return "accept", self._keys(user, *parts), args

    # -- uploads

    def renew(self, lease: str, holder: str, *, progress: tuple[Placeholder, int] | None = None) -> bool:
        """Keep a lease, and write how far an upload is. False where the lease is lost."""
        keys, args = [lease], list[Any]((holder, self._lease_ms))
        if progress:
            placeholder, percent = progress
            keys.append(self.key(placeholder["user_id"], "uploads"))
            args += [placeholder["upload_uuid"], pending_status(placeholder, percent), percent]
        return bool(self._run("renew", keys, args))

    def take(self, user_id: str, upload_id: str, owner: str, attempt_id: str) -> tuple[int, str, bytes] | None:
        """Begin a further attempt: which it is, the file's name, and its bytes, empty where they were not kept.

        None where another pod is at it, or nothing is left to do.
        """
        keys = self._keys(user_id, f"lease:{self._quoted(owner)}", "uploads", "bytes")
        reply = self._run("take", keys, [upload_id, self.holder, self._lease_ms, attempt_id])
        return (reply[0], orjson.loads(reply[1])["filename"] or "", reply[2]) if reply[0] else None

    def finish(self, user_id: str, upload_id: str, status: Status, *, replaces: str = "") -> Status | None:
        """Write how an upload ended. Returns what stands: this status, another's, or None where nobody needs it."""
        keys = self._keys(user_id, "uploads", "finished", *(("bytes", "state") if status["status"] == FAILED else ()))
        reply = self._run("finish", keys, [upload_id, orjson.dumps(status), replaces])
        if reply[0]:
            return status
        return _decoded(reply[1]) if reply[1] else None

    def image_bytes(self, user_id: str, upload_id: str) -> bytes:
        content: Any = self.redis.hget(self.key(user_id, "bytes"), upload_id)
        return content or b""

    # -- statuses

    def status(self, placeholder: Placeholder) -> Status:
        """One HGET; one GET more for an upload whose message was acknowledged."""
        value: Any = self.redis.hget(self.key(placeholder["user_id"], "uploads"), placeholder["upload_uuid"])
        return _status_for_reader(placeholder, value, self._done(placeholder) if value is None else None)

    def statuses(self, placeholders: Sequence[Placeholder]) -> list[Status | DamagedError]:
        """The same for many, in one round trip."""
        pipeline: Any = self.redis.pipeline(transaction=False)
        for placeholder in placeholders:
            pipeline.hget(self.key(placeholder["user_id"], "uploads"), placeholder["upload_uuid"])
            pipeline.get(self.key(placeholder["user_id"], "done", placeholder["message_id"]))
        values = pipeline.execute() if placeholders else []
        told: list[Status | DamagedError] = []
        for placeholder, current, done in zip(placeholders, values[::2], values[1::2], strict=True):
            try:
                told.append(_status_for_reader(placeholder, current, done))
            except DamagedError as error:
                told.append(error)
        return told

    def _done(self, placeholder: Placeholder) -> Any:
        return self.redis.get(self.key(placeholder["user_id"], "done", placeholder["message_id"]))

    # -- absorbing

    def claim(self, user_id: str, claimer: str, *, lowest_fence: int) -> Batch | list[tuple[str, str]]:
        """Claim what is ready; else the uploads that it waits for: (upload id, id of the message that brought it in).

        Which messages a batch has must outlive the primary: else they go twice.
        """
        fewest = self._settings.absorb_limit
        keys = self._keys(user_id, "queue", "messages", "uploads", "state", "claim", "dead")
        args = [claimer, self._lease_ms, lowest_fence, fewest, max(fewest, self._settings.batch_limit)]
        try:
            (reply,) = self._runner.run_all([("claim", keys, args)])
        except NotReplicatedError as error:
            (reply,) = error.replies
            if not isinstance(reply, Exception) and reply[0] == b"batch":
                raise
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"none":
            names = [name.decode() for name in reply[1:]]
            return list(zip(names[::2], names[1::2], strict=True))
        _, batch_id, fence, more, *messages = reply
        items = [Item(name.decode(), _decoded(record), _statuses(pairs)) for name, record, *pairs in messages]
        return Batch(batch_id.decode(), int(fence), claimer, bool(more), items)

    def ack(self, user_id: str, batch: Batch) -> bool:
        """Take the delivered batch out. False where its claim has become another's, who offers it again."""
        done = [f"done:{self._quoted(item.message_id)}" for item in batch.items]
        keys = self._keys(user_id, "queue", "messages", "uploads", "bytes", "state", "claim", *done)
        args: list[Any] = [batch.fence, self._remember_ms]
        for item in batch.items:
            done_record = {"images": item.record.get("images", []), "statuses": item.uploads}
            args += [item.message_id, orjson.dumps(done_record)]
        return bool(self._run("ack", keys, args))

    def dead_letter(self, user_id: str, batch: Batch, *, reason: str, missing: bytes) -> str:
        """Count a refusal: `again`, `apart`, `dead`, `counted` (sent twice), or `stale` (no longer ours)."""
        keys = self._keys(user_id, "queue", "messages", "state", "claim", "dead")
        verdict: bytes = self._run("dead_letter", keys, [batch.fence, self._settings.send_attempts, reason, missing])
        return verdict.decode()

    def users_with(self, part: str) -> list[str]:
        """Those who have such a key. Looks at every key of the server, without blocking it."""
        before, after = f"{self._prefix}durable:{{", f"}}:{part}"
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", before) + "*" + after
        found = (key.decode() for key in self.redis.scan_iter(match=pattern, count=1000))
        return sorted(unquote(key[len(before) : -len(after)]) for key in found)

    def requeue(self, user_id: str, message_id: str) -> int:
        keys = self._keys(user_id, "queue", "messages", "dead", f"done:{self._quoted(message_id)}")
        return int(self._run("requeue", keys, [message_id]))


def pending_status(placeholder: Placeholder, progress: int = 0) -> bytes:
    known = {"filename": placeholder["filename"], "progress": progress, "message_id": placeholder["message_id"]}
    return orjson.dumps({"status": PENDING, "result": None, **known})


def damaged_status() -> Status:
    """What stands for an upload of which nothing can be read, nor done again."""
    return {"status": FAILED, "result": None, "filename": None, "progress": 0, "reason": DAMAGED}


def _decoded(value: bytes) -> dict[str, Any]:
    """Empty where it is damaged."""
    try:
        decoded = orjson.loads(value)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _accepted(message: NewMessage, reply: Any) -> Accepted | Exception:
    images = [dict(image) for image in message.images]
    if isinstance(reply, Exception):
        return reply
    match reply[0]:
        case b"accepted":
            return Accepted(images, new=True)
        case b"known" | b"done":
            # As it was first accepted; a record that was damaged since does not make it another message.
            first = _decoded(reply[1]).get("images", images)
            return Accepted(first, new=reply[0] == b"known" and reply[2] == b"mine")
        case b"full":
            return KeptBytesError(
                f"message {message.message_id[:60]!r}: its images are too large beside the {reply[1]} bytes that wait"
            )
        case _:
            return InvalidInputError(
                f"message {message.message_id[:60]!r}: uploads {reply[1:]} are forgotten; hand in the files again"
            )


def _statuses(pairs: list[bytes]) -> dict[str, Status]:
    values = zip(pairs[::2], pairs[1::2], strict=True)
    return {name.decode(): _decoded(value) or damaged_status() for name, value in values}


def _status_for_reader(placeholder: Placeholder, current: bytes | None, done: bytes | None) -> Status:
    """The status that a reader gets: the current one, or the recorded one once the message was acknowledged."""
    if current is None and (done is None or _decoded(done)):
        return _in_done(placeholder, done) or unknown()
    status = _decoded(current or b"")
    if not status or "again" in status:
        raise DamagedError(f"upload of {placeholder['filename']}: {DAMAGED}")
    return status


def _in_done(placeholder: Placeholder, done: bytes | None) -> Status | None:
    status = _decoded(done).get("statuses", {}).get(placeholder["upload_uuid"]) if done else None
    return status if status and status["status"] in (COMPLETED, FAILED) else None
