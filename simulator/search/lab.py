"""All that plays need: the server, clients, services, small files, and pods in this process or in their own."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import greenlet

from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.inline import InlineFleet, current_env, refuse_current
from podrace.simulator.fleets.own_modules import OwnModules
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.fleets.stepped import SteppedFleet
from podrace.simulator.scenarios.faults import CancelCall
from podrace.simulator.scenarios.model import Scenario
from podrace.simulator.search.play import Play
from podrace.simulator.search.record import Restart
from podrace.simulator.search.server_side import ServerSide
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.probe import Probe
from podrace.simulator.target import PodEnv, is_plain, load_target
from podrace.simulator.world import libraries
from podrace.simulator.world.client import disconnect, gated_client, is_as_new, set_gate
from podrace.simulator.world.clock import US_PER_S, Clock
from podrace.simulator.world.collector import quiet_collector
from podrace.simulator.world.footprints import CommandTable
from podrace.simulator.world.foreign import Guard
from podrace.simulator.world.plain.watch import native_threads, watched
from podrace.simulator.world.pods import failures_at, make_env
from podrace.simulator.world.steps import Gate

OPTIONS = {"absorb_limit": 1, "compress": False, "durability": "off"}
"""Our own server keeps nothing across a restart, and need not: no target has to look, or to warn."""


FEW = 3_000
"""New objects before the cycle collector runs, of plain code. Modules that are run afresh for each pod leave hundreds
of them in cycles, which are taken away fastest while the processor's cache still has them."""


def current_core() -> int:
    """The number of the core on which this process runs, or ran last (proc(5), field 39 of stat)."""
    return int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[36])


@contextmanager
def one_core(server: Server) -> Iterator[None]:
    """Puts this process and our own server on one core, where the system can.

    They take turns and never work at the same time; across two cores each turn would wait for the
    other core to wake, which takes several times as long as a command itself. It is the core on which this
    process runs now: several explorations at once, which the system has spread, keep apart.
    """
    if server.embedded is None or sys.platform != "linux":
        yield
        return
    allowed = os.sched_getaffinity(0)
    core = {current_core()}
    try:
        os.sched_setaffinity(0, core)
        os.sched_setaffinity(server.embedded.pid, core)
        yield
    finally:
        os.sched_setaffinity(0, allowed)


