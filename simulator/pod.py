"""The inside of a pod's process: builds the pod from its spec, runs calls, reports steps to the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from simulator.errors import PodraceError
from simulator.fleet import PodSpec
from simulator.history import describe, plain, shorten
from simulator.outcome import outcome
from simulator.target import Pod, load_object, load_target
from simulator.world import GO, Gate, gated_client, make_env

_PR_SET_PDEATHSIG = 1


def main(connection: Any, spec: PodSpec) -> None:
    """A pod's process, from its first instruction to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its pods itself
    _die_with_parent()
    pipe = Pipe(connection)
    try:
        gate = _make_gate(pipe, spec)
        pod = build_pod(spec, gate)
    except PodraceError as error:
        pipe.send("broken", error)
        return
    pipe.send("ready")
    serve(pipe, pod, gate)


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
    from simulator.server import connect

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
    return load_target(spec.target)(env)


def serve(pipe: Pipe, pod: Pod, gate: Any) -> None:
    """Take the parent's messages until it says `close`."""
    while True:
        kind, *rest = pipe.receive()
        if kind == "close":
            pod.close()
            return
        if kind == "call":
            call, actor, method, args = rest
            gate.run(actor, _caller(pipe, pod, call, method, args))
        else:
            gate.take(kind, *rest)


def _caller(pipe: Pipe, pod: Pod, call: int, method: str, args: tuple[Any, ...]) -> Callable[[], None]:
    def run() -> None:
        pipe.send("result", call, outcome(getattr(pod, method), *args))

    return run


class RecordingGate:
    """Lets every step go at once under the real clock, and reports it with its time."""

    def __init__(self, pipe: Pipe, spec: PodSpec) -> None:
        self._pipe = pipe
        self._spec = spec
        self._current = threading.local()
        self._spawned: dict[str, int] = {}
        self._lock = threading.Lock()

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

    def hang(self) -> None:
        threading.Event().wait()

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def spawn(self, name: str, function: Callable[[], None]) -> None:
        with self._lock:
            number = self._spawned[name] = self._spawned.get(name, 0) + 1
        self.run(f"{self._spec.name}.{name}-{number}", function)

    def lock(self) -> AbstractContextManager[Any]:
        return threading.RLock()


def _make_gate(pipe: Pipe, spec: PodSpec) -> Any:
    return RecordingGate(pipe, spec)


def _die_with_parent() -> None:
    """Ask Linux to kill this process with its parent, so that even a stopped pod outlives nobody.

    Elsewhere the end of the pipe does it, for a pod that runs.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
