"""The failure modes that take whole fleets or a real server: short runs with one fault each, many times.

To add one, add an entry to DIRECTED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from podrace.simulator.app.free_run import FreeRun, Plan, run_free
from podrace.simulator.app.names import TARGETS, NamedTarget
from podrace.simulator.app.runs import unjudged
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.fleets import chaos
from podrace.simulator.judge.findings import HOLDS, NOT_APPLICABLE, VIOLATED
from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS, FreeUploads
from podrace.simulator.servers.connection import open_server

MESSAGES_PER_S = 150
PERSISTENCE: Mapping[str, Mapping[str, str]] = {
    "always": {"appendonly": "yes", "appendfsync": "always"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "none": {},
}
SLOW = replace(FREE_UPLOADS, images_share=1.0, takes_s={"gemini": 0.2})
"""Every message has an image, whose upload takes its time: something is under way whenever a fault strikes."""


@dataclass(frozen=True, kw_only=True)
class Directed:
    """One failure mode: its fault, the server's configuration, and who is expected to violate it.

    `keeps`: whether such a server keeps what it has acknowledged; on one that does not, pods are asked to refuse to
    start, as `durable` does. `then`: see Plan.
    """

    name: str
    row: int
    what: str
    fault: str = ""
    config: Mapping[str, str] = field(default_factory=lambda: PERSISTENCE["always"])
    keeps: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    workload: FreeUploads = FREE_UPLOADS
    violates: frozenset[str] = frozenset({"local", "shared"})
    then: str = ""
    duration_s: float = 4.0

    def expected(self, target: str) -> str:
        if target in self.violates:
            return VIOLATED
        return NOT_APPLICABLE if target == "durable" and not self.keeps else HOLDS


DIRECTED = (
    Directed(
        name="restart",
        row=21,
        what="the server is killed and restarted, and keeps nothing",
        fault="restart-server",
        config=PERSISTENCE["none"],
        keeps=False,
    ),
    Directed(
        name="restart-with-aof",
        row=21,
        what="the server is killed and restarted, and keeps what it has acknowledged",
        fault="restart-server",
        workload=SLOW,
    ),
    Directed(
        name="machine-crash",
        row=21,
        what="the server's machine crashes, and the last second of what it has acknowledged is gone",
        fault="crash-machine",
        config=PERSISTENCE["everysec"],
        keeps=False,
    ),
    Directed(
        name="failover",
        row=22,
        what="a replica that lags behind is promoted",
        fault="failover",
        options={"wait_replicas": 1, "replica_timeout_s": 0.2},
        duration_s=8.0,  # something has to be absorbed in the moments in which the replica lags
    ),
    Directed(
        name="eviction",
        row=23,
        what="the server is short of memory, and drops keys to get some",
        fault="evict",
        config={**PERSISTENCE["always"], "maxmemory": "256mb", "maxmemory-policy": "allkeys-random"},
        keeps=False,
    ),
    Directed(
        name="server-full",
        row=24,
        what="the server is out of memory, and every write fails",
        fault="server-full",
        workload=SLOW,
    ),
    Directed(name="partition", row=25, what="one pod cannot reach the server for a while", fault="partition"),
    Directed(name="connections-cut", row=26, what="connections break, before and after a command", fault="cut"),
    Directed(
        name="clock-skew",
        row=27,
        what="the clocks of pods are wrong by minutes",
        fault="skew",
        violates=frozenset({"local"}),
    ),
    Directed(
        name="gemini-files-expire",
        row=30,
        what="Gemini keeps a file for 2 s, and its message may be absorbed later",
        options={"file_life_s": 1.0},
        workload=replace(SLOW, life_s=2.0),
    ),
    Directed(
        name="source-file-gone",
        row=31,
        what="the image's file disappears as soon as its message is accepted",
        workload=replace(SLOW, removes_files=True),
    ),
    Directed(name="gemini-fails", row=32, what="Gemini fails, is slow, hangs, loses replies", fault="gemini"),
    Directed(
        name="rolling-deploy",
        row=33,
        what="pods of `local` are replaced, one after the other, by pods of the target while messages flow; these are "
        "judged by what they have promised themselves",
        then="local",
    ),
)


def unexplored() -> tuple[Directed, ...]:
    """Those whose failure modes no scenario of the catalogue explores."""
    from podrace.simulator.scenarios.catalogue import SCENARIOS

    explored = {scenario.row for scenario in SCENARIOS}
    return tuple(one for one in DIRECTED if one.row not in explored)


def named(name: str) -> Directed | None:
    """The one of that name, if there is one."""
    return next((one for one in DIRECTED if one.name == name), None)


def find(name: str) -> Directed:
    """The one of that name; UsageError where there is none."""
    if one := named(name):
        return one
    raise UsageError(f"scenario {name!r}: expected all, or some of {', '.join(one.name for one in DIRECTED)}")


def refuse_foreign(redis_url: str | None) -> None:
    """UsageError where these runs would break a server that is not ours."""
    if redis_url:
        raise UsageError("runs of whole fleets break servers, so they use their own only; leave --redis-url out")


def run_directed(one: Directed, target: NamedTarget, folder: Path, *, seed: int) -> FreeRun:
    """Run one against a target on a server of its own, which the target may refuse: then nothing runs."""
    cell = unjudged(one, target.name, "free")
    first, then = (TARGETS[one.then], target.path) if one.then else (target.path, "")
    plan = Plan(
        target=first,
        then=then,
        pods=4,
        users=30,
        messages=round(MESSAGES_PER_S * one.duration_s),
        faults=chaos.named([one.fault] if one.fault else []),
        duration_s=one.duration_s,
        seed=seed,
        options={**one.options, "durability": "warn" if one.keeps else "refuse"},
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open_server(None, one.config) as server:
            whole = run_free(cell, plan, one.workload, server, folder)
    except TargetError as error:
        if one.keeps or "NotDurableError" not in str(error):
            raise
        refusal = f"it refuses to start on such a server: {str(error).partition('NotDurableError: ')[2]}"
        return FreeRun(replace(cell, verdict=NOT_APPLICABLE, words="–", note=refusal))
    found = whole.since or whole
    return replace(found, cell=replace(found.cell, details=whole.cell.details))
