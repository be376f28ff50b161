"""The users. `locust -f loadtests/locustfile.py` alone starts its own server and the web page.

Arguments of ours: --target, --pods, --rate, --image-size, --shape, --slo, --slo-p99-us; see --help.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import gevent
import google.genai  # noqa: F401 - takes a second, and a worker says that it is ready before its init event
from locust import events, task

from podrace.loadtests import session
from podrace.loadtests.fleet import UPLOAD_TIMEOUT_S, Fleet
from podrace.loadtests.redis_user import RedisUser
from podrace.loadtests.targets import QUEUE, STORE, UPLOAD
from podrace.reference.status import COMPLETED, PENDING

POLL_S = 0.02
CONVERSATIONS = 8

session.install(events)


class FleetUser(RedisUser):
    """A user whose requests reach the pods of this process, each time another one."""

    abstract = True
    fleet: Fleet
    rate_share = 1.0
    """Of --rate."""

    def __init__(self, environment: Any) -> None:
        self.fleet = session.fleet_of(environment)
        self.host = self.fleet.plan.redis_url
        self.rate_per_s = self.fleet.plan.rate_per_s * self.rate_share
        super().__init__(environment)

    def expect(self, answer: dict[str, Any], status: str, result: Any) -> None:
        """Count a read that told something other than what was written before it."""
        if answer["status"] != status or answer["result"] != result:
            self.fleet.tallies[STORE].counts["misreported"] += 1
        else:
            self.fleet.tallies[STORE].counts["delivered"] += 1


def file_result(upload_id: str) -> dict[str, Any]:
    name = f"files/{upload_id[:12]}"
    uri = f"https://generativelanguage.googleapis.com/v1beta/{name}"
    return {"type": "google_cloud", "uri": uri, "name": name, "create_time": "2025-01-01T00:00:00Z"}


class StoreReader(FleetUser):
    """Store operations, read-heavy: one pod has written a status, others are asked for it."""

    weight = 4

    def on_start(self) -> None:
        super().on_start()
        self.upload_id = str(uuid.uuid4())
        self.written = False

    @task(1)
    def write(self) -> None:
        writer, _ = self.fleet.next_pods()
        store = self.fleet.stores[writer]
        result = file_result(self.upload_id)
        self.measure("SET status", store.set_upload_status, self.upload_id, COMPLETED, result, "image.png")
        self.written = True
        self.fleet.tallies[STORE].counts["accepted"] += 1

    @task(40)
    def read(self) -> None:
        if not self.written:
            self.write()
        _, reader = self.fleet.next_pods()
        answer = self.measure("GET status", self.fleet.stores[reader].get_upload_status, self.upload_id)
        self.expect(answer, COMPLETED, file_result(self.upload_id))

    @task(1)
    def read_all(self) -> None:
        _, reader = self.fleet.next_pods()
        self.measure("LIST statuses", self.fleet.stores[reader].get_all_upload_statuses)


class StoreWriter(FleetUser):
    """Store operations, write-heavy: those of one upload's life, without the upload."""

    weight = 2

    @task
    def live(self) -> None:
        upload_id, result = str(uuid.uuid4()), None
        writer, reader = (self.fleet.stores[pod] for pod in self.fleet.next_pods())
        key = f"{self.fleet.plan.prefix}store:temp_messages:{self.fleet.new_user(STORE)}"
        placeholder = {"upload_uuid": upload_id, "filename": "image.png", "pending": True}
        self.measure("SET status", writer.set_upload_status, upload_id, PENDING, None, "image.png")
        self.client.rpush(key, json.dumps({"text": "hello", "images": [placeholder]}), name="RPUSH message")
        result = file_result(upload_id)
        self.measure("SET status", writer.set_upload_status, upload_id, COMPLETED, result, "image.png")
        self.fleet.tallies[STORE].counts["accepted"] += 1
        self.client.lrange(key, 0, -1, name="LRANGE messages")
        answer = self.measure("GET status", reader.get_upload_status, upload_id)
        self.expect(answer, COMPLETED, result)
        self.measure("DEL status", writer.delete_upload_status, upload_id)
        self.client.ltrim(key, 1, -1, name="LTRIM messages")


class UploadLife(FleetUser):
    """The whole life of an upload: one pod takes the message, another absorbs it."""

    weight = 1
    rate_share = 0.1  # an upload costs the real client about 4 ms of this process's time

    def on_start(self) -> None:
        super().on_start()
        self.user_id = self.fleet.new_user(UPLOAD)

    @task
    def live(self) -> None:
        taking, absorbing = (self.fleet.pods[pod] for pod in self.fleet.next_pods())
        tally = self.fleet.tallies[UPLOAD]
        number = tally.issue(image=True)
        image = self.fleet.write_image(number)
        try:
            args = (self.user_id, tally.text(number), [image], f"{self.user_id}/{number}")
            placeholder = self.measure("accept", taking.add_message, *args)[0]
            tally.accepted(self.user_id, number)
            with gevent.Timeout(UPLOAD_TIMEOUT_S + 1, False):
                while self.measure("upload status", taking.upload_status, placeholder)["status"] == PENDING:
                    gevent.sleep(POLL_S)
            self.measure("absorb", absorbing.absorb, self.user_id)
        finally:
            image.unlink(missing_ok=True)


class Absorber(FleetUser):
    """Text messages of a few busy conversations, taken in and absorbed by whichever pod comes next."""

    weight = 1

    def on_start(self) -> None:
        super().on_start()
        self.number = 0

    def conversation(self) -> str:
        self.number += 1
        return f"{QUEUE}/{self.fleet.worker}/conversation-{self.number % CONVERSATIONS}"

    @task
    def accept(self) -> None:
        pod = self.fleet.pods[self.fleet.next_pods()[0]]
        tally, user_id = self.fleet.tallies[QUEUE], self.conversation()
        number = tally.issue(image=False)
        self.measure("accept", pod.add_message, user_id, tally.text(number), [], f"{user_id}/{number}")
        tally.accepted(user_id, number)

    @task
    def absorb(self) -> None:
        pod = self.fleet.pods[self.fleet.next_pods()[1]]
        self.measure("absorb", pod.absorb, self.conversation())
