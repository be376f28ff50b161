"""Free-running fleets: nobody waits for a pod, every call is written down before it is made, memory is bounded."""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from podrace.simulator.errors import HarnessError, TargetError
from podrace.simulator.fleets.driver import Driver, Spoilt
from podrace.simulator.fleets.free import Asked, Client, Journal
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.outcome import Result
from podrace.simulator.servers.embedded import EmbeddedServer

Until = Callable[..., bool]

TARGET = """
import os, threading, time

class Pod:
    def __init__(self, env):
        self.env = env

    def set(self, key, value):
        self.env.redis.set(self.env.prefix + key, value)
        return value

    def whose(self, blob=b""):
        return self.env.name

    def clock_s(self):
        return self.env.runtime.now() - time.time()

    def serve(self, what):
        try:
            return self.env.bell.ring(what)
        except Exception as error:
            if hasattr(error, "other"):
                error.args = (f"{error}, {error.other}",)
            raise

    def spawned(self):
        def fail():
            raise ValueError("in the background")
        self.env.runtime.spawn("timer", fail)

    def never(self):
        threading.Event().wait()

    def late(self):
        threading.Event().wait(0.4)

    def die(self):
        os._exit(3)

def refuses_at_second_start(env):
    if env.redis.incr(env.prefix + "starts") == 2:
        raise RuntimeError("not now")
    return Pod(env)
"""


class StrangeError(Exception):
    """An error that pickle cannot load in another process."""

    def __init__(self, one: int, *, other: int) -> None:
        super().__init__(f"{one} is not {other}")
        self.other = other


class Bell:
    def ring(self, what: str) -> str:
        if what == "strange":
            raise StrangeError(1, other=2)
        if what == "broken":
            raise ValueError("it is broken")
        return f"dong {what}"


