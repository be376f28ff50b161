"""A run of a free fleet: clients and faults for a while, then healing, coming to rest, and the verdict."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from podrace.simulator.app.judging import Recorded, judged
from podrace.simulator.app.show import OUTPUT
from podrace.simulator.app.smallest import events_that_show
from podrace.simulator.errors import HarnessError, UsageError
from podrace.simulator.fleets.chaos import LEASE_S, Chaos, Fault, World, draw
from podrace.simulator.fleets.driver import Driver
from podrace.simulator.fleets.free import Client, Journal, pod_name
from podrace.simulator.fleets.processes import READY_WITHIN_S, PodSpec
from podrace.simulator.history.events import Event
from podrace.simulator.judge import linear
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, VIOLATED, Finding
from podrace.simulator.judge.run import CallRecord, Left, Run
from podrace.simulator.scenarios.model import Call, Scenario, Workload
from podrace.simulator.servers.connection import Server, connect
from podrace.simulator.servers.embedded import EmbeddedServer
from podrace.simulator.servers.probe import Probe
from podrace.simulator.servers.proxy import Proxy
from podrace.simulator.target import load_target

HISTORY = "events.jsonl"
STILL_S = 61.0
"""At rest is a run in which nothing is left to do, or nothing moves for so long: longer than any lease."""
QUIET_S = 12.0
"""So long is enough where no key is left whose time to live ends within that: longer than any timer of a pod's."""
ROUND_S = 0.2
GONE = -2
"""When a key ends that has ended since it was asked for."""
SOCKET_TIMEOUT_S = 1.0
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
    """The exit code of what has ended it, where somebody did."""
    shown: Sequence[Event] = ()
    """The few events that show the first finding."""

    @property
    def words(self) -> str:
        """The kinds of what was found, worst first."""
        return ", ".join(dict.fromkeys(finding.kind for finding in self.findings)) or "ok"


