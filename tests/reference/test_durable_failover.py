"""`durable` behind Sentinel and in a Cluster: a primary is killed in the middle of a workload, and nothing is lost."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.sentinel import Sentinel

from podrace.reference.durable import DurablePod
from podrace.reference.durable_scripts import NotReplicatedError
from podrace.reference.memory import MemoryLedger
from podrace.simulator.app.cli import main
from podrace.simulator.servers.embedded import EmbeddedServer, server_binary
from podrace.simulator.servers.topologies import connect_to
from podrace.simulator.target import PodEnv

if TYPE_CHECKING:
    from tests.conftest import JoinedRuntime
    from tests.reference.conftest import Gemini

MESSAGES = 60
USERS = ("ann", "bob", "cid")
WITHIN_S = 60.0
"""Limit for a failover and all that waits for it on a busy machine; a quiet one needs two seconds."""
LONG = "more than the system keeps for a replica that reads nothing" * 500_000
SETTINGS: dict[str, Any] = {"socket_timeout": 2.0, "socket_connect_timeout": 1.0, "protocol": 2, "driver_info": None}
ServersOf = Callable[[str], Sequence[EmbeddedServer]]
"""The servers that hold a user's keys, the primary first."""
Start = Callable[[ExitStack, list[int]], tuple[str, ServersOf]]


class SentinelServer(EmbeddedServer):
    """A Sentinel: the server program with another option, and a configuration file that it rewrites."""

    def _spawn(self) -> None:
        lines = [f"{name} {value}\n" for name, value in self.config.items()]
        (self.folder / "valkey.conf").write_text("unixsocket redis.sock\nbind 127.0.0.1\n" + "".join(lines))
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'echo $$; exec "$1" valkey.conf --sentinel >>server.log 2>&1', "s", str(server_binary())],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._orders,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def until(is_so: Callable[[], Any], what: str) -> None:
    deadline, tick = time.monotonic() + WITHIN_S, threading.Event()
    while not _quietly(is_so):
        assert time.monotonic() < deadline, f"did not happen within {WITHIN_S:g} s: {what}"
        tick.wait(0.02)


def _quietly(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (redis.RedisError, redis.exceptions.RedisClusterException):
        return False


def sentinels(stack: ExitStack, free_ports: list[int]) -> tuple[str, ServersOf]:
    """A primary with two replicas, and three Sentinels."""
    ports, watching = free_ports[:3], free_ports[3:6]
    more = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}
    servers = [
        stack.enter_context(
            EmbeddedServer(
                config={"port": str(port), **more, **({"replicaof": f"127.0.0.1 {ports[0]}"} if number else {})}
            )
        )
        for number, port in enumerate(ports)
    ]
    primary = stack.enter_context(redis.Redis(port=ports[0], **SETTINGS))
    until(partial(_has_replicas, primary, 2), "two replicas are connected")
    for port in watching:
        config = {"port": str(port), "sentinel monitor pods": f"127.0.0.1 {ports[0]} 2"}
        config |= {"sentinel down-after-milliseconds pods": "1000", "sentinel failover-timeout pods": "500"}
        stack.enter_context(SentinelServer(config=config))
    known = Sentinel([("127.0.0.1", port) for port in watching], sentinel_kwargs=SETTINGS)

    def see_each_other() -> bool:
        states = [sentinel.sentinel_master("pods") for sentinel in known.sentinels]
        return all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 2 for state in states)

    until(see_each_other, "every Sentinel knows the others and the replicas")

    places = ",".join(f"127.0.0.1:{port}" for port in watching)
    return f"redis+sentinel://{places}/pods", lambda user: servers


