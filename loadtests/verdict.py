"""The end of a run: its cells, its files, the table that is printed, and the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from locust.argument_parser import get_parser

from podrace.loadtests.arguments import as_command
from podrace.loadtests.latency import Latencies
from podrace.loadtests.shapes import RateSearch
from podrace.loadtests.slo import Breach
from podrace.loadtests.targets import UPLOAD, Plan, find_target
from podrace.simulator.app.runs import Cell, result_document, write_json
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, VIOLATED
from podrace.simulator.servers.connection import redact
from podrace.simulator.servers.embedded import ServerInfo

FAILED, BROKEN, UNKNOWN, AS_EXPECTED = 4, 1, 3, 0
PRECEDENCE = (
    (FAILED, "a part of the harness failed, so nothing else can be relied on"),
    (BROKEN, "a verdict differs from the expected one, or a limit is exceeded, for certain"),
    (UNKNOWN, "something is not known: the server or a worker was lost, or the generator was slow"),
    (AS_EXPECTED, "everything ran, was checked, and is as expected"),
)
"""The exit codes of a run; of several that apply, the first. 2, wrong usage, ends it before it begins."""
LIMITS = "limits"
LIBRARIES = ("locust", "gevent", "hdrhistogram", "hiredis")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that is known at the end of a run. `doubts`: why something is not known."""

    plan: Plan
    options: Any
    folder: Path
    server: ServerInfo
    latencies: Latencies
    health: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, int]]
    sentences: Mapping[str, str]
    scenarios: Iterable[str]
    died: Mapping[str, int]
    leaked: int
    lost_server: str
    doubts: Sequence[str]
    failures: Sequence[Mapping[str, Any]]
    breaches: Sequence[Breach]
    aborted: bool
    duration_s: float
    users: int
    search: RateSearch | None

    @property
    def unknown(self) -> list[str]:
        return [text for text in (self.lost_server, *self.doubts) if text]


def conclude(outcome: Outcome, cells: Sequence[Cell]) -> int:
    """Write the run's files, print its table. Returns the exit code."""
    write_files(outcome, cells)
    try:
        print("\n".join(lines(outcome, cells)), flush=True)
    except BrokenPipeError:  # the reader has gone; that changes no verdict
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for line in dict.fromkeys(failure["line"] for failure in outcome.failures):
        print(f"error: {line}", file=sys.stderr, flush=True)
    return exit_code(outcome, cells)


def exit_code(outcome: Outcome, cells: Sequence[Cell]) -> int:
    """The first of PRECEDENCE that applies."""
    codes = {failure.get("code", FAILED) for failure in outcome.failures} | {AS_EXPECTED}
    unexpected = [cell.verdict for cell in cells if cell.verdict != cell.expected]
    codes |= {UNKNOWN if verdict == INCONCLUSIVE else BROKEN for verdict in unexpected}
    return next(code for code, _ in PRECEDENCE if code in codes)


def make_cells(outcome: Outcome) -> list[Cell]:
    """One cell for each scenario whose users ran, and one for the limits."""
    nothing = {"accepted": 0, "delivered": 0, **dict.fromkeys(KINDS, 0)}
    found = []
    for scenario in sorted(outcome.scenarios):
        counts = {**nothing, **outcome.counts.get(scenario, {})}
        if scenario == UPLOAD:
            counts["leaked"] += outcome.leaked
        words = ", ".join(kind for kind in KINDS if counts[kind])
        doubts = outcome.unknown if counts["accepted"] else [*outcome.unknown, "nothing was accepted"]
        found.append(_cell(outcome, scenario, counts, words, doubts))
    certain = [breach.text for breach in outcome.breaches if not breach.excuse]
    doubts = [*outcome.unknown, *(f"{breach.text}: {breach.excuse}" for breach in outcome.breaches if breach.excuse)]
    if outcome.search is not None and outcome.search.stopped:
        doubts.append(outcome.search.stopped)
    elif outcome.search is not None and not outcome.search.best_per_s:
        certain.append("search: no rate stayed within --slo-p99-us")
    return [*found, _cell(outcome, LIMITS, nothing, "; ".join(certain), doubts)]


def _cell(outcome: Outcome, scenario: str, counts: Mapping[str, int], words: str, doubts: Sequence[str]) -> Cell:
    """`words` is what is wrong for certain, unless the server was lost."""
    certain = words and not outcome.lost_server
    return Cell(
        target=outcome.plan.target if outcome.scenarios else Path(outcome.options.locustfile).stem,
        scenario=scenario,
        fleet="locust",
        verdict=VIOLATED if certain else INCONCLUSIVE if doubts else HOLDS,
        expected=find_target(outcome.plan.target).expected(scenario),
        counts=counts,
        elapsed_s=round(outcome.duration_s, 3),
        words=words,
        note="; ".join(doubts),
        sentence=outcome.sentences.get(scenario, ""),
    )


