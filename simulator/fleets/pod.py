"""The inside of a pod's process: builds the pod from its spec, runs calls, reports steps to the parent."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import Any

from podrace.simulator.errors import HarnessError, PodraceError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.freshness import forget_changed
from podrace.simulator.fleets.gates import RecordingGate, StepGate
from podrace.simulator.fleets.own_modules import OwnModules
from podrace.simulator.fleets.pipes import Lane, Pipe, as_file_sent
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.outcome import outcome
from podrace.simulator.target import Target, is_plain, load_object, load_target, make_pod, method_of
from podrace.simulator.world import libraries
from podrace.simulator.world.client import gated_client
from podrace.simulator.world.plain.inside import inside_of
from podrace.simulator.world.pods import failures_at, make_env

MethodNamed = Callable[[str], Callable[..., Any]]


def main(connections: Sequence[Any], spec: PodSpec) -> None:
    """A pod's process, from its first instruction to its last. `connections`: the pipe's, then the lanes'."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its pods itself
    guarded.die_with_parent()
    if spec.free:
        _preempt_nobody()
    log = open(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - open to the end
    logging.basicConfig(stream=log, format="%(message)s")  # beside what the target prints
    _let_fork_server_go()
    forget_changed(spec.target)
    if spec.output:
        _print_into(spec.output)
    pipe = Pipe(connections[0], quick=spec.free)
    gate: Any = StepGate(pipe, spec) if spec.gated else RecordingGate(pipe, spec)
    own = threading.local()
    make = cache(partial(build_pod, spec, gate, lambda: getattr(own, "lane", pipe)))
    method = cache(lambda name: method_of(make(), name))
    try:
        if not spec.gated:  # else its first call makes it: what the factory does are steps too
            make()
    except BaseException as error:  # for one, the temporary folder has gone with the parent
        ours = HarnessError(f"pod {spec.name} cannot be made: {type(error).__name__}: {error}")
        pipe.send("broken", error if isinstance(error, PodraceError) else ours)
        return
    pipe.send("ready")
    with libraries.led(lambda: gate.env if gate.virtual else None, threading.get_ident):
        for number, connection in enumerate(connections[1:], 1):
            lane = Lane(connection, -number, pipe)
            threading.Thread(target=serve_lane, args=(lane, own, method, gate), name=spec.name, daemon=True).start()
        serve(pipe, make, method, gate)


class RemoteService:
    """A service that lives in the parent."""

    def __init__(self, pipe: Callable[[], Pipe], name: str) -> None:
        self._pipe = pipe
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **named: Any) -> Any:
            sent = tuple(map(as_file_sent, args)), {name: as_file_sent(value) for name, value in named.items()}
            return self._pipe().ask(self._name, method, *sent)

        return call


def build_pod(spec: PodSpec, gate: Any, pipe: Callable[[], Pipe]) -> Any:
    """The pod that the spec describes, over the real parts."""
    from podrace.simulator.servers.connection import connect

    patience: dict[str, Any] = {"socket_timeout": None} if spec.gated and spec.import_source else {}
    client = connect(spec.redis_url, retries=spec.retries, **patience)
    services = {
        name: load_object(part, noun="service")(**spec.settings.get(name, {})) if part else RemoteService(pipe, name)
        for name, part in spec.services.items()
    }
    env = make_env(
        name=spec.name,
        gate=gate,
        client=client if spec.free else gated_client(client, gate, import_source=spec.import_source),
        prefix=spec.prefix,
        services=services,
        gates_services=not spec.free,
        seed=spec.seed,
        incarnation=spec.incarnation,
        options=spec.options,
        failures=failures_at(spec.failures),
    )
    gate.env = env
    return make_pod(_target_of(spec, gate), env)


def _target_of(spec: PodSpec, gate: Any) -> Target:
    target = load_target(spec.target)
    if not is_plain(target):
        return target
    return OwnModules(spec.target, lambda: inside_of(gate), free=not spec.gated).factory(spec.name)


def serve(pipe: Pipe, make: Callable[[], Any], method_named: MethodNamed, gate: Any) -> None:
    """Take the parent's messages until it says `close`."""
    while True:
        kind, *rest = pipe.receive()
        if kind == "close":
            if not gate.virtual:
                getattr(make(), "close", lambda: None)()
            return
        if kind == "call":
            call, actor, method, args = rest
            gate.run(actor, partial(answer, pipe, method_named, call, method, args))
        elif kind == "reply":
            pipe.answer(*rest)
        else:
            gate.take(kind, *rest)


def answer(pipe: Pipe, method_named: MethodNamed, call: int, method: str, args: tuple[Any, ...]) -> None:
    """Call the pod's method, and say how that ended."""
    pipe.send("result", call, *outcome(method_named(method), *args))


def serve_lane(lane: Lane, own: threading.local, method_named: MethodNamed, gate: RecordingGate) -> None:
    """Take one call after the other. `own` keeps the lane for this thread: there its calls ask services."""
    own.lane = lane
    while True:
        _, call, actor, method, args = lane.receive()
        gate.run_here(actor, partial(answer, lane, method_named, call, method, args))


def _print_into(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _preempt_nobody() -> None:
    """On Linux a pod that is woken waits for its turn (SCHED_BATCH): preempting took a sixth of a free fleet's time."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _let_fork_server_go() -> None:
    """The fork server ends when nobody holds the other end of a pipe: a stopped pod would hold it for ever."""
    from multiprocess import forkserver

    server = forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
