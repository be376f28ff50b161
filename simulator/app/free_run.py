"""A run of a free fleet: clients and faults for a while, then healing, coming to rest, and the verdict."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from podrace.simulator.app.judging import Judged, Recorded, judged, since_replaced
from podrace.simulator.app.resting import Resting
from podrace.simulator.app.show import OUTPUT
from podrace.simulator.app.smallest import events_that_show
from podrace.simulator.errors import UsageError
from podrace.simulator.fleets.chaos import LEASE_S, Chaos, Fault, World, draw
from podrace.simulator.fleets.driver import Driver
from podrace.simulator.fleets.free import Journal, pod_name
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.events import Event
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.judge import linear
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, VIOLATED, Finding
from podrace.simulator.judge.run import Left
from podrace.simulator.scenarios.model import Scenario, Workload
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.servers.proxy import Proxy
from podrace.simulator.target import load_target
from podrace.simulator.world.collector import quiet_collector

HISTORY = "events.jsonl"
GONE = -2
"""When a key ends that has ended since it was asked for."""
SOCKET_TIMEOUT_S = 1.0
LANES = 96
"""Of all pods together: each is an open file."""
POD_OPTIONS: Mapping[str, Any] = {"absorb_limit": 1, "lease_s": LEASE_S, "upload_timeout_s": 10.0, "durability": "warn"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run. `messages` are those of all clients together, `duration_s=0` as fast as they can.

    `then`: a target by whose pods those of `target` are replaced one after the other, while messages flow.
    """

    target: str
    pods: int
    users: int
    messages: int
    faults: Mapping[str, Fault] = field(default_factory=dict)
    duration_s: float = 0.0
    seed: int = 7
    options: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""


@dataclass(frozen=True)
class FreeRun:
    """What came of it. `counts` are the workload's and the findings'; `struck` is by fault; times in seconds."""

    verdict: str
    findings: Sequence[Finding]
    counts: Mapping[str, int]
    note: str
    struck: Mapping[str, int]
    operations: int
    busy_s: float
    rest_s: float
    objects: Sequence[linear.KeyVerdict]
    interrupted: int | None = None
    """The exit code of the signal that ended the run, if one did."""
    shown: Sequence[Event] = ()
    """The few events that show the first finding."""
    since: FreeRun | None = None
    """Where pods were replaced, the run by what those have promised that came later; its counts tell the rest."""

    @property
    def words(self) -> str:
        """The kinds of what was found, worst first, then those of what pods before these had promised."""
        own = ", ".join(dict.fromkeys(finding.kind for finding in self.findings)) or "ok"
        old = ", ".join(kind for kind in KINDS if f"old_{kind}" in self.counts)
        return f"{own}; old pods: {old}" if old else own


@dataclass(frozen=True)
class Standing:
    """How far a run is, for the progress line."""

    stage: str
    seconds: float
    ended: Mapping[tuple[str, str], int]
    under_way: int
    delivered: int
    faults: Sequence[str]


