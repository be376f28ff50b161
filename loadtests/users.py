"""The users of pods. Each answer that is timed is also compared with the only right one, or recorded for the checks:
a green run has checked all that it measured.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import gevent
from locust import task

from podrace.loadtests.fleet import UPLOAD_TIMEOUT_S, Fleet
from podrace.loadtests.judging import text_of
from podrace.loadtests.redis_user import OperationFailedError, RedisUser
from podrace.loadtests.targets import QUEUE, STORE, UPLOAD
from podrace.reference.status import COMPLETED, PENDING, unknown

POLL_S = 0.02
CONVERSATIONS = 8
ROUND = 40
"""Tasks in a reader's round: one writes, one lists, all others read."""
TOGETHER = 2
"""Messages that are absorbed together: with only one, its image could not be delivered with another message."""


class FleetUser(RedisUser):
    """A user whose requests reach the pods of this process, each time another one."""

    abstract = True
    fleet: Fleet

    def __init__(self, environment: Any) -> None:
        self.fleet = environment.podrace.fleet
        super().__init__(environment)

    def _failed(self, failure: BaseException) -> OperationFailedError:
        self.fleet.journal.failed = True
        return super()._failed(failure)

    def expect(self, name: str, answer: Any, wanted: Any) -> None:
        """Count an answer, and note a wrong one."""
        wrong = "" if answer == wanted else f"{name}: expected {wanted}, got {answer}"
        self.fleet.journal.verified(self.scenario, wrong)

    def hand_in(self, pod: Any, user_id: str, number: int, images: list[Any]) -> Any:
        """Have a pod accept a message, and record how that ended."""
        journal, ended = self.fleet.journal, "info"
        try:
            text = text_of(self.scenario, number)
            placeholders = self.measure("accept", pod.add_message, user_id, text, images, f"{user_id}/{number}")
            ended = "ok"
        except OperationFailedError as error:
            ended = "fail" if error.definite else "info"
            raise
        finally:
            journal.end(number, ended)
        if len(placeholders or ()) != len(images):
            journal.verified(self.scenario, f"accept: expected {len(images)} placeholders, got {placeholders!r}")
            raise OperationFailedError
        return placeholders


def file_result(upload_id: str) -> dict[str, Any]:
    name = f"files/{upload_id[:12]}"
    uri = f"https://generativelanguage.googleapis.com/v1beta/{name}"
    return {"type": "google_cloud", "uri": uri, "name": name, "create_time": "2025-01-01T00:00:00Z"}


def status_of(status: str, result: Any = None) -> dict[str, Any]:
    return {"status": status, "result": result, "filename": "image.png"}


class StoreReader(FleetUser):
    """Store operations, mostly reads: one pod writes a status, others are asked for it."""

    weight = 4
    scenario = STORE
    limited = ("SET status", "GET status", "DEL status", "LIST statuses")

    def on_start(self) -> None:
        super().on_start()
        self.upload_id = self.deleted_id = ""
        self.turn = 0

    @task
    def turn_by_turn(self) -> None:
        turn, self.turn = self.turn, (self.turn + 1) % ROUND
        if turn == 0 or not self.upload_id:
            self.replace()
        elif turn == 1:
            self.list_all()
        else:
            self.read()

    def replace(self) -> None:
        """Delete the status that there is, and write another."""
        if not self.upload_id:
            self.write()
        writer, reader = self.fleet.next_two(self.fleet.stores)
        before, self.upload_id = self.upload_id, ""
        self.measure("DEL status", writer.delete_upload_status, before)
        self.expect("GET status", self.measure("GET status", reader.get_upload_status, before), unknown())
        self.deleted_id = before
        self.write()

    def write(self) -> None:
        writer = self.fleet.next_two(self.fleet.stores)[0]
        upload_id = str(uuid.uuid4())
        result = file_result(upload_id)
        self.measure("SET status", writer.set_upload_status, upload_id, COMPLETED, result, "image.png")
        self.upload_id = upload_id

    def read(self) -> None:
        reader = self.fleet.next_two(self.fleet.stores)[1]
        answer = self.measure("GET status", reader.get_upload_status, self.upload_id)
        self.expect("GET status", answer, status_of(COMPLETED, file_result(self.upload_id)))

    def list_all(self) -> None:
        """What was written is in the list, what was deleted is not."""
        reader = self.fleet.next_two(self.fleet.stores)[1]
        listed = self.measure("LIST statuses", reader.get_all_upload_statuses)
        found = listed.get(self.upload_id), listed.get(self.deleted_id)
        self.expect("LIST statuses", found, (status_of(COMPLETED, file_result(self.upload_id)), None))