@dataclass(frozen=True)
class Standing:
    """How far a run is, for who watches it."""

    stage: str
    seconds: float
    ended: Mapping[tuple[str, str], int]
    under_way: int
    progress: Any
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
        journal.epoch_s = time.monotonic()
        running = _Running(plan, workload, services, driver, world, watch, folder / HISTORY, work)
        running.bustle()
        running.come_to_rest(_left(server))
        journal.flush()
        return running.judged(_left(server))


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
        world: World,
        watch: Callable[[Standing], None],
        history: Path,
        work: Path,
    ) -> None:
        self.plan = plan
        self.driver = driver
        self.chaos = Chaos(
            world, draw([*plan.faults.values()], list(driver.ready), seed=plan.seed, duration_s=plan.duration_s)
        )
        self.interrupted: int | None = None
        self.rested_at_s = 0.0
        self.busy_s = self.rest_s = 0.0
        self.operations = 0
        targets = [plan.target, *filter(None, [plan.then])]
        keeps = [pattern for target in targets for pattern in getattr(load_target(target), "keeps", ())]
        self.scenario = Scenario("run", {}, workload=workload, keeps=keeps)
        self._pods = list(driver.ready)
        self._workload = workload
        self._services = services
        self._watch = watch
        self._history, self._work = history, work
        self._waits: dict[str, str] = {}
        self._stage = "running"
        self._began_s = time.monotonic()

    def bustle(self) -> None:
        """Clients and faults, until all is said or the time is over."""
        plan = self.plan
        each, more = divmod(plan.messages, plan.users)
        counts = [each + (number < more) for number in range(plan.users)]
        pause_s = plan.duration_s / max(1, each + bool(more))
        clients = [
            self._workload.client(number, count, pause_s * 0.8, random.Random(f"{plan.seed} client {number}"))
            for number, count in enumerate(counts)
            if count
        ]
        self.chaos.unleash(self._began_s)
        if plan.then:
            self._roll_out(plan.then)
        until_s = self._began_s + plan.duration_s if plan.duration_s else float("inf")
        self.driver.at(self._began_s, self._tell)
        try:
            self.driver.play(clients, until_s=until_s)
            while time.monotonic() < until_s and plan.faults and plan.duration_s:
                self.driver.turn(until_s)
        except KeyboardInterrupt as error:
            self._end_early(error)
        self.busy_s = time.monotonic() - self._began_s
        self.operations = sum(self.driver.ended.values())
        self.driver.dismiss()
        self.chaos.heal_all()

    def _end_early(self, error: KeyboardInterrupt) -> None:
        self.interrupted = getattr(error, "exit_code", 130)

    def _roll_out(self, target: str) -> None:
        """Replace pod after pod by one of another target, evenly over nine tenths of the time."""
        for number, pod in enumerate(self._pods):
            due_s = self._began_s + self.plan.duration_s * 0.9 * (number + 1) / len(self._pods)
            self.driver.at(due_s, partial(self.driver.replace, pod, target))

    def come_to_rest(self, left: Callable[[], Sequence[Left]]) -> None:
        """Ask every pod for whatever the workload asks, again and again, until nothing moves or is left to do."""
        driver, began_s = self.driver, time.monotonic()
        self._stage, self.rested_at_s = "coming to rest", time.time()
        driver.journal.note({"type": "rest", "stage": "begins"})
        try:
            while len(driver.ready) < len(self._pods):
                if time.monotonic() > began_s + READY_WITHIN_S:
                    raise HarnessError(f"pods: expected all to be ready again within {READY_WITHIN_S:g} s")
                driver.turn(time.monotonic() + ROUND_S)
            self._ask_until_still(left)
        except KeyboardInterrupt as error:
            self._end_early(error)
        driver.journal.note({"type": "rest", "stage": "over"})
        self.rest_s = time.monotonic() - began_s

    def _ask_until_still(self, left: Callable[[], Sequence[Left]]) -> None:
        moved_s, progress, pause_s, rounds = time.monotonic(), None, ROUND_S, 0
        still_s = 3.0 if self.interrupted else STILL_S
        while True:
            rounds += 1
            self.driver.play(self._resting(rounds))
            if progress != (progress := self._workload.progress(self._services)):
                moved_s, pause_s = time.monotonic(), ROUND_S
                continue
            self.driver.journal.flush()
            there = left()
            is_answered = not self.driver.unanswered
            is_clean = not any(map(self.scenario.is_leaked, there))  # else something may be under way still
            if is_answered and is_clean and self._is_done():
                return
            is_short_lived = any(one.left_s is not None and one.left_s < STILL_S for one in there)
            now_s = time.monotonic()
            if now_s > moved_s + QUIET_S and is_answered and not is_short_lived:
                return
            if now_s > moved_s + still_s:
                self._never_answered(now_s - still_s)
                return
            pause_until_s = time.monotonic() + pause_s
            while time.monotonic() < pause_until_s:
                self.driver.turn(pause_until_s)
            pause_s = min(2 * pause_s, 4.0)

    def _never_answered(self, before_s: float) -> None:
        """Take note of calls that pods which are alive have not answered since then; of equal ones the first."""
        known = set()
        for one in self.driver.unanswered.values():
            about = one.pod, one.asked.method, repr(one.asked.told)
            if one.since_s < before_s and about not in known and not self.interrupted:
                known.add(about)
                since_s = time.monotonic() - one.since_s
                self._waits[one.asked.name] = f"pod {one.pod}, which is alive and has not answered for {since_s:.0f} s"

    def _is_done(self) -> bool:
        return all(map(self._workload.is_done, self._recorded(lambda: ()).runs()))

    def _recorded(self, left: Callable[[], Sequence[Left]]) -> Recorded:
        return Recorded(
            path=self._history,
            workload=self._workload,
            services=self._services,
            left=left,
            struck=self.chaos.struck,
            rested_s=self.rested_at_s,
            waits=self._waits,
            work=self._work,
        )

    def judged(self, left: Callable[[], Sequence[Left]]) -> FreeRun:
        """What came of it."""
        recorded = self._recorded(left)
        found = judged(recorded, self.scenario)
        notes = ["interrupted"] if self.interrupted else []
        if linear.overall(found.objects) == INCONCLUSIVE:
            notes.append("the statuses of some uploads take more states to judge than there is budget for")
        if not found.is_judgeable:
            notes.append("nothing was accepted, so that nothing can be said")
        is_open = bool(self.interrupted or (notes and not found.findings))
        return FreeRun(
            verdict=INCONCLUSIVE if is_open else VIOLATED if found.findings else HOLDS,
            findings=found.findings,
            counts={**found.counts, **Counter(finding.kind for finding in found.findings)},
            note="; ".join(notes),
            struck=self.chaos.struck_by_name,
            operations=self.operations,
            busy_s=self.busy_s,
            rest_s=self.rest_s,
            objects=found.objects,
            interrupted=self.interrupted,
            shown=events_that_show(recorded, self.scenario, found.findings[0], found.objects) if found.findings else (),
        )

    def _resting(self, round_number: int) -> list[Client]:
        """One client a pod, which asks one thing after the other."""
        calls = [CallRecord(one.name, "", one.method, one.told, 0) for one in self.driver.first.values()]
        known = Run((), calls, self._services, 0, 0.0, {}, lambda: ())
        by_pod: dict[str, list[Call]] = {}
        for number, (pod, call) in enumerate(self._workload.at_rest(self._pods, known)):
            named = Call(f"rest-{round_number}-{number + 1}", call.method, call.args)
            by_pod.setdefault(pod, []).append(named)

        def client(pod: str, calls: Sequence[Call]) -> Client:
            for call in calls:
                yield self._workload.asked(call, pod)

        return [client(pod, calls) for pod, calls in by_pod.items()]

    def _tell(self) -> None:
        now_s = time.monotonic()
        faults = [f"{place}: {strike.name}" for place, strike in self.chaos.active.items()]
        progress = self._workload.progress(self._services)
        driver = self.driver
        self._watch(Standing(self._stage, now_s - self._began_s, driver.ended, len(driver.open), progress, faults))
        driver.at(now_s + 0.2, self._tell)


def _left(server: Server) -> Callable[[], Sequence[Left]]:
    def look() -> Sequence[Left]:
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

    return look
