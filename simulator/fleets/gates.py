"""The gates of a pod in a process of its own: one lets every step go and reports it, one stops before each."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any, NoReturn

from podrace.simulator.errors import HarnessError, PodraceError, TargetError, connection_error
from podrace.simulator.fleets.pipes import Pipe
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.fleets.protocol import VirtualGate
from podrace.simulator.history.events import shorten
from podrace.simulator.target import PodEnv, left
from podrace.simulator.world.clock import EPOCH_US
from podrace.simulator.world.locks import LockState, VirtualLock
from podrace.simulator.world.steps import GO, Failed, foreign_thread, plain_reply


class RecordingGate:
    """Lets every step go at once under the real clock, and reports it with its time. A free pod has none before it."""

    virtual = False
    answer: Any = None
    env: PodEnv | None = None
    inside: Any = None

    def __init__(self, pipe: Pipe, spec: PodSpec) -> None:
        self._pipe = pipe
        self._spec = spec
        self._current = threading.local()
        self._numbers = _numbers()
        self._idle: deque[SimpleQueue[tuple[str, Callable[[], None]]]] = deque()
        self._skew_s = 0.0

    def run(self, actor: str, function: Callable[[], None]) -> None:
        """Run it in a thread, one that has ended its last job where there is one."""
        try:
            jobs = self._idle.pop()
        except IndexError:
            jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(jobs,), name=actor, daemon=True).start()
        jobs.put((actor, function))

    def _work(self, jobs: SimpleQueue[tuple[str, Callable[[], None]]]) -> None:
        while True:
            actor, function = jobs.get()
            threading.current_thread().name = self._current.actor = actor
            self.run_here(actor, function)
            self._idle.append(jobs)

    def run_here(self, actor: str, function: Callable[[], None]) -> None:
        """Run it in this thread."""
        try:
            function()
        except PodraceError as error:
            self._pipe.send("broken", error)
        except Exception as error:
            if not self._spec.free:
                raise  # a thread of the pod's own ends as it would in production
            self._pipe.send("died", actor, plain_reply(error))
        except BaseException as error:
            self._pipe.send("broken", left(actor, error))

    def take(self, kind: str, *rest: Any) -> None:
        """A message of the parent's: how wrong the clock is from now on."""
        assert kind == "skew"
        (self._skew_s,) = rest

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        _pushed(self._current, (kind, args))
        return GO

    def after(self, reply: Any) -> None:
        kind, args = self._current.taken.pop()
        self._pipe.send(
            "event",
            {
                "t_ms": round(time.monotonic() * 1000 - self._spec.epoch_s * 1000, 3),
                "type": "step",
                "actor": (actor := getattr(self._current, "actor", self._spec.name)),
                "step": (actor, kind, args),
                "action": GO,
                "failed": isinstance(reply, BaseException),
                "reply": shorten(plain_reply(reply)),
            },
        )

    def sent(self) -> None:
        self.after("sent")

    def receive(self, connection: Any, seconds: float | None, source: str) -> bool:
        raise AssertionError("under the real clock a connection waits by itself")

    def refuse(self, error: Exception) -> NoReturn:
        self._pipe.send("broken", error)
        raise SystemExit

    def lost(self, error: BaseException) -> None:
        self._pipe.send("broken", connection_error(self._spec.name, error))

    def hang(self) -> None:
        threading.Event().wait()

    def now(self) -> float:
        return time.time() + self._skew_s

    def sleep(self, seconds: float, past_us: int = 0) -> None:
        time.sleep(seconds)

    def spawn(self, name: str, function: Callable[[], None]) -> str:
        actor = f"{self._spec.name}.{name}-{next(self._numbers[name])}"
        self.run(actor, function)
        return actor

    def lock(self) -> AbstractContextManager[Any]:
        return threading.RLock()


@dataclass
class _Slot:
    """Where a stopped actor waits, and what it is told."""

    kind: str
    args: tuple[Any, ...]
    connection: Any = None
    action: str = GO
    hears_later: bool = False
    released: threading.Event = field(default_factory=threading.Event)


