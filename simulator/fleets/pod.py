"""The inside of a pod's process: builds the pod from its spec, runs calls, reports steps to the parent."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from queue import SimpleQueue
from typing import Any, NoReturn

from podrace.simulator.errors import HarnessError, PodraceError, TargetError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.inline import left
from podrace.simulator.fleets.own_modules import OwnModules
from podrace.simulator.fleets.pipes import as_error_came, as_file_sent, packed, unpacked
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.events import describe, shorten
from podrace.simulator.history.outcome import outcome
from podrace.simulator.target import PodEnv, Target, is_plain, load_object, load_target, make_pod, method_of
from podrace.simulator.world import libraries
from podrace.simulator.world.client import broken, gated_client
from podrace.simulator.world.clock import EPOCH_US, US_PER_S
from podrace.simulator.world.locks import LockState, VirtualLock
from podrace.simulator.world.plain.inside import inside_of
from podrace.simulator.world.pods import make_env
from podrace.simulator.world.steps import GO, PAST_US, Failed, foreign_thread, plain_reply


def main(connection: Any, spec: PodSpec) -> None:
    """A pod's process, from its first instruction to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its pods itself
    guarded.die_with_parent()
    log = open(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - open to the end
    logging.basicConfig(stream=log, format="%(message)s")  # beside what the target prints
    _let_fork_server_go()
    if spec.output:
        _print_into(spec.output)
    pipe = Pipe(connection, quick=spec.free)
    gate: Any = StepGate(pipe, spec) if spec.gated else RecordingGate(pipe, spec)
    make = cache(partial(build_pod, spec, gate, pipe))
    try:
        if not spec.gated:  # else its first call makes it: what the factory does are steps too
            make()
    except (Exception, SystemExit) as error:  # for one, the temporary folder has gone with the parent
        ours = HarnessError(f"pod {spec.name} cannot be made: {type(error).__name__}: {error}")
        pipe.send("broken", error if isinstance(error, PodraceError) else ours)
        return
    pipe.send("ready")
    with libraries.led(lambda: gate.env if gate.virtual else None, threading.get_ident):
        serve(pipe, make, gate)


class Pipe:
    """The connection to the parent, safe to send on from every thread."""

    def __init__(self, connection: Any, *, quick: bool) -> None:
        self._connection = connection
        self._quick = quick
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._replies: dict[int, tuple[threading.Event, list[Any]]] = {}

    def send(self, *message: Any) -> None:
        with self._lock:
            try:
                self._connection.send_bytes(packed(message, quick=self._quick))
            except OSError:
                os._exit(1)  # the parent is gone

    def receive(self) -> tuple[Any, ...]:
        try:
            return unpacked(self._connection.recv_bytes(), quick=self._quick)
        except (EOFError, OSError):
            os._exit(1)

    def ask(self, *question: Any) -> Any:
        """Ask the parent to call a service, and wait for what that returns, or raises."""
        number = next(self._numbers)
        answered, reply = self._replies[number] = threading.Event(), []
        self.send("service", number, *question)
        answered.wait()
        worked, value = reply
        if not worked:
            raise as_error_came(value)
        return value

    def answer(self, number: int, worked: bool, value: Any) -> None:
        answered, reply = self._replies.pop(number)
        reply += [worked, value]
        answered.set()


class RemoteService:
    """A service that lives in the parent."""

    def __init__(self, pipe: Pipe, name: str) -> None:
        self._pipe = pipe
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **named: Any) -> Any:
            sent = tuple(map(as_file_sent, args)), {name: as_file_sent(value) for name, value in named.items()}
            return self._pipe.ask(self._name, method, *sent)

        return call


def build_pod(spec: PodSpec, gate: Any, pipe: Pipe) -> Any:
    """The pod that the spec describes, over the real parts."""
    from podrace.simulator.servers.connection import connect

    patience: dict[str, Any] = {"socket_timeout": None} if spec.gated and spec.import_source else {}
    client = connect(spec.redis_url, retries=spec.retries, **patience)
    services = {
        name: load_object(part, what="service")(**spec.settings.get(name, {})) if part else RemoteService(pipe, name)
        for name, part in spec.services.items()
    }
    env = make_env(
        name=spec.name,
        gate=gate,
        client=gated_client(client, gate, import_source=spec.import_source),
        prefix=spec.prefix,
        services=services,
        seed=spec.seed,
        incarnation=spec.incarnation,
        options=spec.options,
        failures=spec.failures,
    )
    gate.env = env
    return make_pod(_target_of(spec, gate), env)


def _target_of(spec: PodSpec, gate: Any) -> Target:
    target = load_target(spec.target)
    if not is_plain(target):
        return target
    return OwnModules(spec.target, lambda: inside_of(gate), free=not spec.gated).factory(spec.name)


def serve(pipe: Pipe, make: Callable[[], Any], gate: Any) -> None:
    """Take the parent's messages until it says `close`."""

    def answer(call: int, method: str, args: tuple[Any, ...]) -> None:
        pipe.send(gate.answer_kind, call, outcome(method_of(make(), method), *args))

    while True:
        kind, *rest = pipe.receive()
        if kind == "close":
            if not gate.virtual:
                getattr(make(), "close", lambda: None)()
            return
        if kind == "call":
            call, actor, method, args = rest
            gate.run(actor, partial(answer, call, method, args))
        elif kind == "reply":
            pipe.answer(*rest)
        else:
            gate.take(kind, *rest)