def write_files(outcome: Outcome, cells: Sequence[Cell]) -> None:
    """result.json, latency.json, and where something failed traceback.txt; the logs have been written all along."""
    parser, options = get_parser(), dict(vars(outcome.options))
    options |= {"headless": True, "host": redact(options["host"]) if options["host"] else None}
    command = as_command(options, parser)
    document = result_document(command, seed=outcome.plan.seed, run=outcome.folder, server=outcome.server, cells=cells)
    names = {action.dest for action in parser._actions}
    document["options"] = {name: value for name, value in options.items() if name in names}
    document["ran"] = {"users": outcome.users, "rate": outcome.plan.rate_per_s, "aborted": outcome.aborted}
    document["cpu"] = cpu_model()
    document["versions"] |= {name: version(name) for name in LIBRARIES}
    document["generator"] = outcome.health
    document["slo"] = {"breaches": list(map(str, outcome.breaches))}
    document["failures"] = [failure["line"] for failure in outcome.failures]
    document["died"] = dict(outcome.died)
    if outcome.search is not None:
        search = outcome.search
        document["search"] = {"rate": search.best_per_s, "stopped": search.stopped, "steps": search.steps}
    write_json(outcome.folder / "result.json", document)
    write_json(outcome.folder / "latency.json", outcome.latencies.document(duration_s=outcome.duration_s))
    tracebacks = [failure["traceback"] for failure in outcome.failures if failure.get("traceback")]
    if tracebacks:
        (outcome.folder / "traceback.txt").write_text("\n".join(tracebacks), encoding="utf-8")


def cpu_model() -> str:
    """As the kernel names it; empty where no /proc does."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} of {len(names)} x {names[0]}" if names else ""


def lines(outcome: Outcome, cells: Sequence[Cell]) -> list[str]:
    """The summary: latencies, failures by name, the generator, verdicts, breaches, the folder."""
    rows = table(outcome.latencies, outcome.duration_s)
    for name, errors in sorted(outcome.latencies.errors.items()):
        slow = outcome.latencies.summary(name, "failed")
        rows += [f"failed: {name}: {error}: {count}" for error, count in errors.most_common()]
        rows.append(f"failed: {name}: after p50 {slow['p50_us']}, at most {slow['max_us']} µs")
    rows += [f"died in a pod: {name}: {count}" for name, count in outcome.died.items()]
    rows += outcome.health["says"]
    for cell in cells:
        counts = ", ".join(f"{kind} {count}" for kind, count in cell.counts.items() if count)
        said = f": {cell.sentence}" if cell.sentence else ""
        rows.append(f"{cell.target} {cell.scenario}: {cell.verdict}, expected {cell.expected} ({counts or '-'}){said}")
    rows += [f"unknown: {text}" for text in outcome.unknown]
    if outcome.search is not None:
        best = next((s for s in outcome.search.steps[::-1] if s["rate"] == outcome.search.best_per_s), None)
        held = f"--rate {best['rate']:g}, {best['tasks_per_s']:g} tasks a second," if best else "no rate was seen to"
        rows.append("; ".join(filter(None, (f"search: {held} stay within the limit", outcome.search.stopped))))
    rows += [f"limit exceeded: {breach}" for breach in outcome.breaches]
    rows += ["aborted: a limit was exceeded"] if outcome.aborted else []
    rows.append(f"run: {outcome.folder}")
    return rows


def table(latencies: Latencies, duration_s: float) -> list[str]:
    """Each operation's latencies as waited for, and, where there is a rate, from the intended start, below."""
    head = ("count", "/s", "p50", "p90", "p99", "p99.9", "max")
    rows = [f"{'operation':28}" + "".join(f"{word:>10}" for word in head) + "   µs"]
    for name in latencies.names:
        for kind, label in (("raw", name), ("corrected", "  from the intended start")):
            if kind in latencies.kinds(name):
                summary = latencies.summary(name, kind)
                rate = round(summary["count"] / duration_s) if duration_s else 0
                values = [summary["count"], rate, *list(summary.values())[1:]]
                rows.append(f"{label:28}" + "".join(f"{'–' if value is None else value:>10}" for value in values))
    return rows
