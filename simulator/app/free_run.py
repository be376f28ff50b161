"""A run of a free fleet: clients and faults for a while, then healing, coming to rest, and the verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from podrace.simulator.app import over_time, timeline
from podrace.simulator.app.judging import Judged, Recorded, judged, since_replaced
from podrace.simulator.app.resting import come_to_rest
from podrace.simulator.app.runs import Cell, stem_of, write_json
from podrace.simulator.app.show import OUTPUT
from podrace.simulator.app.smallest import events_that_show
from podrace.simulator.errors import UsageError
from podrace.simulator.fleets import guarded
from podrace.simulator.fleets.chaos import LEASE_S, Chaos, Fault, World, draw
from podrace.simulator.fleets.driver import Driver
from podrace.simulator.fleets.free import Journal, pod_name
from podrace.simulator.fleets.processes import PodSpec
from podrace.simulator.history.events import Event
from podrace.simulator.interrupts import Interrupted
from podrace.simulator.judge import linear
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, VIOLATED
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
    """What came of it: the cell, and the few events that show its first finding.

    `interrupted` is the exit code of the signal that ended the run, if one did. `since`: where pods were replaced, the
    run by what those have promised that came later; its counts tell the rest.
    """

    cell: Cell
    shown: Sequence[Event] = ()
    interrupted: int | None = None
    since: FreeRun | None = None

    def write_shown(self, folder: Path) -> None:
        """Write the events that show the first finding as those of a counterexample."""
        if self.shown:
            timeline.write(folder, stem_of(self.cell.target, self.cell.scenario), self.shown, self.cell.sentence)


def progress_line(
    stage: str,
    seconds: float,
    ended: Mapping[tuple[str, str], int],
    under_way: int,
    delivered: int,
    faults: Sequence[str],
) -> str:
    """How far a run is, in one line."""
    rate = sum(ended.values()) / seconds if seconds else 0.0
    accepted = ended["add_message", "ok"]
    return (
        f"{stage} {seconds:.0f} s  messages: accepted {accepted}  delivered {delivered}  "
        f"pending {max(0, accepted - delivered)}  calls {under_way}  {rate:.0f}/s  "
        f"faults: {', '.join(faults) or 'none'}"
    )


def run_free(
    cell: Cell,
    plan: Plan,
    workload: Workload,
    server: Server,
    folder: Path,
    watch: Callable[[str], None] = lambda line: None,
) -> FreeRun:
    """Run what a cell stands for, and judge it. Ctrl-C ends it: inconclusive.

    The history, and the run over time, go into `folder`. Raises UsageError where a fault would break a server that is
    not ours.
    """
    names = [pod_name(number) for number in range(plan.pods)]
    touched = sorted(name for name, fault in plan.faults.items() if fault.on in ("server", "network"))
    if touched and server.embedded is None:
        raise UsageError(
            f"fault {touched[0]}: it would break a server that podrace has not started; leave --redis-url out"
        )
    journal = Journal(folder / HISTORY, time.monotonic())
    with ExitStack() as stack:
        stack.callback(journal.close)
        work = Path(stack.enter_context(TemporaryDirectory(prefix="run-", dir=guarded.folder())))
        workload = workload.prepare_clients(work)
        services = workload.services(time.time, {})
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
        left = partial(_left, server)
        recorded = Recorded(path=folder / HISTORY, workload=workload, services=services, left=left, work=work)
        running = _Running(cell, plan, recorded, driver, Chaos(world, strikes), names, watch)
        stack.enter_context(quiet_collector())
        return running.run()


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


@dataclass
class _Running:
    """The stages of one run."""

    cell: Cell
    plan: Plan
    recorded: Recorded
    driver: Driver
    chaos: Chaos
    pods: Sequence[str]
    watch: Callable[[str], None]
    stage: str = "running"
    interrupted: int | None = None
    began_s: float = field(default_factory=time.monotonic)

    def run(self) -> FreeRun:
        """Let clients and faults at it, let it come to rest, and judge it."""
        driver, plan, recorded = self.driver, self.plan, self.recorded
        with self._until_interrupted():
            self._bustle()
        busy_s, operations = time.monotonic() - self.began_s, sum(driver.ended.values())
        driver.dismiss()
        self.chaos.heal_all()
        self.stage = "coming to rest"
        driver.journal.note({"type": "rest", "stage": "begins"})
        recorded = replace(recorded, struck=self.chaos.struck, rested_s=time.time())
        keeps = [
            one for path in filter(None, [plan.target, plan.then]) for one in getattr(load_target(path), "keeps", ())
        ]
        scenario = Scenario("run", {}, workload=recorded.workload, keeps=keeps)
        waits: Mapping[str, str] = {}
        with self._until_interrupted():
            waits = come_to_rest(driver, recorded, scenario, self.pods, is_hurried=self.interrupted is not None)
        driver.journal.note({"type": "rest", "stage": "over"})
        rest_s = time.monotonic() - self.began_s - busy_s
        driver.journal.flush()
        details = {"struck": dict(self.chaos.struck_by_name), "operations": operations}
        details |= {"busy_s": round(busy_s, 3), "rest_s": round(rest_s, 3)}
        self.cell = replace(self.cell, elapsed_s=round(busy_s + rest_s, 3), details=details)
        return self._conclude(replace(recorded, waits=waits), scenario)

    @contextmanager
    def _until_interrupted(self) -> Iterator[None]:
        try:
            yield
        except Interrupted as error:
            self.interrupted = error.exit_code

    def _bustle(self) -> None:
        """Run clients and faults until all messages are sent or the time is over."""
        plan = self.plan
        each, more = divmod(plan.messages, plan.users)
        counts = [each + (number < more) for number in range(plan.users)]
        pause_s = plan.duration_s / max(1, each + bool(more))
        clients = [
            self.recorded.workload.client(number, count, pause_s * 0.8, random.Random(f"{plan.seed} client {number}"))
            for number, count in enumerate(counts)
            if count
        ]
        self.chaos.unleash(self.began_s)
        if plan.then:
            self._roll_out(plan.then)
        until_s = self.began_s + plan.duration_s if plan.duration_s else float("inf")
        self.driver.at(self.began_s, self._tell)
        self.driver.play(clients, until_s=until_s)
        while time.monotonic() < until_s and plan.faults and plan.duration_s:
            self.driver.turn(until_s)

    def _roll_out(self, target: str) -> None:
        """Replace pod after pod by one of another target, evenly over nine tenths of the time."""
        for number, pod in enumerate(self.pods):
            due_s = self.began_s + self.plan.duration_s * 0.9 * (number + 1) / len(self.pods)
            self.driver.at(due_s, partial(self.driver.replace, pod, target))

    def _tell(self) -> None:
        now_s, driver, recorded = time.monotonic(), self.driver, self.recorded
        faults = [f"{place}: {strike.name}" for place, strike in self.chaos.active.items()]
        delivered = recorded.workload.delivered(recorded.services)
        seconds = now_s - self.began_s
        self.watch(progress_line(self.stage, seconds, driver.ended, len(driver.open), delivered, faults))
        driver.at(now_s + 0.2, self._tell)

    def _conclude(self, recorded: Recorded, scenario: Scenario) -> FreeRun:
        """Judge the run; where pods were replaced, by what the later ones have promised too."""
        found, since = judged(recorded, scenario), None
        spans = over_time.over_time(recorded, found.findings, self.cell.target, self.cell.details["busy_s"])
        write_json(recorded.path.with_name(over_time.FILE), spans)
        if self.plan.then:
            later = since_replaced(recorded, self.pods)
            theirs = judged(later, scenario, found.findings)
            since = self._result(later, scenario, theirs, old=found.kinds - theirs.kinds)
        return self._result(recorded, scenario, found, since=since)

    def _result(
        self,
        recorded: Recorded,
        scenario: Scenario,
        found: Judged,
        *,
        old: Mapping[str, int] = MappingProxyType({}),
        since: FreeRun | None = None,
    ) -> FreeRun:
        """The run as tables and files tell it. `old`: what was found of pods before these, by its kind."""
        notes = ["interrupted"] if self.interrupted else []
        if linear.overall(found.objects) == INCONCLUSIVE:
            notes.append("the statuses of some uploads take more states to judge than there is budget for")
        if not found.is_judgeable:
            notes.append("nothing was accepted, so that nothing can be said")
        is_open = bool(self.interrupted or (notes and not found.findings))
        words = ", ".join(found.kinds) or "ok"
        if old:
            notes.append(f"of what the pods before had promised: {', '.join(f'{kind} {old[kind]}' for kind in old)}")
            words += f"; old pods: {', '.join(kind for kind in KINDS if kind in old)}"
        objects = [
            {"key": one.key, "verdict": one.verdict, "shows": [shown._asdict() for shown in one.shows]}
            for one in found.objects
            if one.verdict != HOLDS
        ]
        details = {
            "of_later_pods": dict(since.cell.counts) if since else {},
            "findings": [asdict(one) for one in found.findings],
            "judged_objects": len(found.objects),
            "objects": objects,
        }
        cell = replace(
            self.cell,
            verdict=INCONCLUSIVE if is_open else VIOLATED if found.findings else HOLDS,
            counts={**found.counts, **found.kinds, **{f"old_{kind}": count for kind, count in old.items()}},
            words=words,
            note="; ".join(notes),
            sentence=found.findings[0].sentence if found.findings else "",
            details={**self.cell.details, **details},
        )
        shown = events_that_show(recorded, scenario, found.findings[0], found.objects) if found.findings else ()
        return FreeRun(cell, shown, self.interrupted, since)


def _left(server: Server) -> Sequence[Left]:
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