class RecordingGate:
    """Lets every step go at once under the real clock, and reports it with its time, unless the pod is free."""

    answer_kind = "result"
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
            self._idle.append(jobs)

    def take(self, kind: str, *rest: Any) -> None:
        """A message of the parent's: how wrong the clock is from now on."""
        assert kind == "skew"
        (self._skew_s,) = rest

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        if not self._spec.free:
            _pushed(self._current, (kind, args))
        return GO

    def after(self, reply: Any) -> None:
        if self._spec.free:
            return
        kind, args = self._current.taken.pop()
        self._pipe.send(
            "event",
            {
                "t_ms": round(time.monotonic() * 1000 - self._spec.epoch_s * 1000, 3),
                "type": "step",
                "actor": (actor := getattr(self._current, "actor", self._spec.name)),
                "step": (actor, kind, args),
                "says": describe(kind, args, self._spec.prefix),
                "action": GO,
                "failed": isinstance(reply, BaseException),
                "reply": shorten(plain_reply(reply)),
            },
        )

    def sent(self) -> None:
        self.after("sent")

    def receive(self, connection: Any, seconds: float | None, what: str) -> bool:
        raise AssertionError("under the real clock a connection waits by itself")

    def refuse(self, error: Exception) -> NoReturn:
        self._pipe.send("broken", error)
        raise SystemExit

    def lost(self, error: BaseException) -> None:
        if not self._spec.free:
            self._pipe.send("broken", _loss(self._spec.name, error))

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


def _print_into(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _loss(pod: str, error: BaseException) -> HarnessError:
    return HarnessError(
        f"a connection of pod {pod} broke though no fault broke it: {type(error).__name__}: {shorten(str(error), 200)}"
    )


@dataclass
class _Slot:
    """Where a stopped actor waits, and what it is told."""

    kind: str
    args: tuple[Any, ...]
    connection: Any = None
    action: str = GO
    hears_later: bool = False
    released: threading.Event = field(default_factory=threading.Event)


class StepGate:
    """Stops every actor at every gate until the parent lets it go; time is virtual.

    One actor runs at a time. When none does, the parent hears `quiet` and where each one stands.
    Actors are threads, so that the target runs as it would in production.
    """

    answer_kind = "returned"
    virtual = True

    def __init__(self, pipe: Pipe, spec: PodSpec) -> None:
        self._pipe = pipe
        self._pod = spec.name
        self._now_us = EPOCH_US
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
        self.answer: tuple[Any] | None = None
        self.env: PodEnv | None = None
        self.inside: Any = None
        """What belongs to a pod of plain code."""
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

    def after(self, reply: Any) -> None:
        self._is_done(reply)
        if self._current.hears_later:
            self.before("reply", ())
            self._current.taken.pop()

    def sent(self) -> None:
        self._is_done("sent")

    def _is_done(self, reply: Any) -> None:
        actor, kind, args, action = self._current.taken.pop()
        told = reply if reply is None or isinstance(reply, int) else plain_reply(reply)
        if isinstance(reply, BaseException):
            told = Failed(told)
        self._pipe.send("took", (actor, kind, _sendable(args)), action, told)

    def receive(self, connection: Any, seconds: float | None, what: str) -> bool:
        deadline_us = None if seconds is None else self._now_us + round(seconds * US_PER_S)
        action = self.before("receive", (what, deadline_us), connection)
        if action != GO:
            connection.disconnect()
            error = broken("connection")
            self.after(error)
            raise error
        return bool(connection.is_readable())

    def wait(self, lock: Any, seconds: float | None) -> bool:
        if seconds is None:
            self.before("lock", (lock,))
        else:
            self.before("timer", (self._now_us + round(seconds * US_PER_S) + PAST_US, seconds, lock))
        self.after("free" if lock.free else None)
        return bool(lock.free)

    def park(self, seconds: float | None) -> bool:
        actor, slot = self.me(), _Slot("timer", ())
        with self._lock:
            self._parked[actor] = slot
            if seconds is not None:
                slot.args = (self._now_us + round(seconds * US_PER_S) + PAST_US, seconds)
                self._waiting[actor] = slot
            self._stopped()
        slot.released.wait()
        if self._parked.pop(actor, None) is None:
            return True
        _pushed(self._current, (actor, slot.kind, slot.args, slot.action))
        self._is_done(None)
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
        self._pipe.send("broken", _loss(self._pod, error))

    def hang(self) -> None:
        self._is_done("never answers")
        with self._lock:
            self._stopped()
        threading.Event().wait()

    def now(self) -> float:
        return self._now_us / US_PER_S

    def sleep(self, seconds: float, past_us: int = 0) -> None:
        self.before("timer", (self._now_us + max(0, round(seconds * US_PER_S)) + past_us, seconds))
        self.after(None)

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


def _let_fork_server_go() -> None:
    """The fork server ends when nobody holds the other end of a pipe: a stopped pod would hold it for ever."""
    from multiprocess import forkserver

    server = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
