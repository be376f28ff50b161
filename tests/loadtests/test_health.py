from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from podrace.loadtests.health import BUSY_SHARE, GeneratorHealth, Health
from podrace.loadtests.latency import Recorder
from podrace.loadtests.redis_user import OperationFailedError, RedisUser


def interval(**parts: Any) -> dict[str, Any]:
    return {
        "lags_us": [], "pauses_us": [], "wall_s": 1.0, "cpu_s": 0.1, "waited_s": 0.0, "stolen": 0.0,
        "begun": 0, "missed": 0,
    } | parts  # fmt: skip


def test_a_health_measures_lag_and_collections() -> None:
    health = Health()
    health.start()
    try:
        gc.collect()
        while not health.lags_us:
            gevent.sleep(0.001)
        taken = health.take()
    finally:
        health.stop()
        gc.unfreeze()
    assert taken["pauses_us"]
    assert taken["lags_us"]
    assert taken["wall_s"] > 0
    assert health._on_collection not in gc.callbacks
    assert health.take()["pauses_us"] == []


def test_all_processes_are_added_up() -> None:
    health = GeneratorHealth()
    health.add("a", interval(lags_us=[[100, 99], [9000, 1]], begun=90, missed=10, cpu_s=0.4, wall_s=2.0))
    health.add("b", interval(pauses_us=[500, 70], begun=100, cpu_s=1.2, wall_s=2.0))
    assert health.begun_per_s == 95
    document = health.document(2.0)
    assert document["tasks"] == {
        "intended": 200, "begun": 190, "never_begun": 10, "intended_per_s": 100.0, "begun_per_s": 95.0,
    }  # fmt: skip
    assert document["collector"] == {"pauses": 2, "max_us": 500}
    assert document["cpu_share"] == 0.6
    assert document["wake_lag"]["p50_us"] == 100
    said = " ".join(document["says"])
    assert "10 never begun" in said
    assert "at most 500 µs" in said


def test_a_wake_up_lag_explains_no_longer_delay_than_itself() -> None:
    health = GeneratorHealth()
    health.add("a", interval(lags_us=[[3000, 100]], pauses_us=[2900]))
    assert "woke up 30" in health.explains(2500, 99.0)
    assert "garbage collection" in health.explains(2500, 99.0)
    assert health.explains(50_000, 99.0) == ""


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"cpu_s": BUSY_SHARE}, "the generator is the limit"),
        ({"cpu_s": 0.5, "waited_s": 0.45}, "waited for one for 45%"),
        ({"waited_s": 0.3}, "waited for one for 30%"),
        ({"stolen": 0.2}, "stolen"),
        ({}, ""),
    ],
)
def test_a_busy_generator_explains_everything(parts: dict[str, Any], reason: str) -> None:
    health = GeneratorHealth()
    health.add("a", interval(**parts))
    assert reason in health.busy()
    assert bool(health.explains(10**9, 99.0)) == bool(reason)


