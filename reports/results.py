"""Reads run folders, Locust results and benchmark files, whichever are given.

A further kind of run joins by one entry in KINDS. What is damaged, half-written or foreign is named in
`Report.skipped` with the reason; it never stops the others.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from podrace.reports.benchmarks import benchmarks
from podrace.reports.records import Cell, Operation, OverTime, Percentiles, Report, Run, Step
from podrace.reports.rows import Event
from podrace.reports.safety import DAMAGE, in_words, read_object, whole

COUNTEREXAMPLE = ".podrace.json"
HISTORY = ".history.jsonl"


def read_result(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """result.json: the cells, each with its counterexample and history where the folder has them."""
    if document.get("version") != 1:
        raise ValueError(f"expected version 1 of the result form, got {document.get('version')!r}")
    slo, generator, search = (document.get(name) or {} for name in ("slo", "generator", "search"))
    run.breaches = [*map(str, slo.get("breaches") or ())]
    run.generator = [*map(str, generator.get("says") or ())]
    steps = [*whole(Step, search.get("steps"), "step", partial(report.skip, path))]
    run.rates = [(one.tasks_per_s, one.p99_us) for one in steps if one.tasks_per_s and one.p99_us and not one.generator]
    shared = _history(path.with_name("history.jsonl"), report)
    for cell in whole(Cell, document["cells"], "cell", partial(report.skip, path)):
        named = ("", cell.target) if len(document["cells"]) == 1 else (cell.target,)
        cell.history = [event for event in shared if event.get("target", "") in named]
        if cell.counterexample:
            _counterexample(cell, path.parent, Path(cell.counterexample), report)
        elif not cell.history:
            cell.history = _history(path.parent / _stem(cell), report)
        run.cells.append(cell)


def read_latency(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """latency.json of a load test: percentiles by operation, in µs, uncorrected (`raw`) and corrected."""
    run.is_closed = document.get("paced") is False
    for operation in whole(Operation, document["operations"], "operation", partial(report.skip, path)):
        run.operations.append(replace(operation, corrected=Percentiles()) if run.is_closed else operation)


def read_benchmark(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """pytest-benchmark's own file, or a committed file of ratios."""
    run.benchmarks = benchmarks(document, path.stem, partial(report.skip, path))
    run.machine, run.versions = run.benchmarks.machine, run.benchmarks.versions


