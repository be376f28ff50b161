"""UploadManager, method by method, in virtual time; with its own dict and with Redis."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.status import UploadFailedError
from podrace.reference.store import LocalStore, RedisStore, UploadStore
from podrace.reference.upload_manager import UploadManager

if TYPE_CHECKING:
    from tests.conftest import FakeFiles, JoinedRuntime, VirtualRuntime

FIRST_FILE = {
    "type": "google_cloud",
    "uri": "https://files.test/1",
    "name": "files/1",
    "create_time": "2025-01-01T00:00:01Z",
}

MakeManager = Callable[..., UploadManager]


@pytest.fixture(params=["local", "shared"])
def store(request: pytest.FixtureRequest, runtime: VirtualRuntime) -> RedisStore | None:
    if request.param == "local":
        return None
    return RedisStore(request.getfixturevalue("redis_client"), runtime)


@pytest.fixture
def make_manager(runtime: VirtualRuntime, files: FakeFiles) -> MakeManager:
    def make(store: UploadStore | None = None, **options: Any) -> UploadManager:
        return UploadManager(files, runtime, rng=random.Random(7), store=store, **options)

    return make


@pytest.fixture
def manager(make_manager: MakeManager, store: RedisStore | None) -> UploadManager:
    return make_manager(store)


def start(manager: UploadManager, path: Path | str, compress: bool = False) -> dict[str, Any]:
    return manager.upload_file_async(str(path), 0.0, compress)


def state(manager: UploadManager, placeholder: dict[str, Any]) -> str:
    status: str = manager.get_upload_status(placeholder)["status"]
    return status


def test_placeholder_comes_at_once(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    before_s = runtime.now()
    placeholder = start(manager, png)
    assert set(placeholder) == {"upload_uuid", "filename", "pending"}
    assert placeholder["filename"] == str(png)
    assert placeholder["pending"] is True
    assert uuid.UUID(placeholder["upload_uuid"]).version == 4
    assert str(uuid.UUID(placeholder["upload_uuid"])) == placeholder["upload_uuid"]
    assert json.loads(json.dumps(placeholder)) == placeholder
    assert (files.started, runtime.now()) == ([], before_s)
    assert manager.get_upload_status(placeholder) == {
        "status": "pending",
        "result": None,
        "filename": str(png),
    }


def test_every_upload_has_an_id_of_its_own(manager: UploadManager, png: Path) -> None:
    assert len({start(manager, png)["upload_uuid"] for _ in range(20)}) == 20


def test_pending_and_completed_reach_the_shared_store(
    make_manager: MakeManager, redis_client: redis.Redis, runtime: VirtualRuntime, png: Path
) -> None:
    manager = make_manager(RedisStore(redis_client, runtime))
    key = f"mirix:upload_status:{start(manager, png)['upload_uuid']}"
    written = json.loads(redis_client.get(key))
    assert (written["status"], written["filename"], written["result"]) == ("pending", str(png), None)
    assert redis_client.ttl(key) > 3590
    runtime.sleep(1)
    written = json.loads(redis_client.get(key))
    assert (written["status"], written["filename"], written["result"]) == ("completed", str(png), FIRST_FILE)
    assert redis_client.ttl(key) > 3590


def test_worker_completes(manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path) -> None:
    placeholder = start(manager, png)
    runtime.sleep(0.9)
    assert state(manager, placeholder) == "pending"
    runtime.sleep(0.1)
    assert manager.get_upload_status(placeholder) == {
        "status": "completed",
        "result": FIRST_FILE,
        "filename": str(png),
    }
    assert files.started == [png]


@pytest.mark.parametrize("error", [ValueError("no MIME type"), ConnectionError(), RuntimeError("503")])
def test_any_exception_fails_the_upload(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path, error: Exception
) -> None:
    files.error = error
    placeholder = start(manager, png)
    runtime.sleep(1)
    assert manager.get_upload_status(placeholder) == {
        "status": "failed",
        "result": None,
        "filename": str(png),
    }


def test_at_most_four_at_once_and_in_order(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, make_image: Callable[..., Path]
) -> None:
    paths = [make_image(f"{number}.png") for number in range(10)]
    placeholders = [start(manager, path) for path in paths]
    completed = []
    for _ in range(3):
        runtime.sleep(1)
        completed.append(sum(state(manager, placeholder) == "completed" for placeholder in placeholders))
    assert completed == [4, 8, 10]
    assert files.active_max == 4
    assert files.started == paths


def test_idle_workers_end_and_new_ones_start(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    for _ in range(3):
        placeholders = [start(manager, png) for _ in range(5)]
        runtime.run()
        assert [state(manager, placeholder) for placeholder in placeholders] == ["completed"] * 5
    assert files.active_max == 4
    assert runtime.spawned.count("upload") == 12


def test_number_of_workers_is_an_option(
    make_manager: MakeManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    manager = make_manager(max_workers=2)
    for _ in range(5):
        start(manager, png)
    runtime.run()
    assert files.active_max == 2


def test_worker_survives_a_store_that_raises(
    make_manager: MakeManager, runtime: VirtualRuntime, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(runtime)
    manager = make_manager(store, max_workers=1)
    first, second = start(manager, png), start(manager, png)
    write = store.set_upload_status

    def refuse_the_first(upload_id: str, *args: Any, **options: Any) -> None:
        if upload_id == first["upload_uuid"]:
            raise redis.ConnectionError("unreachable")
        write(upload_id, *args, **options)

    monkeypatch.setattr(store, "set_upload_status", refuse_the_first)
    runtime.sleep(2)
    assert [state(manager, first), state(manager, second)] == ["pending", "completed"]


def test_timeout_fails_what_is_still_pending_after_ten_seconds(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    files.upload_s = 60
    placeholder = start(manager, png)
    runtime.sleep(9.99)
    assert state(manager, placeholder) == "pending"
    runtime.sleep(0.02)
    assert manager.get_upload_status(placeholder) == {
        "status": "failed",
        "result": None,
        "filename": str(png),
    }


@pytest.mark.parametrize("error", [None, RuntimeError("refused")])
def test_the_timeout_leaves_a_final_status_alone(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path, error: Exception | None
) -> None:
    files.error = error
    placeholder = start(manager, png)
    runtime.sleep(5)
    before = manager.get_upload_status(placeholder)
    runtime.run()
    assert manager.get_upload_status(placeholder) == before
    assert before["status"] == ("failed" if error else "completed")


def test_timeout_does_not_bring_back_what_was_cleaned_up(
    manager: UploadManager, runtime: VirtualRuntime, png: Path
) -> None:
    placeholder = start(manager, png)
    runtime.sleep(2)
    manager.cleanup_resolved_upload(placeholder)
    runtime.run()
    assert state(manager, placeholder) == "unknown"


def test_timeout_is_an_option(make_manager: MakeManager, files: FakeFiles, runtime: VirtualRuntime, png: Path) -> None:
    files.upload_s = 60
    manager = make_manager(upload_timeout_s=2.0)
    placeholder = start(manager, png)
    runtime.sleep(1.9)
    assert state(manager, placeholder) == "pending"
    runtime.sleep(0.2)
    assert state(manager, placeholder) == "failed"


def test_late_completion_overwrites_the_timeout(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    """Failure mode 3, kept in both specimens."""
    files.upload_s = 11
    placeholder = start(manager, png)
    runtime.sleep(10.5)
    assert state(manager, placeholder) == "failed"
    runtime.sleep(1)
    assert state(manager, placeholder) == "completed"


def test_the_timeout_starts_with_the_call_not_with_the_upload(
    make_manager: MakeManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    """Failure mode 4, kept in both specimens: an upload can fail in the queue."""
    files.upload_s = 60
    manager = make_manager(max_workers=1)
    start(manager, png)
    queued = start(manager, png)
    runtime.sleep(10.5)
    assert len(files.started) == 1
    assert state(manager, queued) == "failed"


def test_an_upload_that_completes_between_the_read_and_the_write_of_the_timeout(
    manager: UploadManager,
    store: RedisStore | None,
    files: FakeFiles,
    runtime: VirtualRuntime,
    png: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Failure mode 2: `local` locks from its read to its write; `shared` has no lock and loses the file."""
    kind = LocalStore if store is None else RedisStore
    look = kind.get_upload_status
    files.upload_s = 10.5
    placeholder = start(manager, png)

    def look_slowly(self: Any, upload_id: str) -> Any:
        answer = look(self, upload_id)
        runtime.sleep(1)
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(kind, "get_upload_status", look_slowly)
        runtime.run()
    assert state(manager, placeholder) == ("completed" if store is None else "failed")


