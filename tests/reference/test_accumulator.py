"""Accepting and absorbing. The lists and statuses are written by hand, in the specified form."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.accumulator import Accumulator
from podrace.reference.memory import MemoryLedger
from podrace.reference.targets import ServicePod, shared
from podrace.simulator.target import PodEnv

if TYPE_CHECKING:
    from tests.conftest import File, VirtualRuntime

MESSAGES = "mirix:temp_messages:ann"
LOCK = "mirix:lock:ann"


@pytest.fixture
def pod(make_env: Callable[..., PodEnv]) -> ServicePod:
    return shared(make_env("A"))


class World:
    """Writes to Redis what an earlier pod would have written."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self.uploads = 0

    def image(self, status: str) -> dict[str, Any]:
        """A placeholder whose upload has this status; `unknown` writes none."""
        self.uploads += 1
        placeholder = {
            "upload_uuid": str(uuid.UUID(int=self.uploads)),
            "filename": f"{self.uploads}.png",
            "pending": True,
        }
        if status != "unknown":
            self.becomes(placeholder, status)
        return placeholder

    def becomes(self, placeholder: dict[str, Any], status: str) -> None:
        uri = f"https://files.test/{placeholder['filename']}"
        result = {"type": "google_cloud", "uri": uri, "name": "n", "create_time": None}
        value = {
            "status": status,
            "filename": placeholder["filename"],
            "timestamp": 0.0,
            "result": result if status == "completed" else None,
        }
        self.redis.set(f"mirix:upload_status:{placeholder['upload_uuid']}", json.dumps(value), ex=60)

    def message(self, text: str, *images: Any) -> None:
        item = {"message_id": text, "text": text, "images": list(images), "timestamp": 0.0}
        self.redis.rpush(MESSAGES, json.dumps(item))

    def waiting(self) -> list[str]:
        return [json.loads(item)["text"] for item in self.redis.lrange(MESSAGES, 0, -1)]


@pytest.fixture
def world(redis_client: redis.Redis) -> World:
    return World(redis_client)


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def image_part(number: int) -> dict[str, str]:
    return {"type": "google_cloud_file_uri", "google_cloud_file_uri": f"https://files.test/{number}.png"}


def delivered(ledger: MemoryLedger) -> list[list[dict[str, Any]]]:
    return [parts for _, _, parts in ledger.batches()]


def test_add_message_pushes_the_placeholders(
    pod: ServicePod, world: World, runtime: VirtualRuntime, make_image: Callable[..., Path]
) -> None:
    images = [make_image("1.png"), make_image("2.jpg")]
    placeholders = pod.add_message("ann", "hello", images, "m1")
    assert [p["filename"] for p in placeholders] == [str(path) for path in images]
    assert all(p["pending"] is True for p in placeholders)
    pod.add_message("ann", "more", [], "m2")
    assert [json.loads(item) for item in world.redis.lrange(MESSAGES, 0, -1)] == [
        {"message_id": "m1", "text": "hello", "images": placeholders, "timestamp": runtime.now()},
        {"message_id": "m2", "text": "more", "images": [], "timestamp": runtime.now()},
    ]


