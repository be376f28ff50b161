"""The inside of a pod's process: builds the pod from its spec, runs calls, reports steps to the parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from typing import Any

from podrace.simulator.errors import HarnessError, PodraceError, TargetError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.events import describe, plain, shorten
from podrace.simulator.history.outcome import outcome
from podrace.simulator.target import Pod, load_object, load_target, make_pod
from podrace.simulator.world.gates import (
    GO,
    Gate,
    LockState,
    VirtualLock,
    foreign_thread,
    gated_client,
    make_env,
    plain_reply,
)


def main(connection: Any, spec: PodSpec) -> None:
    """A pod's process, from its first instruction to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its pods itself
    guarded.die_with_parent()
    _let_fork_server_go()
    pipe = Pipe(connection)
    gate: Any = StepGate(pipe, spec) if spec.gated else RecordingGate(pipe, spec)
    make = cache(partial(build_pod, spec, gate))
    try:
        if not spec.gated:  # else its first call makes it: what the factory does are steps too
            make()
    except Exception as error:  # for one, the temporary folder has gone with the parent
        ours = HarnessError(f"pod {spec.name} cannot be made: {type(error).__name__}: {error}")
        pipe.send("broken", error if isinstance(error, PodraceError) else ours)
        return
    pipe.send("ready")
    serve(pipe, make, gate)


class Pipe:
    """The connection to the parent, safe to send on from every thread."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(1)  # the parent is gone

    def receive(self) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = self._connection.recv()
        except (EOFError, OSError):
            os._exit(1)
        return message


def build_pod(spec: PodSpec, gate: Gate) -> Pod:
    """The pod that the spec describes, over the real parts."""
    from podrace.simulator.servers.connection import connect

    client = gated_client(connect(spec.redis_url, retries=spec.retries), gate)
    env = make_env(
        name=spec.name,
        gate=gate,
        client=client,
        prefix=spec.prefix,
        gemini=load_object(spec.gemini, what="files service")(api_key="local", base_url=spec.files_url),
        memory=load_object(spec.memory, what="memory agent")(spec.ledger_path),
        seed=spec.seed,
        options=spec.options,
    )
    return make_pod(load_target(spec.target), env)


def serve(pipe: Pipe, make: Callable[[], Pod], gate: Any) -> None:
    """Take the parent's messages until it says `close`."""

    def answer(call: int, method: str, args: tuple[Any, ...]) -> None:
        pipe.send(gate.answer, call, outcome(getattr(make(), method), *args))

    while True:
        kind, *rest = pipe.receive()
        if kind == "close":
            if gate.real_time:
                make().close()
            return
        if kind == "call":
            call, actor, method, args = rest
            gate.run(actor, partial(answer, call, method, args))
        else:
            gate.take(kind, *rest)


class RecordingGate:
    """Lets every step go at once under the real clock, and reports it with its time."""

    answer = "result"
    real_time = True

    def __init__(self, pipe: Pipe, spec: PodSpec) -> None:
        self._pipe = pipe
        self._spec = spec
        self._current = threading.local()
        self._numbers = _numbers()

    def run(self, actor: str, function: Callable[[], None]) -> None:
        def act() -> None:
            self._current.actor = actor
            function()

        threading.Thread(target=act, name=actor, daemon=True).start()

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        self._current.step = (kind, args)
        return GO

    def after(self, reply: Any) -> None:
        kind, args = self._current.step
        self._pipe.send(
            "event",
            {
                "t_ms": round((time.monotonic() - self._spec.epoch_s) * 1000, 3),
                "type": "step",
                "actor": getattr(self._current, "actor", self._spec.name),
                "kind": kind,
                "what": describe(kind, args, self._spec.prefix),
                "action": GO,
                "reply": shorten(plain(reply)),
            },
        )

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        self.run(f"{self._spec.name}.{name}-{next(self._numbers[name])}", function)

    def lock(self) -> AbstractContextManager[Any]:
        return threading.RLock()


@dataclass
class _Slot:
    """Where a stopped actor waits, and what it is told."""

    kind: str
    args: tuple[Any, ...]
    action: str = GO
    released: threading.Event = field(default_factory=threading.Event)


class StepGate:
    """Stops every actor at every gate until the parent lets it go; time is virtual.

    One actor runs at a time. When none does, the parent hears `quiet` and where each one stands.
    Actors are threads, so that the target runs as it would in production.
    """

    answer = "returned"
    real_time = False

    def __init__(self, pipe: Pipe, spec: PodSpec) -> None:
        self._pipe = pipe
        self._pod = spec.name
        self._clock_s = spec.epoch_s
        self._current = threading.local()
        self._lock = threading.Lock()
        self._running = 0
        self._starting: list[tuple[str, Callable[[], None]]] = []
        self._waiting: dict[str, _Slot] = {}
        self._numbers = _numbers()

    def run(self, actor: str, function: Callable[[], None]) -> None:
        with self._lock:
            self._running += 1
        self._start(actor, function)

    def take(self, kind: str, *rest: Any) -> None:
        """A message of the parent's: let an actor go, or let time pass."""
        if kind == "advance":
            self._clock_s += rest[0]
            return
        actor, action = rest
        with self._lock:
            slot = self._waiting.pop(actor)
            self._running += 1
        slot.action = action
        slot.released.set()

    def before(self, kind: str, args: tuple[Any, ...]) -> str:
        actor = getattr(self._current, "actor", None)
        if actor is None:
            self._pipe.send("broken", foreign_thread())
            raise SystemExit  # ends the thread without a traceback
        slot = _Slot(kind, args)
        with self._lock:
            self._waiting[actor] = slot
            self._stopped()
        slot.released.wait()
        self._current.step = (actor, kind, args)
        self._current.action = slot.action
        return slot.action

    def after(self, reply: Any) -> None:
        actor, kind, args = self._current.step
        told = reply if reply is None or isinstance(reply, int) else plain_reply(reply)
        self._pipe.send("took", (actor, kind, _sendable(args)), self._current.action, told)

    def hang(self) -> None:
        self.after("never answers")
        with self._lock:
            self._stopped()
        threading.Event().wait()

    def now(self) -> float:
        return self._clock_s

    def sleep(self, seconds: float) -> None:
        deadline_s = self._clock_s + seconds
        self.before("timer", (deadline_s, seconds))
        self._clock_s = max(self._clock_s, deadline_s)
        self.after(None)

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        self._starting.append((f"{self._pod}.{name}-{next(self._numbers[name])}", function))

    def lock(self) -> AbstractContextManager[Any]:
        return VirtualLock(self, threading.get_ident)

    def _start(self, actor: str, function: Callable[[], None]) -> None:
        def act() -> None:
            self._current.actor = actor
            try:
                function()
            except TargetError as error:
                self._pipe.send("broken", error)
            except Exception as error:  # the pod goes on without it
                self._pipe.send("died", actor, plain_reply(error))
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
            self._start(*self._starting.pop(0))
            return
        stands = [(actor, slot.kind, _sendable(slot.args)) for actor, slot in self._waiting.items()]
        self._pipe.send("quiet", stands)


def _numbers() -> defaultdict[str, Iterator[int]]:
    """By name: 1, 2, …"""
    return defaultdict(lambda: count(1))


def _sendable(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A lock goes over the pipe as whether it is free."""
    return tuple(LockState(arg.free) if isinstance(arg, VirtualLock) else arg for arg in args)


def _let_fork_server_go() -> None:
    """The fork server ends when nobody holds the other end of a pipe: a stopped pod would hold it for ever."""
    from multiprocess import forkserver

    server = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