class Lab:
    """What both labs share: the server's probe and the scenario, prepared. A context manager."""

    def __init__(self, server: Server, target_path: str, scenario: Scenario, *, seed: int) -> None:
        self.server = server
        target = load_target(target_path)
        keeps = getattr(target, "keeps", ())  # what this target leaves on purpose, for a while
        self.scenario = replace(scenario, keeps=(*scenario.keeps, *keeps))
        self.prefix = server.prefix
        """Of every key of the run; plain code knows of none."""
        if is_plain(target):
            self.prefix = ""
            if server.embedded is None:
                raise UsageError(
                    f"target {target_path}: code that @podrace.own marks writes keys without a prefix, which podrace "
                    "does not let onto a server that it has not started; leave --redis-url and PODRACE_REDIS_URL out"
                )
        self.seed = seed
        self._cancels = any(isinstance(fault, CancelCall) for fault in scenario.faults)
        self.options = {**OPTIONS, **scenario.options}
        self._stack = ExitStack()
        # No socket timeout on our own server: it costs two polls a command, and the watchdog catches a hang.
        self._patience: dict[str, Any] = {"socket_timeout": None} if server.embedded else {}
        self._plays = 0
        self._current: Play | None = None

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="podrace-images-", dir=guarded.folder())))
        self.scenario = replace(self.scenario, workload=self.scenario.workload.prepare(self.scenario, self.folder))
        enter(one_core(self.server))
        own = self.server.embedded is not None
        self.probe = Probe(connect(self.server.url, **self._patience), own=own)
        self._stack.callback(self.probe.close)
        self.table = CommandTable(self.probe.command_rows(), self.probe.keys_of)
        self._guard = None if own else Guard(self.table, self.prefix)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def moves(self) -> object:
        """Something else after every step of every play."""
        return self._plays, self._current and (len(self._current.decisions), len(self._current.events))

    def unblock(self) -> str:
        """Restart our own server where it no longer answers: a script that never ends keeps it, and nobody can use it.

        Returns the reason in words, or '' where the server does answer.
        """
        if self.server.embedded is None or self.server.embedded.answers():
            return ""
        self.server.embedded.restart()
        self.probe.reconnect()
        return "a script, or a command, that does not end keeps the server busy"

    def notes(self) -> list[str]:
        """What has to be said of every verdict on this target."""
        if self.table.unclear:
            return ["a script of the target may touch keys that it does not declare: no orders around it are left out"]
        return []

    def play(self, retries: int) -> Play:
        """A fresh run, the client sending a command again so often."""
        raise AssertionError("a lab is of one kind or the other")

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys."""
        raise AssertionError("a lab is of one kind or the other")

    def _play(self, fleet: Any, clock: Clock, services: Mapping[str, Any]) -> Play:
        self._plays += 1
        side = ServerSide(self.probe, self.table, clock, self.prefix)
        self._current = Play(self.scenario, fleet, side, services)
        return self._current


class InlineLab(Lab):
    """Makes plays on pods in this process, one after the other: services in memory."""

    def __init__(self, server: Server, target_path: str, scenario: Scenario, *, seed: int) -> None:
        super().__init__(server, target_path, scenario, seed=seed)
        self._modules = OwnModules(target_path)
        self._failures = failures_at(self.scenario.workload.failures)
        self._clients: dict[tuple[str, int], Any] = {}
        self._connected = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self._connections = self.probe.connections()
        self._native_threads = native_threads()
        self._stack.enter_context(libraries.led(current_env, greenlet.getcurrent))
        self._stack.enter_context(watched(refuse_current, self._modules.is_own))
        self._stack.enter_context(quiet_collector(FEW) if self._modules.plain else quiet_collector())
        self._stack.callback(self._close_clients)
        return self

    def play(self, retries: int) -> Play:
        """A fresh run: new pods, services that have recorded nothing."""
        if self._modules.plain:  # what the collector ends of an earlier run must not end amid a step of this one
            gc.disable()
        clock = Clock()
        workload = self.scenario.workload
        services = workload.services(lambda: clock.now_us / US_PER_S, {})

        def env(name: str, incarnation: int, gate: Gate) -> PodEnv:
            client = self._client(name, retries)
            set_gate(client, gate)
            return make_env(
                name=name,
                gate=gate,
                client=client,
                prefix=self.prefix,
                services={key: workload.service_for(name, key, inner) for key, inner in services.items()},
                seed=self.seed,
                incarnation=incarnation,
                options=self.options,
                failures=self._failures,
            )

        self._fleet = InlineFleet(self._modules.factory, env, cancels=self._cancels)
        return self._play(self._fleet, clock, services)

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys. Raises Restart where the pods have shared what they changed."""
        self._fleet.close()
        gc.enable()
        for key, client in list(self._clients.items()):
            if not is_as_new(client):
                del self._clients[key]
                disconnect(client)
        play.side.clear()
        if self._modules.has_changed():
            self.table.know({}, ())  # else the search would count other orders as equivalent than one that begins here
            raise Restart

    def notes(self) -> list[str]:
        """Raises TargetError where connections to our server were made that are not the harness's."""
        others = self.probe.connections() - self._connections - self._connected
        if self.server.embedded is not None and others:
            raise TargetError(
                f"the target has made {others} connections of its own to the server, where nobody can stand between "
                "its steps: expected every command on env.redis; no verdict can be given"
            )
        threads = native_threads() - self._native_threads
        if threads > 0:
            raise TargetError(
                f"{threads} threads that Python knows nothing of were started by the target, or by what it imports "
                "late: nobody can stand between their steps; import what starts them at the top of the factory's "
                "module, if they are idle; no verdict can be given"
            )
        return super().notes()

    def _count_connection(self) -> None:
        self._connected += 1

    def _client(self, name: str, retries: int) -> Any:
        """One client a pod, with one connection: greenlets never talk on it at the same time."""
        if (name, retries) not in self._clients:
            client = connect(self.server.url, retries=retries, **self._patience)
            own = self.server.embedded is not None
            self._clients[name, retries] = gated_client(
                client,
                _NoGate(),
                one_connection=True,
                import_source=own,
                guard=self._guard,
                connected=self._count_connection,
            )
        return self._clients[name, retries]

    def _close_clients(self) -> None:
        for client in self._clients.values():
            disconnect(client)


class ProcessLab(Lab):
    """Makes plays on pods in processes: the services' real clients where the workload has such."""

    def __init__(
        self, server: Server, target_path: str, scenario: Scenario, *, seed: int, parts: Mapping[str, str]
    ) -> None:
        super().__init__(server, target_path, scenario, seed=seed)
        self._target_path = target_path
        self._parts = parts

    def play(self, retries: int) -> Play:
        """A fresh run: new processes, services that have recorded nothing."""
        self._run = ExitStack()
        clock = Clock()
        workload = self.scenario.workload

        def now() -> float:
            return clock.now_us / US_PER_S

        servers = workload.process_servers(now, self._run)
        services = workload.services(now, servers)
        spec = PodSpec(
            name="",
            target=self._target_path,
            redis_url=self.server.url,
            prefix=self.prefix,
            services={name: self._parts[name] if name in servers else "" for name in services},
            seed=self.seed,
            retries=retries,
            gated=True,
            cancels=self._cancels,
            import_source=self.server.embedded is not None,
            failures=workload.failures,
            options=self.options,
        )

        def spec_of(name: str, incarnation: int) -> PodSpec:
            return replace(spec, name=name, incarnation=incarnation, settings=workload.process_settings(name, servers))

        def call(pod: str, service: str, method: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
            return getattr(workload.service_for(pod, service, services[service]), method)(*args, **named)

        fleet = SteppedFleet(spec_of, call)
        self._run.callback(fleet.close)
        return self._play(fleet, clock, services)

    def finish(self, play: Play) -> None:
        """End the run's pods and remove its keys."""
        self._run.close()
        play.side.clear()


class _NoGate:
    """Stands before a client's commands until a pod gets it."""

    virtual = False
    answer = None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a client is used before a pod has it: {name}")
