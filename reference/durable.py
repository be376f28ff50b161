"""`durable`: the same pod, its state changes such that nothing is lost.

The promise: once `add_message` has returned, the message and each of its images reaches the memory agent with exactly
one effect and in order for its user; or in its place stands a part that names it and the reason it is missing:

    {"type": "missing_image", "filename": ..., "reason": ...}   Gemini refused it for good, or attempts are used up
    {"type": "missing_message", "message_id": ..., "reason": ..., "filenames": [...]}     it is in the dead-letter list

Where `add_message` raised a ValueError, nothing was promised and nothing is kept. Where it raised a connection error,
nobody can know: call again with the same message id, and the message is there exactly once. A status never goes
backwards: where the server's record of it was damaged, asking is an error until the upload was done again; but without
`keep_bytes` an upload that was completed may then be `failed`. A dead pod delays a user's queue by no more than one
lease.

It rests on a memory agent that records the ids of a user's batches and never refuses one that it has, refuses an older
fence, and a batch that comes when one of its files is over (see `memory`); on a server that keeps what it has
acknowledged (options `durability`, `wait_replicas`); and on message ids that differ for each message.

Read in this order: `lua/accept.lua`, `finish.lua`, `claim.lua`, `ack.lua` (the life of a message), `durable_store`
(keys, and the scripts as functions), `durable_uploads` (who uploads), `durable_input` (options and checks), this file.
Beside the line: `durable_scripts`, `durable_heartbeat`, `durable_server`, `durable_dead_letters`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from redis.exceptions import RedisClusterException, RedisError

from podrace.reference.accumulator import MemoryAgent
from podrace.reference.durable_input import NewMessage, Settings, checked_id, checked_placeholder, read_message
from podrace.reference.durable_scripts import SCRIPTS
from podrace.reference.durable_server import NotDurableError, damages
from podrace.reference.durable_store import Accepted, Batch, DamagedError, DurableStore, Item, damaged_status
from podrace.reference.durable_uploads import PASSING, Uploader
from podrace.reference.runtime import Runtime
from podrace.reference.status import COMPLETED, PENDING, Placeholder, Status, UploadFailedError, is_pending_placeholder

_log = logging.getLogger("podrace.durable")

LISTEN_S = 5.0
"""A waiter reads again after so long without a word: a connection may be dead and not say so."""

Image = Path | str | Mapping[str, Any]


class DurablePod:
    """One instance of the service. `env` is what `targets.durable` gets; options are those of `Settings`."""

    def __init__(self, env: Any, *, scripts: Mapping[str, str] = SCRIPTS) -> None:
        self._settings = settings = Settings.from_options(env.options)
        if env.redis.get_encoder().decode_responses:
            raise ValueError("the Redis client has decode_responses=True: expected bytes, images are among the replies")
        self._memory: MemoryAgent = env.memory
        self._runtime: Runtime = env.runtime
        self._redis = env.redis
        self._store = DurableStore(
            env.redis,
            prefix=env.prefix,
            holder=f"{env.name}-{env.rng.getrandbits(64):016x}",
            settings=settings,
            scripts=scripts,
        )
        self._uploader = Uploader(self._store, env.gemini, env.runtime, settings)
        self._check_server()

    def _check_server(self) -> None:
        if self._settings.durability == "off":
            return
        found = list(damages(self._redis, replicas=self._settings.wait_replicas))
        if found and self._settings.durability == "refuse":
            raise NotDurableError("; ".join(found))
        if found:
            _log.warning("accepted messages may be lost: %s", "; ".join(found))

    # -- taking messages in

    def add_message(self, user_id: str, text: str, images: Sequence[Image], message_id: str) -> list[dict[str, Any]]:
        """Accept a message; the promise above begins with the return. Returns what stands for its images.

        The same `message_id` again is the same message, whatever else has changed, for `remember_s` after it was
        absorbed. Raises InvalidInputError or KeptBytesError: then nothing was accepted.
        """
        (outcome,) = self._accept([read_message(user_id, text, images, message_id, self._settings)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def add_messages(
        self, messages: Sequence[tuple[str, str, Sequence[Image], str]]
    ) -> list[list[dict[str, Any]] | Exception]:
        """Accept many, each as `add_message` would, in one round trip; what was refused is an error in its place."""
        read: list[NewMessage | ValueError] = []
        for message in messages:
            try:
                read.append(read_message(*message, self._settings))
            except ValueError as error:
                read.append(error)
        accepted = iter(self._accept([one for one in read if isinstance(one, NewMessage)]))
        return [one if isinstance(one, ValueError) else next(accepted) for one in read]

    def _accept(self, messages: list[NewMessage]) -> list[list[dict[str, Any]] | Exception]:
        outcomes = self._store.accept(messages)
        for message, outcome in zip(messages, outcomes, strict=True):
            if isinstance(outcome, Accepted) and outcome.new:
                self._uploader.start(message)
        return [outcome.images if isinstance(outcome, Accepted) else outcome for outcome in outcomes]

    # -- statuses

    def upload_status(self, placeholder: Placeholder) -> Status:
        """`{"status", "result", "filename", "progress", ...}`; `reason` where it failed. One round trip.

        `unknown` for what nobody has accepted, and for what was absorbed longer than `remember_s` ago. Raises
        DamagedError while nobody knows it, because the server's record was damaged.
        """
        if not is_pending_placeholder(placeholder):
            return {"status": COMPLETED, "result": placeholder}
        return self._store.status(checked_placeholder(placeholder))

    def upload_statuses(self, placeholders: Sequence[Placeholder]) -> list[Status | DamagedError]:
        """The same for many, in one round trip; what nobody knows is an error in its place."""
        return self._store.statuses([checked_placeholder(placeholder) for placeholder in placeholders])

    def wait_for_upload(self, placeholder: Placeholder, timeout: float = 30) -> Any:
        """The result, as soon as it is announced, for at most `timeout` seconds.

        Reads only once the server has confirmed the subscription, so that no announcement falls between the two; and
        reads again with each further confirmation, which is a connection that was lost and is there again.
        Raises UploadFailedError when it failed or nobody knows it, TimeoutError when time is over.
        """
        placeholder = checked_placeholder(placeholder)
        deadline, left_s = self._runtime.now() + timeout, timeout
        while left_s > 0 and self._runtime.now() < deadline:
            try:
                with self._redis.pubsub() as listener:
                    listener.subscribe(self._store.key(placeholder["user_id"], "finished"))
                    while left_s > 0 and self._runtime.now() < deadline:
                        heard = listener.get_message(timeout=min(left_s, LISTEN_S))
                        if heard is None:
                            left_s -= LISTEN_S
                        elif heard["type"] == "message" and heard["data"].decode() != placeholder["upload_uuid"]:
                            continue
                        if (result := self._result(placeholder)) is not None:
                            return result
            except PASSING as error:
                _log.warning("waiting for an upload: %s; subscribing again", error)
                self._store.look_again()
                self._runtime.sleep(self._settings.retry_s)
                left_s -= self._settings.retry_s
        raise TimeoutError(f"upload of {placeholder['filename']}: still pending after {timeout} s")

    def _result(self, placeholder: Placeholder) -> Any:
        """None while it is pending, or to be done again."""
        try:
            status = self._store.status(placeholder)
        except DamagedError:
            return None
        if status["status"] not in (COMPLETED, PENDING):
            raise UploadFailedError(f"upload of {placeholder['filename']}: {status.get('reason', status['status'])}")
        return status["result"]

    # -- absorbing

    def absorb(self, user_id: str) -> int:
        """Deliver what is ready of one user's messages, in order. Returns how many this call has delivered.

        0 where another pod is at it, and where fewer than `absorb_limit` are ready. Uploads that the queue waits for
        and whose pod is dead are taken over. Raises what the memory agent's connection raises: the batch is offered
        again, under the same id, once the claim has lapsed.
        """
        user_id = checked_id(user_id, "user id")
        delivered = refused = 0
        while True:
            now_ms = int(self._runtime.now() * 1000)
            claimed = self._store.claim(user_id, self._store.new_id(), lowest_fence=now_ms)
            if not isinstance(claimed, Batch):
                self._uploader.take_over(user_id, claimed)
                return delivered
            verdict = self._deliver(user_id, claimed)
            if verdict == "acked":
                delivered += len(claimed.items)
                refused = 0
                if not claimed.more:
                    return delivered
            elif verdict == "stale":
                return delivered
            elif verdict == "again":
                refused += 1
                self._runtime.sleep(self._settings.retry_s * refused)

    def _deliver(self, user_id: str, batch: Batch) -> str:
        """Send a batch and acknowledge it: `acked`, `stale` where another has it now, or what became of a refusal."""
        lease = self._store.key(user_id, "claim")
        heartbeat = self._uploader.heartbeat
        heartbeat.hold(lease, batch.claimer, longest_s=self._settings.upload_timeout_s)
        try:
            parts = self._build(batch)
            heartbeat.hold(lease, batch.claimer, longest_s=self._settings.absorb_timeout_s)
            self._memory.send(user_id, parts, batch_id=batch.batch_id, fence=batch.fence)
        except Exception as error:
            if hasattr(error, "highest_fence"):
                return "stale"
            if _leaves_open(error):
                raise  # nobody knows whether it was recorded: the same batch again, under the same id
            return self._refused(user_id, batch, error)
        else:
            return "acked" if self._store.ack(user_id, batch) else "stale"
        finally:
            heartbeat.let_go(lease)

    def _refused(self, user_id: str, batch: Batch, error: Exception) -> str:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        missing = _missing_record(batch.items[0], reason)
        verdict = self._store.dead_letter(user_id, batch, reason=reason, missing=missing)
        _log.warning("user %r: batch %s refused (%s): %s", user_id, batch.batch_id, verdict, reason)
        return verdict

    def _build(self, batch: Batch) -> list[dict[str, Any]]:
        """The parts to send. Files that this pod cannot read, or that are over, are uploaded again."""
        parts: list[dict[str, Any]] = []
        for item in batch.items:
            record = item.record
            if "missing" in record:
                names = record.get("filenames") or [status.get("filename") for status in item.uploads.values()]
                told = {"message_id": item.message_id, "reason": record["missing"], "filenames": names}
                parts.append({"type": "missing_message", **told})
            else:
                parts.append({"type": "text", "text": record["text"]})
                parts += [self._image_part(item, image) for image in record["images"]]
        return parts

    def _image_part(self, item: Item, image: dict[str, Any]) -> dict[str, Any]:
        if not image.get("pending"):
            return _file_part(image)
        name = image["upload_uuid"]
        status = self._uploader.usable(image, item.uploads.get(name) or damaged_status())
        if status["status"] == COMPLETED:
            item.uploads[name] = status
            return {**_file_part(status["result"]), "usable_until": status["usable_until"]}
        # A file that was lost later: readers are not told `failed` of what was `completed`, the agent is told why.
        return {"type": "missing_image", "filename": image["filename"], "reason": status.get("reason", "")}

    def close(self) -> None:
        """Start nothing more. What this pod has leases on, other pods go on with once those have lapsed."""
        self._uploader.close()


def _leaves_open(error: BaseException | None) -> bool:
    """Whether it is, or wraps, the failure of a connection or a database. Anything else is the agent's answer."""
    while error is not None:
        if isinstance(error, OSError | RedisError | RedisClusterException | sqlite3.OperationalError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _file_part(file: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "google_cloud_file_uri", "google_cloud_file_uri": file["uri"]}


def _missing_record(item: Item, reason: str) -> bytes:
    """What stands in the queue for a dead letter: its images are missing with it."""
    names = [str(image.get("filename") or image.get("uri")) for image in item.record.get("images", ())]
    return orjson.dumps({"missing": reason, "filenames": names})
