"""What a pod does with messages: push, read, lock, absorb, and an upload's whole life; and the claims."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from benched import TARGETS
from measuring import PROCESSES, SEED, Timed, beside, check_ratio, on_core, percentile_us, percentiles, ratio_of, tell
from processes import work

from podrace.reference.gemini import GeminiFiles
from podrace.reference.runtime import ThreadRuntime
from podrace.reference.status import encode
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.files_api import FilesApi

USER = "user-1"
TEXTS = 20
LIMIT_PROCESSES = 1.15


@pytest.fixture
def lists(pinned: Server) -> tuple[Any, str, str]:
    """redis-py, and the names of a user's list and lock."""
    return connect(pinned.url), f"{pinned.prefix}temp_messages:{USER}", f"{pinned.prefix}lock:{USER}"


def message(number: int, images: list[Any]) -> str:
    return json.dumps(
        {"message_id": f"m{number}", "text": f"text {number}", "images": images, "timestamp": 1_736_899_200.1}
    )


def test_push(benchmark: Any, pinned: Server, lists: Any, make_pod: Any, target: str) -> None:
    pod, (bare, key, _) = make_pod(target, pinned), lists
    ours = Timed(lambda number: pod.add_message(USER, "text 1", [], f"m{number}"), lambda _: bare.delete(key))
    floor = Timed(lambda number: bare.rpush(key, message(number, [])), lambda _: bare.delete(key))
    beside(benchmark, ours, {"redis-py RPUSH and json.dumps": floor}, target=target, operation="push")


def test_read(benchmark: Any, pinned: Server, lists: Any, make_pod: Any, target: str) -> None:
    """Twenty messages without images: one LRANGE."""
    pod, (bare, key, _) = make_pod(target, pinned), lists
    for number in range(TEXTS):
        bare.rpush(key, message(number, []))
    floor = {"redis-py LRANGE and json.loads": lambda _: [json.loads(item) for item in bare.lrange(key, 0, -1)]}
    read = pod.accumulator.should_absorb_content
    beside(benchmark, lambda _: read(USER), floor, target=target, operation=f"read {TEXTS} messages")


def test_lock(benchmark: Any, pinned: Server, lists: Any, make_pod: Any, target: str) -> None:
    """Taking the lock and giving it back around an empty list: SET NX EX, LRANGE, DEL."""
    pod, (bare, key, lock) = make_pod(target, pinned), lists

    def floor(_: int) -> None:
        bare.set(lock, "A", nx=True, ex=30)
        bare.lrange(key, 0, -1)
        bare.delete(lock)

    take = pod.accumulator.absorb_content_into_memory
    floors = {"redis-py SET NX, LRANGE, DEL": floor}
    beside(benchmark, lambda _: take(USER), floors, target=target, operation="lock, unlock")


def test_absorb(benchmark: Any, pinned: Server, lists: Any, make_pod: Any, target: str, png: Path) -> None:
    """One message with one image that is ready, beside the same commands and the same delivery."""
    pod, (bare, key, lock) = make_pod(target, pinned), lists
    memory, redis_statuses = pod.accumulator._memory, TARGETS[target].floor == "redis"
    status = f"{pinned.prefix}upload_status:00000000-0000-4000-8000-000000000001"
    value = encode("completed", result={"uri": "u", "name": "n", "create_time": None}, filename="f", timestamp=1.5)
    image = {"upload_uuid": status[-36:], "filename": "f", "pending": True}

    def prepare(_: int) -> None:
        bare.delete(key)
        pod.add_message(USER, "text 1", [png], "m1")

    def prepare_bare(_: int) -> None:
        bare.delete(key)
        bare.set(status, value, ex=3600)
        bare.rpush(key, message(1, [image]))

    def resolve() -> None:
        json.loads(bare.lrange(key, 0, -1)[0])
        if redis_statuses:
            orjson.loads(bare.get(status))

    def floor(_: int) -> None:
        resolve()
        bare.set(lock, "A", nx=True, ex=30)
        resolve()
        memory.send(USER, [{"type": "text", "text": "text 1"}, {"type": "uri", "uri": "u"}])
        if redis_statuses:
            bare.delete(status)
        bare.ltrim(key, 1, -1)
        bare.delete(lock)

    floors = {"the same by redis-py": Timed(floor, prepare_bare)}
    beside(benchmark, Timed(lambda _: pod.absorb(USER), prepare), floors, target=target, operation="absorb", calls=1)


def one_life(pod: Any, png: Path) -> Callable[[int], None]:
    """Accept, upload, ask, absorb, clean up."""

    def live(_: int) -> None:
        (placeholder,) = pod.add_message(USER, "text 1", [png], "m1")
        assert pod.upload_status(placeholder)["status"] == "completed"
        assert pod.absorb(USER) == 1

    return live


def test_life_of_an_upload(
    benchmark: Any, pinned: Server, make_pod: Any, png: Path, claim: Callable[[str, str, str], None]
) -> None:
    """The same life with statuses in Redis and in memory: the difference is what the fix costs."""
    shared, local = (Timed(one_life(make_pod(name, pinned), png)) for name in ("shared", "local"))
    found = beside(
        benchmark, shared, {"local": local}, target="shared", operation="life of an upload", rounds=300, calls=3
    )
    if not found:
        return
    p50_us = percentile_us(shared.calls_ns, 50) - percentile_us(local.calls_ns, 50)
    p99_us = percentile_us(shared.calls_ns, 99) - percentile_us(local.calls_ns, 99)
    claim(
        "about 4 ms an upload",
        f"{p50_us / 1000:.2f} ms more at p50 and {p99_us / 1000:.2f} at p99 than with statuses in memory "
        "(unix socket, one core)",
        verdict(p50_us, 4000),
    )


