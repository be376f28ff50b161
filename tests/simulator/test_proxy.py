"""The proxy between one pod and its server: it cuts messages off, delays them, or holds them back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.proxy import Conditions, Proxy


@pytest.fixture
def proxy(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory, open_client: Callable[..., Any]
) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("s"), ["A", "B"], server.socket_path) as made:
        yield made


@pytest.fixture
def pod(proxy: Proxy) -> Iterator[Any]:
    with connect(proxy.url("A"), socket_timeout=0.3) as client:
        client.ping()
        yield client


def test_requests_and_replies_pass_through_unchanged(proxy: Proxy, pod: Any, open_client: Callable[..., Any]) -> None:
    pod.set("x", "y" * 300_000)
    assert open_client().get("x") == b"y" * 300_000
    assert pod.get("x") == b"y" * 300_000


def test_a_request_that_is_cut_off_never_arrives(proxy: Proxy, pod: Any, open_client: Callable[..., Any]) -> None:
    proxy.set("A", Conditions(cut_requests=1.0))
    with pytest.raises(RedisConnectionError):
        pod.incr("x")
    proxy.set("A", Conditions())
    assert pod.incr("x") == 1


def test_the_command_of_a_reply_that_is_cut_off_was_done(proxy: Proxy, pod: Any) -> None:
    proxy.set("A", Conditions(cut_replies=1.0))
    with pytest.raises(RedisConnectionError):
        pod.incr("x")
    proxy.set("A", Conditions())
    assert pod.incr("x") == 2


@pytest.mark.parametrize(
    ("conditions", "arrives"), [(Conditions(holds_requests=True), False), (Conditions(holds_replies=True), True)]
)
def test_a_one_way_partition_holds_back_that_direction_until_it_is_over(
    proxy: Proxy,
    pod: Any,
    open_client: Callable[..., Any],
    until: Callable[..., bool],
    conditions: Conditions,
    arrives: bool,
) -> None:
    proxy.set("A", conditions)
    with pytest.raises(RedisTimeoutError):
        pod.incr("x")
    seen = open_client()
    assert seen.get("x") == (b"1" if arrives else None)
    with connect(proxy.url("B")) as other:
        assert other.ping()
    proxy.set("A", Conditions())
    assert until(lambda: seen.get("x") == b"1")  # it arrives late, although its client has given up


def test_late_replies_are_late(proxy: Proxy, pod: Any) -> None:
    proxy.set("A", Conditions(late_replies_s=0.1))
    began_s = time.monotonic()
    pod.ping()
    assert time.monotonic() - began_s >= 0.1


def test_the_proxy_can_be_pointed_to_another_server(proxy: Proxy, pod: Any, until: Callable[..., bool]) -> None:
    with EmbeddedServer() as other:
        with connect(other.url) as client:
            client.set("whose", "another's")
        proxy.lead_to(other.socket_path)

        def is_there() -> bool:
            try:
                return bool(pod.get("whose") == b"another's")
            except RedisConnectionError:  # the connection to the first server
                return False

        assert until(is_there)


def test_the_proxy_ends_with_its_parent(server: EmbeddedServer, tmp_path: Path, until: Callable[..., bool]) -> None:
    with Proxy(tmp_path, ["A"], server.socket_path) as proxy:
        assert proxy._process is not None
        process = psutil.Process(proxy._process.pid)
        assert proxy._process.stdin is not None
        proxy._process.stdin.close()  # as the kernel does when the parent is killed
        assert until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        proxy._process.stdin = None
