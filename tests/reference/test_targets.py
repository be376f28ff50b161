"""`local` and `shared` from end to end: two pods, one Redis, one memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from podrace.reference.gemini import GeminiFiles
from podrace.reference.memory import MemoryLedger
from podrace.simulator.servers.files_api import FilesApi
from podrace.simulator.target import PodEnv, load_target

if TYPE_CHECKING:
    from tests.conftest import FakeFiles, JoinedRuntime, VirtualRuntime

MakePod = Callable[..., Any]

TARGETS = ["local", "shared"]


@pytest.fixture
def make_pod(make_env: Callable[..., PodEnv]) -> MakePod:
    def make(target: str, name: str, **replaced: Any) -> Any:
        return load_target(f"podrace.reference.targets:{target}")(make_env(name, **replaced))

    return make


def images_of(ledger: MemoryLedger) -> list[str]:
    parts = [part for _, _, parts in ledger.batches() for part in parts]
    return [part["google_cloud_file_uri"] for part in parts if part["type"] == "google_cloud_file_uri"]


def texts_of(ledger: MemoryLedger) -> list[str]:
    return [part["text"] for _, _, parts in ledger.batches() for part in parts if part["type"] == "text"]


@pytest.mark.parametrize(("target", "kept"), [("local", []), ("shared", ["https://files.test/1"])])
def test_pod_b_absorbs_what_pod_a_accepted(
    make_pod: MakePod,
    runtime: VirtualRuntime,
    ledger: MemoryLedger,
    redis_client: redis.Redis,
    png: Path,
    target: str,
    kept: list[str],
) -> None:
    """Failure mode 1: the bug in `local`, and its fix in `shared`."""
    pod_a, pod_b = make_pod(target, "A"), make_pod(target, "B")
    (placeholder,) = pod_a.add_message("ann", "look at this", [png], "m1")
    runtime.sleep(2)
    assert pod_a.upload_status(placeholder)["status"] == "completed"
    assert pod_b.upload_status(placeholder)["status"] == ("completed" if kept else "unknown")
    assert pod_b.absorb("ann") == 1
    assert texts_of(ledger) == ["look at this"]
    assert images_of(ledger) == kept
    assert redis_client.keys("*") == []
    runtime.run()
    assert redis_client.keys("*") == []


@pytest.mark.parametrize("target", TARGETS)
def test_the_pod_that_accepted_keeps_the_image(
    make_pod: MakePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, target: str
) -> None:
    pod = make_pod(target, "A")
    (placeholder,) = pod.add_message("ann", "look at this", [png], "m1")
    assert pod.absorb("ann") == 0
    runtime.sleep(1)
    assert pod.absorb("ann") == 1
    assert images_of(ledger) == ["https://files.test/1"]
    assert pod.upload_status(placeholder)["status"] == "unknown"


@pytest.mark.parametrize(("target", "absorbed"), [("local", 1), ("shared", 0)])
def test_pod_b_absorbs_while_the_upload_of_pod_a_is_pending(
    make_pod: MakePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path, target: str, absorbed: int
) -> None:
    """`local` treats a pending image of another pod as failed; `shared` waits for it."""
    pod_a, pod_b = make_pod(target, "A"), make_pod(target, "B")
    pod_a.add_message("ann", "look at this", [png], "m1")
    assert pod_b.absorb("ann") == absorbed
    runtime.sleep(1)
    assert pod_b.absorb("ann") == 1 - absorbed
    assert len(images_of(ledger)) == 1 - absorbed


@pytest.mark.parametrize("target", TARGETS)
def test_many_messages_and_pods(
    make_pod: MakePod,
    runtime: VirtualRuntime,
    files: FakeFiles,
    ledger: MemoryLedger,
    make_image: Callable[..., Path],
    target: str,
) -> None:
    """Four pods accept messages and one absorbs: with `local` only its own images arrive."""
    files.upload_s = 0.1
    pods = [make_pod(target, name) for name in "ABCD"]
    image = make_image()
    for number in range(20):
        pods[number % 4].add_message("ann", f"message {number}", [image], f"m{number}")
    runtime.run()
    assert pods[0].absorb("ann") == 20
    assert texts_of(ledger) == [f"message {number}" for number in range(20)]
    assert len(set(images_of(ledger))) == (5 if target == "local" else 20)


def test_the_same_placeholder_twice(
    make_pod: MakePod, runtime: VirtualRuntime, ledger: MemoryLedger, png: Path
) -> None:
    """Failure mode 9, kept in the specimens: the first clean-up removes the image of the second message too."""
    pod = make_pod("shared", "A")
    (placeholder,) = pod.add_message("ann", "first", [png], "m1")
    runtime.sleep(1)
    assert pod.absorb("ann") == 1
    pod.add_message("ann", "second", [placeholder], "m2")
    assert pod.absorb("ann") == 1
    assert texts_of(ledger) == ["first", "second"]
    assert len(images_of(ledger)) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_options_reach_their_parts(
    make_pod: MakePod, runtime: VirtualRuntime, files: FakeFiles, png: Path, target: str
) -> None:
    options = {"max_workers": 1, "upload_timeout_s": 2.5, "absorb_limit": 2, "compress": True}
    pod = make_pod(target, "A", options=options)
    placeholders = [pod.add_message("ann", text, [png], text)[0] for text in ("a", "b", "c")]
    runtime.sleep(1)
    assert pod.absorb("ann") == 0
    runtime.sleep(1.25)
    assert [pod.upload_status(p)["status"] for p in placeholders] == ["completed", "completed", "pending"]
    runtime.sleep(0.5)
    assert pod.upload_status(placeholders[2])["status"] == "failed"
    assert files.active_max == 1
    assert files.started[0].suffix == ".jpg"
    assert pod.absorb("ann") == 3
    runtime.sleep(1)
    assert not any(path.exists() for path in files.started)  # compressed files exist only during the upload


@pytest.mark.parametrize("target", TARGETS)
def test_options_may_all_be_left_out(
    make_env: Callable[..., PodEnv], runtime: VirtualRuntime, files: FakeFiles, png: Path, target: str
) -> None:
    env = PodEnv(**{**vars(make_env("A")), "options": {}})
    pod = load_target(f"podrace.reference.targets:{target}")(env)
    files.upload_s = 9.5
    placeholders = [pod.add_message("ann", str(number), [png], str(number))[0] for number in range(5)]
    runtime.sleep(9.25)
    assert {pod.upload_status(p)["status"] for p in placeholders} == {"pending"}
    runtime.sleep(1.25)
    assert files.active_max == 4
    assert [pod.upload_status(p)["status"] for p in placeholders] == ["completed"] * 4 + ["failed"]
    assert files.started[0].suffix == ".jpg"
    runtime.sleep(10)  # until the last upload has ended and its compressed image is removed


@pytest.mark.parametrize("target", TARGETS)
def test_a_pod_has_every_method_that_the_uploads_workload_calls(make_pod: MakePod, target: str) -> None:
    pod = make_pod(target, "A")
    assert all(callable(getattr(pod, name)) for name in ("add_message", "absorb", "upload_status", "wait_for_upload"))
    pod.close()


@pytest.mark.parametrize("target", TARGETS)
def test_real_threads_and_the_real_client(
    make_pod: MakePod, thread_runtime: JoinedRuntime, ledger: MemoryLedger, jpeg: Path, target: str
) -> None:
    def sha256(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()

    with FilesApi(identify=sha256) as api:
        gemini = GeminiFiles(api_key="test", base_url=api.url)
        pods = [make_pod(target, name, gemini=gemini, runtime=thread_runtime) for name in "AB"]
        placeholders = pods[0].add_message("ann", "look at this", [jpeg, jpeg], "m1")
        results = [pods[0].upload_manager.wait_for_upload(p, 20) for p in placeholders]  # type: ignore[attr-defined]
        assert pods[1].absorb("ann") == 1
        thread_runtime.join()
        gemini.close()
    stored = {record.uri: record.mark for record in api.files().values()}
    assert stored == {result["uri"]: sha256(jpeg.read_bytes()) for result in results}
    assert images_of(ledger) == ([] if target == "local" else [result["uri"] for result in results])