class StepGate(VirtualGate):
    """Stops every actor at every gate until the parent lets it go; time is virtual.

    One actor runs at a time. When none does, the parent hears `quiet` and where each one stands.
    Actors are threads, so that the target runs as it would in production.
    """

    def __init__(self, pipe: Pipe, spec: PodSpec) -> None:
        self._pipe = pipe
        self._pod = spec.name
        self._now_us = EPOCH_US
        self.now_us = lambda: self._now_us
        self._current = threading.local()
        self._lock = threading.Lock()
        self._running = 0
        self._starting: list[Callable[[], None]] = []
        """What lets the actors begin, or go on, that are next once the one that runs has stopped."""
        self._waiting: dict[str, _Slot] = {}
        self._parked: dict[str, _Slot] = {}
        """Actors that stand aside until another of the pod wakes them."""
        self._names: dict[int, str] = {}
        self._numbers = _numbers()
        self.cancels = spec.cancels

    def run(self, actor: str, function: Callable[[], None]) -> None:
        with self._lock:
            self._running += 1
        self._start(actor, function)

    def take(self, kind: str, *rest: Any) -> None:
        """A message of the parent's: let an actor go, let time pass, or say whether an actor has something to read."""
        if kind == "clock":
            (self._now_us,) = rest
            return
        if kind == "ready?":
            slot = self._waiting.get(rest[0])
            self._pipe.send("ready!", bool(slot and slot.connection and slot.connection.is_readable()))
            return
        if kind == "cancel":
            with self._lock:
                self._running += 1  # this, until it has woken the loop
                self.inside.cancel(rest[0])
                self._stopped()
            return
        actor, action, self.answer, hears_later = rest
        with self._lock:
            slot = self._waiting.pop(actor)
            self._running += 1
        slot.action, slot.hears_later = action, hears_later
        slot.released.set()

    def before(self, kind: str, args: tuple[Any, ...], connection: Any = None) -> str:
        actor = getattr(self._current, "actor", None)
        if actor is None:
            self._pipe.send("broken", foreign_thread())
            raise SystemExit  # ends the thread without a traceback
        slot = _Slot(kind, args, connection)
        with self._lock:
            self._waiting[actor] = slot
            self._stopped()
        slot.released.wait()
        _pushed(self._current, (actor, kind, args, slot.action))
        self._current.hears_later = slot.hears_later
        return slot.action

    def is_done(self, reply: Any) -> Any:
        actor, kind, args, action = self._current.taken.pop()
        heard = reply if reply is None or isinstance(reply, int) else plain_reply(reply)
        if isinstance(reply, BaseException):
            heard = Failed(heard)
        self._pipe.send("took", (actor, kind, _sendable(args)), action, heard)
        return self._current

    def park(self, seconds: float | None) -> bool:
        actor, slot = self.me(), _Slot("timer", ())
        with self._lock:
            self._parked[actor] = slot
            if seconds is not None:
                slot.args = self.deadline(seconds)
                self._waiting[actor] = slot
            self._stopped()
        slot.released.wait()
        if self._parked.pop(actor, None) is None:
            return True
        _pushed(self._current, (actor, slot.kind, slot.args, slot.action))
        self.is_done(None)
        return False

    def unpark(self, actor: str) -> None:
        slot = self._parked.pop(actor)
        self._waiting.pop(actor, None)
        self._starting.append(slot.released.set)

    def set_aside(self, function: Callable[[Callable[[], Any]], Any] | None) -> None:
        """Every actor is a thread: what is kept by thread is its own."""

    def me(self) -> str:
        return getattr(self._current, "actor", "nobody")

    def refuse(self, error: Exception) -> NoReturn:
        self._pipe.send("broken", error)
        raise SystemExit

    def lost(self, error: BaseException) -> None:
        self._pipe.send("broken", connection_error(self._pod, error))

    def hang(self) -> None:
        self.is_done("never answers")
        with self._lock:
            self._stopped()
        threading.Event().wait()

    def spawn(self, name: str, function: Callable[[], None]) -> str:
        actor = f"{self._pod}.{name}-{next(self._numbers[name])}"
        self._starting.append(partial(self._start, actor, function))
        return actor

    def lock(self) -> AbstractContextManager[Any]:
        return VirtualLock(self, threading.get_ident, lambda owner: self._names.get(owner, str(owner)))

    def _start(self, actor: str, function: Callable[[], None]) -> None:
        def act() -> None:
            self._current.actor = actor
            self._names[threading.get_ident()] = actor
            try:
                function()
            except (TargetError, HarnessError) as error:
                self._pipe.send("broken", error)
            except Exception as error:  # the pod goes on without it
                self._pipe.send("died", actor, plain_reply(error))
            except BaseException as error:
                self._pipe.send("broken", left(actor, error))
            with self._lock:
                self._stopped()

        threading.Thread(target=act, name=actor, daemon=True).start()

    def _stopped(self) -> None:
        """One actor less is running; with none left, start the next new one or tell the parent."""
        self._running -= 1
        if self._running:
            return
        if self._starting:
            self._running += 1
            self._starting.pop(0)()
            return
        stands = [(actor, slot.kind, _sendable(slot.args)) for actor, slot in self._waiting.items()]
        self._pipe.send("quiet", stands)


def _pushed(current: Any, step: tuple[Any, ...]) -> None:
    """Take note of a step that this thread is taking: a service may call back while it is called."""
    if not hasattr(current, "taken"):
        current.taken = []
    current.taken.append(step)


def _numbers() -> defaultdict[str, Iterator[int]]:
    """By name: 1, 2, …"""
    return defaultdict(lambda: count(1))


def _sendable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A lock goes over the pipe as whether it is free, and who holds it."""
    return tuple(LockState(arg.free, arg.holder) if isinstance(arg, VirtualLock) else arg for arg in args)
