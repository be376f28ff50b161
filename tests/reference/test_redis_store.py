"""What is specified for the Redis store only: its keys, the stored form, the time to live."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.store import RedisStore

if TYPE_CHECKING:
    from tests.conftest import File, VirtualRuntime

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
KEY = f"mirix:upload_status:{ID}"


@pytest.fixture
def store(redis_client: redis.Redis, runtime: VirtualRuntime) -> RedisStore:
    return RedisStore(redis_client, runtime)


def wait_until_gone(store: RedisStore) -> None:
    deadline_s = time.monotonic() + 5
    tick = threading.Event()
    while store.get_upload_status(ID)["status"] != "unknown":
        assert time.monotonic() < deadline_s, "the status does not expire"
        tick.wait(0.001)


def test_pending_on_the_wire(store: RedisStore, redis_client: redis.Redis, runtime: VirtualRuntime) -> None:
    runtime.sleep(0.125)
    store.set_upload_status(ID, "pending", filename="original_filename.png")
    assert redis_client.keys("*") == [KEY.encode()]
    assert redis_client.type(KEY) == b"string"
    assert json.loads(redis_client.get(KEY)) == {
        "status": "pending",
        "filename": "original_filename.png",
        "timestamp": 1736899200.375,
        "result": None,
    }


def test_completed_on_the_wire(
    store: RedisStore, redis_client: redis.Redis, runtime: VirtualRuntime, make_file: type[File]
) -> None:
    file = make_file("https://files.test/file.png", "file123.png", "2025-01-01T00:00:00Z")
    store.set_upload_status(ID, "completed", result=file, filename="original_filename.png")
    assert json.loads(redis_client.get(KEY)) == {
        "status": "completed",
        "filename": "original_filename.png",
        "timestamp": runtime.now(),
        "result": {
            "type": "google_cloud",
            "uri": "https://files.test/file.png",
            "name": "file123.png",
            "create_time": "2025-01-01T00:00:00Z",
        },
    }


def test_reads_what_another_version_wrote(store: RedisStore, redis_client: redis.Redis) -> None:
    redis_client.set(KEY, '{"status": "failed", "filename": "a.png", "timestamp": 1, "result": null, "more": 1}')
    assert store.get_upload_status(ID) == {"status": "failed", "result": None, "filename": "a.png"}


def test_damaged_value_raises(store: RedisStore, redis_client: redis.Redis) -> None:
    """Failure mode 10, which the published fix does not handle."""
    redis_client.set(KEY, '{"status": "comp')
    with pytest.raises(ValueError):
        store.get_upload_status(ID)


@pytest.mark.parametrize("status", ["pending", "completed", "failed"])
def test_default_time_to_live_is_an_hour(store: RedisStore, redis_client: redis.Redis, status: str) -> None:
    store.set_upload_status(ID, status)
    assert 3_590_000 < redis_client.pttl(KEY) <= 3_600_000


def test_time_to_live_is_in_seconds(store: RedisStore, redis_client: redis.Redis) -> None:
    store.set_upload_status(ID, "pending", ttl=1)
    assert 0 < redis_client.pttl(KEY) <= 1000


def test_every_write_starts_the_time_to_live_anew(store: RedisStore, redis_client: redis.Redis) -> None:
    store.set_upload_status(ID, "pending", ttl=20)
    store.set_upload_status(ID, "completed", result={"uri": "u"})
    assert redis_client.ttl(KEY) > 3590


def test_status_expires(store: RedisStore, redis_client: redis.Redis) -> None:
    store.set_upload_status(ID, "completed", result={"uri": "u"})
    redis_client.pexpire(KEY, 1)
    wait_until_gone(store)
    assert store.get_all_upload_statuses() == {}


def test_prefix_of_the_keys(redis_client: redis.Redis, runtime: VirtualRuntime) -> None:
    RedisStore(redis_client, runtime, prefix="run7:").set_upload_status(ID, "pending")
    assert redis_client.keys("*") == [f"run7:upload_status:{ID}".encode()]


def test_all_statuses_beside_foreign_keys(store: RedisStore, redis_client: redis.Redis) -> None:
    store.set_upload_status(ID, "pending", filename="mine.png")
    redis_client.rpush("mirix:temp_messages:u", "{}")
    redis_client.set(f"mirix:upload_statuses:{OTHER_ID}", "no status")
    redis_client.set(f"other:upload_status:{OTHER_ID}", "no status")
    redis_client.set(f"x:mirix:upload_status:{OTHER_ID}", "no status")
    assert store.get_all_upload_statuses() == {ID: {"status": "pending", "result": None, "filename": "mine.png"}}


@pytest.mark.parametrize(
    ("prefix", "taken_for_it_by_a_glob"),
    [("a*:", "abc:"), ("a?:", "ab:"), ("[ab]:", "a:"), ("[^a]:", "b:"), ("a\\b:", "ab:"), ("{a}:", None)],
)
def test_wildcards_in_the_prefix_are_taken_literally(
    redis_client: redis.Redis, runtime: VirtualRuntime, prefix: str, taken_for_it_by_a_glob: str | None
) -> None:
    store = RedisStore(redis_client, runtime, prefix=prefix)
    store.set_upload_status(ID, "pending")
    if taken_for_it_by_a_glob:
        RedisStore(redis_client, runtime, prefix=taken_for_it_by_a_glob).set_upload_status(OTHER_ID, "failed")
    assert list(store.get_all_upload_statuses()) == [ID]


def test_a_status_that_expires_while_all_are_listed_is_left_out(
    store: RedisStore, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.set_upload_status(ID, "pending")
    store.set_upload_status(OTHER_ID, "pending")
    scan = redis_client.scan

    def scan_then_delete(*args: Any, **options: Any) -> Any:
        answer = scan(*args, **options)
        redis_client.delete(KEY)
        return answer

    monkeypatch.setattr(redis_client, "scan", scan_then_delete)
    assert list(store.get_all_upload_statuses()) == [OTHER_ID]


def test_client_that_decodes_replies(open_client: Callable[..., redis.Redis], runtime: VirtualRuntime) -> None:
    store = RedisStore(open_client(decode_responses=True), runtime)
    store.set_upload_status(ID, "failed", filename="ä.png")
    expected = {"status": "failed", "result": None, "filename": "ä.png"}
    assert store.get_upload_status(ID) == expected
    assert store.get_all_upload_statuses() == {ID: expected}