@pytest.mark.parametrize(
    "resolved",
    [
        {"type": "google_cloud", "uri": "https://files.test/9"},
        {"upload_uuid": "0f8fad5b-d9cb-469f-a165-70867728950e", "pending": False},
        {"pending": True},
        "https://files.test/9",
        None,
        pytest.param(object(), id="an object"),  # the id of the test would else contain its address
    ],
    ids=lambda value: repr(value)[:24],
)
def test_anything_but_a_pending_placeholder_counts_as_resolved(manager: UploadManager, resolved: Any) -> None:
    assert manager.get_upload_status(resolved) == {"status": "completed", "result": resolved}
    assert manager.try_resolve_upload(resolved) is resolved
    assert manager.wait_for_upload(resolved) is resolved
    manager.cleanup_resolved_upload(resolved)


def test_malformed_id_in_a_placeholder_is_refused(manager: UploadManager) -> None:
    with pytest.raises(ValueError, match="expected a UUID"):
        manager.get_upload_status({"upload_uuid": None, "filename": "a.png", "pending": True})


def test_unknown_in_the_store_falls_back_to_the_local_dict(
    make_manager: MakeManager, redis_client: redis.Redis, runtime: VirtualRuntime, png: Path
) -> None:
    """Failure mode 11: then pods disagree about a status."""
    uploader = make_manager(RedisStore(redis_client, runtime))
    other = make_manager(RedisStore(redis_client, runtime))
    placeholder = start(uploader, png)
    runtime.sleep(1)
    redis_client.flushall()
    assert uploader.get_upload_status(placeholder)["result"] == FIRST_FILE
    assert state(other, placeholder) == "unknown"


