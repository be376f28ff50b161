"""What the load tests' own machinery costs, as ratios in one run. Run as a program in its own process: it
imports locust, which patches the process.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from measuring import PROCESSES, check, ratio_of

GREENLETS = 20
ROUND_S = 1.0
SCALING_PAIRS = 7
IDLE_CORES = 1.9
"""Two bare loops do at least this many times what one does, where two cores are idle."""
LOOP = "import time\nn, end_s = 0, time.perf_counter() + 0.5\nwhile time.perf_counter() < end_s: n += 1\nprint(n)"
ROOT = Path(__file__).parent.parent.parent
UPLOAD_ID = "00000000-0000-4000-8000-000000000000"


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST")}
    return kept | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}


def run(what: str, pairs: int) -> dict[str, list[tuple[float, float]]]:
    """Pairs, measured side by side in a process of their own, by what they are of."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(pairs)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, list[tuple[float, float]]] = json.loads(done.stdout)
    return found


def test_redis_user_against_a_bare_loop(benchmark: Any) -> None:
    asked(benchmark, "ratio", "RedisUser / bare gevent loop", 0.8, pairs=5)


def test_two_processes_against_one(benchmark: Any, tmp_path: Path) -> None:
    """How the generator itself scales: whole runs of `locust --processes`, whose users read a dict in a closed loop.

    It shows what the master, its messages, the histograms and the checks leave of a second core. It does not show what
    sockets cost, nor that a server could answer twice as much. A pair of runs counts only where two cores were idle
    just before and just after it: two bare loops then do nearly twice what one does.
    """
    if benchmark.disabled:
        assert benchmark.pedantic(tasks_per_s, args=(2, tmp_path / "once", 1)) > 0
        return

    def measure() -> list[tuple[float, float, float]]:
        found, idle_before = [], idle_cores()
        for number in range(SCALING_PAIRS):
            one, two = (tasks_per_s(count, tmp_path / f"{number}-{count}") for count in (1, 2))
            idle_after = idle_cores()
            found.append((min(idle_before, idle_after), one, two))
            idle_before = idle_after
        return found

    pairs = benchmark.pedantic(measure, rounds=1)
    counted = [(one, two) for idle, one, two in pairs if idle >= IDLE_CORES]
    if len(counted) < 3:
        import pytest

        cores = ", ".join(f"{idle:.2f}" for idle, _, _ in pairs)
        pytest.skip(f"two cores were not idle: two bare loops did {cores} times what one did, expected {IDLE_CORES}")
    check_all(benchmark, [{"operations a second": counted}], "two processes / one", 1.7)


def idle_cores() -> float:
    """What two bare loops do in as many processes, of what one does."""

    def loops(count: int) -> int:
        started = [subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE) for _ in range(count)]
        return sum(int(process.communicate()[0]) for process in started)

    one, two, again = loops(1), loops(2), loops(1)
    return two / max(one, again)


