"""How `durable` uploads: Gemini's rules, attempts, progress, and waiting for the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.durable import DurablePod
from podrace.reference.durable_store import Batch
from podrace.reference.gemini import GeminiFiles
from podrace.reference.memory import MemoryLedger
from podrace.reference.status import UploadFailedError
from podrace.simulator.servers.files_api.api import FilesApi

if TYPE_CHECKING:
    from tests.conftest import JoinedRuntime, VirtualRuntime
    from tests.reference.conftest import Gemini

MakePod = Callable[..., DurablePod]
TAG = "mirix:durable:{ann}:"
HOUR_S = 3600.0


class RefusalError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"{code} refused")
        self.code = code


def images_of(ledger: MemoryLedger) -> list[str]:
    return [
        part.get("google_cloud_file_uri", part.get("reason", "")) for _, _, parts in ledger.batches() for part in parts
    ][1:]


@pytest.mark.parametrize("error", [RefusalError(429), RefusalError(500), RefusalError(503), ConnectionError("gone")])
def test_an_upload_is_tried_again_after_a_temporary_error(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger, error: Exception
) -> None:
    gemini.errors = [error, error]
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    began = runtime.now()
    runtime.sleep(0.4)
    assert len(gemini.contents) == 1
    runtime.sleep(1.2)
    assert pod.upload_status(placeholder)["status"] == "completed"
    assert len(gemini.contents) == 3
    assert runtime.now() - began < 2
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/3"]


def test_an_upload_fails_when_its_attempts_are_used_up(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    gemini: Gemini,
    ledger: MemoryLedger,
    left: Callable[[], Any],
) -> None:
    pod = make_durable(options={"upload_attempts": 3})
    gemini.errors = [RefusalError(503)] * 9
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    reason = "after 3 attempts: RefusalError: 503 refused"
    assert pod.upload_status(placeholder)["status"] == "failed"
    assert pod.upload_status(placeholder)["reason"] == reason
    assert len(gemini.contents) == 3
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == [reason]
    assert left() == []


@pytest.mark.parametrize("code", [400, 401, 413])
def test_an_upload_that_is_refused_for_good_is_not_tried_again(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger, code: int
) -> None:
    gemini.errors = [RefusalError(code)]
    pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    assert len(gemini.contents) == 1
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == [f"RefusalError: {code} refused"]


def test_attempts_of_dead_pods_count(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    gemini: Gemini,
    ledger: MemoryLedger,
    lapse: Callable[[str], None],
) -> None:
    options = {"upload_attempts": 3}
    dead = [make_durable(name, runtime=type(runtime)(), options=options) for name in "ABC"]
    dead[0].add_message("ann", "1", [png], "m1")
    for pod in dead[1:]:
        lapse("lease:m1")
        assert pod.absorb("ann") == 0
    lapse("lease:m1")
    pod = make_durable("D", options=options)
    assert pod.absorb("ann") == 0
    runtime.run()
    assert gemini.contents == []
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["3 attempts are used up"]


def test_without_kept_bytes_nobody_can_take_over(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, ledger: MemoryLedger, lapse: Callable[[str], None]
) -> None:
    options = {"keep_bytes": False}
    make_durable("dead", runtime=type(runtime)(), options=options).add_message("ann", "1", [png], "m1")
    lapse("lease:m1")
    pod = make_durable("B", options=options)
    pod.absorb("ann")
    runtime.run()
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["its bytes were not kept"]


def test_file_is_used_once_it_is_active(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    gemini.states = ["PROCESSING", "PROCESSING", "PROCESSING", "ACTIVE"]
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    runtime.sleep(1)
    assert pod.upload_status(placeholder)["status"] == "pending"
    assert pod.absorb("ann") == 0
    runtime.sleep(3)
    assert gemini.asked == ["files/1"] * 3
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/1"]


def test_an_upload_fails_when_gemini_cannot_use_the_file(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    gemini.states = ["PROCESSING", "FAILED"]
    pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    assert gemini.deleted == ["files/1"]
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["RefusedFileError: Gemini cannot use the file"]


def test_an_upload_fails_when_gemini_processes_the_file_for_ever(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    pod = make_durable(options={"upload_timeout_s": 7.0, "upload_attempts": 2})
    gemini.states = ["PROCESSING"] * 99
    pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    assert gemini.deleted == ["files/1", "files/2"]
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["after 2 attempts: TimeoutError: Gemini is still processing it after 7 s"]


@pytest.mark.parametrize(
    ("age_s", "uploads"),
    [(46.9 * HOUR_S, 1), (47 * HOUR_S, 2)],
)
def test_a_file_that_is_about_to_expire_is_uploaded_again(
    pod: DurablePod,
    runtime: VirtualRuntime,
    png: Path,
    gemini: Gemini,
    ledger: MemoryLedger,
    age_s: float,
    uploads: int,
) -> None:
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    runtime.sleep(age_s)
    assert pod.absorb("ann") == 1
    assert gemini.contents == [png.read_bytes()] * uploads
    assert images_of(ledger) == [f"https://files.test/{uploads}"]
    assert pod.upload_status(placeholder)["result"]["uri"] == f"https://files.test/{uploads}"


@pytest.mark.parametrize("code", [None, 403, 404, 503])
def test_a_file_of_another_pod_is_read_with_our_key_before_it_is_sent(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    gemini: Gemini,
    ledger: MemoryLedger,
    code: int | None,
) -> None:
    """Tried once for each pod whose files are readable; if unreadable or unclear, the file is uploaded again."""
    a, b = make_durable("A"), make_durable("B")
    gemini.lost = {f"files/{number}": code for number in (1, 2) if code}
    placeholders = [a.add_message("ann", "1", [png], name)[0] for name in ("m1", "m2")]
    runtime.run()
    assert b.absorb("ann") == 2
    read = [1, 2] if code is None else [3, 4]
    assert len(gemini.asked) == (1 if code is None else 2)
    assert [part.get("google_cloud_file_uri") for _, _, parts in ledger.batches() for part in parts[1::2]] == [
        f"https://files.test/{number}" for number in read
    ]
    assert [a.upload_status(one)["result"]["name"] for one in placeholders] == [f"files/{number}" for number in read]


def test_a_file_that_has_expired_on_arrival_is_replaced_by_a_new_upload(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    class Slow:
        """The first batch takes two days to arrive."""

        def __init__(self) -> None:
            self.ways_s = [48 * HOUR_S]

        def send(self, *args: Any, **named: Any) -> None:
            if self.ways_s:
                runtime.sleep(self.ways_s.pop())
            ledger.send(*args, **named)

    pod = make_durable(memory=Slow())
    pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/2"]


def test_if_another_pod_has_uploaded_the_file_again_meanwhile_its_file_is_sent(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    """The file that was uploaded later is deleted at Gemini, so no batch may name it."""
    a, b = make_durable("A"), make_durable("B")
    a.add_message("ann", "1", [png], "m1")
    runtime.run()
    runtime.sleep(48 * HOUR_S)

    def pause() -> None:
        gemini.during = lambda: None
        b._store.redis.delete(TAG + "claim")
        claimed = b._store.claim("ann", "another", lowest_fence=1)
        assert isinstance(claimed, Batch)
        b._build(claimed)

    gemini.during = pause
    a.absorb("ann")
    sent = images_of(ledger)
    assert not {f"files/{uri.rpartition('/')[2]}" for uri in sent} & set(gemini.deleted)
    assert sent


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (False, "Gemini has dropped the file, and: its bytes were not kept"),
        (True, "Gemini has dropped the file, and: RefusalError: 400 refused"),
    ],
)
def test_an_expired_file_that_cannot_be_uploaded_again_is_named_as_missing(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    gemini: Gemini,
    ledger: MemoryLedger,
    keep: bool,
    reason: str,
) -> None:
    pod = make_durable(options={"keep_bytes": keep})
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    runtime.sleep(48 * HOUR_S)
    gemini.errors = [RefusalError(400)]
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == [reason]
    assert pod.upload_status(placeholder)["status"] == "completed"  # readers have been told so before


def test_service_that_can_only_upload(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, ledger: MemoryLedger
) -> None:
    class UploadOnly:
        upload = gemini.upload

    gemini.states = ["PROCESSING"]
    pod = make_durable(gemini=UploadOnly())
    pod.add_message("ann", "1", [png], "m1")
    runtime.run()
    runtime.sleep(2 * HOUR_S)
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/1"]


def test_the_end_of_an_upload_is_written_once_redis_is_back(
    make_durable: MakePod,
    runtime: VirtualRuntime,
    png: Path,
    open_client: Callable[..., redis.Redis],
    monkeypatch: pytest.MonkeyPatch,
    gemini: Gemini,
) -> None:
    """Failure modes 24 and 25: a write is sent again until the server has answered."""
    client = open_client()
    pod = make_durable(redis=client)
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    evalsha = client.evalsha
    away: list[Exception] = [
        redis.ConnectionError("away"),
        redis.TimeoutError("away"),
        redis.exceptions.OutOfMemoryError("full"),
        redis.exceptions.ReadOnlyError("a replica"),
        redis.exceptions.RedisClusterException("no node answers"),
    ]

    def sometimes(*args: Any) -> Any:
        if away:
            raise away.pop()
        return evalsha(*args)

    monkeypatch.setattr(client, "evalsha", sometimes)
    runtime.run()
    assert pod.upload_status(placeholder)["status"] == "completed"
    assert len(gemini.contents) == 1


def test_no_more_workers_than_allowed(
    make_durable: MakePod, runtime: VirtualRuntime, png: Path, gemini: Gemini
) -> None:
    pod = make_durable(options={"max_workers": 2})
    gemini.during = lambda: runtime.sleep(1)
    pod.add_message("ann", "1", [png] * 5, "m1")
    for expected in (2, 4, 5):
        runtime.sleep(0.999 if expected == 2 else 1)
        assert len(gemini.contents) == expected
    runtime.run()
    assert runtime.spawned.count("upload") == 2


# -- progress


def test_progress_goes_up_at_most_once_a_second(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini, redis_client: redis.Redis
) -> None:
    seen: list[int] = []
    reads = 0
    size = png.stat().st_size
    gemini.chunk = max(1, size // 40)
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    upload = gemini.upload

    def slowly(*, file: Any) -> Any:
        read = file.read

        def read_slowly(count: int = -1) -> bytes:
            nonlocal reads
            reads += 1
            content: bytes = read(count)
            runtime.sleep(0.25)
            seen.append(pod.upload_status(placeholder)["progress"])
            return content

        file.read = read_slowly
        return upload(file=file)

    gemini.upload = slowly  # type: ignore[method-assign]
    redis_client.config_resetstat()
    runtime.sleep(60)
    assert seen == sorted(seen)
    assert 8 < len(set(seen)) <= reads / 4 + 1
    assert seen[0] == 0
    assert 80 < seen[-1] <= 100
    assert pod.upload_status(placeholder)["progress"] == 100


def test_progress_does_not_go_back_with_another_attempt(
    pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini
) -> None:
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    size = png.stat().st_size
    seen: list[int] = []

    def half(*, file: Any) -> Any:
        for _ in range(2):
            file.read(size // 2)
            runtime.sleep(1.5)
            seen.append(pod.upload_status(placeholder)["progress"])
        file.read(1)
        seen.append(pod.upload_status(placeholder)["progress"])
        raise RefusalError(503)

    gemini.upload = half  # type: ignore[method-assign]
    runtime.sleep(30)
    assert seen == sorted(seen)
    assert max(seen) > 80


# -- waiting


@pytest.fixture
def waiting(make_durable: MakePod, thread_runtime: JoinedRuntime) -> DurablePod:
    return make_durable("W", runtime=thread_runtime)


def test_a_waiter_is_woken_when_its_upload_ends(
    waiting: DurablePod, pod: DurablePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis
) -> None:
    placeholder, other = pod.add_message("ann", "1", [png, png], "m1")
    results: list[Any] = []
    waiter = threading.Thread(target=lambda: results.append(waiting.wait_for_upload(placeholder, 20)))
    waiter.start()
    until_somebody_listens(redis_client)
    redis_client.publish(TAG + "finished", other["upload_uuid"])  # another upload than the one it waits for
    redis_client.publish(TAG + "finished", placeholder["upload_uuid"])  # announced, but not true
    runtime.run()
    waiter.join(10)
    assert results == [pod.upload_status(placeholder)["result"]]


def test_a_waiter_may_time_out_come_after_the_end_or_ask_for_an_unknown_upload(
    waiting: DurablePod, pod: DurablePod, runtime: VirtualRuntime, png: Path, gemini: Gemini
) -> None:
    gemini.errors = [None, RefusalError(400)]
    placeholders = pod.add_message("ann", "1", [png, png], "m1")
    with pytest.raises(TimeoutError, match=r"still pending after 0\.01 s"):
        waiting.wait_for_upload(placeholders[0], 0.01)
    runtime.run()
    assert waiting.wait_for_upload(placeholders[0], 20)["name"] == "files/1"
    with pytest.raises(UploadFailedError, match="400 refused"):
        waiting.wait_for_upload(placeholders[1], 20)
    unknown = {**placeholders[0], "upload_uuid": "0f8fad5b-d9cb-469f-a165-70867728950e"}
    with pytest.raises(UploadFailedError, match="unknown"):
        waiting.wait_for_upload(unknown, 20)


def test_a_waiter_notices_an_end_between_its_check_and_its_subscription(
    waiting: DurablePod, pod: DurablePod, runtime: VirtualRuntime, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failure mode 29: who reads first and then subscribes misses what is announced in between."""
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    pubsub = waiting._redis.pubsub

    def ends_before() -> Any:
        runtime.run()
        return pubsub()

    monkeypatch.setattr(waiting._redis, "pubsub", ends_before)
    assert waiting.wait_for_upload(placeholder, 4)["name"] == "files/1"