def test_cost_of_an_operation(
    benchmark: Any, pinned: Server, make_pod: Any, claim: Callable[[str, str, str], None]
) -> None:
    """Set, get and delete, over TCP on loopback, client and server on two cores as they like it."""
    assert pinned.embedded is not None
    store = TARGETS["shared"].store(make_pod("shared", pinned, url=pinned.embedded.tcp_url))
    upload_id = "00000000-0000-4000-8000-000000000001"

    def three(_: int) -> None:
        store.set_upload_status(upload_id, "completed", result={"uri": "u", "name": "n"}, filename="f")
        store.get_upload_status(upload_id)
        store.delete_upload_status(upload_id)

    bare = connect(pinned.embedded.tcp_url)
    timed = Timed(three)
    with on_core(None, pinned.embedded.pid):
        found = beside(
            benchmark,
            timed,
            {"redis-py PING, three": lambda _: [bare.ping() for _ in range(3)]},
            target="shared",
            operation="set, get and delete, tcp, two cores",
            rounds=100,
        )
    bare.close()
    if found:
        p50_us, p99_us = (percentile_us(timed.calls_ns, percent) / 3 for percent in (50, 99))
        claim(
            "about 1 ms an operation",
            f"{p50_us / 1000:.3f} ms at p50, {p99_us / 1000:.3f} at p99 (TCP on loopback, two cores)",
            verdict(p50_us, 1000),
        )


class Workers(ThreadRuntime):
    """Real threads, that can be waited for; timers never fire."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        if name != "timeout":
            self._threads.append(threading.Thread(target=function))
            self._threads[-1].start()

    def join(self) -> None:
        while self._threads:
            self._threads.pop().join()


@pytest.mark.parametrize("latency_s", [0.0, 0.2])
def test_throughput(
    benchmark: Any,
    pinned: Server,
    make_pod: Any,
    png: Path,
    claim: Callable[[str, str, str], None],
    latency_s: float,
) -> None:
    """Uploads a second through four workers and the real google-genai client, with statuses in Redis and in memory."""
    assert pinned.embedded is not None
    number = 40 if latency_s else 60
    with FilesApi(latency_s=latency_s) as api, on_core(None, pinned.embedded.pid):
        gemini = GeminiFiles(api_key="none", base_url=api.url)

        def batch(target: str) -> Callable[[int], None]:
            runtime = Workers()
            pod = make_pod(target, pinned, runtime=runtime, gemini=gemini)

            def upload(_: int) -> None:
                count = 4 if benchmark.disabled else number
                placeholders = [pod.upload_manager.upload_file_async(str(png), 1.5, False) for _ in range(count)]
                runtime.join()
                for placeholder in placeholders:
                    assert pod.upload_status(placeholder)["status"] == "completed"
                    pod.upload_manager.cleanup_resolved_upload(placeholder)

            return upload

        found = beside(
            benchmark,
            batch("shared"),
            {"local": batch("local")},
            target="shared",
            operation=f"{number} uploads, Gemini {latency_s * 1000:g} ms",
            rounds=5 if latency_s else 15,
            calls=1,
        )
        gemini.close()
    for ratio in found.values():
        effect = 1 / ratio.ratio - 1
        claim(
            f"no effect on throughput (Gemini {latency_s * 1000:g} ms)",
            f"{effect:+.1%} uploads a second [{1 / ratio.high - 1:+.1%}, {1 / ratio.low - 1:+.1%}]",
            "holds" if ratio.low <= 1.0 or ratio.ratio < 1.05 else "does not hold",
        )


@pytest.mark.parametrize("processes", [1, 4])
def test_processes(benchmark: Any, pinned: Server, processes: int) -> None:
    """Sets from so many processes at once, on all cores, each beside bare redis-py in the same process."""
    assert pinned.embedded is not None
    rounds, calls = (1, 1) if benchmark.disabled else (200, 20)
    spawn = multiprocessing.get_context("spawn")

    def run() -> list[dict[str, list[float]]]:
        barrier, answers = spawn.Barrier(processes), spawn.Queue()
        workers = [
            spawn.Process(target=work, args=(pinned.url, SEED + number, rounds, calls, barrier, answers))
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        answered = [answers.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join()
            worker.close()
        answers.close()
        answers.join_thread()
        return answered

    found: list[dict[str, list[float]]] = []
    with on_core(None, pinned.embedded.pid):
        benchmark.pedantic(
            lambda: found.extend(run()), rounds=1 if benchmark.disabled else -(-PROCESSES // processes), iterations=1
        )
    if benchmark.disabled:
        return
    floor = "redis-py and orjson"
    ratio = ratio_of(*([a / b for a, b in zip(each["shared"], each["redis-py"], strict=True)] for each in found))
    operation = f"set, {processes} processes"
    tell(benchmark, target="shared", operation=operation, floor=floor, found={floor: ratio}, limit=LIMIT_PROCESSES)
    benchmark.extra_info |= percentiles([int(value) for each in found for value in each["calls"]])
    check_ratio(benchmark, floor, ratio, LIMIT_PROCESSES)


def verdict(measured_us: float, claimed_us: float) -> str:
    """A claim of "about" holds within a factor of two; less than that is told too."""
    if measured_us > 2 * claimed_us:
        return "does not hold"
    return "holds" if measured_us >= claimed_us / 2 else "holds, is less"