def test_the_store_comes_before_the_local_dict(
    make_manager: MakeManager, redis_client: redis.Redis, runtime: VirtualRuntime, png: Path
) -> None:
    store = RedisStore(redis_client, runtime)
    manager = make_manager(store)
    placeholder = start(manager, png)
    store.set_upload_status(placeholder["upload_uuid"], "failed", filename="seen elsewhere")
    assert manager.get_upload_status(placeholder) == {
        "status": "failed",
        "result": None,
        "filename": "seen elsewhere",
    }


def test_try_resolve_upload_returns_the_result_or_none_at_once(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    placeholder = start(manager, png)
    assert manager.try_resolve_upload(placeholder) is None
    runtime.sleep(1)
    assert manager.try_resolve_upload(placeholder) == FIRST_FILE
    files.error = RuntimeError("refused")
    placeholder = start(manager, png)
    runtime.sleep(1)
    assert manager.try_resolve_upload(placeholder) is None


def test_querying_never_cleans_up(manager: UploadManager, runtime: VirtualRuntime, png: Path) -> None:
    placeholder = start(manager, png)
    runtime.sleep(1)
    for _ in range(3):
        assert manager.wait_for_upload(placeholder) == FIRST_FILE
        assert manager.try_resolve_upload(placeholder) == FIRST_FILE
        assert state(manager, placeholder) == "completed"


def test_wait_returns_the_result_soon_after_it_is_there(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    files.upload_s = 3
    before_s = runtime.now()
    assert manager.wait_for_upload(start(manager, png)) == FIRST_FILE
    assert 3 <= runtime.now() - before_s <= 3.5


def test_wait_raises_when_the_upload_fails(manager: UploadManager, files: FakeFiles, png: Path) -> None:
    files.error = RuntimeError("refused")
    with pytest.raises(UploadFailedError, match=r"image\.png: failed"):
        manager.wait_for_upload(start(manager, png))


def test_wait_raises_for_an_unknown_upload(manager: UploadManager) -> None:
    nobodys = {"upload_uuid": str(uuid.UUID(int=1)), "filename": "a.png", "pending": True}
    with pytest.raises(UploadFailedError, match=r"a\.png: unknown"):
        manager.wait_for_upload(nobodys)


@pytest.mark.parametrize(("arguments", "expected_s"), [({}, 30), ({"timeout": 2}, 2), ({"timeout": 0}, 0)])
def test_wait_raises_after_its_timeout(
    make_manager: MakeManager,
    files: FakeFiles,
    runtime: VirtualRuntime,
    png: Path,
    arguments: dict[str, float],
    expected_s: float,
) -> None:
    files.upload_s = 99
    manager = make_manager(upload_timeout_s=99)
    before_s = runtime.now()
    with pytest.raises(TimeoutError, match=rf"image\.png: still pending after {expected_s} s"):
        manager.wait_for_upload(start(manager, png), **arguments)
    assert expected_s <= runtime.now() - before_s <= expected_s + 0.5


def test_upload_file_blocks_until_the_result(
    manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path
) -> None:
    before_s = runtime.now()
    assert manager.upload_file(str(png), 0.0) == FIRST_FILE
    assert runtime.now() - before_s >= 1
    files.error = RuntimeError("refused")
    with pytest.raises(UploadFailedError):
        manager.upload_file(str(png), 0.0)


def test_cleanup_deletes_from_the_store_and_from_the_local_dict(
    manager: UploadManager, store: RedisStore | None, runtime: VirtualRuntime, png: Path
) -> None:
    kept, forgotten = start(manager, png), start(manager, png)
    runtime.sleep(1)
    manager.cleanup_resolved_upload(forgotten)
    assert state(manager, forgotten) == "unknown"
    assert state(manager, kept) == "completed"
    if store is not None:
        assert list(store.get_all_upload_statuses()) == [kept["upload_uuid"]]


def test_summary_counts_by_status(manager: UploadManager, files: FakeFiles, runtime: VirtualRuntime, png: Path) -> None:
    assert manager.get_upload_status_summary() == {}
    for _ in range(3):
        start(manager, png)
    runtime.sleep(1)
    files.error = RuntimeError("refused")
    start(manager, png)
    runtime.sleep(1)
    start(manager, png)
    assert manager.get_upload_status_summary() == {"completed": 3, "failed": 1, "pending": 1}


def test_two_workers_of_real_threads(thread_runtime: JoinedRuntime, png: Path) -> None:
    """The caller gets its answer while the uploads still hang."""
    both_started = threading.Barrier(3)
    may_finish = threading.Event()

    class HangingFiles:
        def upload(self, *, file: Any) -> Any:
            if not may_finish.is_set():
                both_started.wait(10)
            assert may_finish.wait(10)
            return {"uri": f"https://files.test/{file}"}

    manager = UploadManager(HangingFiles(), thread_runtime, rng=random.Random(7), max_workers=2)
    placeholders = [start(manager, png) for _ in range(6)]
    both_started.wait(10)
    assert manager.get_upload_status_summary() == {"pending": 6}
    may_finish.set()
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda placeholder: manager.wait_for_upload(placeholder, 10), placeholders))
    assert results == [{"uri": f"https://files.test/{png}"}] * 6
