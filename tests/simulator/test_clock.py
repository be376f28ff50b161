"""The clock of a run: when keys expire, and what the harness answers instead of the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from podrace.simulator.errors import TargetError
from podrace.simulator.search.server_side import ServerSide
from podrace.simulator.servers.connection import connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.world.clock import EPOCH_S, EPOCH_US, US_PER_S, Clock, microseconds, roundest, seconds
from podrace.simulator.world.footprints import CommandTable
from podrace.simulator.world.steps import DROP_REPLY, DROP_REQUEST, GO, TRANSACTION, Step


class Driven:
    """A server with the clock of the run: commands are handled as in a play."""

    def __init__(self, probe: Probe, client: redis.Redis) -> None:
        self.clock = Clock()
        self.side = ServerSide(probe, CommandTable(probe.command_rows(), probe.keys_of), self.clock, "")
        self._client = client

    def __call__(self, *command: Any, action: str = GO) -> Any:
        parts = self.side.parts(Step("A", "redis", command))
        answer = self.side.answer(parts)
        if answer is not None:
            return answer[0]
        touches = self.side.table.footprint(command)
        began_s = time.monotonic()
        self.side.before(parts, touches)
        reply = None
        if action != DROP_REQUEST:
            reply = self._send(command)
            self.side.after(parts, touches, reply if action == GO else ConnectionError("broken"), began_s)
        if any(due <= self.clock.now_us for due in self.clock.deadlines.values()):
            self.side.end_keys()
        return reply

    def _send(self, command: tuple[Any, ...]) -> Any:
        try:
            if command[0] != TRANSACTION:
                return self._client.execute_command(*command)
            pipeline = self._client.pipeline(transaction=True)
            for one in command[2:-1]:
                pipeline.execute_command(*one)
            return pipeline.execute()
        except redis.ResponseError as error:
            return error

    def passes(self, span_s: float) -> list[str]:
        """Let time pass. Returns the keys that are gone."""
        self.clock.now_us += round(span_s * US_PER_S)
        return self.side.end_keys()

    def left_ms(self, key: str) -> float:
        return (self.clock.deadlines[key] - self.clock.now_us) / 1000


@pytest.fixture
def driven(server: EmbeddedServer, redis_client: redis.Redis) -> Iterator[Driven]:
    probe = Probe(connect(server.url), own=True)
    redis_client.script_flush()
    client = connect(server.url, single_connection_client=True)
    client.execute_command("CLIENT", "IMPORT-SOURCE", "ON")  # as a pod's connections are
    yield Driven(probe, client)
    client.close()
    probe.close()


# --- numbers ---


@pytest.mark.parametrize(
    ("us", "text"), [(250_000, "0.25"), (3_600_000_000, "3600"), (0, "0"), (1, "0.000001"), (10_000_000, "10")]
)
def test_microseconds_convert_to_seconds_and_back(us: int, text: str) -> None:
    assert seconds(us) == text
    assert microseconds(text) == us


def test_a_text_that_is_no_number_of_seconds_is_refused() -> None:
    with pytest.raises(ValueError, match="expected seconds, got 'soon'"):
        microseconds("soon")


@pytest.mark.parametrize(
    ("least", "most", "hints", "found"),
    [
        (29_998, 30_003, (), 30_000),
        (9_995, 10_001, (), 10_000),
        (12_344, 12_345, (12_345,), 12_345),
        (12_344, 12_346, (5, 12_344), 12_344),
        (29_998, 30_003, (29_000, 31_000), 30_000),
        (7, 7, (), 7),
        (0, 1, (), 1),
    ],
)
def test_a_measured_time_was_a_round_one_or_one_that_was_named(
    least: int, most: int, hints: tuple[int, ...], found: int
) -> None:
    assert roundest(least, most, hints) == found


def test_keys_are_over_in_the_order_of_their_deadlines_and_once() -> None:
    clock = Clock()
    clock.deadlines = {"late": EPOCH_US + 9, "b": EPOCH_US + 5, "a": EPOCH_US + 5, "first": EPOCH_US + 1}
    clock.now_us = EPOCH_US + 5
    assert clock.over() == ["first", "a", "b"]
    assert clock.over() == []
    assert clock.deadlines == {"late": EPOCH_US + 9}


def test_coming_moments_are_listed_once_and_in_order() -> None:
    clock = Clock()
    clock.deadlines = {"a": EPOCH_US + 7, "b": EPOCH_US + 3, "now": EPOCH_US}
    assert clock.next([EPOCH_US + 3, EPOCH_US - 1, EPOCH_US + 5]) == [EPOCH_US + 3, EPOCH_US + 5, EPOCH_US + 7]
    assert (clock.left_ms("none"), clock.left_ms("now")) == (None, 1)


# --- how long keys live ---


@pytest.mark.parametrize(
    ("commands", "left_ms"),
    [
        ([("SET", "k", "v", "EX", 30)], 30_000),
        ([("set", "k", "v", "px", b"1500")], 1_500),
        ([("SET", "k", "v", "NX", "EX", 30)], 30_000),
        ([("SETEX", "k", 7, "v")], 7_000),
        ([("PSETEX", "k", 1234, "v")], 1_234),
        ([("SET", "k", "v"), ("EXPIRE", "k", 12)], 12_000),
        ([("SET", "k", "v"), ("PEXPIRE", "k", 12_345)], 12_345),
        ([("SET", "k", "v"), ("EXPIREAT", "k", EPOCH_S + 9)], 9_000),
        ([("SET", "k", "v", "PXAT", EPOCH_S * 1000 + 77)], 77),
        ([("SET", "k", "v", "EX", 30), ("GETEX", "k", "EX", 40)], 40_000),
        ([("SET", "k", "v", "EX", 30), ("SET", "k", "w", "KEEPTTL")], 30_000),
        ([("SET", "k", "v", "EX", 30), ("SET", "k", "w", "NX", "EX", 60)], 30_000),
        ([("SET", "old", "v", "EX", 30), ("RENAME", "old", "k")], 30_000),
        ([("SET", "old", "v", "EX", 30), ("COPY", "old", "k")], 30_000),
        ([("EVAL", "redis.call('SET', KEYS[1], 'v', 'PX', ARGV[1])", 1, "k", 4_321)], 4_321),
        ([("EVAL", "redis.call('SET', 'k', 'v', 'EX', 25)", 0)], 25_000),
        ([(TRANSACTION, ("MULTI",), ("SET", "k", "v"), ("EXPIRE", "k", 11), ("EXEC",))], 11_000),
        ([("SET", "k", "v", "EX", 48 * 3600)], 48 * 3_600_000),
    ],
    ids=lambda value: " ".join(map(str, value[-1]))[:50] if isinstance(value, list) else str(value),
)
def test_a_keys_deadline_follows_from_each_command(
    driven: Driven, commands: list[tuple[Any, ...]], left_ms: int
) -> None:
    for command in commands:
        driven(*command)
    assert driven.left_ms("k") == left_ms
    assert driven.passes(left_ms / 1000 - 0.000_001) == []
    assert driven("EXISTS", "k") == 1
    assert "k" in driven.passes(0.000_001)
    assert driven("EXISTS", "k") == 0


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "k", "w"),
        ("PERSIST", "k"),
        ("GETEX", "k", "PERSIST"),
        ("GETSET", "k", "w"),
        ("EVAL", "redis.call('SET', KEYS[1], 'w')", 1, "k"),
        ("EVAL", "redis.call('PERSIST', KEYS[1])", 1, "k"),
        (TRANSACTION, ("MULTI",), ("SET", "k", "w"), ("EXEC",)),
    ],
    ids=lambda command: " ".join(map(str, command))[:40],
)
def test_a_key_can_lose_its_deadline_again(driven: Driven, command: tuple[Any, ...]) -> None:
    driven("SET", "k", "v", "EX", 30)
    driven(*command)
    assert driven.passes(1e9) == []
    assert driven("EXISTS", "k") == 1


@pytest.mark.parametrize("command", [("DEL", "k"), ("UNLINK", "k"), ("GETDEL", "k"), ("FLUSHALL",), ("EXPIRE", "k", 0)])
def test_a_key_that_is_gone_has_no_deadline(driven: Driven, command: tuple[Any, ...]) -> None:
    driven("SET", "k", "v", "EX", 30)
    driven(*command)
    assert driven.clock.deadlines == {}
    driven("SET", "k", "v")
    assert driven.passes(60) == []


def test_a_key_with_a_later_deadline_never_expires_first(driven: Driven) -> None:
    driven("SET", "day", "v", "EX", 24 * 3600)
    driven("SET", "two-days", "v", "EX", 48 * 3600)
    driven("SET", "minute", "v", "EX", 60)
    assert driven.passes(60) == ["minute"]
    assert driven.passes(48 * 3600) == ["day", "two-days"]


def test_a_short_time_to_live_does_not_expire_in_real_time(driven: Driven) -> None:
    driven("SET", "k", "v", "PX", 2)
    deadline_s = time.monotonic() + 0.01
    while time.monotonic() < deadline_s:
        assert driven("GET", "k") == b"v"
    assert driven("PTTL", "k") == 2
    assert driven("SET", "k", "w", "NX", "PX", 2) is None
    assert driven.passes(0.002) == ["k"]
    assert driven("SET", "k", "w", "NX", "PX", 2) is not None


def test_a_short_time_to_live_set_by_a_script_does_not_expire_in_real_time(driven: Driven) -> None:
    script = "return redis.call('SET', KEYS[1], 'v', 'NX', 'PX', 2)"
    driven("EVAL", script, 1, "k")
    deadline_s = time.monotonic() + 0.01
    while time.monotonic() < deadline_s:
        assert driven("EVAL", script, 1, "k") is None
    assert driven.passes(1) == ["k"]


def test_a_lost_request_gives_no_time_to_live_and_a_lost_reply_does(driven: Driven) -> None:
    driven("SET", "k", "v", "EX", 30, action=DROP_REQUEST)
    assert driven.clock.deadlines == {}
    driven("SET", "k", "v", "EX", 30, action=DROP_REPLY)
    assert driven.left_ms("k") == 30_000


# --- what the harness answers ---


def test_the_command_time_answers_with_the_runs_clock(driven: Driven) -> None:
    driven.passes(1.5)
    assert driven("TIME") == [str(EPOCH_S + 1).encode(), b"500000"]


def test_ttl_and_pttl_answer_by_the_runs_clock(driven: Driven) -> None:
    driven("SET", "k", "v", "PX", 10_400)
    driven("SET", "kept", "v")
    driven.passes(2)
    asked = [driven(name, "k") for name in ("TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME")]
    assert asked == [8, 8_400, EPOCH_S + 10, EPOCH_S * 1000 + 10_400]
    assert [driven(name, "kept") for name in ("TTL", "pttl")] == [-1, -1]
    assert [driven(name, "none") for name in ("TTL", "EXPIRETIME")] == [-2, -2]


def test_a_script_reads_times_to_live_of_the_runs_clock(driven: Driven) -> None:
    driven("SET", "k", "v", "EX", 30)
    driven.passes(20)
    left_ms = driven("EVAL", "return redis.call('PTTL', KEYS[1])", 1, "k")
    assert 9_000 < left_ms <= 10_000
    assert driven.left_ms("k") == 10_000


def test_a_transaction_reads_times_to_live_of_the_runs_clock(driven: Driven) -> None:
    driven("SET", "k", "v", "EX", 30)
    driven.passes(20)
    assert driven(TRANSACTION, ("MULTI",), ("TTL", "k"), ("EXEC",)) == [10]


@pytest.mark.parametrize(("flag", "left_s"), [("GT", 50), ("LT", 10)])
def test_expire_with_a_condition_compares_with_the_runs_clock(driven: Driven, flag: str, left_s: int) -> None:
    driven("SET", "k", "v", "EX", 30)
    driven.passes(20)
    driven("EXPIRE", "k", 50, flag)
    assert driven.left_ms("k") == left_s * 1000


@pytest.mark.parametrize(
    "command",
    [
        (TRANSACTION, ("MULTI",), ("APPEND", "k", "1"), ("EXEC",)),
        ("FUNCTION", "FLUSH"),  # its keys are unknown
    ],
)
def test_a_deadline_that_a_command_leaves_unchanged_does_not_follow_the_servers_clock(
    driven: Driven, redis_client: redis.Redis, command: tuple[Any, ...]
) -> None:
    driven("SET", "k", "1", "EX", 100)
    redis_client.pexpire("k", 99_000)  # as if a second had passed on the server
    driven(*command)
    assert driven.left_ms("k") == 100_000


def test_a_script_that_asks_for_the_time_cannot_be_led(driven: Driven) -> None:
    with pytest.raises(TargetError, match="asks the server for TIME, which cannot be led"):
        driven("EVAL", "return redis.call('TIME')", 0)


# --- scripts ---


def test_every_run_starts_without_scripts(driven: Driven, redis_client: redis.Redis) -> None:
    sha = redis_client.script_load("return 7")  # as an earlier run did
    assert driven("SCRIPT", "EXISTS", sha) == [0]
    assert isinstance(driven("EVALSHA", sha, 0), redis.exceptions.NoScriptError)
    driven("EVAL", "return 7", 0)
    assert driven("EVALSHA", sha, 0) == 7
    assert driven("SCRIPT", "EXISTS", sha, "0" * 40) == [1, 0]


def test_a_script_that_was_loaded_can_be_called_until_they_are_flushed(
    driven: Driven, redis_client: redis.Redis
) -> None:
    sha = driven("SCRIPT LOAD", "return 8")
    assert driven("EVALSHA", sha.upper(), 0) == 8
    driven("SCRIPT FLUSH")
    assert isinstance(driven("EVALSHA", sha, 0), redis.exceptions.NoScriptError)


# --- what is left ---


def test_left_keys_carry_their_remaining_time(driven: Driven) -> None:
    driven("SET", "b", "v", "EX", 30)
    driven("SET", "a", "v")
    driven.passes(10)
    assert driven.side.left() == [("a", None), ("b", 20 * US_PER_S)]


def test_after_a_run_nothing_is_left(driven: Driven, redis_client: redis.Redis) -> None:
    driven("SET", "a", "v")
    driven.side.clear()
    driven.side.probe.pay()  # it may be sent as late as the next run's first command
    assert redis_client.dbsize() == 0
