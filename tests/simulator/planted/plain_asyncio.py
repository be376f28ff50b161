"""Small programs over asyncio, each of which returns the same in whatever order its tasks run."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from asyncio import Queue, sleep
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import podrace

SHORT_S = 0.002
NEVER_S = 60.0
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def raised(awaitable: Any) -> str:
    try:
        return f"returned {await awaitable!r}"
    except (Exception, asyncio.CancelledError) as error:
        return f"{type(error).__name__}: {error}"


async def fails(after_s: float = SHORT_S) -> None:
    await sleep(after_s)
    raise ValueError("no")


async def sleeps() -> Any:
    loop = asyncio.get_running_loop()
    began, now = loop.time(), time.monotonic()
    told = [await sleep(0), await sleep(SHORT_S, "slept"), loop.time() - began >= SHORT_S]
    return told, abs(loop.time() - began - (time.monotonic() - now)) < 30, loop.is_running(), loop.is_closed()


async def tasks() -> Any:
    told: list[Any] = []

    async def work(what: str) -> str:
        told.append(f"{what} begins")
        await sleep(0)
        told.append(f"{what} ends")
        return what

    first, second = asyncio.create_task(work("a"), name="mine"), asyncio.create_task(work("b"))
    told.append((first.done(), first.get_name(), first in asyncio.all_tasks()))
    results = [await first, await second]
    return told, results, first.done(), first.result(), asyncio.current_task() is not None


async def gathers() -> Any:
    mixed = await asyncio.gather(sleep(SHORT_S, 1), fails(), sleep(0, 3), return_exceptions=True)
    first = await raised(asyncio.gather(sleep(NEVER_S), fails()))
    return [repr(one) for one in mixed], first, await asyncio.gather()


async def waits() -> Any:
    never = asyncio.create_task(sleep(NEVER_S))
    soon = [asyncio.create_task(sleep(SHORT_S, number)) for number in range(3)]
    done, pending = await asyncio.wait([never, *soon], return_when=asyncio.FIRST_COMPLETED)
    late, still = await asyncio.wait([never], timeout=SHORT_S)
    ended = sorted([await one for one in asyncio.as_completed(soon)])
    never.cancel()
    return bool(done), never in pending, len(late), len(still), ended, await raised(never), never.cancelled()


async def timeouts() -> Any:
    told: list[Any] = [await raised(asyncio.wait_for(sleep(NEVER_S), SHORT_S))]
    told.append(await asyncio.wait_for(sleep(SHORT_S, "in time"), NEVER_S))
    try:
        async with asyncio.timeout(SHORT_S) as limit:
            await sleep(NEVER_S)
    except TimeoutError:
        told.append(("late", limit.expired()))
    async with asyncio.timeout(NEVER_S) as limit:
        await sleep(0)
    told.append((limit.expired(), await raised(asyncio.wait_for(asyncio.shield(fails()), NEVER_S))))
    return told


async def cancels() -> Any:
    told: list[str] = []

    async def stubborn() -> str:
        try:
            await sleep(NEVER_S)
        except asyncio.CancelledError:
            told.append("asked to end")
            await sleep(SHORT_S)
            raise
        finally:
            told.append("cleaned up")
        return "never"

    task = asyncio.create_task(stubborn())
    await sleep(0)
    told.append(str(task.cancel("enough")))
    told.append(await raised(task))
    shielded = asyncio.create_task(sleep(SHORT_S, "went on"))
    outer = asyncio.ensure_future(asyncio.shield(shielded))
    await sleep(0)
    outer.cancel()
    return told, await raised(outer), await shielded, task.cancelled(), task.cancel()


async def groups() -> Any:
    told: list[Any] = []
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(sleep(SHORT_S, number)) for number in range(3)]
    told.append([one.result() for one in made])
    try:
        async with asyncio.TaskGroup() as group:
            other = group.create_task(sleep(NEVER_S))
            group.create_task(fails())
    except* ValueError as errors:
        told.append((len(errors.exceptions), other.cancelled()))
    return told


async def locks() -> Any:
    lock, most, held = asyncio.Lock(), 0, 0

    async def work() -> None:
        nonlocal most, held
        async with lock:
            held += 1
            most = max(most, held)
            await sleep(SHORT_S / 4)
            held -= 1

    await asyncio.gather(*(work() for _ in range(4)))
    semaphore = asyncio.Semaphore(1)
    await semaphore.acquire()
    late = await raised(asyncio.wait_for(semaphore.acquire(), SHORT_S))
    return most, lock.locked(), late, semaphore.locked()


async def events() -> Any:
    event, told = asyncio.Event(), []

    async def wait(what: str) -> None:
        await event.wait()
        told.append(what)

    waiters = [asyncio.create_task(wait(what)) for what in "abc"]
    asyncio.get_running_loop().call_later(SHORT_S, event.set)
    await asyncio.gather(*waiters)
    condition = asyncio.Condition()
    async with condition:
        asyncio.get_running_loop().call_soon(lambda: asyncio.create_task(_notify(condition)))
        told.append(str(await condition.wait()))
    barrier = asyncio.Barrier(2)
    places = await asyncio.gather(barrier.wait(), barrier.wait())
    return told, sorted(places)


async def _notify(condition: asyncio.Condition) -> None:
    async with condition:
        condition.notify_all()


async def queues() -> Any:
    queue: Queue[Any] = Queue(maxsize=2)
    told: list[Any] = []

    async def produce() -> None:
        for number in range(4):
            await queue.put(number)
        await queue.join()
        told.append("joined")

    producer = asyncio.create_task(produce())
    for _ in range(4):
        told.append(await queue.get())
        queue.task_done()
    await producer
    told.append(await raised(asyncio.wait_for(queue.get(), SHORT_S)))
    least: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()
    for number in (2, 1):
        least.put_nowait(number)
    return told, least.get_nowait(), queue.empty()


async def threads() -> Any:
    loop = asyncio.get_running_loop()
    told: list[Any] = [await asyncio.to_thread(lambda: (time.sleep(SHORT_S), "thread")[1])]
    told.append(await loop.run_in_executor(None, pow, 2, 5))
    with ThreadPoolExecutor(1) as pool:
        told.append(await loop.run_in_executor(pool, lambda: (time.sleep(SHORT_S), "pool")[1]))
        told.append(await asyncio.wrap_future(pool.submit(int, "7")))
        told.append(await raised(loop.run_in_executor(pool, int, "x")))
    both = await asyncio.gather(asyncio.to_thread(time.sleep, SHORT_S), asyncio.to_thread(int, "3"))
    event = asyncio.Event()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(event.set)).start()
    await event.wait()
    WHO.set("caller")
    return told, both, await asyncio.to_thread(WHO.get)


async def from_a_thread() -> Any:
    loop, told = asyncio.get_running_loop(), []

    def outside() -> None:
        told.append(asyncio.run_coroutine_threadsafe(sleep(SHORT_S, "there"), loop).result(NEVER_S))
        try:
            asyncio.run_coroutine_threadsafe(fails(), loop).result(NEVER_S)
        except ValueError:
            told.append("failed")

    await asyncio.to_thread(outside)
    return told


async def generators() -> Any:
    told: list[Any] = []

    async def count() -> AsyncIterator[int]:
        try:
            for number in range(9):
                await sleep(0)
                yield number
        finally:
            told.append("closed")

    told.append([number async for number in count() if number < 3][:3])
    stream = count()
    told.append(await anext(stream))
    await stream.aclose()

    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        yield "open"
        told.append("shut")

    async with opened() as what:
        told.append(what)
    return told


async def callbacks() -> Any:
    loop, told = asyncio.get_running_loop(), []
    future = loop.create_future()
    future.add_done_callback(lambda done: told.append(done.result()))
    loop.call_soon(future.set_result, "soon")
    loop.call_at(loop.time() + 2 * SHORT_S, told.append, "at")
    never = loop.call_later(NEVER_S, told.append, "never")
    never.cancel()
    value = await future
    await sleep(4 * SHORT_S)
    return told, value, never.cancelled(), asyncio.isfuture(future), inspect.iscoroutinefunction(fails)


async def contexts() -> Any:
    told = []

    async def inner() -> None:
        told.append(WHO.get())
        WHO.set("inner")
        await sleep(0)
        told.append(WHO.get())

    WHO.set("outer")
    await asyncio.gather(inner(), inner())
    return told, WHO.get()


async def blocks() -> Any:
    """Sleeps as no coroutine should: it blocks the whole loop meanwhile."""
    told: list[Any] = []

    async def beside() -> None:
        await sleep(0)
        told.append("beside")

    task = asyncio.create_task(beside(), name="beside")
    current = asyncio.current_task()
    time.sleep(SHORT_S)
    told.append(asyncio.current_task() is current)
    await task
    return told, asyncio.current_task() is current


async def lost_tasks() -> Any:
    """A task that nobody waits for runs on in the background."""
    told: list[str] = []
    kept = {asyncio.create_task(sleep(0, told.append(what))) for what in "abc"}
    for task in list(kept):
        task.add_done_callback(kept.discard)
    await sleep(SHORT_S)
    return told, len(kept)


PROGRAMS = {
    program.__name__: program
    for program in (
        sleeps, tasks, gathers, waits, timeouts, cancels, groups, locks, events, queues, threads, from_a_thread,
        generators, callbacks, contexts, blocks, lost_tasks,
    )
}  # fmt: skip


def run_within() -> Any:
    """Plain functions start event loops of their own."""

    async def twice(number: int) -> int:
        await sleep(SHORT_S)
        return number * 2

    with asyncio.Runner() as runner:
        told = [runner.run(twice(1)), runner.run(twice(2))]
    loop = asyncio.new_event_loop()
    told.append(loop.run_until_complete(twice(3)))
    loop.close()
    return told, asyncio.run(twice(4))


@podrace.own()
def pod(env: podrace.PodEnv) -> Any:
    return Programs()


class Programs:
    async def run(self, name: str) -> Any:
        return repr(await PROGRAMS[name]())

    def run_by_itself(self, name: str) -> Any:
        return repr(asyncio.run(PROGRAMS[name]()) if name in PROGRAMS else globals()[name]())
