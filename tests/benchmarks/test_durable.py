"""What `durable` costs, beside `shared` in the same run: round trips, time, memory, and how soon a waiter wakes."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from measuring import Timed, beside, check, check_ratio, percentile_us, ratio_of, tell

from podrace.reference import targets
from podrace.reference.durable import DurablePod
from podrace.reference.runtime import ThreadRuntime
from podrace.reference.status import COMPLETED
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.target import PodEnv

USER = "user-1"
CHANNEL = "mirix:durable:{user-1}:finished"
IMAGE_BYTES = 100_000
LIMIT_STATUS = 1.15
LIMIT_LIFE = 1.0
LIMIT_WITHOUT_BYTES = 0.75
ASKED_WITHOUT_BYTES = 0.7
LIMIT_WAKE = 1.5
LIVES = 200
OF_THIS = {"cmdstat_config|resetstat", "cmdstat_info"}
"""The commands that reading the statistics adds to them."""
FILE = SimpleNamespace(uri="https://files.test/1", name="files/1", create_time="2025-01-01T00:00:00Z", state="ACTIVE")


class Gemini:
    """A Gemini that stores each file at once: reading the file is all that takes time here."""

    def upload(self, *, file: Any) -> Any:
        with open(file, "rb") if isinstance(file, str) else nullcontext(file) as stream:
            assert len(stream.read()) == IMAGE_BYTES
        return FILE


class Agent:
    def send(self, user_id: str, parts: Sequence[Mapping[str, Any]], batch_id: str = "", fence: int = 0) -> None:
        """An upload is done at once."""


class Inline(ThreadRuntime):
    """Jobs run at once, in the caller. Neither timers nor heartbeats do: nothing here takes as long as a lease."""

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        if name not in ("timeout", "heartbeat"):
            function()


@pytest.fixture
def make(pinned: Server) -> Iterator[Callable[..., Any]]:
    """Makes pods of a target, and the client that each has."""
    clients = []

    def one(factory: Any, runtime: Any = None, **options: Any) -> tuple[Any, Any]:
        client = connect(pinned.url)
        clients.append(client)
        env = PodEnv(
            name="A",
            redis=client,
            prefix="mirix:",
            services={"gemini": Gemini(), "memory": Agent()},
            runtime=runtime or Inline(),
            rng=random.Random(len(clients)),
            options={"absorb_limit": 1, "compress": False, "durability": "off", **options},
        )
        return factory(env), client

    yield one
    for client in clients:
        client.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + random.Random(7).randbytes(IMAGE_BYTES - 8))
    return path


def life(pod: Any, images: list[Path]) -> Callable[[int], None]:
    """Accept, upload, claim, send, acknowledge; each message another one."""
    numbers = iter(range(10**9))

    def live(_: int) -> None:
        pod.add_message(USER, "text", images, f"m{next(numbers)}")
        assert pod.absorb(USER) == 1

    return live


def round_trips(client: Any, do: Callable[[], Any]) -> int:
    """By the server's statistics: the scripts, or where there are none, all commands. A script's own are no trips."""
    client.config_resetstat()
    do()
    stats = client.info("commandstats")
    scripts = sum(entry["calls"] for name, entry in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))
    others = sum(
        entry["calls"] for name, entry in stats.items() if not name.startswith(("cmdstat_config", "cmdstat_info"))
    )
    return int(scripts or others)


@pytest.mark.parametrize("images", [0, 1, 5])
def test_round_trips(benchmark: Any, make: Callable[..., Any], image: Path, images: int) -> None:
    """One each to accept, to claim and to acknowledge, however many images; one for each that is finished."""
    benchmark.pedantic(lambda: None)
    (durable, ours), (shared, other) = make(targets.durable), make(targets.shared)
    for pod in (durable, shared):
        life(pod, [image])(0)  # every script is known from here on
    connection = ours.connection_pool.get_connection()
    ours.connection_pool.release(connection)
    sent: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        send = connection.send_packed_command
        patch.setattr(connection, "send_packed_command", lambda *args, **more: (sent.append(args), send(*args, **more)))
        accept = round_trips(other, lambda: durable.add_message(USER, "text", [image] * images, "n1"))
        rest = round_trips(other, lambda: durable.absorb(USER))
    whole = accept + rest
    assert len(sent) == whole, "what was sent is what the server counted"

    def one_of_shared() -> None:
        shared.add_message(USER, "text", [image] * images, "n1")
        assert shared.absorb(USER) == 1

    floor = round_trips(ours, one_of_shared)
    check(
        benchmark,
        f"durable: round trips with {images} images",
        asked=f"{1 + images} and 2, fewer than shared",
        got=f"accept and finish {accept}, claim and acknowledge {rest}; shared: {floor}",
        holds=(accept, rest) == (1 + images, 2) and whole < floor,
    )


@pytest.mark.parametrize("kept", [True, False])
def test_whole_life(benchmark: Any, pinned: Server, make: Callable[..., Any], image: Path, kept: bool) -> None:
    """With the image's bytes kept in Redis, beside `shared` and a SET of as many; without, beside `shared` alone."""
    (durable, _), (shared, _) = make(targets.durable, keep_bytes=kept), make(targets.shared)
    content, bare = image.read_bytes(), connect(pinned.url)
    live = life(shared, [image])

    def floor(number: int) -> None:
        live(number)
        if kept:
            bare.set("the same bytes", content)

    name = "shared and a SET of the same bytes" if kept else "shared"
    limit = LIMIT_LIFE if kept else LIMIT_WITHOUT_BYTES
    operation = "whole life of a message with an image of 100 KB" + ("" if kept else ", bytes not kept")
    ours = Timed(life(durable, [image]))
    found = beside(
        benchmark, ours, {name: Timed(floor)}, target="durable", operation=operation, limit=limit, rounds=100, calls=10
    )
    for each, ratio in found.items():
        check_ratio(benchmark, each, ratio, limit)
        if not kept:
            check_ratio(benchmark, each, ratio, ASKED_WITHOUT_BYTES, must=False)
    bare.close()


