"""The harness's own eyes and hands on the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe


@pytest.fixture
def probe(server: EmbeddedServer, redis_client: redis.Redis) -> Iterator[Probe]:
    made = Probe(connect(server.url))
    yield made
    made.close()


def test_time_to_live(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("lease", 1, px=30_000)
    redis_client.set("kept", 1)
    left_ms = probe.expires_ms("lease")
    assert left_ms is not None
    assert 29_000 < left_ms <= 30_000
    assert probe.expires_ms("kept") is None
    assert probe.expires_ms("none") is None


def test_time_passes_for_the_keys_that_are_due(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("short", 1, px=30_000)
    redis_client.set("long", 1, ex=3600)
    redis_client.set("kept", 1)
    keys = ["short", "long", "kept", "none"]
    assert probe.left(keys, longer_than_ms=60_000) == ["long", "kept"]
    assert probe.lapse(keys, 60_000) == ["short"]
    assert sorted(redis_client.keys()) == [b"kept", b"long"]
    assert probe.lapse([], 60_000) == []


def test_damaged_json_keeps_its_time_to_live(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("status", '{"status": "pending"}', ex=3600)
    redis_client.rpush("list", "{}")
    redis_client.set("text", "plain")
    assert [probe.is_json(key) for key in ("status", "list", "text", "none")] == [True, False, False, False]
    probe.corrupt("status")
    assert redis_client.get("status") == b'{"status":'
    assert 3500 < redis_client.ttl("status") <= 3600


def test_values_of_every_kind_of_key(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("string", "a")
    redis_client.rpush("list", "b", "c")
    redis_client.sadd("set", "d")
    redis_client.hset("hash", "e", "f")
    redis_client.zadd("zset", {"g": 1})
    redis_client.xadd("stream", {"h": "i"}, id="1-1")
    kinds = ["string", "list", "set", "hash", "zset", "stream", "none"]
    assert probe.values(kinds) == ["a", "[b, c]", "[d]", "[e, f]", "[g]", "[[1-1, [h, i]]]"]


@pytest.mark.parametrize("prefix", ["run:", "a*b?", "[x]", "back\\slash^"])
def test_keys_under_a_prefix_and_no_others(probe: Probe, redis_client: redis.Redis, prefix: str) -> None:
    redis_client.mset({f"{prefix}2": 1, f"{prefix}1": 1, "aXbY1": 1, "x1": 1, "other": 1})
    assert probe.under(prefix) == [f"{prefix}1", f"{prefix}2"]
    probe.delete(*probe.under(prefix))
    assert redis_client.dbsize() == 3
    probe.delete()


def test_forgotten_scripts_are_gone(probe: Probe, redis_client: redis.Redis) -> None:
    sha = redis_client.script_load("return 1")
    probe.forget_scripts()
    assert redis_client.script_exists(sha) == [False]
