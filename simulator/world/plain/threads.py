"""Locks, threads, queues and executors of plain code: the standard library's own, over a `_thread` that stops at gates.

What is written in Python (Condition, Event, Semaphore, Barrier, Timer, RLock, Queue, ThreadPoolExecutor) is run
as it stands. Below it there are only a lock and the start of a thread.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from collections.abc import Callable
from types import ModuleType
from typing import Any

from podrace.simulator.world.locks import VirtualLock
from podrace.simulator.world.plain.inside import Here, Inside, PodsOwn
from podrace.simulator.world.steps import PodKilledError


class _Waited(VirtualLock):
    """A lock as a step names it: equal to that of any other run."""

    def __init__(self, lock: RawLock) -> None:
        self._lock = lock

    @property
    def free(self) -> bool:
        return self._lock.owner is None

    @property
    def holder(self) -> str:
        return self._lock.owner or ""


class RawLock:
    """`_thread.lock`: not re-entrant, and anybody may release it."""

    here: Here
    me: Callable[[], str]

    def __init__(self) -> None:
        self.owner: str | None = None
        """The actor that has acquired it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout != -1 and (timeout < 0 or not blocking):
            return allocate_lock().acquire(blocking, timeout)  # which says what is wrong with that
        while self.owner is not None:
            if not blocking or timeout == 0:
                return False
            if not self.here().gate.wait(_Waited(self), None if timeout < 0 else timeout):
                return False
        self.owner = self.me()
        return True

    def release(self) -> None:
        if self.owner is None:
            raise RuntimeError("release unlocked lock")
        self.owner = None

    def locked(self) -> bool:
        return self.owner is not None

    acquire_lock, release_lock, locked_lock = acquire, release, locked
    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} lock>"

    def _at_fork_reinit(self) -> None:
        self.owner = None


def thread_names(here: Here) -> dict[str, Any]:
    """What `_thread` offers."""

    def me() -> str:
        try:
            return str(here().gate.me())
        except PodKilledError:  # outside of any pod: where the standard library is loaded
            return "nobody"

    lock = type("lock", (RawLock,), {"here": staticmethod(here), "me": staticmethod(me)})

    def get_ident() -> int:
        return _ident(here)

    def not_by_itself(*_: Any, **__: Any) -> None:
        here().refuse("starts a thread by _thread", "use threading.Thread")

    def interrupt_main(*_: Any) -> None:
        here().refuse("handles or sends signals", "leave that to the program around the pod")

    def local() -> PerActor:
        return PerActor(get_ident)

    return {
        "allocate_lock": lock, "allocate": lock, "LockType": lock, "lock": lock, "_set_sentinel": lock,
        "get_ident": get_ident, "get_native_id": get_ident, "_get_main_thread_ident": lambda: 0, "_local": local,
        "start_new_thread": not_by_itself, "start_new": not_by_itself, "start_joinable_thread": not_by_itself,
        "interrupt_main": interrupt_main,
    }  # fmt: skip


def _ident(here: Here) -> int:
    """0 outside of any pod: there the standard library is loaded, by its main thread."""
    try:
        return here().ident()
    except PodKilledError:
        return 0


