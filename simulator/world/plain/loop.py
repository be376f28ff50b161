"""asyncio for plain code: a loop that stands aside where the real one would wait for sockets, its clock the pod's.

What a coroutine asks of the world is done by an actor: so each request in flight is a step that may be taken next.
A task has one actor for all of its requests; that of a pod's method is the actor that calls it. To wake the loop is
no step: what a reply sets going within the pod follows it at once, as no other pod could tell the difference.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from asyncio import base_events
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from podrace.simulator.world.plain.inside import Here, Inside
from podrace.simulator.world.plain.threads import plain_name
from podrace.simulator.world.steps import PodKilledError

Outcome = Callable[[Any], None]
"""Puts what came of a request into the future that is waited for."""


class Worker:
    """The actor that makes one task's requests, one after the other."""

    def __init__(self, inside: Inside, actor: str) -> None:
        self._gate = inside.gate
        self._actor = actor
        self._job: Callable[[], None] | None = None
        self._over = False
        self.busy = False
        self._parked = False

    def give(self, job: Callable[[], None]) -> None:
        self.busy, self._job = True, job
        self._wake()

    def end(self) -> None:
        self._over = True
        self._wake()

    def serve(self) -> None:
        """Do what is given until `end`."""
        while True:
            while self._job is None:
                if self._over:
                    return
                self._parked = True
                self._gate.park(None)
            job, self._job = self._job, None
            job()
            self.busy = False

    def _wake(self) -> None:
        if self._parked:
            self._parked = False
            self._gate.unpark(self._actor)


class Task(asyncio.Task):  # type: ignore[type-arg]
    """Has a number, by which sets of tasks are walked through in an order that is the same each time."""

    number: int = 0
    title: str = ""
    worker: Worker | None = None

    def __hash__(self) -> int:
        return self.number