class StoreWriter(FleetUser):
    """Store operations, mostly writes: those of one upload's life, without the upload."""

    weight = 2
    scenario = STORE
    limited = ("SET status", "GET status", "DEL status", "RPUSH message", "LRANGE messages", "LTRIM messages")

    @task
    def live(self) -> None:
        upload_id = str(uuid.uuid4())
        writer, reader = self.fleet.next_two(self.fleet.stores)
        key = f"{self.fleet.plan.prefix}store:temp_messages:{self.fleet.new_user(STORE)}"
        placeholder = {"upload_uuid": upload_id, "filename": "image.png", "pending": True}
        messages = [json.dumps({"text": text, "images": [placeholder]}).encode() for text in ("hello", "again")]
        result = file_result(upload_id)
        self.measure("SET status", writer.set_upload_status, upload_id, PENDING, None, "image.png")
        for length, message in enumerate(messages, 1):
            self.expect("RPUSH message", self.client.rpush(key, message, name="RPUSH message"), length)
        self.expect("GET status", self.measure("GET status", reader.get_upload_status, upload_id), status_of(PENDING))
        self.measure("SET status", writer.set_upload_status, upload_id, COMPLETED, result, "image.png")
        self.expect("LRANGE messages", self.client.lrange(key, 0, -1, name="LRANGE messages"), messages)
        answer = self.measure("GET status", reader.get_upload_status, upload_id)
        self.expect("GET status", answer, status_of(COMPLETED, result))
        self.measure("DEL status", writer.delete_upload_status, upload_id)
        self.expect("GET status", self.measure("GET status", reader.get_upload_status, upload_id), unknown())
        for left in (messages[1:], []):
            self.client.ltrim(key, 1, -1, name="LTRIM messages")
            self.expect("LRANGE messages", self.client.lrange(key, 0, -1, name="LRANGE messages"), left)


class UploadLife(FleetUser):
    """The whole life of uploads: one pod takes messages with an image each, another absorbs them together."""

    weight = 1
    rate_share = 0.05  # an upload costs the real client about 4 ms of this process's time
    scenario = UPLOAD
    limited = ("accept", "upload status", "absorb")

    def on_start(self) -> None:
        super().on_start()
        self.user_id = self.fleet.new_user(UPLOAD)

    @task
    def live(self) -> None:
        taking, absorbing = self.fleet.next_two(self.fleet.pods)
        journal = self.fleet.journal
        images: dict[int, Path] = {}
        try:
            placeholders = {}
            for _ in range(TOGETHER):
                number = journal.begin(UPLOAD, self.user_id, image=True)
                images[number] = self.fleet.write_image(number)
                placeholders[number] = self.hand_in(taking, self.user_id, number, [images[number]])[0]
            for number, placeholder in placeholders.items():
                self.await_upload(taking, number, placeholder)
            self.measure("absorb", absorbing.absorb, self.user_id)
        finally:
            for number, image in images.items():
                journal.close(number)
                image.unlink(missing_ok=True)

    def await_upload(self, pod: Any, number: int, placeholder: Any) -> None:
        """Ask for the status until it is no longer pending, for as long as an upload may take, and a second more.

        Counted in questions: time in which this process stood still is none that the pod had.
        """
        for _ in range(int((UPLOAD_TIMEOUT_S + 1) / POLL_S)):
            answer = self.measure("upload status", pod.upload_status, placeholder)
            self.fleet.journal.read(number, answer)
            if not isinstance(answer, dict) or answer.get("status") != PENDING:
                return
            gevent.sleep(POLL_S)
        self.expect("upload status", f"{PENDING} for more than {UPLOAD_TIMEOUT_S:g} s", "an end")


class Absorber(FleetUser):
    """Text messages of a few busy conversations, taken in and absorbed by whichever pod comes next."""

    weight = 1
    scenario = QUEUE
    limited = ("accept", "absorb")

    def on_start(self) -> None:
        super().on_start()
        self.number = 0

    def conversation(self) -> str:
        self.number += 1
        return f"{QUEUE}/{self.fleet.worker}/conversation-{self.number % CONVERSATIONS}"

    @task
    def accept(self) -> None:
        pod = self.fleet.next_two(self.fleet.pods)[0]
        user_id = self.conversation()
        number = self.fleet.journal.begin(QUEUE, user_id, image=False)
        try:
            self.hand_in(pod, user_id, number, [])
        finally:
            self.fleet.journal.close(number)

    @task
    def absorb(self) -> None:
        pod = self.fleet.next_two(self.fleet.pods)[1]
        self.measure("absorb", pod.absorb, self.conversation())