def test_status(benchmark: Any, pinned: Server, make: Callable[..., Any], image: Path) -> None:
    pod, _ = make(targets.durable)
    (placeholder,) = pod.add_message(USER, "text", [image], "m1")
    bare = connect(pinned.url)
    value = bare.hget("mirix:durable:{user-1}:uploads", placeholder["upload_uuid"])
    bare.set("as much", value)
    assert pod.upload_status(placeholder)["status"] == COMPLETED
    floors = {"redis-py GET and orjson": lambda _: orjson.loads(bare.get("as much"))}
    ours = lambda _: pod.upload_status(placeholder)  # noqa: E731
    found = beside(benchmark, ours, floors, target="durable", operation="status", limit=LIMIT_STATUS)
    for name, ratio in found.items():
        check_ratio(benchmark, name, ratio, LIMIT_STATUS)
    bare.close()


def test_memory_afterwards(benchmark: Any, make: Callable[..., Any], image: Path) -> None:
    """Once everything is acknowledged and remembered no longer, nothing is left."""
    benchmark.pedantic(lambda: None)
    pod, client = make(targets.durable, lease_s=0.05, remember_s=0.05)
    live = life(pod, [image])
    live(0)

    def used() -> int:
        while client.dbsize():
            threading.Event().wait(0.01)
        return int(client.info("memory")["used_memory_dataset"])

    before = used()
    for _ in range(LIVES):
        live(0)
    grown = used() - before
    got = f"{grown:,} bytes more than before {LIVES} lives with {LIVES * IMAGE_BYTES:,} bytes of images, no key"
    check(benchmark, "durable: memory afterwards", asked="<= half an image", got=got, holds=grown <= IMAGE_BYTES / 2)


def test_waiter_wakes(benchmark: Any, pinned: Server, make: Callable[..., Any], image: Path) -> None:
    """From the script that finishes an upload to the waiter's return, beside a bare subscriber who then reads."""
    benchmark.pedantic(lambda: None)
    (pod, _), (waiting, _) = make(targets.durable, runtime=Idle()), make(targets.durable, runtime=ThreadRuntime())
    bare = connect(pinned.url)
    ours: list[int] = []
    floor: list[int] = []
    for number in range(3 if benchmark.disabled else 300):
        (placeholder,) = pod.add_message(USER, "text", [image], f"m{number}")
        ours.append(woken(bare, partial(waiting.wait_for_upload, placeholder), partial(end, pod, placeholder)))
        floor.append(woken(bare, partial(heard, pinned.url), partial(bare.publish, CHANNEL, "x")))
    bare.close()
    if benchmark.disabled:
        return
    name, ratio = "redis-py subscriber who then reads", ratio_of([a / b for a, b in zip(ours, floor, strict=True)])
    found = {"p50_us": percentile_us(ours, 50), "p99_us": percentile_us(ours, 99)}
    tell(
        benchmark,
        target="durable",
        operation="a waiter wakes",
        floor=name,
        found={name: ratio},
        limit=LIMIT_WAKE,
        **found,
    )
    check_ratio(benchmark, name, ratio, LIMIT_WAKE)
    check(
        benchmark,
        "durable: a waiter wakes",
        asked="<= 1 ms at the median",
        got=f"{found['p50_us']:g} µs at the median",
        holds=found["p50_us"] <= 1000,
        must=False,
    )


class Idle(Inline):
    """Uploads nothing by itself."""

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        pass


def end(pod: DurablePod, placeholder: Any) -> None:
    status = {"status": COMPLETED, "result": {"uri": "u", "name": "n"}, "filename": "f", "progress": 100}
    pod._store.finish(USER, placeholder["upload_uuid"], status)


def heard(url: str) -> None:
    """A subscriber without anything of ours."""
    with connect(url) as client, client.pubsub() as listener:
        listener.subscribe(CHANNEL)
        while listener.get_message(timeout=5)["type"] != "message":
            pass
        client.get("something")


def woken(bare: Any, wait: Callable[[], Any], announce: Callable[[], Any]) -> int:
    """Nanoseconds from the announcement to the waiter's return; it listens before."""
    returned: list[int] = []
    thread = threading.Thread(target=lambda: (wait(), returned.append(perf_counter_ns())))
    thread.start()
    while not bare.pubsub_numsub(CHANNEL)[0][1]:
        pass
    threading.Event().wait(0.002)  # it has read, and waits
    began = perf_counter_ns()
    announce()
    thread.join()
    while bare.pubsub_numsub(CHANNEL)[0][1]:
        pass
    return returned[0] - began
