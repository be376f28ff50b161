"""The end of a run: its cells, its breaches, its files, the table that is printed, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from podrace.loadtests.fleet import Plan
from podrace.loadtests.latency import Latencies
from podrace.loadtests.shapes import RateSearch
from podrace.loadtests.slo import Slo, breaches
from podrace.loadtests.targets import UPLOAD, LoadTarget, find_target
from podrace.simulator.app.runs import Cell, exit_code, result_document, write_json
from podrace.simulator.judge.checks import HOLDS, INCONCLUSIVE, KINDS, VIOLATED
from podrace.simulator.servers.connection import redact
from podrace.simulator.servers.embedded import ServerInfo


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that is known when a run is over. `doubts`: why something is not known."""

    plan: Plan
    folder: Path
    server: ServerInfo
    latencies: Latencies
    counts: Mapping[str, Mapping[str, int]]
    died: Mapping[str, int]
    leaked: int
    doubts: Sequence[str]
    duration_s: float
    slo: Slo
    search: RateSearch | None
    exceptions: int


def conclude(outcome: Outcome) -> int:
    """Write the run's files, print its table. Returns the exit code: 0 as expected, 1 not, 3 unknown."""
    target = find_target(outcome.plan.target)
    cells = make_cells(outcome, target)
    keepers = {cell.scenario: cell.counts for cell in cells if cell.expected == HOLDS}
    slo = replace(outcome.slo, p99_us={}) if outcome.search else outcome.slo  # a search goes beyond on purpose
    broken = breaches(slo, outcome.latencies, keepers)
    if outcome.search is not None and not outcome.search.best:
        broken.append("search: not even its first step stayed within --slo-p99-us")
    if outcome.exceptions:
        broken.append(f"{outcome.exceptions} kinds of exceptions in the users themselves; see the log")
    code = 1 if broken else exit_code(cells)
    write_files(outcome, cells, broken)
    print("\n".join(lines(outcome, cells, broken)), flush=True)
    return code


def make_cells(outcome: Outcome, target: LoadTarget) -> list[Cell]:
    """One cell for each scenario that ran; one inconclusive cell where nothing was accepted at all."""
    cells = []
    for scenario, counted in sorted(outcome.counts.items()):
        if not counted.get("accepted"):
            continue
        counts = {"accepted": 0, "delivered": 0, **dict.fromkeys(KINDS, 0), **counted}
        if scenario == UPLOAD:
            counts["leaked"] += outcome.leaked
        found = [kind for kind in KINDS if counts[kind]]
        verdict = VIOLATED if found else INCONCLUSIVE if outcome.doubts else HOLDS
        cells.append(
            Cell(
                target=outcome.plan.target,
                scenario=scenario,
                fleet="locust",
                verdict=verdict,
                expected=target.expected[scenario],
                counts=counts,
                elapsed_s=round(outcome.duration_s, 3),
                words=", ".join(found),
                note="; ".join(outcome.doubts),
            )
        )
    return cells or [
        Cell(
            target=outcome.plan.target,
            scenario="load",
            fleet="locust",
            verdict=INCONCLUSIVE,
            expected=HOLDS,
            counts={"accepted": 0, "delivered": 0, **dict.fromkeys(KINDS, 0)},
            note="; ".join([*outcome.doubts, "nothing was accepted"]),
        )
    ]


def write_files(outcome: Outcome, cells: Sequence[Cell], broken: Sequence[str]) -> None:
    """result.json and latency.json; latency.hlog has been written all along."""
    command = ["locust", *(redact(word) if "://" in word else word for word in sys.argv[1:])]
    document = result_document(command, seed=outcome.plan.seed, run=outcome.folder, server=outcome.server, cells=cells)
    document["slo"] = {"breaches": list(broken)}
    document["died"] = dict(outcome.died)
    if outcome.search is not None:
        best = outcome.search.best
        rate = round(best * outcome.plan.rate_per_s, 1)
        document["search"] = {"users": best, "tasks_per_s": rate, "steps": outcome.search.steps}
    write_json(outcome.folder / "result.json", document)
    paced = bool(outcome.plan.rate_per_s)
    latency = outcome.latencies.document(duration_s=outcome.duration_s, paced=paced)
    write_json(outcome.folder / "latency.json", latency)


def lines(outcome: Outcome, cells: Sequence[Cell], broken: Sequence[str]) -> list[str]:
    """The summary: latencies, failures by name, verdicts, breaches, the folder."""
    head = ("operation", "count", "/s", "p50", "p90", "p99", "p99.9", "max")
    rows = [f"{head[0]:18}" + "".join(f"{word:>10}" for word in head[1:]) + "   µs, from the intended start"]
    for name in outcome.latencies.names:
        summary = outcome.latencies.summary(name, "corrected")
        rate = summary["count"] / outcome.duration_s if outcome.duration_s else 0.0
        values = [summary["count"], round(rate), *list(summary.values())[1:]]
        rows.append(f"{name:18}" + "".join(f"{value:>10}" for value in values))
    for name, errors in sorted(outcome.latencies.errors.items()):
        rows += [f"failed: {name}: {error}: {count}" for error, count in errors.most_common()]
    rows += [f"died in a pod: {name}: {count}" for name, count in outcome.died.items()]
    for cell in cells:
        counts = ", ".join(f"{kind} {count}" for kind, count in cell.counts.items() if count)
        rows.append(f"{cell.target} {cell.scenario}: {cell.verdict}, expected {cell.expected} ({counts})")
    rows += [f"unknown: {doubt}" for doubt in outcome.doubts]
    if outcome.search is not None:
        best = outcome.search.best
        rows.append(f"search: {best} users, {best * outcome.plan.rate_per_s:g} tasks a second, stay within the limit")
    rows += [f"SLO breached: {text}" for text in broken]
    rows.append(f"run: {outcome.folder}")
    return rows