def tasks_per_s(processes: int, folder: Path, seconds: int = 4) -> float:
    """Operations a second of a whole run with so many workers and one master, all of them verified."""
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--only-summary"]
    command += ["--loglevel", "ERROR", "--target", "one_dict:target", "--rate", "0", "--users", "40"]
    command += ["--spawn-rate", "200", "--run-time", f"{seconds}s", "--processes", str(processes)]
    done = subprocess.run([*command, "--run-folder", str(folder), "StoreReader"], cwd=ROOT, env=environment(),
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    latency = json.loads((folder / "latency.json").read_text())
    return float(sum(operation["count"] for operation in latency["operations"]) / latency["duration_s"])


def test_histogram_and_checks(benchmark: Any) -> None:
    asked(benchmark, "cost", "histogram and checks / time of an operation", 0.03, pairs=5, most=True)


def asked(benchmark: Any, what: str, figure: str, limit: float, *, pairs: int, most: bool = False) -> None:
    """Measure in several processes, and check."""
    repeated = 1 if benchmark.disabled else PROCESSES
    found = benchmark.pedantic(lambda: [run(what, pairs if repeated > 1 else 1) for _ in range(repeated)], rounds=1)
    if repeated > 1:
        check_all(benchmark, found, figure, limit, most=most)


def check_all(
    benchmark: Any, found: list[dict[str, list[tuple[float, float]]]], figure: str, limit: float, *, most: bool = False
) -> None:
    """Note ratios for the table at the end; their intervals decide. For some of these, more is better."""
    for name in found[0]:
        ratio = ratio_of(*([after / before for before, after in one[name]] for one in found))
        before, after = (statistics.median(pair[place] for one in found for pair in one[name]) for place in (0, 1))
        check(
            benchmark,
            f"{figure}, {name}",
            asked=f"{'<=' if most else '>='} {limit:g}",
            got=f"{ratio.ratio:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]: {after:.4g} of {before:.4g}",
            holds=ratio.low <= limit if most else ratio.high >= limit,
        )


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


def through_users(url: str) -> float:
    """The same by RedisUser under Locust's own runner, with our histogram listening."""
    import gevent
    from locust import task
    from locust.env import Environment

    from podrace.loadtests.health import Health
    from podrace.loadtests.latency import Recorder
    from podrace.loadtests.redis_user import RedisUser

    class Reader(RedisUser):
        def on_start(self) -> None:
            super().on_start()
            self.store = make_store(url)

        @task
        def read(self) -> None:
            self.measure("GET status", self.store.get_upload_status, UPLOAD_ID)

    recorder = Recorder()
    environment: Any = Environment(user_classes=[Reader])
    environment.podrace = SimpleNamespace(
        health=Health(), plan=SimpleNamespace(redis_url=url, prefix="", rate_per_s=0.0)
    )
    environment.events.request.add_listener(recorder.on_request)
    runner = environment.create_local_runner()
    runner.start(GREENLETS, spawn_rate=100)
    while runner.user_count < GREENLETS:
        gevent.sleep(0.01)
    recorder.take()
    began_s = time.perf_counter()
    gevent.sleep(ROUND_S)
    (taken,) = [one for name, kind, one in recorder.take()["counts"] if (name, kind) == ("GET status", "raw")]
    rate = sum(count for _, count in taken) / (time.perf_counter() - began_s)
    runner.quit()
    return rate


def serve() -> tuple[Any, str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "podrace.loadtests.servers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, server.stdout.readline().split()[0]


def ratio(url: str) -> dict[str, Callable[[], tuple[float, float]]]:
    return {"operations a second": lambda: (bare(url), through_users(url))}


def cost(url: str) -> dict[str, Callable[[], tuple[float, float]]]:
    """What recording and checking takes, of the time of the operation that is recorded and checked, in µs.

    Of a status that is read, and of a message that a pod takes in and another absorbs. All in time on the processor:
    the rest of an operation, in which others run, is left out, and makes the share larger.
    """
    return {"a status": lambda: status_us(url), "a message": lambda: message_us(url)}


def spent_us(calls: int, call: Callable[[int], Any]) -> float:
    began_s = time.process_time()
    for index in range(calls):
        call(index)
    return (time.process_time() - began_s) / calls * 1e6


def status_us(url: str) -> tuple[float, float]:
    from podrace.loadtests.judging import Journal
    from podrace.loadtests.latency import Recorder

    store, recorder, journal = make_store(url), Recorder(), Journal()
    known = store.get_upload_status(UPLOAD_ID)
    wanted = json.loads(json.dumps(known))

    def record(index: int) -> None:
        latency_ms = 0.2 + index % 500 / 1000
        recorder.on_request(request_type="redis", name="GET", response_time=latency_ms, context={"late_us": 3})
        journal.verified("load-store", "" if known == wanted else "wrong")
        if index % 1000 == 999:
            recorder.take()

    return spent_us(1000, lambda _: store.get_upload_status(UPLOAD_ID)), spent_us(10_000, record)


def message_us(url: str) -> tuple[float, float]:
    from podrace.loadtests.fleet import Fleet
    from podrace.loadtests.judging import Journal, text_of
    from podrace.loadtests.latency import Recorder
    from podrace.loadtests.targets import QUEUE, TARGETS, Plan

    plan = Plan(token="", target="shared", redis_url=url, prefix="mirix:", files_url="http://127.0.0.1",
                pods=2, image_size_bytes=1, rate_per_s=0.0, seed=1)  # fmt: skip
    fleet = Fleet(plan, TARGETS["shared"], worker="w")

    def operate(index: int) -> None:
        number = fleet.journal.begin(QUEUE, "u", image=False)
        fleet.pods[0].add_message("u", text_of(QUEUE, number), [], str(index))
        fleet.pods[1].absorb("u")

    recorder, journal = Recorder(), Journal()

    def record(index: int) -> None:
        number = journal.begin(QUEUE, "u", image=False)
        journal.end(number, "ok")
        journal.close(number)
        journal.send("u", [{"type": "text", "text": text_of(QUEUE, number)}])
        for name in ("accept", "absorb"):
            latency_ms = 0.2 + index % 500 / 1000
            recorder.on_request(request_type="redis", name=name, response_time=latency_ms, context={"late_us": 3})
        if index % 100 == 99:
            journal.settle()
            recorder.take()

    try:
        return spent_us(300, operate), spent_us(3000, record)
    finally:
        fleet.close()


def main(what: str, argument: str) -> None:
    import locust  # noqa: F401 - patches the process, before any connection is opened

    server, url = serve()
    try:
        make_store(url).set_upload_status(UPLOAD_ID, "completed", {"uri": "https://x", "name": "x"}, "image.png")
        gc.collect()
        gc.freeze()  # as a run does before its load
        found = {"ratio": ratio, "cost": cost}[what](url)
        print(json.dumps({name: [measure() for _ in range(int(argument))] for name, measure in found.items()}))
    finally:
        server.stdin.close()
        server.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