def run_free(
    plan: Plan, workload: Workload, server: Server, folder: Path, work: Path, watch: Callable[[Standing], None]
) -> FreeRun:
    """Run and judge. The history goes into `folder`, pictures and sockets into `work`. Ctrl-C ends it: inconclusive.

    Raises UsageError where a fault would break a server that is not ours.
    """
    workload = workload.prepare_clients(work)
    services = workload.services(time.time, {})
    names = [pod_name(number) for number in range(plan.pods)]
    touched = sorted(name for name, fault in plan.faults.items() if fault.on in ("server", "network"))
    if touched and server.embedded is None:
        raise UsageError(
            f"fault {touched[0]}: it would break a server that podrace has not started; leave --redis-url out"
        )
    journal = Journal(folder / HISTORY, time.monotonic())
    with ExitStack() as stack:
        stack.callback(journal.close)
        proxy = replica = None
        if "failover" in plan.faults:
            assert server.embedded is not None
            replica = stack.enter_context(EmbeddedServer(config=server.embedded.config))
            server.embedded.listen()
            replica.follow(server.embedded)
        if replica or any(fault.on == "network" for fault in plan.faults.values()):
            assert server.embedded is not None
            proxy = stack.enter_context(Proxy(work, names, server.embedded.socket_path, seed=plan.seed))
        specs = _specs(plan, workload, services, server, proxy, names, folder)
        driver = stack.enter_context(
            Driver(
                specs,
                journal,
                choose=random.Random(f"{plan.seed} pods").choice,
                services=lambda pod, service: workload.service_for(pod, service, services[service]),
                says=workload.says,
                takes_s=workload.takes_s,
            )
        )
        world = World(driver, server.embedded, proxy, replica, random.Random(f"{plan.seed} faults"))
        strikes = draw([*plan.faults.values()], names, seed=plan.seed, duration_s=plan.duration_s)
        journal.epoch_s = time.monotonic()
        running = _Running(plan, workload, services, driver, Chaos(world, strikes), watch)
        stack.enter_context(quiet_collector())
        recorded = Recorded(path=folder / HISTORY, workload=workload, services=services, left=_left(server), work=work)
        return running.run(recorded)


def _specs(
    plan: Plan,
    workload: Workload,
    services: Mapping[str, Any],
    server: Server,
    proxy: Proxy | None,
    names: Sequence[str],
    folder: Path,
) -> list[PodSpec]:
    def url(name: str) -> str:
        base = proxy.url(name) if proxy else server.url
        return f"{base}{'&' if '?' in base else '?'}socket_timeout={SOCKET_TIMEOUT_S:g}"

    return [
        PodSpec(
            name=name,
            target=plan.target,
            redis_url=url(name),
            prefix=server.prefix,
            services=dict.fromkeys(services, ""),
            seed=plan.seed,
            free=True,
            lanes=LANES // plan.pods,
            output=str(folder.resolve() / OUTPUT),
            options={**POD_OPTIONS, **plan.options},
        )
        for name in names
    ]