class Loop(base_events.BaseEventLoop):
    """One loop, run by one actor."""

    def __init__(self, inside: Inside) -> None:
        super().__init__()
        self._clock_resolution = 1e-6
        self._selector: Any = self
        self._inside = inside
        self._gate = inside.gate
        self._parked: str | None = None
        self._woken = False
        self.set_task_factory(self._task)

    def _task(self, loop: Any, coro: Any, **options: Any) -> Task:
        number = self._inside.count("task")
        task = Task(coro, loop=loop, **{"name": f"Task-{number}", **options})
        task.number = number
        return task

    def run_forever(self) -> None:
        """As the real one. Coroutines of a pod that dies end here and now, not when the collector comes to them."""
        self._gate.set_aside(_aside)
        try:
            super().run_forever()
        except PodKilledError:
            for task in asyncio.all_tasks(self):
                with suppress(BaseException):
                    task.get_coro().close()
            raise
        finally:
            self._gate.set_aside(None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """That tasks of a dead pod were still pending is no news."""
        if not getattr(self._gate, "dead", False):
            super().call_exception_handler(context)

    def _check_closed(self) -> None:
        """Coroutines of a dead pod may still end, when they are forgotten."""

    def __del__(self) -> None:
        """A loop of a pod that died was not closed, and has nothing that must be."""

    def time(self) -> float:
        return self._inside.now()

    def select(self, timeout: float | None) -> tuple[()]:
        """Stand aside until there is something to do."""
        if not self._woken and (timeout is None or timeout > 0):
            self._parked = self._gate.me()
            try:
                self._gate.park(timeout)
            finally:
                self._parked = None
        self._woken = False
        return ()

    def _process_events(self, event_list: Any) -> None:
        """There are none: who has an answer says so by call_soon_threadsafe."""

    def _write_to_self(self) -> None:
        self._woken = True
        if self._parked is not None:
            actor, self._parked = self._parked, None
            self._gate.unpark(actor)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> Any:
        if executor is None:
            bare = func.args[0] if isinstance(func, functools.partial) and func.args else func
            return self._in_a_thread(lambda: func(*args), getattr(bare, "__name__", "thread"))
        return self.wrapped(executor.submit(func, *args))

    def wrapped(self, future: Any) -> Any:
        """A future of this loop in the place of one of `concurrent.futures`."""
        own = self.create_future()

        def tell(done: Any) -> None:
            if done.cancelled():
                self._tell(own, lambda own: own.cancel())
            elif done.exception() is not None:
                self._tell(own, lambda own: own.set_exception(done.exception()))
            else:
                self._tell(own, lambda own: own.set_result(done.result()))

        own.add_done_callback(lambda own: future.cancel() if own.cancelled() else None)
        future.add_done_callback(tell)
        return own

    def request(self, function: Callable[[], Any]) -> Any:
        """A future of what the current task's actor makes of the function."""
        task = asyncio.current_task(self)
        future = self.create_future()
        if not isinstance(task, Task):
            return self._in_a_thread(function, "request")
        worker = task.worker
        if worker is None:
            worker = task.worker = self._worker_of(task)
        if worker.busy:  # with a request that was given up, or that is still waited for
            return self._in_a_thread(function, _name_of(task))
        worker.give(lambda: self._answer(future, function))
        return future

    def _worker_of(self, task: Task) -> Worker:
        worker: Worker
        actor = self._gate.spawn(_name_of(task), lambda: worker.serve())
        worker = Worker(self._inside, actor)
        task.add_done_callback(lambda _: worker.end())
        return worker

    def _in_a_thread(self, function: Callable[[], Any], name: str) -> Any:
        future = self.create_future()
        self._gate.spawn(plain_name(name), lambda: self._answer(future, function))
        return future

    def _answer(self, future: Any, function: Callable[[], Any]) -> None:
        try:
            result = function()
        except PodKilledError:
            raise
        except BaseException as error:
            told = error
            self._tell(future, lambda future: future.set_exception(told))
        else:
            self._tell(future, lambda future: future.set_result(result))

    def _tell(self, future: Any, outcome: Outcome) -> None:
        if not self.is_closed():
            self.call_soon_threadsafe(lambda: None if future.done() else outcome(future))

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        self._inside.refuse("opens a socket or starts a process by asyncio", "make what it talks to a service")

    create_connection = create_server = create_unix_connection = create_unix_server = _refuse
    create_datagram_endpoint = subprocess_exec = subprocess_shell = sock_connect = _refuse
    add_reader = add_writer = connect_read_pipe = connect_write_pipe = getaddrinfo = _refuse  # type: ignore[assignment]

    def add_signal_handler(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """No signal reaches a pod: it is killed, or it goes on."""

    def remove_signal_handler(self, sig: int) -> bool:
        return False


def _name_of(task: Task) -> str:
    return plain_name(task.title or getattr(task.get_coro(), "__name__", "task"))


def _aside(switch: Callable[[], Any]) -> Any:
    """Let others go on meanwhile: asyncio keeps by OS thread which loop and task are running, and all are in one."""
    running, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
    swap: Any = getattr(asyncio.tasks, "_swap_current_task", None)  # since 3.12; before, a task was kept by its loop
    task = asyncio.current_task(running) if swap is not None and running is not None else None
    if task is not None:
        swap(running, None)
    asyncio._set_running_loop(None)
    try:
        return switch()
    finally:
        asyncio._set_running_loop(running)
        if task is not None:
            swap(running, task)
        sys.set_asyncgen_hooks(*hooks)


def awaited(inside: Inside, result: Any) -> Any:
    """What comes of a coroutine: it is run by the pod's one loop, which begins with the first."""
    if inside.loop is None:
        inside.loop = Loop(inside)
        inside.gate.spawn("loop", inside.loop.run_forever)
    actor = inside.gate.me()
    worker = Worker(inside, actor)
    begun: list[Task] = []

    def begin() -> None:
        task = inside.loop.create_task(_whole(result))
        task.title = getattr(result, "__name__", "")
        if not inside.gate.cancels:  # else the call may end while its request is still under way
            task.worker = worker
        task.add_done_callback(lambda _: worker.end())
        begun.append(task)
        inside.calls[actor] = task

    inside.loop.call_soon_threadsafe(begin)
    worker.serve()
    if begun[0].cancelled():
        raise TimeoutError("the call was cancelled")  # nobody can know what was done before
    return begun[0].result()


def awaited_freely(inside: Inside, result: Any) -> Any:
    """The same under the real clock: in a real loop, which has a thread of its own."""
    if inside.loop is None:
        inside.loop = asyncio.new_event_loop()
        threading.Thread(target=inside.loop.run_forever, name="loop", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(_whole(result), inside.loop).result()


async def _whole(awaitable: Any) -> Any:
    return await awaitable


def request(here: Here, function: Callable[[], Any]) -> Any:
    """Have the function done by an actor, for the loop that is running."""
    loop: Any = asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        here().refuse("runs an event loop of its own", "use asyncio.run, or coroutine functions as methods")
    return loop.request(function)


class Asked:
    """What is there for code without coroutines: its methods can be awaited, `ask` has them done."""

    def __init__(self, sync: Any, ask: Callable[[Callable[[], Any]], Any]) -> None:
        self._sync = sync
        self._ask = ask

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._sync, name)
        return self._shown(name, found) if callable(found) else found

    def _shown(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        async def awaited(*args: Any, **options: Any) -> Any:
            return await self._ask(lambda: function(*args, **options))

        awaited.__name__ = name  # by it a task is named
        return awaited

    async def __aenter__(self) -> Any:
        return self


def asyncio_names(here: Here) -> dict[str, Any]:
    class Runner(asyncio.Runner):  # type: ignore[misc]
        def __init__(self, *, debug: bool | None = None, loop_factory: Any = None) -> None:
            super().__init__(loop_factory=lambda: Loop(here()))

    def run(main: Any, *, debug: bool | None = None, loop_factory: Any = None) -> Any:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("asyncio.run() cannot be called from a running event loop")
        with Runner() as runner:
            return runner.run(main)

    def new_event_loop() -> Loop:
        return Loop(here())

    def set_event_loop(loop: Any) -> None:
        here().set_loop = loop

    def get_event_loop() -> Any:
        running = asyncio._get_running_loop()
        if running is None:
            inside = here()
            running = inside.set_loop = inside.set_loop or Loop(inside)
        return running

    def run_coroutine_threadsafe(coro: Any, loop: Any) -> Any:
        """With a future of the pod's: to wait for a real one would block every pod."""
        future = here().view.load("concurrent.futures._base").Future()

        def end(task: Any) -> None:
            if task.cancelled():
                future.cancel()
                future.set_running_or_notify_cancel()
            elif task.exception() is not None:
                future.set_exception(task.exception())
            else:
                future.set_result(task.result())

        loop.call_soon_threadsafe(lambda: loop.create_task(coro).add_done_callback(end))
        return future

    def wrap_future(future: Any, *, loop: Any = None) -> Any:
        running: Any = loop or asyncio.get_running_loop()
        return future if asyncio.isfuture(future) else running.wrapped(future)

    return {
        "run": run, "Runner": Runner, "new_event_loop": new_event_loop, "get_event_loop": get_event_loop,
        "set_event_loop": set_event_loop, "run_coroutine_threadsafe": run_coroutine_threadsafe,
        "wrap_future": wrap_future,
    }  # fmt: skip
