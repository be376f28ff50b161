"""Every operation of every target's store, beside the same commands by bare redis-py and the raw socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pytest
from benched import TARGETS
from measuring import Ratio, Timed, beside, check, check_ratio, on_core

from podrace.reference.status import encode
from podrace.simulator.servers.connection import Server, connect

LIMIT = 1.15
LISTING_LIMIT = 2.0
SELF = 0.05
FOREIGN = 10_000
TTL_S = 3600
NAME = "screenshot.png"
RESULT = {
    "type": "google_cloud",
    "uri": "https://generativelanguage.googleapis.com/v1beta/files/abc123def456",
    "name": "files/abc123def456",
    "create_time": "2025-01-01T00:00:00Z",
}
STATUSES = {"pending": None, "completed": RESULT, "failed": None}


def ids(number: int) -> list[str]:
    return [str(uuid.UUID(int=(7 << 64) + index, version=4)) for index in range(number)]


class RawSocket:
    """Sends bytes and reads one short reply: what no client can be faster than."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)

    def __call__(self, *words: str) -> Callable[[int], bytes]:
        parts = [word.encode() for word in words]
        packed = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        raw = self._socket

        def ask(_: int) -> bytes:
            raw.sendall(packed)
            return raw.recv(65536)

        return ask

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def raw(pinned: Server) -> Iterator[RawSocket]:
    assert pinned.embedded is not None
    opened = RawSocket(str(pinned.embedded.socket_path))
    yield opened
    opened.close()


@pytest.fixture
def bare(pinned: Server) -> Iterator[Any]:
    """redis-py with the options that the pods' client has."""
    client = connect(pinned.url)
    yield client
    client.close()


def key_of(server: Server, upload_id: str) -> str:
    return f"{server.prefix}upload_status:{upload_id}"


def stored(status: str) -> str:
    return encode(status, result=STATUSES[status], filename=NAME, timestamp=1_736_899_200.123).decode()


def limit_of(target: str, limit: float) -> float | None:
    return limit if target == "shared" else None


@pytest.mark.parametrize("status", STATUSES)
def test_set(
    benchmark: Any, pinned: Server, raw: RawSocket, bare: Any, make_pod: Any, target: str, status: str
) -> None:
    store = TARGETS[target].store(make_pod(target, pinned))
    (upload_id,) = ids(1)
    key, value, result = key_of(pinned, upload_id), stored(status), STATUSES[status]

    def ours(_: int) -> None:
        store.set_upload_status(upload_id, status, result=result, filename=NAME, ttl=TTL_S)

    if TARGETS[target].floor == "memory":
        held, lock = {}, threading.RLock()

        def floor(_: int) -> None:
            with lock:
                held[upload_id] = {"status": status, "result": result, "filename": NAME}

        beside(benchmark, ours, {"a dict under a lock": floor}, target=target, operation=f"set {status}")
        return
    floors = {
        "redis-py and orjson": lambda _: bare.set(
            key,
            orjson.dumps({"status": status, "filename": NAME, "timestamp": time.time(), "result": result}),
            ex=TTL_S,
        ),
        "redis-py, value given": lambda _: bare.set(key, value, ex=TTL_S),
        "raw socket": raw("SET", key, value, "EX", str(TTL_S)),
    }
    found = beside(benchmark, ours, floors, target=target, operation=f"set {status}", limit=limit_of(target, LIMIT))
    assert store.get_upload_status(upload_id)["status"] == status
    within(benchmark, found, LIMIT)


def test_get(benchmark: Any, pinned: Server, raw: RawSocket, bare: Any, make_pod: Any, target: str) -> None:
    store = TARGETS[target].store(make_pod(target, pinned))
    (upload_id,) = ids(1)
    key = key_of(pinned, upload_id)
    store.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME)

    def ours(_: int) -> Any:
        return store.get_upload_status(upload_id)

    if TARGETS[target].floor == "memory":
        held, lock = {upload_id: ours(0)}, threading.RLock()

        def floor(_: int) -> Any:
            with lock:
                return dict(held[upload_id])

        beside(benchmark, ours, {"a dict under a lock": floor}, target=target, operation="get")
        return
    floors = {
        "redis-py and orjson": lambda _: orjson.loads(bare.get(key)),
        "redis-py, value as it is": lambda _: bare.get(key),
        "raw socket": raw("GET", key),
    }
    found = beside(benchmark, ours, floors, target=target, operation="get", limit=limit_of(target, LIMIT))
    assert ours(0)["result"] == RESULT
    within(benchmark, found, LIMIT)


def test_delete(benchmark: Any, pinned: Server, bare: Any, make_pod: Any, target: str) -> None:
    store = TARGETS[target].store(make_pod(target, pinned))
    upload_ids = ids(20)
    keys, value = [key_of(pinned, upload_id) for upload_id in upload_ids], stored("completed")

    def write(calls: int) -> None:
        for upload_id in upload_ids[:calls]:
            store.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME)

    def write_bare(calls: int) -> None:
        for key in keys[:calls]:
            bare.set(key, value, ex=TTL_S)

    ours = Timed(lambda number: store.delete_upload_status(upload_ids[number]), write)
    if TARGETS[target].floor == "memory":
        held, lock = {}, threading.RLock()

        def floor(number: int) -> None:
            with lock:
                held.pop(upload_ids[number], None)

        floors = {"a dict under a lock": Timed(floor, lambda calls: held.update(dict.fromkeys(upload_ids[:calls])))}
        beside(benchmark, ours, floors, target=target, operation="delete")
        return
    floors = {"redis-py": Timed(lambda number: bare.delete(keys[number]), write_bare)}
    found = beside(benchmark, ours, floors, target=target, operation="delete", limit=limit_of(target, LIMIT))
    within(benchmark, found, LIMIT)


