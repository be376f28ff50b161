"""The failure modes that take whole fleets or a real server: short runs with one fault each, many times."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podrace.simulator.app import runs
from podrace.simulator.app.free_run import FreeRun, Plan, Standing, run_free
from podrace.simulator.app.names import TARGETS
from podrace.simulator.errors import TargetError, UsageError
from podrace.simulator.fleets import chaos, guarded
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, NOT_APPLICABLE, VIOLATED
from podrace.simulator.scenarios.upload_clients import FREE_UPLOADS, FreeUploads
from podrace.simulator.servers.connection import open_server

if TYPE_CHECKING:
    from podrace.simulator.app.campaign import NamedTarget

DURATION_S = 4.0
PERSISTENCE: Mapping[str, Mapping[str, str]] = {
    "always": {"appendonly": "yes", "appendfsync": "always"},
    "everysec": {"appendonly": "yes", "appendfsync": "everysec"},
    "none": {},
}
BOTH = frozenset({"local", "shared"})


@dataclass(frozen=True, kw_only=True)
class Directed:
    """One failure mode: its fault, the server's configuration, and who is expected to violate it.

    `refuses`: the targets that refuse to start on such a server, so that nothing is promised.
    """

    name: str
    row: int
    what: str
    faults: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=lambda: PERSISTENCE["always"])
    options: Mapping[str, Any] = field(default_factory=dict)
    workload: FreeUploads = FREE_UPLOADS
    violates: frozenset[str] = BOTH
    refuses: frozenset[str] = frozenset()
    then: str = ""
    duration_s: float = DURATION_S
    seed: int = 1

    def expected(self, target: str) -> str:
        if target in self.refuses:
            return NOT_APPLICABLE
        return VIOLATED if target in self.violates else HOLDS


REFUSE = {"durability": "refuse"}
SLOW = replace(FREE_UPLOADS, images_share=1.0, takes_s={"gemini": 0.2})
"""Every message has an image, whose upload takes its time: something is under way whenever a fault strikes."""
DURABLE = frozenset({"durable"})
DIRECTED = (
    Directed(
        name="restart",
        row=21,
        what="the server is killed and restarted, and keeps nothing",
        faults=("restart-server",),
        config=PERSISTENCE["none"],
        options=REFUSE,
        refuses=DURABLE,
    ),
    Directed(
        name="restart-with-aof",
        row=21,
        what="the server is killed and restarted, and keeps what it has acknowledged",
        faults=("restart-server",),
    ),
    Directed(
        name="machine-crash",
        row=21,
        what="the server's machine crashes, and the last second of what it has acknowledged is lost",
        faults=("crash-machine",),
        config=PERSISTENCE["everysec"],
        options=REFUSE,
        refuses=DURABLE,
    ),
    Directed(
        name="failover",
        row=22,
        what="a replica that lags is promoted",
        faults=("failover",),
        duration_s=8.0,  # something has to be absorbed in the moments in which the replica lags
        options={"wait_replicas": 1, "replica_timeout_s": 0.2},
    ),
    Directed(
        name="eviction",
        row=23,
        what="memory is full under an allkeys policy",
        faults=("evict",),
        config={**PERSISTENCE["always"], "maxmemory": "256mb", "maxmemory-policy": "allkeys-random"},
        options=REFUSE,
        refuses=DURABLE,
    ),
    Directed(
        name="server-full",
        row=24,
        what="memory is full: every write errors",
        faults=("server-full",),
        workload=SLOW,
    ),
    Directed(name="partition", row=25, what="one pod cannot reach the server for a while", faults=("partition",)),
    Directed(name="connections-cut", row=26, what="connections break, before and after a command", faults=("cut",)),
    Directed(
        name="clock-skew",
        row=27,
        what="the clocks of pods are wrong by minutes",
        faults=("skew",),
        violates=frozenset({"local"}),
    ),
    Directed(
        name="source-file-gone",
        row=31,
        what="the image's file disappears as soon as the message is accepted",
        workload=replace(SLOW, removes_files=True),
    ),
    Directed(name="gemini-fails", row=32, what="Gemini fails, is slow, hangs, loses replies", faults=("gemini",)),
    Directed(
        name="rolling-deploy",
        row=33,
        what="pods of `local` are replaced by pods of the target while messages flow",
        then="local",
        violates=frozenset({"local", "shared", "durable"}),
    ),
)


def find(name: str) -> Directed:
    """The one of that name; UsageError where there is none."""
    for one in DIRECTED:
        if one.name == name:
            return one
    raise UsageError(f"scenario {name!r}: expected all, or some of {', '.join(one.name for one in DIRECTED)}")


def directed_cell(
    one: Directed, target: NamedTarget, folder: Path, watch: Callable[[Standing], None]
) -> tuple[runs.Cell, FreeRun | None]:
    """Run one against a target on a server of its own."""
    began_s = time.monotonic()
    cell = runs.Cell(
        target=target.name,
        scenario=one.name,
        fleet="free",
        verdict=INCONCLUSIVE,
        expected=one.expected(target.name),
        counts={},
        row=one.row,
        what=one.what,
    )
    first, then = (TARGETS[one.then], target.path) if one.then else (target.path, "")
    plan = Plan(
        target=first,
        then=then,
        pods=4,
        users=30,
        messages=round(150 * one.duration_s),
        faults=chaos.named(one.faults),
        duration_s=one.duration_s,
        seed=one.seed,
        options=one.options,
    )
    folder.mkdir(parents=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="run-", dir=guarded.folder()) as work,
            open_server(None, one.config) as server,
        ):
            found = run_free(plan, one.workload, server, folder, Path(work), watch)
    except TargetError as error:
        if target.name not in one.refuses or "NotDurableError" not in str(error):
            raise
        refusal = f"it refuses to start on such a server: {str(error).partition('NotDurableError: ')[2]}"
        return replace(cell, verdict=NOT_APPLICABLE, words="–", note=refusal), None
    took_s = round(time.monotonic() - began_s, 3)
    return replace(
        cell,
        verdict=found.verdict,
        counts=found.counts,
        words=found.words,
        note=found.note,
        sentence=found.findings[0].sentence if found.findings else "",
        elapsed_s=took_s,
    ), found