def cluster(stack: ExitStack, free_ports: list[int]) -> tuple[str, ServersOf]:
    """Three primaries (needed to agree on a failover) with a replica each; the one to be killed has two."""
    ports, buses = free_ports[:7], free_ports[7:14]
    servers, clients = [], []
    for port, bus in zip(ports, buses, strict=True):
        config = {"port": str(port), "cluster-enabled": "yes", "cluster-port": str(bus), "cluster-node-timeout": "500"}
        config |= {"repl-diskless-sync-delay": "0", "cluster-replica-validity-factor": "0"}
        servers.append(stack.enter_context(EmbeddedServer(config=config)))
        clients.append(stack.enter_context(redis.Redis(port=port, **SETTINGS)))
    for number, first in enumerate((0, 5461, 10923)):
        clients[number].execute_command("CLUSTER", "ADDSLOTSRANGE", first, (5460, 10922, 16383)[number])
        clients[number].execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for client in clients[1:]:
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], buses[0])
    names = [client.execute_command("CLUSTER", "MYID") for client in clients]
    shard = {user: _shard(clients[0].execute_command("CLUSTER", "KEYSLOT", f"{{{user}}}")) for user in USERS}
    shards = [0, 1, 2, shard[USERS[0]]]
    for replica, number in zip(clients[3:], shards, strict=True):
        until(partial(replica.execute_command, "CLUSTER", "REPLICATE", names[number]), "it knows its primary")
    for number in range(3):
        copies = shards.count(number)
        until(partial(_has_replicas, clients[number], copies), f"primary {number} has {copies} replicas")
    until(lambda: all(b"cluster_state:ok" in _state(one) for one in clients), "the cluster is whole")

    places = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis+cluster://{places}", lambda user: [servers[shard[user]]]


def _shard(slot: int) -> int:
    return (slot > 5460) + (slot > 10922)


def _has_replicas(client: redis.Redis, number: int) -> bool:
    return bool(client.info("replication")["connected_slaves"] == number)


def _state(client: Any) -> bytes:
    client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
    return bytes(client.execute_command("CLUSTER INFO"))


