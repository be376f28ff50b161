"""What the load tests' own machinery costs, as ratios in one run. Run as a program in its own process: it
imports locust, which patches the process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GREENLETS = 20
ROUND_S = 1.0
ROOT = Path(__file__).parent.parent.parent
UPLOAD_ID = "00000000-0000-4000-8000-000000000000"


def run(*arguments: str) -> Any:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST")}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_redis_user_against_a_bare_loop(benchmark: Any) -> None:
    figures = once(benchmark, "ratio")
    asked(benchmark, "RedisUser / bare loop", ">= 0.75", figures["ratio"], figures["ratio"] >= 0.75)


def test_two_processes_against_one(benchmark: Any) -> None:
    figures = once(benchmark, "processes")
    asked(benchmark, "two processes / one", ">= 1.5", figures["ratio"], figures["ratio"] >= 1.5)


def test_histogram_and_checks(benchmark: Any) -> None:
    figures = once(benchmark, "cost")
    asked(benchmark, "histogram and checks, µs an operation", "< 3", figures["cost_us"], figures["cost_us"] < 3)


def once(benchmark: Any, what: str) -> Any:
    import pytest

    if benchmark.disabled:
        pytest.skip("a benchmark: make bench")
    figures = benchmark.pedantic(run, args=(what,), rounds=1)
    benchmark.extra_info["measured"] = figures
    return figures


def asked(benchmark: Any, figure: str, wanted: str, got: float, holds: bool) -> None:
    """For the table at the end. Not a ratio to a floor: of those here, more is better."""
    benchmark.extra_info["figures"] = [{"figure": figure, "asked": wanted, "got": got, "holds": holds}]
    assert holds, benchmark.extra_info["measured"]


def make_store(url: str) -> Any:
    from podrace.reference.runtime import ThreadRuntime
    from podrace.reference.store import RedisStore
    from podrace.simulator.servers.connection import connect

    return RedisStore(connect(url, max_connections=1), ThreadRuntime())


def bare(url: str) -> float:
    """Operations a second of greenlets that do nothing but read a status, a client each."""
    import gevent

    counted = [0] * GREENLETS

    def read(index: int) -> None:
        store = make_store(url)
        while True:
            store.get_upload_status(UPLOAD_ID)
            counted[index] += 1

    began_s = time.perf_counter()
    greenlets = [gevent.spawn(read, index) for index in range(GREENLETS)]
    gevent.sleep(ROUND_S)
    rate = sum(counted) / (time.perf_counter() - began_s)
    gevent.killall(greenlets)
    return rate


def through_users(url: str, seconds: float = ROUND_S) -> float:
    """The same by RedisUser under Locust's own runner, with our histogram listening."""
    import gevent
    from locust import task
    from locust.env import Environment

    from podrace.loadtests.latency import Recorder
    from podrace.loadtests.redis_user import RedisUser

    class Reader(RedisUser):
        host = url

        def on_start(self) -> None:
            super().on_start()
            self.store = make_store(url)

        @task
        def read(self) -> None:
            self.measure("GET status", self.store.get_upload_status, UPLOAD_ID)

    recorder = Recorder()
    environment = Environment(user_classes=[Reader])
    environment.events.request.add_listener(recorder.on_request)
    runner = environment.create_local_runner()
    runner.start(GREENLETS, spawn_rate=100)
    while runner.user_count < GREENLETS:
        gevent.sleep(0.01)
    recorder.take()
    began_s = time.perf_counter()
    gevent.sleep(seconds)
    taken = recorder.take()["counts"]["raw"]["GET status"]
    rate = sum(count for _, count in taken) / (time.perf_counter() - began_s)
    runner.quit()
    return rate


def serve() -> tuple[Any, str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "podrace.loadtests.embedded"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, server.stdout.readline().split()[0]


def ratio(url: str) -> dict[str, Any]:
    pairs = [(bare(url), through_users(url)) for _ in range(5)]
    return {
        "bare_per_s": round(statistics.median(pair[0] for pair in pairs)),
        "users_per_s": round(statistics.median(pair[1] for pair in pairs)),
        "ratio": round(statistics.median(users / alone for alone, users in pairs), 3),
    }


def processes(url: str) -> dict[str, Any]:
    def rate(count: int) -> float:
        command = [sys.executable, __file__, "worker", url]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        return sum(float(process.communicate()[0]) for process in started)

    pairs = [(rate(1), rate(2)) for _ in range(3)]
    return {
        "one_per_s": round(statistics.median(pair[0] for pair in pairs)),
        "two_per_s": round(statistics.median(pair[1] for pair in pairs)),
        "ratio": round(statistics.median(two / one for one, two in pairs), 3),
    }


def cost() -> dict[str, Any]:
    """µs an operation: the histogram, counting included, and the checks of a message that two operations carry.

    In time on the processor: both are pure work, and others may use the machine too.
    """
    from podrace.loadtests.latency import Recorder
    from podrace.loadtests.tally import Tally

    number, rounds = 10_000, []
    for _ in range(15):
        recorder, tally = Recorder(), Tally("load-queue")
        events = [{"response_time": 0.2 + index % 500 / 1000, "context": {"late_us": 3}} for index in range(number)]
        began_s = time.process_time()
        for event in events:
            recorder.on_request(request_type="redis", name="GET status", response_length=0, exception=None, **event)
        recorder.take()
        histogram_s = time.process_time() - began_s
        batches = [[{"type": "text", "text": tally.text(index)}] for index in range(number // 2)]
        began_s = time.process_time()
        for batch in batches:
            tally.accepted("load-queue/u", tally.issue(image=False))
            tally.send("load-queue/u", batch)
        rounds.append((histogram_s / number * 1e6, (time.process_time() - began_s) / number * 1e6))
    histogram_us, checks_us = (statistics.median(part) for part in zip(*rounds, strict=True))
    figures = {"histogram_us": histogram_us, "checks_us": checks_us, "cost_us": histogram_us + checks_us}
    return {name: round(value, 2) for name, value in figures.items()}


def main(what: str, *rest: str) -> None:
    if what == "cost":
        print(json.dumps(cost()))
        return
    import locust  # noqa: F401 - patches the process, before any connection is opened

    if what == "worker":
        print(through_users(rest[0], 2.0))
        return
    server, url = serve()
    try:
        make_store(url).set_upload_status(UPLOAD_ID, "completed", {"uri": "https://x", "name": "x"}, "image.png")
        print(json.dumps({"ratio": ratio, "processes": processes}[what](url)))
    finally:
        server.stdin.close()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
