"""What the harness itself reads and changes on the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe


@pytest.fixture
def probe(server: EmbeddedServer, redis_client: redis.Redis) -> Iterator[Probe]:
    made = Probe(connect(server.url), own=True)
    yield made
    made.close()


@pytest.fixture
def guest(server: EmbeddedServer, redis_client: redis.Redis) -> Iterator[Probe]:
    """A probe of a server that is not ours."""
    made = Probe(connect(server.url), own=False)
    yield made
    made.close()


def value(probe: Probe, key: str) -> object:
    return probe.values([key])[0]


def test_the_deadlines_of_keys_are_read(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("lease", 1, px=30_000)
    redis_client.set("dated", 1, pxat=4_000_000_000_000)
    redis_client.set("kept", 1)
    (lease, *others), now_ms = probe.ends(["lease", "dated", "kept", "none"])
    assert 29_000 < lease - now_ms <= 30_000
    assert others == [4_000_000_000_000, -1, -2]
    assert probe.ends([])[0] == []


def test_a_time_to_live_is_set(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.mset({"short": 1, "long": 1})
    ends_ms = probe.let_live([("short", 10_000), ("long", 3_600_000)])
    assert ends_ms == probe.ends(["short", "long"])[0]
    assert 9_000 < redis_client.pttl("short") <= 10_000
    assert 3_599_000 < redis_client.pttl("long") <= 3_600_000
    assert probe.let_live([]) == []


def test_on_our_own_server_a_key_whose_time_is_over_stays_until_the_harness_ends_it(
    probe: Probe, redis_client: redis.Redis
) -> None:
    redis_client.set("lease", "held")
    redis_client.pexpireat("lease", 1)  # a deadline long ago
    assert (probe.exists("lease"), value(probe, "lease")) == (True, "held")
    probe.delete(["lease"])
    assert not probe.exists("lease")


def test_a_server_of_ours_ends_keys_by_itself_again_after_the_harness(
    server: EmbeddedServer, redis_client: redis.Redis
) -> None:
    Probe(connect(server.url), own=True).close()
    assert redis_client.config_get("import-mode") == {"import-mode": "no"}


def test_on_another_server_no_setting_is_changed(guest: Probe, redis_client: redis.Redis) -> None:
    assert redis_client.config_get("import-mode") == {"import-mode": "no"}


def test_values_of_every_kind_of_key(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("string", "a")
    redis_client.rpush("list", "c", "b")
    redis_client.sadd("set", "e", "d")
    redis_client.hset("hash", mapping={"g": "1", "f": "2"})
    redis_client.zadd("zset", {"h": 1})
    redis_client.xadd("stream", {"i": "j"}, id="1-1")
    assert value(probe, "string") == "a"
    assert value(probe, "list") == ["c", "b"]
    assert value(probe, "set") == ["d", "e"]
    assert list(value(probe, "hash").items()) == [("f", "2"), ("g", "1")]
    assert value(probe, "zset") == ["h", "1"]
    assert value(probe, "stream") == [["1-1", ["i", "j"]]]
    assert value(probe, "none") is None


def test_any_bytes_are_a_key_and_a_value(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set(b"k\xff\x00", b"v\xfe")
    (key,) = probe.under("k")
    assert value(probe, key) == "v\udcfe"
    probe.delete([key])
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize("prefix", ["run:", "a*b?", "[x]", "back\\slash^"])
def test_keys_under_a_prefix_and_no_others(probe: Probe, redis_client: redis.Redis, prefix: str) -> None:
    redis_client.mset({f"{prefix}2": 1, f"{prefix}1": 1, "aXbY1": 1, "x1": 1, "other": 1})
    assert probe.under(prefix) == [f"{prefix}1", f"{prefix}2"]
    probe.delete(probe.under(prefix))
    assert redis_client.dbsize() == 3
    probe.delete([])
    assert redis_client.dbsize() == 3


@pytest.mark.parametrize("scripts", [False, True])
def test_our_own_server_is_cleared_of_everything(probe: Probe, redis_client: redis.Redis, scripts: bool) -> None:
    redis_client.mset({"a": 1, "b": 1})
    sha = redis_client.script_load("return 1")
    probe.clear(["a"], scripts=scripts)
    probe.pay()  # it may be sent as late as the next run's first command
    assert redis_client.dbsize() == 0
    assert redis_client.script_exists(sha) == [not scripts]


def test_another_server_is_cleared_of_our_keys_alone(guest: Probe, redis_client: redis.Redis) -> None:
    redis_client.mset({"ours": 1, "theirs": 1})
    sha = redis_client.script_load("return 1")
    guest.clear(["ours"], scripts=True)
    assert redis_client.keys() == [b"theirs"]
    assert redis_client.script_exists(sha) == [True]
    guest.clear([], scripts=False)
    assert redis_client.keys() == [b"theirs"]


def test_damage_to_a_string_keeps_its_time_to_live(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("status", '{"status": "pending"}', ex=3600)
    probe.damage("status")
    assert redis_client.get("status") == b'{"status":'
    assert 3500 < redis_client.ttl("status") <= 3600


def test_damage_to_a_list_strikes_its_first_item(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.rpush("queue", "abcd", "efgh")
    probe.damage("queue")
    assert redis_client.lrange("queue", 0, -1) == [b"ab", b"efgh"]


def test_damage_to_a_hash_strikes_its_longest_field(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.hset("hash", mapping={"a": "1", "b": "2345"})
    probe.damage("hash")
    assert redis_client.hgetall("hash") == {b"a": b"1", b"b": b"23"}


def test_damage_to_a_stream_strikes_its_first_entry_and_leaves_its_groups_alone(
    probe: Probe, redis_client: redis.Redis
) -> None:
    redis_client.xadd("log", {"gone": "1"}, id="1-1")
    for number in ("2-1", "2-2", "3-1"):
        redis_client.xadd("log", {"f": f"abcd {number}", "g": "2"}, id=number)
    redis_client.xgroup_create("log", "group", id="1-1")
    redis_client.xreadgroup("group", "worker", {"log": ">"}, count=2)
    redis_client.xdel("log", "1-1")
    redis_client.expire("log", 3600)
    untouched = ("last-generated-id", "max-deleted-entry-id", "entries-added", "length", "groups")
    before, groups = redis_client.xinfo_stream("log"), redis_client.xinfo_groups("log")
    pending = redis_client.xpending("log", "group")
    assert probe.damage("log")
    assert redis_client.xrange("log") == [
        (b"2-1", {b"f": b"abcd", b"g": b"2"}),
        (b"2-2", {b"f": b"abcd 2-2", b"g": b"2"}),
        (b"3-1", {b"f": b"abcd 3-1", b"g": b"2"}),
    ]
    after = redis_client.xinfo_stream("log")
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
    assert redis_client.xinfo_groups("log") == groups
    assert redis_client.xpending("log", "group") == pending
    assert 3500 < redis_client.ttl("log") <= 3600
    redis_client.xdel("log", "2-2")
    entries = redis_client.xrange("log")
    assert not probe.damage("log")  # a stream does not take its old ids again
    assert redis_client.xrange("log") == entries


def test_damage_to_what_is_not_there_makes_no_key(probe: Probe, redis_client: redis.Redis) -> None:
    probe.damage("none")
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (("ZUNIONSTORE", "to", 1, "a"), {"to", "a"}),
        (("PING",), None),
        (("NO-SUCH-COMMAND", "a"), None),
        (("SET", ["no", "text"], 1), None),
    ],
)
def test_the_server_tells_the_keys_of_a_command(probe: Probe, command: tuple[Any, ...], keys: set[str] | None) -> None:
    found = probe.keys_of(command)
    assert (found and {key.decode() for key, _ in found}) == keys


def test_an_error_among_replies_is_raised(probe: Probe, redis_client: redis.Redis) -> None:
    redis_client.set("a", "text")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        probe.ask(("INCR", "a"))
    assert probe.ask(("PING",), ("EXISTS", "a")) == [b"PONG", 1]
    assert probe.ask() == []
