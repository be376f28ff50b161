"""Small programs over threads, each of which returns the same in whatever order its threads run.

`pod` runs them as plain code. Timed waits last milliseconds; no result depends on which of two of them ends first.

"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import queue
import sched
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor as Pool
from queue import SimpleQueue
from threading import Barrier, Condition, Event, Lock, RLock, Semaphore, Thread, Timer
from time import sleep
from typing import Any

import podrace

SHORT_S = 0.002
NEVER_S = 60.0
"""Longer than any test, so that no wait ends by this timeout."""

STARTED: list[str] = []
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
GUARD = Lock()


def raised(function: Callable[[], Any]) -> str:
    """The exception that the call raises, as text."""
    try:
        return f"returned {function()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Worker(Thread):
    """Its base is bound when the module is imported."""

    def __init__(self, what: str) -> None:
        super().__init__(name=f"worker-{what}", daemon=True)
        self.what = what
        self.done: list[str] = []

    def run(self) -> None:
        sleep(SHORT_S)
        self.done.append(self.what)


def thread() -> Any:
    seen: list[Any] = []
    one = Thread(target=lambda *args, **named: seen.append((args, named)), args=(1, 2), kwargs={"three": 3})
    before = one.is_alive(), one.ident
    one.start()
    one.join()
    return before, one.is_alive(), one.ident is None, seen, one.name


def thread_errors() -> Any:
    one = Thread(target=int)
    early = raised(one.join)
    one.start()
    one.join()
    return early, raised(one.start), raised(lambda: threading.current_thread().join() if False else None)


def thread_joins_itself() -> Any:
    told: list[str] = []
    one = Thread(target=lambda: told.append(raised(lambda: one.join())))
    one.start()
    one.join()
    return told


def thread_subclass() -> Any:
    workers = [Worker(what) for what in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [(worker.name, worker.done, worker.is_alive()) for worker in workers]


def thread_join_with_a_timeout() -> Any:
    go = Event()
    one = Thread(target=go.wait)
    one.start()
    one.join(timeout=SHORT_S)
    alive = one.is_alive()
    go.set()
    one.join(timeout=NEVER_S)
    return alive, one.is_alive()


def thread_that_exits() -> Any:
    def leave() -> None:
        raise SystemExit(1)

    one = Thread(target=leave)
    one.start()
    one.join()
    return one.is_alive()


def thread_that_starts_another() -> Any:
    told: list[str] = []

    def outer() -> None:
        inner = Thread(target=lambda: told.append("inner"))
        inner.start()
        inner.join()
        told.append("outer")

    one = Thread(target=outer)
    one.start()
    one.join()
    return told


def thread_lists() -> Any:
    go, inside = Event(), Event()

    def stay() -> None:
        inside.set()
        go.wait()

    before = threading.active_count()
    one = Thread(target=stay, name="stays")
    one.start()
    inside.wait()
    names = [thread.name for thread in threading.enumerate() if thread.name == "stays"]
    during = threading.active_count() - before
    go.set()
    one.join()
    return names, during, threading.active_count() - before


def thread_knows_itself() -> Any:
    told: list[Any] = []

    def tell() -> None:
        me = threading.current_thread()
        told.append((me is one, me.name, me.ident == threading.get_ident(), me is threading.main_thread()))

    one = Thread(target=tell, name="me")
    one.start()
    one.join()
    return told, threading.current_thread() is threading.current_thread()


def timer() -> Any:
    told: list[str] = []
    first = Timer(SHORT_S, told.append, args=("fired",))
    second = Timer(NEVER_S, told.append, args=("never",))
    first.start()
    second.start()
    second.cancel()
    first.join()
    second.join()
    return told, second.finished.is_set()


def lock() -> Any:
    mine = Lock()
    told: list[Any] = [mine.locked(), mine.acquire(), mine.locked(), mine.acquire(blocking=False)]
    told += [
        mine.acquire(timeout=SHORT_S),
        raised(lambda: mine.acquire(False, 1)),
        raised(lambda: mine.acquire(True, -2)),
    ]
    mine.release()
    with mine as entered:
        told.append(entered)
    return [*told, raised(mine.release), repr(mine).partition(" ")[0]]


def lock_released_by_another() -> Any:
    mine = Lock()
    mine.acquire()
    other = Thread(target=mine.release)
    other.start()
    return mine.acquire(timeout=NEVER_S), other.join()


def lock_excludes() -> Any:
    held, most, total = 0, 0, 0
    mine = Lock()

    def count() -> None:
        nonlocal held, most, total
        for _ in range(2):
            with mine:
                held += 1
                most = max(most, held)
                sleep(SHORT_S / 10)
                total += 1
                held -= 1

    threads = [Thread(target=count) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return most, total


def rlock() -> Any:
    mine = RLock()
    told: list[Any] = []
    with mine, mine:
        other = Thread(target=lambda: told.append(mine.acquire(blocking=False)))
        other.start()
        other.join()
    other = Thread(target=lambda: told.append((mine.acquire(blocking=False), mine.release())))
    other.start()
    other.join()
    return told, raised(mine.release)


def event() -> Any:
    happened = Event()
    told: list[Any] = [happened.is_set(), happened.wait(SHORT_S)]
    waiters = [Thread(target=lambda: told.append(happened.wait(NEVER_S))) for _ in range(3)]
    for one in waiters:
        one.start()
    happened.set()
    for one in waiters:
        one.join()
    told += [happened.is_set(), happened.wait(), happened.clear(), happened.is_set()]
    return told


def condition() -> Any:
    box: list[int] = []
    changed = Condition()
    told: list[Any] = []

    def fill() -> None:
        for number in range(3):
            with changed:
                box.append(number)
                changed.notify()

    def empty() -> None:
        while len(told) < 3:
            with changed:
                changed.wait_for(lambda: box)
                told.append(box.pop(0))

    threads = [Thread(target=empty), Thread(target=fill)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    with changed:
        told += [changed.wait(SHORT_S), changed.wait_for(lambda: False, SHORT_S)]
    return told, raised(changed.notify), raised(changed.wait)


def condition_notifies_all() -> Any:
    changed, ready, told = Condition(Lock()), Semaphore(0), []

    def wait() -> None:
        with changed:
            ready.release()
            told.append(changed.wait(NEVER_S))

    threads = [Thread(target=wait) for _ in range(3)]
    for one in threads:
        one.start()
    for _ in threads:
        ready.acquire()
    with changed:
        changed.notify_all()
    for one in threads:
        one.join()
    return told


def semaphore() -> Any:
    some = Semaphore(2)
    told: list[Any] = [some.acquire(), some.acquire(), some.acquire(blocking=False), some.acquire(timeout=SHORT_S)]
    Timer(SHORT_S, some.release).start()
    told.append(some.acquire(timeout=NEVER_S))
    bounded = threading.BoundedSemaphore(1)
    return told, raised(bounded.release), raised(lambda: Semaphore(-1))


def barrier() -> Any:
    told: list[Any] = []
    three = Barrier(3, action=lambda: told.append("all"))
    places: list[int] = []
    threads = [Thread(target=lambda: places.append(three.wait(NEVER_S))) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    two = Barrier(2)
    return told, sorted(places), raised(lambda: two.wait(SHORT_S)), two.broken, two.reset(), two.broken


def thread_local() -> Any:
    mine = threading.local()
    mine.name = "outer"
    told: list[Any] = []

    def inner() -> None:
        told.append(hasattr(mine, "name"))
        mine.name = "inner"
        told.append(mine.name)

    one = Thread(target=inner)
    one.start()
    one.join()
    return told, mine.name


class Kept(threading.local):
    def __init__(self, first: int) -> None:
        self.items = [first]


def thread_local_subclass() -> Any:
    kept = Kept(7)
    kept.items.append(8)
    told: list[Any] = []
    one = Thread(target=lambda: told.append(kept.items))
    one.start()
    one.join()
    return told, kept.items


def queues() -> Any:
    one: queue.Queue[int] = queue.Queue(maxsize=1)
    told: list[Any] = []

    def produce() -> None:
        for number in range(4):
            one.put(number)
        one.join()
        told.append("joined")

    producer = Thread(target=produce)
    producer.start()
    for _ in range(4):
        told.append(one.get(timeout=NEVER_S))
    for _ in range(4):
        one.task_done()
    producer.join()
    one.put(9)
    told += [raised(lambda: one.put(1, timeout=SHORT_S)), raised(lambda: one.put_nowait(1)), one.full(), one.get()]
    told += [raised(one.get_nowait), raised(lambda: one.get(timeout=SHORT_S)), one.empty(), raised(one.task_done) != ""]
    return told


def other_queues() -> Any:
    last: queue.LifoQueue[int] = queue.LifoQueue()
    least: queue.PriorityQueue[int] = queue.PriorityQueue()
    simple: SimpleQueue[int] = SimpleQueue()
    for number in (2, 3, 1):
        last.put(number)
        least.put(number)
        simple.put(number)
    told = [[some.get() for _ in range(3)] for some in (last, least, simple)]
    late = Timer(SHORT_S, simple.put, args=(4,))
    late.start()
    return told, simple.get(), raised(simple.get_nowait), raised(lambda: simple.get(timeout=SHORT_S)), simple.qsize()


def executor() -> Any:
    with Pool(max_workers=2) as pool:
        mapped = list(pool.map(lambda number: (sleep(SHORT_S), number * 2)[1], [3, 1, 2]))
        failing = pool.submit(lambda: 1 // 0)
        told: list[Any] = [mapped, raised(failing.result), type(failing.exception()).__name__]
        done = pool.submit(pow, 2, 5)
        told.append(done.result(timeout=NEVER_S))
        done.add_done_callback(lambda future: told.append(future.result()))
    return told, done.done(), done.cancelled(), raised(lambda: pool.submit(int))


def executor_that_is_late() -> Any:
    go = Event()
    with Pool(1) as pool:
        first, second = pool.submit(go.wait), pool.submit(int)
        told = [raised(lambda: first.result(timeout=SHORT_S)), first.running(), second.cancel(), second.cancelled()]
        go.set()
    return told, first.result(), raised(second.result)


def executor_names() -> Any:
    with Pool(1, thread_name_prefix="mine") as pool:
        return pool.submit(lambda: threading.current_thread().name).result()


def executor_initializer() -> Any:
    told: list[str] = []
    with Pool(1, initializer=told.append, initargs=("begun",)) as pool:
        pool.submit(told.append, "ran").result()
    return told


def futures_together() -> Any:
    go = Event()
    with Pool(4) as pool:
        quick, slow = [pool.submit(int, str(number)) for number in range(3)], pool.submit(go.wait)
        first = concurrent.futures.wait([*quick, slow], return_when=futures.FIRST_COMPLETED)
        done, waiting = futures.wait([*quick, slow], timeout=NEVER_S * 0 + 0.05)
        go.set()
        ended = sorted(int(future.result()) for future in futures.as_completed([*quick, slow]))
    return bool(first.done), slow in waiting, len(done) >= 1, ended


def scheduler() -> Any:
    told: list[Any] = []
    plan = sched.scheduler(time.monotonic, time.sleep)
    plan.enter(2 * SHORT_S, 1, told.append, ("second",))
    plan.enter(SHORT_S, 1, told.append, ("first",))
    plan.run()
    return told


def module_and_class_state() -> Any:
    with GUARD:
        STARTED.append("here")
    later = functools.partial(time.sleep, SHORT_S)
    later()
    return raised(lambda: time.sleep(-1)), STARTED[-1]


def imported_late() -> Any:
    import importlib
    import threading as again
    from queue import Queue

    loaded = importlib.import_module("threading")
    one = loaded.Thread(target=time.sleep, args=(SHORT_S,))
    one.start()
    one.join()
    return again is threading, loaded is threading, Queue is queue.Queue, importlib.import_module("time") is time


def excepthook() -> Any:
    told: list[Any] = []
    before = threading.excepthook
    threading.excepthook = lambda args: told.append((args.exc_type, str(args.exc_value), args.thread.name))
    try:
        one = Thread(target=int, args=("no number",), name="one")
        one.start()
        one.join()
    finally:
        threading.excepthook = before
    return told, threading.excepthook is before


def contexts() -> Any:
    """Threads that run in turn do not see what others have set in their contexts."""
    told: dict[str, str] = {}

    def work(name: str) -> None:
        WHO.set(name)
        time.sleep(SHORT_S)
        told[name] = WHO.get()

    several = [Thread(target=work, args=(name,)) for name in ("one", "two", "three")]
    for one in several:
        one.start()
    for one in several:
        one.join()
    return sorted(told.items()), WHO.get(), contextvars.copy_context().run(lambda: (WHO.set("here"), WHO.get())[1])


def priority_queue() -> Any:
    tasks: queue.PriorityQueue[tuple[int, str]] = queue.PriorityQueue(3)
    one = Thread(target=lambda: [tasks.put((len(word), word)) for word in ("three", "one", "four")])
    one.start()
    one.join()
    return [tasks.get(timeout=1)[1] for _ in range(3)], raised(lambda: tasks.get(timeout=SHORT_S))


def loop_in_a_thread() -> Any:
    told: list[Any] = []
    one = Thread(target=lambda: told.append(asyncio.run(asyncio.sleep(SHORT_S, "slept"))))
    one.start()
    one.join()
    return told


PROGRAMS = {
    program.__name__: program
    for program in (
        thread, thread_errors, thread_joins_itself, thread_subclass, thread_join_with_a_timeout, thread_that_exits,
        thread_that_starts_another, thread_lists, thread_knows_itself, timer, lock, lock_released_by_another,
        lock_excludes, rlock, event, condition, condition_notifies_all, semaphore, barrier, thread_local,
        thread_local_subclass, queues, other_queues, executor, executor_that_is_late, executor_names,
        executor_initializer, futures_together, scheduler, module_and_class_state, imported_late,
        excepthook, contexts, priority_queue, loop_in_a_thread,
    )
}  # fmt: skip


@podrace.own()
def pod(env: podrace.PodEnv) -> Any:
    return Programs()


class Programs:
    def run(self, name: str) -> Any:
        return repr(PROGRAMS[name]())