class Clock:
    """A perf_counter that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        fake = SimpleNamespace(perf_counter=lambda: self.now_s)
        monkeypatch.setattr("podrace.loadtests.redis_user.time", fake)
        asleep = SimpleNamespace(sleep=self.sleep, GreenletExit=gevent.GreenletExit)
        monkeypatch.setattr("podrace.loadtests.redis_user.gevent", asleep)
        monkeypatch.setattr("podrace.loadtests.redis_user.random", SimpleNamespace(random=lambda: 0.0))

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make_user(recorder: Recorder, rate_per_s: float = 100.0) -> Any:
    class Paced(RedisUser):
        abstract = True

    Paced.rate_per_s = rate_per_s
    request = SimpleNamespace(fire=lambda **event: recorder.on_request(**event))
    session = SimpleNamespace(health=Health(), plan=SimpleNamespace(redis_url="redis://127.0.0.1:1"))
    user = Paced(SimpleNamespace(events=SimpleNamespace(request=request), podrace=session))
    user.on_start()
    return user


def corrected(recorder: Recorder) -> list[int]:
    counts = {(name, kind): pairs for name, kind, pairs in recorder.take()["counts"]}
    pairs = counts.get(("GET", "corrected"), [])
    return [value for value, count in pairs for _ in range(count)]


def turn(user: Any, clock: Clock, *, takes_s: float, woken_late_s: float = 0.0) -> None:
    """One task that takes this long; then the user waits, and is woken up this late."""
    user.measure("GET", lambda: setattr(clock, "now_s", clock.now_s + takes_s))
    clock.now_s += user.wait_time() + woken_late_s


def test_the_lag_of_an_idle_user_is_no_latency(clock: Clock) -> None:
    recorder = Recorder()
    user = make_user(recorder)
    for _ in range(10):
        turn(user, clock, takes_s=0.001, woken_late_s=0.005)
    assert max(corrected(recorder)) <= 1001
    assert max(user._health.lags_us) in (4999, 5000)


def test_a_stall_of_the_server_shows_in_all_that_it_delayed(clock: Clock) -> None:
    recorder = Recorder()
    user = make_user(recorder)
    turn(user, clock, takes_s=0.1)
    for _ in range(9):
        turn(user, clock, takes_s=0.001)
    found = corrected(recorder)
    assert found[0] == pytest.approx(100_000, abs=2)
    assert found[1] == pytest.approx(91_000, abs=2)  # should have begun 90 ms earlier
    assert found[9] == pytest.approx(100_000 - 9 * 9000, abs=2)


def test_the_generators_share_of_a_delay_is_not_charged_and_charges_no_later_one(clock: Clock) -> None:
    recorder = Recorder()
    user = make_user(recorder)
    turn(user, clock, takes_s=0.001, woken_late_s=0.03)  # three slots late: the generator's doing
    for _ in range(4):
        turn(user, clock, takes_s=0.001)
    assert max(corrected(recorder)) <= 1001
    turn(user, clock, takes_s=0.1)
    turn(user, clock, takes_s=0.001)
    assert max(corrected(recorder)) > 99_000


def test_slots_that_were_never_begun_are_counted(clock: Clock) -> None:
    user = make_user(Recorder())
    user.measure("GET", lambda: setattr(clock, "now_s", clock.now_s + 0.055))
    user.on_stop()
    assert (user._health.begun, user._health.missed) == (1, 5)


def test_a_closed_loop_has_no_intended_starts(clock: Clock) -> None:
    recorder = Recorder()
    user = make_user(recorder, rate_per_s=0.0)
    for _ in range(3):
        turn(user, clock, takes_s=0.001)
    user.on_stop()
    assert corrected(recorder) == []
    assert (user._health.begun, user._health.missed) == (0, 0)


def test_a_new_rate_starts_without_a_backlog(clock: Clock) -> None:
    recorder = Recorder()
    user = make_user(recorder)
    turn(user, clock, takes_s=1.0)
    user.rate_per_s = 10.0
    turn(user, clock, takes_s=0.001)
    recorder.take()
    turn(user, clock, takes_s=0.001)
    assert max(corrected(recorder)) <= 1001


def test_failures_say_whether_they_are_definite_and_have_latencies(clock: Clock) -> None:
    recorder = Recorder()
    user = make_user(recorder)

    def fail(error: BaseException, takes_s: float = 0.01) -> Any:
        def operation() -> None:
            clock.now_s += takes_s
            raise error

        return operation

    for error, definite in ((ValueError(), True), (ConnectionResetError(), False)):
        with pytest.raises(OperationFailedError) as caught:
            user.measure("GET", fail(error))
        assert caught.value.definite is definite
    for takes_s in (0.01, 5.0):  # Locust's own stop, and one that hung
        with pytest.raises(gevent.GreenletExit):
            user.measure("GET", fail(gevent.GreenletExit(), takes_s))
    taken = recorder.take()
    (failed,) = (pairs for name, kind, pairs in taken["counts"] if (name, kind) == ("GET", "failed"))
    assert sorted(value for value, _ in failed)[-1] == pytest.approx(5_000_000, abs=2)
    assert {error: count for _, error, count in taken["errors"]} == {
        "ValueError": 1, "ConnectionResetError": 1, "KilledError": 1,
    }  # fmt: skip


def test_a_pipeline_is_one_operation_and_its_commands_are_counted(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis.client.Pipeline.execute", lambda self: [None, None])
    recorder = Recorder()
    user = make_user(recorder)
    with user.client.pipeline(name="batch") as pipeline:
        assert pipeline.get("a").get("b").execute() == [None, None]
    taken = recorder.take()
    assert taken["commands"] == {"batch": 2}
    assert [name for name, kind, _ in taken["counts"] if kind == "raw"] == ["batch"]
