from __future__ import annotations

import threading
import time

from podrace.reference.runtime import ThreadRuntime


def test_now_is_the_systems_clock() -> None:
    before_s = time.time()
    now_s = ThreadRuntime().now()
    assert before_s <= now_s <= time.time()


def test_sleep_takes_seconds() -> None:
    before_s = time.monotonic()
    ThreadRuntime().sleep(0.01)
    assert 0.01 <= time.monotonic() - before_s < 1


def test_spawn_runs_beside_the_caller() -> None:
    goes_on, done = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def actor() -> None:
        threads.append(threading.current_thread())
        if goes_on.wait(10):
            done.set()

    ThreadRuntime().spawn("upload", actor)
    goes_on.set()
    assert done.wait(10)
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert thread.name == "upload"
    assert thread.daemon, "else a pod could not end while an upload hangs"


def test_lock_keeps_other_threads_out_and_its_owner_in() -> None:
    runtime = ThreadRuntime()
    lock = runtime.lock()
    owned, released, tried, entered = (threading.Event() for _ in range(4))

    def other() -> None:
        tried.set()
        with lock:
            entered.set()

    def owner() -> None:
        with lock, lock:
            owned.set()
            released.wait(10)

    runtime.spawn("owner", owner)
    assert owned.wait(10), "the lock is not re-entrant"
    runtime.spawn("other", other)
    assert tried.wait(10)
    assert not entered.wait(0.02)
    released.set()
    assert entered.wait(10)


def test_every_lock_is_its_own() -> None:
    runtime = ThreadRuntime()
    first, second = runtime.lock(), runtime.lock()
    entered = threading.Event()

    def other() -> None:
        with second:
            entered.set()

    with first:
        runtime.spawn("other", other)
        assert entered.wait(10)