def test_uploads_start_before_the_message_is_pushed(
    make_env: Callable[..., PodEnv], world: World, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make_env("A")
    pod = shared(env)
    seen: list[list[bytes]] = []
    push = env.redis.rpush

    def rpush(*arguments: Any) -> Any:
        seen.append(world.redis.keys("*"))
        return push(*arguments)

    monkeypatch.setattr(env.redis, "rpush", rpush)
    (placeholder,) = pod.add_message("ann", "hello", [png], "m1")
    assert seen == [[f"mirix:upload_status:{placeholder['upload_uuid']}".encode()]]


def test_a_placeholder_goes_into_the_message_as_it_is(pod: ServicePod, world: World) -> None:
    image = world.image("completed")
    assert pod.add_message("ann", "again", [image], "m1") == [image]
    assert json.loads(world.redis.lindex(MESSAGES, 0))["images"] == [image]


def test_text_and_images_make_one_memory_message(pod: ServicePod, world: World, ledger: MemoryLedger) -> None:
    world.message("two", world.image("completed"), world.image("completed"))
    world.message("none")
    world.message("one", world.image("completed"))
    assert pod.absorb("ann") == 3
    ((batch_id, user_id, parts),) = ledger.batches()
    assert batch_id
    assert user_id == "ann"
    assert parts == [
        text_part("two"),
        image_part(1),
        image_part(2),
        text_part("none"),
        text_part("one"),
        image_part(3),
    ]
    assert world.redis.keys("*") == []


def test_stops_at_the_first_pending_image(pod: ServicePod, world: World, ledger: MemoryLedger) -> None:
    pending = world.image("pending")
    world.message("first", world.image("completed"))
    world.message("second", world.image("completed"), pending)
    world.message("third", world.image("completed"))
    assert pod.absorb("ann") == 1
    assert pod.absorb("ann") == 0
    assert delivered(ledger) == [[text_part("first"), image_part(2)]]
    assert world.waiting() == ["second", "third"]
    world.becomes(pending, "completed")
    assert pod.absorb("ann") == 2
    assert delivered(ledger)[1:] == [
        [text_part("second"), image_part(3), image_part(1), text_part("third"), image_part(4)]
    ]


@pytest.mark.parametrize("status", ["failed", "unknown"])
def test_failed_and_unknown_images_are_dropped(
    pod: ServicePod, world: World, ledger: MemoryLedger, status: str
) -> None:
    world.message("hello", world.image("completed"), world.image(status), world.image("completed"))
    assert pod.absorb("ann") == 1
    assert delivered(ledger) == [[text_part("hello"), image_part(1), image_part(3)]]
    assert world.redis.keys("*") == []


def test_users_have_lists_of_their_own(pod: ServicePod, world: World, ledger: MemoryLedger) -> None:
    world.message("hello")
    assert pod.absorb("bob") == 0
    assert world.waiting() == ["hello"]
    assert pod.absorb("ann") == 1
    assert [user_id for _, user_id, _ in ledger.batches()] == ["ann"]


@pytest.mark.parametrize(("options", "limit"), [({"absorb_limit": 3}, 3), ({"absorb_limit": 20}, 20)])
def test_waits_for_as_many_messages_as_the_limit(
    make_env: Callable[..., PodEnv], world: World, options: dict[str, int], limit: int
) -> None:
    pod = shared(make_env("A", options=options))
    for number in range(limit - 1):
        world.message(str(number))
    assert not pod.accumulator.should_absorb_content("ann")
    assert pod.absorb("ann") == 0
    assert len(world.waiting()) == limit - 1
    world.message("the last", pending := world.image("pending"))
    assert not pod.accumulator.should_absorb_content("ann")
    world.becomes(pending, "completed")
    assert pod.accumulator.should_absorb_content("ann")
    assert pod.absorb("ann") == limit
    assert world.waiting() == []


def test_the_default_limit_is_20(make_env: Callable[..., PodEnv], world: World) -> None:
    pod = shared(PodEnv(**{**vars(make_env("A")), "options": {}}))
    for number in range(19):
        world.message(str(number))
    assert pod.absorb("ann") == 0
    world.message("20th")
    assert pod.absorb("ann") == 20


def test_the_default_limit_of_the_accumulator_class_is_20_too(make_env: Callable[..., PodEnv], world: World) -> None:
    env = make_env("A")
    manager = shared(env).upload_manager
    accumulator = Accumulator(env.redis, manager, env.memory, env.runtime, pod_name="A")
    for number in range(19):
        world.message(str(number))
    assert not accumulator.should_absorb_content("ann")
    world.message("20th")
    assert accumulator.should_absorb_content("ann")


def test_should_absorb_content_changes_nothing(pod: ServicePod, world: World) -> None:
    world.message("hello", world.image("completed"), world.image("failed"))
    before = sorted(world.redis.keys("*"))
    assert pod.accumulator.should_absorb_content("ann")
    assert sorted(world.redis.keys("*")) == before


def test_an_absorption_ends_while_another_pod_holds_the_lock(
    pod: ServicePod, world: World, ledger: MemoryLedger
) -> None:
    world.redis.set(LOCK, "B", ex=30)
    world.message("hello", world.image("completed"))
    assert pod.absorb("ann") == 0
    assert ledger.batches() == []
    assert world.redis.get(LOCK) == b"B"
    assert world.waiting() == ["hello"]
    world.redis.delete(LOCK)
    assert pod.absorb("ann") == 1


class WatchedMemory:
    """A memory agent that runs a function of the test while a batch is being sent."""

    def __init__(self, while_sending: Callable[[], None]) -> None:
        self.while_sending = while_sending
        self.sent: list[list[dict[str, Any]]] = []

    def send(self, user_id: str, parts: Any, batch_id: str | None = None) -> None:
        self.while_sending()
        self.sent.append(list(parts))


def test_while_sending_the_lock_is_held_and_nothing_is_removed_yet(
    make_env: Callable[..., PodEnv], world: World
) -> None:
    def look() -> None:
        assert world.redis.get(LOCK) == b"A"
        assert 29_000 < world.redis.pttl(LOCK) <= 30_000
        assert world.waiting() == ["hello"]
        assert len(world.redis.keys("mirix:upload_status:*")) == 1

    memory = WatchedMemory(look)
    world.message("hello", world.image("completed"))
    assert shared(make_env("A", memory=memory)).absorb("ann") == 1
    assert len(memory.sent) == 1
    assert world.redis.keys("*") == []


def test_a_second_absorber_does_nothing_while_the_lock_is_held(make_env: Callable[..., PodEnv], world: World) -> None:
    other = shared(make_env("B"))
    counts: list[int] = []
    memory = WatchedMemory(lambda: counts.append(other.absorb("ann")))
    world.message("hello")
    assert shared(make_env("A", memory=memory)).absorb("ann") == 1
    assert counts == [0]


def test_failing_send_releases_the_lock_and_keeps_everything(
    make_env: Callable[..., PodEnv], world: World, ledger: MemoryLedger
) -> None:
    def refuse() -> None:
        raise RuntimeError("memory agent is down")

    world.message("hello", world.image("completed"))
    with pytest.raises(RuntimeError, match="is down"):
        shared(make_env("A", memory=WatchedMemory(refuse))).absorb("ann")
    assert world.redis.get(LOCK) is None
    assert world.waiting() == ["hello"]
    assert shared(make_env("B")).absorb("ann") == 1
    assert delivered(ledger) == [[text_part("hello"), image_part(1)]]


def test_a_message_that_comes_while_sending_stays_in_the_list(make_env: Callable[..., PodEnv], world: World) -> None:
    world.message("first")
    world.message("second")
    memory = WatchedMemory(lambda: world.message("third", world.image("completed")))
    assert shared(make_env("A", memory=memory)).absorb("ann") == 2
    assert world.waiting() == ["third"]
    assert len(world.redis.keys("mirix:upload_status:*")) == 1


def test_an_unchecked_del_releases_another_pods_lock(make_env: Callable[..., PodEnv], world: World) -> None:
    """Failure mode 16, kept in the specimens."""

    def lock_expires_and_another_takes_it() -> None:
        world.redis.set(LOCK, "B", ex=30)

    world.message("hello")
    memory = WatchedMemory(lock_expires_and_another_takes_it)
    shared(make_env("A", memory=memory)).absorb("ann")
    assert world.redis.get(LOCK) is None


def test_trimming_by_count_removes_messages_that_another_pod_has_not_sent(
    make_env: Callable[..., PodEnv], world: World
) -> None:
    """Failure modes 14 and 15, kept in the specimens."""
    world.message("first")
    world.message("second")

    def another_trims() -> None:
        world.redis.ltrim(MESSAGES, 2, -1)
        world.message("third")
        world.message("fourth")

    shared(make_env("A", memory=WatchedMemory(another_trims))).absorb("ann")
    assert world.waiting() == []


def test_absorbing_an_empty_queue_sends_nothing(
    make_env: Callable[..., PodEnv], world: World, ledger: MemoryLedger
) -> None:
    pod = shared(make_env("A", options={"absorb_limit": 0}))
    assert pod.absorb("ann") == 0
    world.message("hello", world.image("pending"))
    assert pod.absorb("ann") == 0
    assert ledger.batches() == []
    assert world.redis.get(LOCK) is None
    assert world.waiting() == ["hello"]


def test_image_resolved_already_needs_no_status(pod: ServicePod, world: World, ledger: MemoryLedger) -> None:
    world.message("hello", {"type": "google_cloud", "uri": "https://files.test/7.png"})
    assert pod.absorb("ann") == 1
    assert delivered(ledger) == [[text_part("hello"), image_part(7)]]


def test_memory_message_from_dict_and_from_object(pod: ServicePod, make_file: type[File]) -> None:
    from_object = make_file("https://files.test/1.png", "files/1", datetime(2025, 1, 1, tzinfo=UTC))
    from_dict = {"type": "google_cloud", "uri": "https://files.test/2.png"}
    ready = [({"text": "a"}, [from_object, from_dict]), ({"text": "b"}, [])]
    assert pod.accumulator._build_memory_message(ready) == [
        text_part("a"),
        image_part(1),
        image_part(2),
        text_part("b"),
    ]


def test_every_key_begins_with_the_prefix(
    make_env: Callable[..., PodEnv], redis_client: redis.Redis, png: Path
) -> None:
    def look() -> None:
        seen.update(redis_client.keys("*"))

    seen: set[bytes] = set()
    pod = shared(make_env("A", prefix="run7:", memory=WatchedMemory(look)))
    (placeholder,) = pod.add_message("ann", "hello", [png], "m1")
    pod.upload_manager.wait_for_upload(placeholder)
    pod.absorb("ann")
    keys = ["run7:temp_messages:ann", "run7:lock:ann", f"run7:upload_status:{placeholder['upload_uuid']}"]
    assert seen == {key.encode() for key in keys}
