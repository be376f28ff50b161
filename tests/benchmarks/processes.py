"""What runs in processes of its own: sets by the store and by bare redis-py, and the peer's race."""

from __future__ import annotations

import random
import time
from typing import Any

import orjson
import redis
from measuring import Timed

from podrace.reference.runtime import ThreadRuntime
from podrace.reference.store import RedisStore
from podrace.simulator.servers.connection import connect

RACE_KEY = "mirix:race"
RESULT = {"type": "google_cloud", "uri": "https://files.test/1", "name": "files/1", "create_time": None}
_clients: dict[str, redis.Redis] = {}


def work(url: str, seed: int, rounds: int, calls: int, barrier: Any, answers: Any) -> None:
    """Sets in blocks of random order, as soon as all processes are there; answers with the times in ns."""
    client, bare = connect(url), connect(url)
    store = RedisStore(client, ThreadRuntime())
    upload_id = f"00000000-0000-4000-8000-{seed:012d}"
    key = f"mirix:upload_status:{upload_id}"

    def floor(_: int) -> None:
        value = {"status": "completed", "filename": "f", "timestamp": time.time(), "result": RESULT}
        bare.set(key, orjson.dumps(value), ex=3600)

    timed = {
        "shared": Timed(lambda _: store.set_upload_status(upload_id, "completed", result=RESULT, filename="f")),
        "redis-py": Timed(floor),
    }
    rng, order = random.Random(seed), list(timed.values())
    barrier.wait(30)
    for _ in range(rounds):
        rng.shuffle(order)
        for each in order:
            each.block(calls)
    answers.put({name: each.blocks_ns for name, each in timed.items()} | {"calls": timed["shared"].calls_ns})


def race(socket_path: str) -> None:
    """GET, check, SET: what two processes do to one key, explored by the peer. The client is kept."""
    if socket_path not in _clients:
        _clients[socket_path] = redis.Redis(unix_socket_path=socket_path, protocol=2)
    client = _clients[socket_path]
    if client.get(RACE_KEY) is None:
        client.set(RACE_KEY, "mine")
