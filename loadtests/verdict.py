"""The end of a run: what is known, its cells, its files, the table that is printed, and the exit code."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locust.argument_parser import get_parser

from podrace.loadtests.arguments import as_command
from podrace.loadtests.latency import Latencies
from podrace.loadtests.servers import files_api_lost, leftovers
from podrace.loadtests.targets import UPLOAD, find_target
from podrace.simulator.app.runs import Cell, result_document, write_json
from podrace.simulator.judge.findings import HOLDS, INCONCLUSIVE, KINDS, VIOLATED
from podrace.simulator.servers.connection import redact

if TYPE_CHECKING:
    from podrace.loadtests.master import Master

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


class Verdict:
    """What is known at the end of the master's run, before its latencies are closed."""

    def __init__(self, master: Master) -> None:
        assert master.plan is not None
        self.master, self.plan, self.search = master, master.plan, master.search
        self.duration_s = master.duration_s()
        self.health = master.generator.document(self.duration_s)
        self.failures = [*master.failures, *_failures_of_users(master)]
        self.target = find_target(self.plan.target)
        reports = master.reports.values()
        missing = master.expected - master.done - {failure.get("id") for failure in master.failures}
        keys_left, self.lost = leftovers(master.server, master.run_id, getattr(self.target.factory, "keeps", ()))
        if UPLOAD in master.scenarios:
            self.lost = self.lost or files_api_lost(master.files_url)
        self.leaked = 0 if missing or self.failures else keys_left  # a worker that died left keys that it still needed
        self.users = sum(report["users"] for report in reports)
        doubts = (
            self.lost,
            *(report.get("doubts", "") for report in reports),
            "the run ended within its warm-up" if master.slo.warm_up_s and not master.warm else "",
            f"workers that did not hand in their counts: {len(missing)}" if missing else "",
            f"users: {master.asked} were asked for, {self.users} were running at the end"
            if self.users < master.asked
            else "",
        )
        self.doubts = [text for text in dict.fromkeys(doubts) if text]
        cut_short = bool(self.failures or self.lost or missing or master.aborted)
        self.breaches = master.breaches(running=cut_short)
        self.sentences = {name: text for report in reports for name, text in report.get("sentences", {}).items()}
        self.died = sum((Counter(report.get("died", {})) for report in reports), Counter[str]())
        self.cells = [*map(self._of_scenario, sorted(master.asked_scenarios())), self._of_limits()]

    @property
    def exit_code(self) -> int:
        """The first of PRECEDENCE that applies."""
        codes = {failure.get("code", FAILED) for failure in self.failures} | {AS_EXPECTED}
        unexpected = [cell.verdict for cell in self.cells if cell.verdict != cell.expected]
        codes |= {UNKNOWN if verdict == INCONCLUSIVE else BROKEN for verdict in unexpected}
        return next(code for code, _ in PRECEDENCE if code in codes)

    def tell(self) -> None:
        """Write the run's files, print its table."""
        self._write_files()
        try:
            print("\n".join(self._lines()), flush=True)
        except BrokenPipeError:  # the reader has gone; that changes no verdict
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        for line in dict.fromkeys(failure["line"] for failure in self.failures):
            print(f"error: {line}", file=sys.stderr, flush=True)

    def _of_scenario(self, scenario: str) -> Cell:
        counts = {"accepted": 0, "delivered": 0, **dict.fromkeys(KINDS, 0), **self.master.counts().get(scenario, {})}
        if scenario == UPLOAD:
            counts["leaked"] += self.leaked
        doubts = self.doubts if counts["accepted"] else [*self.doubts, "nothing was accepted"]
        return self._cell(scenario, counts, ", ".join(kind for kind in KINDS if counts[kind]), doubts)

    def _of_limits(self) -> Cell:
        certain = [breach.text for breach in self.breaches if not breach.excuse]
        doubts = [*self.doubts, *(f"{breach.text}: {breach.excuse}" for breach in self.breaches if breach.excuse)]
        if self.search is not None and self.search.stopped:
            doubts.append(self.search.stopped)
        elif self.search is not None and not self.search.best_per_s:
            certain.append("search: no rate stayed within --slo-p99-us")
        nothing = {"accepted": 0, "delivered": 0, **dict.fromkeys(KINDS, 0)}
        return self._cell(LIMITS, nothing, "; ".join(certain), doubts)

    def _cell(self, scenario: str, counts: Mapping[str, int], words: str, doubts: Sequence[str]) -> Cell:
        """`words` is what is wrong for certain, unless a server was lost."""
        options = self.master.options
        return Cell(
            target=self.plan.target if self.master.asked_scenarios() else Path(options.locustfile).stem,
            scenario=scenario,
            fleet="locust",
            verdict=VIOLATED if words and not self.lost else INCONCLUSIVE if doubts else HOLDS,
            expected=self.target.expected(scenario),
            counts=counts,
            elapsed_s=round(self.duration_s, 3),
            words=words,
            note="; ".join(doubts),
            sentence=self.sentences.get(scenario, ""),
        )

    def _write_files(self) -> None:
        """result.json, latency.json, and where something failed traceback.txt; the logs have been written all along."""
        master, folder, parser = self.master, self.master.folder, get_parser()
        assert folder is not None
        options = {name: value for name, value in vars(master.options).items() if name != "podrace_plan"}
        options |= {"headless": True, "host": redact(options["host"]) if options["host"] else None}
        command = as_command(options, parser)
        document = result_document(
            command, seed=self.plan.seed, run=folder, server=master.server.info, cells=self.cells
        )
        names = {action.dest for action in parser._actions}
        document["versions"] |= {name: version(name) for name in LIBRARIES}
        document |= {
            "options": {name: value for name, value in options.items() if name in names},
            "ran": {"users": self.users, "rate": self.plan.rate_per_s, "aborted": master.aborted},
            "cpu": cpu_model(),
            "generator": self.health,
            "slo": {"breaches": list(map(str, self.breaches))},
            "failures": [failure["line"] for failure in self.failures],
            "died": dict(self.died),
        }
        if self.search is not None:
            search = self.search
            document["search"] = {"rate": search.best_per_s, "stopped": search.stopped, "steps": search.steps}
        write_json(folder / "result.json", document)
        write_json(folder / "latency.json", master.latencies.document(duration_s=self.duration_s))
        tracebacks = [failure["traceback"] for failure in self.failures if failure.get("traceback")]
        if tracebacks:
            (folder / "traceback.txt").write_text("\n".join(tracebacks), encoding="utf-8")

    def _lines(self) -> list[str]:
        """The summary: latencies, failures by name, the generator, verdicts, breaches, the folder."""
        latencies = self.master.latencies
        rows = table(latencies, self.duration_s)
        for name, errors in sorted(latencies.errors.items()):
            slow = latencies.summary(name, "failed")
            rows += [f"failed: {name}: {error}: {count}" for error, count in errors.most_common()]
            rows.append(f"failed: {name}: after p50 {slow['p50_us']}, at most {slow['max_us']} µs")
        rows += [f"died in a pod: {name}: {count}" for name, count in self.died.items()]
        rows += self.health["says"]
        for cell in self.cells:
            counts = ", ".join(f"{kind} {count}" for kind, count in cell.counts.items() if count)
            said = f": {cell.sentence}" if cell.sentence else ""
            rows.append(
                f"{cell.target} {cell.scenario}: {cell.verdict}, expected {cell.expected} ({counts or '-'}){said}"
            )
        rows += [f"unknown: {text}" for text in self.doubts]
        if self.search is not None:
            best = next((s for s in self.search.steps[::-1] if s["rate"] == self.search.best_per_s), None)
            held = (
                f"--rate {best['rate']:g}, {best['tasks_per_s']:g} tasks a second," if best else "no rate was seen to"
            )
            rows.append("; ".join(filter(None, (f"search: {held} stay within the limit", self.search.stopped))))
        rows += [f"limit exceeded: {breach}" for breach in self.breaches]
        rows += ["aborted: a limit was exceeded"] if self.master.aborted else []
        return [*rows, f"run: {self.master.folder}"]


def _failures_of_users(master: Master) -> list[dict[str, Any]]:
    """What nobody caught, in a worker or in a user's task."""
    failures = [{"line": f"{name}: an exception of its own; see its log"}
                for name, report in master.reports.items() if report["broken"]]  # fmt: skip
    if exceptions := [*master.runner.exceptions.values()]:
        line = f"the users themselves: {len(exceptions)} kinds of exceptions, such as {exceptions[0]['msg']!r}"
        failures.append({"line": line, "traceback": exceptions[0]["traceback"]})
    return failures


def cpu_model() -> str:
    """As the kernel names it; empty where no /proc does."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} of {len(names)} x {names[0]}" if names else ""


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