def read_counterexample(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """A counterexample file on its own, with the history beside it."""
    cell = Cell(*(document[name] for name in ("target", "scenario", "verdict", "verdict")))
    cell.words = str(document.get("words") or cell.words)
    _counterexample(cell, path.parent, path, report)
    run.cells.append(cell)


def read_over_time(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """over-time.json of a free fleet's run."""
    run.over_time = next(whole(OverTime, [document["over_time"]], "run", partial(report.skip, path)), None)


@dataclass(frozen=True)
class Kind:
    """How a kind of result is recognised. `file`: its name in a run folder; `has`: the keys that it must hold."""

    name: str
    file: str
    has: tuple[str, ...]
    read: Callable[[Run, Path, Mapping[str, Any], Report], None]


KINDS = (
    Kind("run", "result.json", ("cells",), read_result),
    Kind("load", "latency.json", ("operations",), read_latency),
    Kind("over time", "over-time.json", ("over_time",), read_over_time),
    Kind("benchmark", "benchmark.json", ("benchmarks",), read_benchmark),
    Kind("ratios", "ratios.json", ("ratios",), read_benchmark),
    Kind("counterexample", "", ("decisions", "sentence"), read_counterexample),
)
"""Every kind of result. A folder may hold several; a single file is recognised by its keys."""


def read_results(paths: Sequence[Path]) -> Report:
    """All that the paths hold: run folders, folders of them, single files."""
    report = Report()
    for path in paths:
        for folder in _folders(path):
            run = Run(str(folder))
            for file in _files(folder):
                _read(run, file, report)
            if run.cells or run.operations or run.benchmarks or run.breaches or run.over_time:
                report.runs.append(run)
            elif not any(Path(skipped.path).is_relative_to(folder) for skipped in report.skipped):
                report.skip(folder, _why_nothing(folder))
    return report


def _describe(run: Run, document: Mapping[str, Any]) -> None:
    """Read what every kind of file may hold: command, seed, server, machine, versions."""
    command, server = document.get("command"), document.get("server")
    if isinstance(command, list) and command:
        run.command = shlex.join([*(() if command[0] == "locust" else ("podrace",)), *map(str, command)])
    elif isinstance(command, str):
        run.command = command
    if "seed" in document:
        run.seed = str(document["seed"])
    if isinstance(server, dict):
        server_name = f"{server.get('kind', '')} {server.get('version', '')}".strip()
        run.server = server_name + (", embedded" if server.get("embedded") else "")
    for name in ("machine", "versions"):
        value = document.get(name)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        if value:
            setattr(run, name, str(value))


def _read(run: Run, path: Path, report: Report) -> None:
    try:
        document = read_object(path)
        kind = next((kind for kind in KINDS if all(key in document for key in kind.has)), None)
        if kind is None:
            names = ", ".join(kind.name for kind in KINDS)
            raise ValueError(f"is none of the kinds that are known: {names}")
        _describe(run, document)
        kind.read(run, path, document, report)
    except DAMAGE as error:
        report.skip(path, in_words(error))


def _folders(path: Path) -> list[Path]:
    """The path itself, or, where it is a folder of run folders, those."""
    if not path.is_dir() or _files(path):
        return [path]
    return [child for child in sorted(path.iterdir()) if child.is_dir() and _files(child)] or [path]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.exists() else []
    return [path / kind.file for kind in KINDS if kind.file and (path / kind.file).exists()]


def _why_nothing(path: Path) -> str:
    if not path.exists():
        return "there is no such file or folder"
    if not path.is_dir():
        return "nothing in it"
    if any(path.glob("*" + HISTORY)) or any(path.glob("*.jsonl")):
        return "has histories but no result.json: its run did not finish"
    return "holds none of " + ", ".join(kind.file for kind in KINDS if kind.file)


def _stem(cell: Cell) -> str:
    """The history of a cell that cannot be replayed, in the run's folder."""
    return re.sub(r"[:/]", ".", f"{cell.target}-{cell.scenario}") + HISTORY


def _counterexample(cell: Cell, folder: Path, recorded: Path, report: Report) -> None:
    """Read its sentence and history, from the run's folder if they are there (it may have been moved)."""
    path = folder / recorded.name
    path = path if path.exists() else recorded
    if not recorded.name.endswith(COUNTEREXAMPLE):
        report.skip(recorded, f"expected a *{COUNTEREXAMPLE} file")
        return
    cell.again = shlex.join(["podrace", "replay", str(path)])
    try:
        cell.sentence = str(read_object(path)["sentence"])
    except DAMAGE as error:
        report.skip(path, f"the counterexample of {cell.target} {cell.scenario} cannot be read: {in_words(error)}")
    beside = path.with_name(path.name.removesuffix(COUNTEREXAMPLE) + HISTORY)
    cell.history = cell.history or _history(beside, report)


def _history(path: Path, report: Report) -> list[Event]:
    """The events of a history, none where there is no file; damaged lines are named."""
    found: list[Event] = []
    damaged: list[str] = []
    lines = path.open(encoding="utf-8", errors="backslashreplace") if path.is_file() else nullcontext(())
    with lines as file:
        for number, line in enumerate(file, 1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict) and isinstance(event.get("type"), str) and isinstance(event.get("call", 0), int):
                found.append(event)
            elif line.strip():
                damaged.append(str(number))
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        report.skip(path, f"damaged line {', '.join(damaged[:5])}{more}; the other lines are shown")
    return found