@pytest.mark.parametrize(("number", "foreign"), [(100, 0), (1000, 0), (100, FOREIGN), (1000, FOREIGN)])
def test_list(benchmark: Any, pinned: Server, bare: Any, make_pod: Any, target: str, number: int, foreign: int) -> None:
    """Listing beside an MGET of the same keys plus decoding; KEYS is never sent."""
    store = TARGETS[target].store(make_pod(target, pinned))
    upload_ids = ids(number)
    for upload_id in upload_ids:
        store.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME)
    keys = [key_of(pinned, upload_id) for upload_id in upload_ids]
    bare.mset({f"elsewhere:{index}": "x" * 100 for index in range(foreign)} or {"elsewhere": "x"})
    operation = f"list {number}" + (f" beside {foreign} foreign keys" if foreign else "")
    rounds = {"rounds": 100, "calls": 1}

    def ours(_: int) -> Any:
        return store.get_all_upload_statuses()

    before = bare.info("commandstats").get("cmdstat_keys", {}).get("calls", 0)
    assert set(ours(0)) == set(upload_ids)
    assert bare.info("commandstats").get("cmdstat_keys", {}).get("calls", 0) == before
    if TARGETS[target].floor == "memory":
        held = ours(0)
        copy = {"a dict of dicts, copied": lambda _: {key: dict(entry) for key, entry in held.items()}}
        beside(benchmark, ours, copy, target=target, operation=operation, **rounds)
        return

    def mget(_: int) -> Any:
        return {
            upload_id: orjson.loads(value)
            for upload_id, value in zip(upload_ids, bare.mget(keys), strict=True)
            if value is not None
        }

    floors = {"redis-py MGET and orjson": mget}
    limit = limit_of(target, LISTING_LIMIT) if (number, foreign) == (1000, 0) else None
    found = beside(benchmark, ours, floors, target=target, operation=operation, limit=limit, **rounds)
    if limit:
        within(benchmark, found, limit)


def test_against_itself(benchmark: Any, pinned: Server, make_pod: Any) -> None:
    """The same operation twice: any difference is an error of measurement."""
    store = TARGETS["shared"].store(make_pod("shared", pinned))
    again = TARGETS["shared"].store(make_pod("shared", pinned))
    (upload_id,) = ids(1)
    found = beside(
        benchmark,
        lambda _: store.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME),
        {"itself": lambda _: again.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME)},
        target="shared",
        operation="set, against itself",
    )
    for ratio in found.values():
        check(
            benchmark,
            "a benchmark against itself",
            asked="within 5 %",
            got=f"{abs(ratio.ratio - 1):.1%} [{ratio.low:.3f}, {ratio.high:.3f}]",
            holds=ratio.low <= 1 + SELF and ratio.high >= 1 - SELF,
        )


VARIANTS = {
    "tcp": {"tcp": True},
    "without hiredis": {"parser": True},
    "two cores": {"unpinned": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("operation", ["set", "get"])
def test_variants(benchmark: Any, pinned: Server, make_pod: Any, variant: str, operation: str) -> None:
    """TCP instead of the unix socket, redis-py's own parser instead of hiredis, two cores instead of one."""
    asked = VARIANTS[variant]
    assert pinned.embedded is not None
    settings: dict[str, Any] = {"url": pinned.embedded.tcp_url if "tcp" in asked else pinned.url}
    if "parser" in asked:
        parsers = pytest.importorskip("redis._parsers")
        settings["parser_class"] = parsers._RESP2Parser
        settings["protocol"] = 2
    store = TARGETS["shared"].store(make_pod("shared", pinned, **settings))
    bare = connect(**settings)
    (upload_id,) = ids(1)
    key, value = key_of(pinned, upload_id), stored("completed")
    store.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME)
    ours, floor = {
        "set": (
            lambda _: store.set_upload_status(upload_id, "completed", result=RESULT, filename=NAME, ttl=TTL_S),
            lambda _: bare.set(key, value, ex=TTL_S),
        ),
        "get": (lambda _: store.get_upload_status(upload_id), lambda _: bare.get(key)),
    }[operation]
    pids = (pinned.embedded.pid,) if "unpinned" in asked else ()
    with on_core(None if pids else max(os.sched_getaffinity(0)), *pids):
        beside(benchmark, ours, {"redis-py": floor}, target="shared", operation=f"{operation}, {variant}", rounds=100)
    bare.close()


def test_redis_benchmark(benchmark: Any, pinned: Server, bare: Any) -> None:
    """redis-py's SET beside what redis-benchmark gets from one client."""
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        pytest.skip("neither redis-benchmark nor valkey-benchmark on PATH")
    assert pinned.embedded is not None
    command = [program, "-s", str(pinned.embedded.socket_path), "-c", "1", "-n", "2000", "-t", "set", "-q", "--csv"]

    def by_program(_: int) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def by_redis_py(_: int) -> None:
        for _ in range(2000):
            bare.set("key:__rand_int__", "xxx")

    floors = {"redis-benchmark": by_program}
    beside(benchmark, by_redis_py, floors, target="redis-py", operation="2,000 sets", rounds=10, calls=1)


def within(benchmark: Any, found: Mapping[str, Ratio], limit: float) -> None:
    """The limit against each way of redis-py, with the serialising in it and without."""
    for floor, ratio in found.items():
        if floor.startswith("redis-py"):
            check_ratio(benchmark, floor, ratio, limit)