class _Running:
    """The stages of one run."""

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        services: Mapping[str, Any],
        driver: Driver,
        chaos: Chaos,
        watch: Callable[[Standing], None],
    ) -> None:
        self._plan = plan
        self._driver = driver
        self._chaos = chaos
        self._workload = workload
        self._services = services
        self._watch = watch
        self._pods = list(driver.ready)
        self._stage = "running"
        self._interrupted: int | None = None
        self._began_s = time.monotonic()

    def run(self, recorded: Recorded) -> FreeRun:
        """Let clients and faults at it, let it come to rest, and judge it."""
        driver, plan = self._driver, self._plan
        with self._until_interrupted():
            self._bustle()
        busy_s, operations = time.monotonic() - self._began_s, sum(driver.ended.values())
        driver.dismiss()
        self._chaos.heal_all()
        self._stage = "coming to rest"
        driver.journal.note({"type": "rest", "stage": "begins"})
        recorded = replace(recorded, struck=self._chaos.struck, rested_s=time.time())
        keeps = [
            one for path in filter(None, [plan.target, plan.then]) for one in getattr(load_target(path), "keeps", ())
        ]
        scenario = Scenario("run", {}, workload=self._workload, keeps=keeps)
        resting = Resting(driver, recorded, scenario, self._pods, is_hurried=self._interrupted is not None)
        with self._until_interrupted():
            resting.come_to_rest()
        driver.journal.note({"type": "rest", "stage": "over"})
        rest_s = time.monotonic() - self._began_s - busy_s
        driver.journal.flush()
        return self._conclude(replace(recorded, waits=resting.waits), scenario, operations, busy_s, rest_s)

    @contextmanager
    def _until_interrupted(self) -> Iterator[None]:
        try:
            yield
        except Interrupted as error:
            self._interrupted = error.exit_code

    def _bustle(self) -> None:
        """Run clients and faults until all messages are sent or the time is over."""
        plan = self._plan
        each, more = divmod(plan.messages, plan.users)
        counts = [each + (number < more) for number in range(plan.users)]
        pause_s = plan.duration_s / max(1, each + bool(more))
        clients = [
            self._workload.client(number, count, pause_s * 0.8, random.Random(f"{plan.seed} client {number}"))
            for number, count in enumerate(counts)
            if count
        ]
        self._chaos.unleash(self._began_s)
        if plan.then:
            self._roll_out(plan.then)
        until_s = self._began_s + plan.duration_s if plan.duration_s else float("inf")
        self._driver.at(self._began_s, self._tell)
        self._driver.play(clients, until_s=until_s)
        while time.monotonic() < until_s and plan.faults and plan.duration_s:
            self._driver.turn(until_s)

    def _roll_out(self, target: str) -> None:
        """Replace pod after pod by one of another target, evenly over nine tenths of the time."""
        for number, pod in enumerate(self._pods):
            due_s = self._began_s + self._plan.duration_s * 0.9 * (number + 1) / len(self._pods)
            self._driver.at(due_s, partial(self._driver.replace, pod, target))

    def _tell(self) -> None:
        now_s, driver = time.monotonic(), self._driver
        faults = [f"{place}: {strike.name}" for place, strike in self._chaos.active.items()]
        delivered = self._workload.delivered(self._services)
        self._watch(Standing(self._stage, now_s - self._began_s, driver.ended, len(driver.open), delivered, faults))
        driver.at(now_s + 0.2, self._tell)

    def _conclude(
        self, recorded: Recorded, scenario: Scenario, operations: int, busy_s: float, rest_s: float
    ) -> FreeRun:
        """Judge the run, and add what only its driver knows."""
        whole = self._result(recorded, scenario, judged(recorded, scenario), operations, busy_s, rest_s)
        if not self._plan.then:
            return whole
        later = since_replaced(recorded, self._pods)
        found = judged(later, scenario, whole.findings)
        since = self._result(later, scenario, found, operations, busy_s, rest_s)
        before = Counter(one.kind for one in whole.findings) - Counter(one.kind for one in found.findings)
        counted = ", ".join(f"{kind} {count}" for kind, count in before.items())
        note = f"of what the pods before had promised: {counted}" if counted else ""
        counts = {**since.counts, **{f"old_{kind}": count for kind, count in before.items()}}
        return replace(whole, since=replace(since, counts=counts, note="; ".join(filter(None, [since.note, note]))))

    def _result(
        self,
        recorded: Recorded,
        scenario: Scenario,
        found: Judged,
        operations: int,
        busy_s: float,
        rest_s: float,
    ) -> FreeRun:
        notes = ["interrupted"] if self._interrupted else []
        if linear.overall(found.objects) == INCONCLUSIVE:
            notes.append("the statuses of some uploads take more states to judge than there is budget for")
        if not found.is_judgeable:
            notes.append("nothing was accepted, so that nothing can be said")
        is_open = bool(self._interrupted or (notes and not found.findings))
        return FreeRun(
            verdict=INCONCLUSIVE if is_open else VIOLATED if found.findings else HOLDS,
            findings=found.findings,
            counts={**found.counts, **Counter(finding.kind for finding in found.findings)},
            note="; ".join(notes),
            struck=self._chaos.struck_by_name,
            operations=operations,
            busy_s=busy_s,
            rest_s=rest_s,
            objects=found.objects,
            interrupted=self._interrupted,
            shown=events_that_show(recorded, scenario, found.findings[0], found.objects) if found.findings else (),
        )


def _left(server: Server) -> Callable[[], Sequence[Left]]:
    def left() -> Sequence[Left]:
        probe = Probe(connect(server.url), own=False)
        try:
            keys = probe.under(server.prefix)
            ends_ms, now_ms = probe.ends(keys)
            return [
                Left(key.removeprefix(server.prefix), value, None if end_ms < 0 else (end_ms - now_ms) / 1000)
                for key, value, end_ms in zip(keys, probe.values(keys), ends_ms, strict=True)
                if end_ms != GONE
            ]
        finally:
            probe.close()

    return left