@pytest.fixture
def free_ports() -> list[int]:
    """Ports that were all free at the same time."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(14)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


@contextmanager
def insisting(errors: Counter[str]) -> Iterator[None]:
    """Calls again until it succeeds, and counts the errors that are allowed while a primary is replaced."""
    try:
        yield
    except (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.ResponseError,
        redis.exceptions.RedisClusterException,
    ) as e:
        errors[type(e).__name__] += 1


@pytest.mark.parametrize("start", [sentinels, cluster])
def test_nothing_acknowledged_is_lost_with_the_primary(
    start: Start,
    free_ports: list[int],
    thread_runtime: JoinedRuntime,
    gemini: Gemini,
    png: Path,
    tmp_path: Path,
) -> None:
    ledger = MemoryLedger(tmp_path / "failover.sqlite")
    with ExitStack() as stack:
        url, servers_of = start(stack, free_ports)
        accepting, absorbing = (
            make_pod(name, stack.enter_context(connect_to(url)), ledger, thread_runtime, gemini) for name in "AB"
        )
        errors: Counter[str] = Counter()
        deadline, tick, promised = time.monotonic() + WITHIN_S, threading.Event(), Counter[str]()

        def absorb() -> None:
            for user in USERS:
                with insisting(errors):
                    absorbing.absorb(user)

        for number in range(MESSAGES):
            user = USERS[number % len(USERS)]
            if number == MESSAGES // 2:
                servers_of(USERS[0])[0].kill()
            while promised[user] <= number // len(USERS):
                assert time.monotonic() < deadline, f"message {number} is still refused: {errors}"
                with insisting(errors):
                    accepting.add_message(user, str(number), [png] if number % 4 == 0 else [], f"m{number}")
                    promised[user] += 1
                    continue
                tick.wait(0.02)
            absorb()
        while sum(len(texts(ledger, user)) for user in USERS) < MESSAGES:
            assert time.monotonic() < deadline + WITHIN_S, f"not absorbed: {errors}"
            absorb()
            tick.wait(0.02)
        absorb()
        assert listed(url) == []
        accepting._store.redis.hset(accepting._store.key("ann", "dead"), "record/m0", '{"text": "refused"}')
        assert [(letter["user_id"], letter["text"]) for letter in listed(url)] == [("ann", "refused")]
        for pod in (accepting, absorbing):
            pod.close()
        thread_runtime.join()
    assert errors, "the primary was killed, and nobody noticed"
    for place, user in enumerate(USERS):
        assert texts(ledger, user) == [str(number) for number in range(place, MESSAGES, len(USERS))]
    parts = [part for _, _, batch in ledger.batches() for part in batch]
    assert Counter(part["type"] for part in parts) == {"text": MESSAGES, "google_cloud_file_uri": MESSAGES // 4}
    ledger.close()


@pytest.mark.parametrize("start", [sentinels, cluster])
def test_a_waiter_hears_of_the_end_from_the_new_primary(
    start: Start, free_ports: list[int], thread_runtime: JoinedRuntime, gemini: Gemini, ledger: MemoryLedger, png: Path
) -> None:
    uploaded, results = threading.Event(), []
    gemini.during = uploaded.wait
    with ExitStack() as stack:
        url, servers_of = start(stack, free_ports)
        accepting, waiting = (
            make_pod(name, stack.enter_context(connect_to(url)), ledger, thread_runtime, gemini) for name in "AB"
        )
        (placeholder,) = accepting.add_message("ann", "1", [png], "m1")
        thread = threading.Thread(target=lambda: results.append(waiting.wait_for_upload(placeholder, WITHIN_S)))
        thread.start()
        primary, channel = servers_of("ann")[0], accepting._store.key("ann", "finished")
        with redis.Redis(unix_socket_path=str(primary.socket_path), **SETTINGS) as client:
            until(lambda: client.pubsub_numsub(channel)[0][1], "the waiter listens")
        primary.kill()
        until(lambda: accepting.upload_status(placeholder), "another server is the primary")
        uploaded.set()
        thread.join(WITHIN_S)
        assert [result["name"] for result in results] == ["files/1"]
        accepting.close()
        thread_runtime.join()


@pytest.mark.parametrize("start", [sentinels, cluster])
def test_a_row_is_explored_there(start: Start, free_ports: list[int], tmp_path: Path) -> None:
    with ExitStack() as stack:
        url, _ = start(stack, free_ports)
        said, run = io.StringIO(), str(tmp_path / "run")
        row = ["--target", "durable", "--scenario", "crash-after-send", "--preemptions", "0"]
        with redirect_stdout(said), suppress(SystemExit):
            main(["explore", *row, "--redis-url", url, "--run-dir", run, "--json"])
        (cell,) = json.loads(said.getvalue())["cells"]
        assert (cell["verdict"], cell["schedules"]["complete"]) == ("holds", True)
        assert cell["schedules"]["run"] > 1
        with connect_to(url) as client:
            assert list(client.scan_iter()) == []


@pytest.mark.parametrize("wait_replicas", [1, 0])
def test_replicas_that_lag_are_waited_for(
    wait_replicas: int,
    free_ports: list[int],
    thread_runtime: JoinedRuntime,
    gemini: Gemini,
    ledger: MemoryLedger,
) -> None:
    """What no replica has is not promised; if none is waited for, it is promised and lost with the primary."""
    with ExitStack() as stack:
        url, servers_of = sentinels(stack, free_ports)
        pod = make_pod(
            "A", stack.enter_context(connect_to(url)), ledger, thread_runtime, gemini, wait_replicas=wait_replicas
        )
        primary, *replicas = servers_of("ann")
        for replica in replicas:
            os.kill(replica.pid, signal.SIGSTOP)
        if wait_replicas:
            with pytest.raises(NotReplicatedError, match="0 of 1 replicas"):
                pod.add_message("ann", LONG, [], "m1")
        else:
            pod.add_message("ann", LONG, [], "m1")
        primary.kill()
        for replica in replicas:
            os.kill(replica.pid, signal.SIGCONT)
        until(lambda: pod.absorb("ann") == 0, "another server is the primary")
        assert texts(ledger, "ann") == []
        until(lambda: pod.add_message("ann", LONG, [], "m1") == [], "the message is handed in again")
        until(lambda: pod.absorb("ann") or texts(ledger, "ann"), "and absorbed")
        assert texts(ledger, "ann") == [LONG]


def make_pod(
    name: str, client: Any, ledger: MemoryLedger, runtime: JoinedRuntime, gemini: Gemini, *, wait_replicas: int = 1
) -> DurablePod:
    options = {"wait_replicas": wait_replicas, "replica_timeout_s": 0.5, "lease_s": 2.0, "retry_s": 0.05}
    options |= {"absorb_limit": 1, "compress": False, "durability": "warn"}
    return DurablePod(
        PodEnv(
            name=name,
            redis=client,
            prefix="mirix:",
            services={"gemini": gemini, "memory": ledger},
            runtime=runtime,
            rng=random.Random(os.urandom(8)),
            options=options,
        )
    )


def listed(url: str) -> list[dict[str, Any]]:
    """What `podrace dead-letters` prints."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        main(["dead-letters", "--redis-url", url, "--json"])
    found: list[dict[str, Any]] = json.loads(said.getvalue())["dead_letters"]
    return found


def texts(ledger: MemoryLedger, user: str) -> list[str]:
    return [part["text"] for _, one, parts in ledger.batches() for part in parts if one == user and "text" in part]