class PerActor:
    """`_thread._local`, as much of it as `threading` itself needs; others get that of `_threading_local`."""

    def __init__(self, ident: Callable[[], Any]) -> None:
        vars(self).update(_ident=ident, _by_actor={})

    def __setattr__(self, name: str, value: Any) -> None:
        self._by_actor.setdefault(self._ident(), {})[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["_by_actor"][self._ident()][name]
        except KeyError:
            raise AttributeError(name) from None


def adapt_threading(threading: ModuleType, here: Here, local: Callable[[], Any]) -> None:
    """Threads are actors; what is counted is counted for each pod."""
    names = threading.__dict__
    names["_CRLock"] = None  # so RLock() makes the one that is written in Python
    names["Lock"] = names["_allocate_lock"]
    names["_active"] = PodsOwn(lambda: here().threads)
    names["_newname"] = lambda template="Thread-%d": template % here().count(template)
    thread = names["Thread"]
    thread.start, thread.join, thread.is_alive = _starter(names, here), _join, _is_alive
    thread.__hash__ = counted_hash(here)
    names["local"] = local()
    if "_DeleteDummyThreadOnDel" in names:  # since 3.13: a call is forgotten with its pod, not with its thread
        del names["_DeleteDummyThreadOnDel"].__del__
    threading.__class__ = _hooks(here, names["__excepthook__"])
    thread.hook_args = staticmethod(names["ExceptHookArgs"])
    for name in ("active_count", "activeCount", "enumerate"):
        names[name] = _counting_itself(names[name], names["current_thread"])


def _hooks(here: Here, default: Any) -> type[ModuleType]:
    """The class of a `threading` whose hook for what ends a thread is each pod's own."""

    class Threading(ModuleType):
        @property
        def excepthook(self) -> Any:
            return here().excepthook or default

        @excepthook.setter
        def excepthook(self, hook: Any) -> None:
            here().excepthook = None if hook is default else hook

    return Threading


def _counting_itself(function: Callable[[], Any], current_thread: Callable[[], Any]) -> Callable[[], Any]:
    """Who has not been started as a thread, such as a call, is known as one from when it first asks who it is."""

    def counted() -> Any:
        current_thread()
        return function()

    return counted


def _starter(names: dict[str, Any], here: Here) -> Callable[[Any], None]:
    def start(self: Any) -> None:
        if not self._initialized:
            raise RuntimeError("thread.__init__() not called")
        if self._started.is_set():
            raise RuntimeError("threads can only be started once")
        inside = here()
        self._over = names["_allocate_lock"]()
        self._over.owner = self._name
        self._started.set()
        inside.gate.spawn(_actor_name(self), lambda: _run(self, inside))

    return start


def _run(thread: Any, inside: Inside) -> None:
    ident = thread._ident = thread._native_id = inside.ident()
    inside.threads[ident] = thread
    try:
        thread.run()
    except SystemExit:  # ends a thread without a word
        pass
    except Exception as error:
        if inside.excepthook is None:
            raise
        inside.excepthook(thread.hook_args((type(error), error, error.__traceback__, thread)))
    finally:
        del inside.threads[ident]
        thread._over.release()


def _join(self: Any, timeout: float | None = None) -> None:
    if not self._initialized:
        raise RuntimeError("Thread.__init__() not called")
    if not self._started.is_set():
        raise RuntimeError("cannot join thread before it is started")
    over = self._over
    if self._ident is not None and self._ident == over.here().ident():
        raise RuntimeError("cannot join current thread")
    if over.acquire(timeout=-1 if timeout is None else max(timeout, 0)):
        over.release()


def _is_alive(self: Any) -> bool:
    over = vars(self).get("_over")
    return bool(self._started.is_set()) and (over is None or bool(over.locked()))


def _actor_name(thread: Any) -> str:
    """A name in which no point stands: it follows the pod's."""
    name = thread._name
    if name.startswith("Thread-"):
        name = getattr(thread._target, "__name__", "") or type(thread).__name__
    return plain_name(name)


def plain_name(name: str) -> str:
    return "".join(char if char.isalnum() or char == "_" else "-" for char in name).strip("-") or "thread"


def counted_hash(here: Here) -> Callable[[Any], int]:
    """By number: sets of threads and of futures are walked through in an order that must be the same each time."""

    def hashed(self: Any) -> int:
        number = vars(self).get("_hash")
        if number is None:
            try:
                number = here().count("hash")
            except PodKilledError:
                number = 0
            self._hash = number
        return int(number)

    return hashed


def adapt_futures(base: ModuleType, here: Here) -> None:
    """A worker logs what ends it; that its pod is dead is no news."""
    real = base.__dict__["LOGGER"]
    base.__dict__["Future"].__hash__ = counted_hash(here)

    class Quiet:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def critical(self, *args: Any, **options: Any) -> None:
            if not isinstance(sys.exception(), PodKilledError):
                real.critical(*args, **options)

    base.__dict__["LOGGER"] = Quiet()


def adapt_executor(module: ModuleType, here: Here) -> None:
    module.__dict__["ThreadPoolExecutor"]._counter = staticmethod(lambda: here().count("pool") - 1)