def test_a_waiter_survives_the_loss_of_its_connection(
    waiting: DurablePod, pod: DurablePod, runtime: VirtualRuntime, png: Path, redis_client: redis.Redis
) -> None:
    """Failure mode 39: an announcement was missed meanwhile, so the waiter reads the status."""
    (placeholder,) = pod.add_message("ann", "1", [png], "m1")
    results: list[Any] = []
    waiter = threading.Thread(target=lambda: results.append(waiting.wait_for_upload(placeholder, 20)))
    waiter.start()
    until_somebody_listens(redis_client)
    waiting._runtime._over.set()  # type: ignore[attr-defined]  # the pause before it subscribes again is none
    with redis_client.pipeline() as at_once:
        at_once.client_kill_filter(_type="pubsub")
        at_once.execute()
    runtime.run()
    waiter.join(10)
    assert [result["name"] for result in results] == ["files/1"]


def until_somebody_listens(client: redis.Redis) -> None:
    for _ in range(100_000):
        if client.pubsub_numsub(TAG + "finished")[0][1]:
            return
    raise AssertionError("nobody listens")


# -- the real client


def test_real_threads_and_the_real_client(
    make_durable: MakePod, thread_runtime: JoinedRuntime, ledger: MemoryLedger, jpeg: Path, png: Path
) -> None:
    with FilesApi(identify=len) as api:  # type: ignore[arg-type]
        gemini = GeminiFiles(api_key="test", base_url=api.url, timeout_s=10)
        a, b = (make_durable(name, gemini=gemini, runtime=thread_runtime) for name in "AB")
        placeholders = a.add_message("ann", "look at this", [jpeg, png], "m1")
        results = [b.wait_for_upload(placeholder, 20) for placeholder in placeholders]
        assert b.absorb("ann") == 1
        thread_runtime.join()
        records = {record.uri: record for record in api.files().values()}
        assert [records[result["uri"]].mime_type for result in results] == ["image/jpeg", "image/png"]
        assert [records[result["uri"]].size_bytes for result in results] == [jpeg.stat().st_size, png.stat().st_size]
        assert gemini.get(name=results[0]["name"]).uri == results[0]["uri"]
        gemini.delete(name=results[0]["name"])
        assert results[0]["name"] not in api.files()
        gemini.close()
    assert images_of(ledger) == [result["uri"] for result in results]