@pytest.fixture(params=[0, 2], ids=["pipe", "lanes"])
def spec(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: EmbeddedServer,
    open_client: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> PodSpec:
    (tmp_path / "free_pods.py").write_text(TARGET)
    monkeypatch.syspath_prepend(tmp_path)
    return PodSpec("A", "free_pods:Pod", server.url, "free:", {"bell": ""}, free=True, lanes=request.param)


@contextmanager
def driver_of(spec: PodSpec, path: Path, pods: str = "AB", **options: Any) -> Iterator[Driver]:
    journal = Journal(path, time.monotonic())
    options = {"choose": lambda pods: pods[0], "services": lambda pod, service: Bell(), **options}
    with (
        closing(journal),
        Driver([replace(spec, name=name) for name in pods], journal, **options) as driver,
    ):
        yield driver


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def driver(spec: PodSpec, history: Path) -> Iterator[Driver]:
    with driver_of(spec, history) as made:
        yield made


def asked(method: str, *args: Any, pod: str | None = None) -> Asked:
    return Asked(method, method, args, args, pod)


def asking(*wanted: Asked | float, into: list[Result]) -> Client:
    for one in wanted:
        result = yield one
        if isinstance(one, Asked):
            into.append(result)


def call(driver: Driver, *wanted: Asked | float, within_s: float = 10.0) -> list[Result]:
    results: list[Result] = []
    driver.play([asking(*wanted, into=results)], until_s=time.monotonic() + within_s)
    return results


def stop(driver: Driver, pod: str, until: Until) -> None:
    """Pause a pod and wait until it stands: on a busy machine a signal takes effect later than the next call."""
    driver.fleet.pause(pod)
    process = psutil.Process(driver.fleet._pods[pod].process.pid)
    assert until(lambda: process.status() == psutil.STATUS_STOPPED)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_calls_and_their_ends_are_written_down_in_order(driver: Driver, history: Path) -> None:
    results = call(driver, asked("set", "x", 1), asked("whose", pod="B"), asked("set", "y", {}))

    assert [(one.type, one.value) for one in results[:2]] == [("ok", 1), ("ok", "B")]
    assert results[2].type == "fail"
    told = [(one["type"], one["actor"], one.get("method"), one.get("result")) for one in events(history)]
    assert told[:2] == [("invoke", "A", "set", None), ("ok", "A", None, 1)]
    assert told[2:4] == [("invoke", "B", "whose", None), ("ok", "B", None, "B")]
    assert told[5][0] == "fail"
    times = [one["t_ms"] for one in events(history)]
    assert times == sorted(times)


def test_a_call_stands_in_the_file_before_the_pod_hears_of_it(
    spec: PodSpec, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with driver_of(spec, history) as driver:
        seen: list[int] = []
        begin_call = driver.fleet.begin_call

        def begins(*about: Any) -> None:
            seen.append(len(events(history)))
            begin_call(*about)

        monkeypatch.setattr(driver.fleet, "begin_call", begins)
        call(driver, asked("whose"), asked("whose"))
    assert seen == [1, 3]


def test_the_call_of_a_killed_pod_has_no_end_and_its_client_cannot_know(driver: Driver, history: Path) -> None:
    results: list[Result] = []
    driver.at(time.monotonic() + 0.2, lambda: driver.kill("A"))
    driver.play([asking(asked("never", pod="A"), into=results)])

    assert [one.type for one in results] == ["info"]
    assert [one["type"] for one in events(history)] == ["invoke"]
    assert driver.ready == ["B"]
    driver.fleet.begin_again("A")
    assert call(driver, asked("whose", pod="A"))[0].value == "A"


def test_a_stopped_pod_blocks_neither_the_driver_nor_another_pod(driver: Driver, until: Until) -> None:
    """More is sent to it than a pipe can hold; the other pod keeps answering."""
    stop(driver, "A", until)
    results: list[Result] = []
    stuck = [asking(asked("whose", bytes(100_000), pod="A"), into=results) for _ in range(40)]
    driver._patience_s = 20.0
    answers: list[Result] = []
    driver.play([*stuck, asking(*[asked("whose", pod="B")] * 50, into=answers)], until_s=time.monotonic())

    def all_have_answered() -> bool:
        driver.turn(time.monotonic() + 0.01)
        return len(answers) == 50

    assert until(all_have_answered)
    assert results == []
    driver.fleet.resume("A")
    driver.play([])
    assert [one.value for one in results] == ["A"] * 40


def test_a_late_answer_is_ignored_once_its_client_has_given_up(spec: PodSpec, history: Path, until: Until) -> None:
    with driver_of(spec, history, patience_s=0.2) as driver:
        stop(driver, "A", until)
        assert [one.type for one in call(driver, asked("whose", pod="A"))] == ["info"]
        driver.fleet.resume("A")
        driver._patience_s = 20.0  # now the answer is waited for
        assert call(driver, asked("whose", pod="A"))[0].value == "A"
    assert [one["type"] for one in events(history)] == ["invoke", "info", "invoke", "ok"]


def test_the_driver_knows_the_unanswered_calls_of_living_pods(spec: PodSpec, history: Path, until: Until) -> None:
    with driver_of(spec, history, patience_s=0.1) as driver:
        call(driver, asked("late", pod="A"), asked("never", pod="A"), asked("never", pod="B"))
        assert [(one.pod, one.asked.method) for one in driver.unanswered.values()] == [
            ("A", "late"),
            ("A", "never"),
            ("B", "never"),
        ]

        def answered() -> bool:
            driver.turn(time.monotonic() + 0.01)
            return len(driver.unanswered) == 2

        assert until(answered)
        driver.kill("A")
        assert [one.pod for one in driver.unanswered.values()] == ["B"]


def test_the_close_of_a_fleet_waits_for_no_stopped_pod(spec: PodSpec, history: Path) -> None:
    with driver_of(spec, history) as driver:
        pids = [one.process.pid for one in driver.fleet._pods.values()]
        driver.fleet.pause("A")
    assert driver.fleet.names == []
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_services_are_called_over_the_pipe_and_can_be_spoilt(driver: Driver, history: Path) -> None:
    ring = asked("serve", "x")
    assert call(driver, ring)[0].value == "dong x"
    assert call(driver, asked("serve", "broken"))[0].error == "ValueError: it is broken"
    assert call(driver, asked("serve", "strange"))[0].error == "StrangeError: 1 is not 2, 2"
    for spoilt, ends in (
        (Spoilt(ValueError("refused")), ("fail", "ValueError: refused")),
        (Spoilt(ConnectionError("gone"), is_done=True), ("info", "ConnectionError: gone")),
        (Spoilt(late_s=0.05), ("ok", None)),
    ):
        driver.spoil = lambda service, method, spoilt=spoilt: spoilt  # type: ignore[misc]
        (result,) = call(driver, ring)
        assert (result.type, result.error) == ends
    steps = [(one["says"], one["action"], one["failed"]) for one in events(history) if one["type"] == "step"]
    assert steps == [("bell.ring", "go", failed) for failed in (False, True, True, True)] + [
        ("bell.ring", "drop-reply", True),
        ("bell.ring", "go", False),
    ]


def test_a_service_that_hangs_answers_nobody_until_it_is_released(driver: Driver) -> None:
    results: list[Result] = []
    driver.spoil = lambda service, method: Spoilt(late_s=float("inf"))
    driver.play([asking(asked("serve", "x"), into=results)], until_s=time.monotonic() + 0.3)
    assert results == []
    driver.release()
    driver.play([])
    assert [one.type for one in results] == ["info"]


def test_the_clock_of_one_pod_can_be_wrong(driver: Driver, until: Until) -> None:
    def wrong_s(pod: str) -> float:
        return float(call(driver, asked("clock_s", pod=pod))[0].value)

    driver.fleet.send("A", "skew", 300.0)
    assert until(lambda: 299 < wrong_s("A") < 301)  # it goes another way than calls
    assert abs(wrong_s("B")) < 1


def test_an_error_in_the_background_is_recorded_and_the_pod_goes_on(
    driver: Driver, history: Path, until: Until
) -> None:
    call(driver, asked("spawned", pod="A"))

    def died() -> bool:
        driver.turn(time.monotonic() + 0.01)
        return any(one["type"] == "died" for one in events(history))

    assert until(died)
    assert call(driver, asked("whose", pod="A"))[0].value == "A"


def test_of_a_pod_that_is_not_free_each_step_is_told(spec: PodSpec, history: Path) -> None:
    steps: list[Any] = []
    with driver_of(replace(spec, free=False, lanes=0), history, on_event=steps.append) as driver:
        call(driver, asked("set", "x", 1, pod="B"))
    told = [(one["type"], one["actor"], *one["step"][1:], one["action"], one["reply"]) for one in steps]
    assert told == [("step", "B", "redis", ("SET", "free:x", 1), "go", "OK")]


def test_a_pod_that_dies_unasked_and_one_without_the_method_are_errors(spec: PodSpec, history: Path) -> None:
    with driver_of(spec, history) as driver, pytest.raises(HarnessError, match="pod A died unexpectedly"):
        call(driver, asked("die", pod="A"))
    with driver_of(spec, history) as driver, pytest.raises(TargetError, match="no method fly"):
        call(driver, asked("fly", pod="A"))


def test_a_pod_that_cannot_be_made_again_at_once_is_started_again(spec: PodSpec, history: Path) -> None:
    with driver_of(replace(spec, target="free_pods:refuses_at_second_start"), history, pods="A") as driver:
        driver.kill("A")
        driver.fleet.begin_again("A")
        assert call(driver, asked("whose", pod="A"))[0].value == "A"
    died = [one["error"] for one in events(history) if one["type"] == "died"]
    assert len(died) == 1
    assert "not now" in died[0]


def test_memory_grows_by_less_than_1_kb_an_operation(driver: Driver) -> None:
    def clients(calls: int) -> list[Client]:
        return [asking(*[asked("set", f"key-{n}", n % 100) for n in range(calls)], into=[]) for _ in range(20)]

    driver.play(clients(20))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        done = sum(driver.ended.values())
        driver.play(clients(100))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert sum(driver.ended.values()) - done == 2000
    assert grown < 2000 * 1024
