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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podrace.reports.benchmarks import benchmarks
from podrace.reports.records import NOT_APPLICABLE, Cell, Fault, Operation, OverTime, Report, Run
from podrace.reports.rows import Event
from podrace.reports.safety import DAMAGE, read_regular

COUNTEREXAMPLE = ".podrace.json"
HISTORY = ".history.jsonl"
VERDICTS = ("holds", "violated", "inconclusive", NOT_APPLICABLE)


class DamagedError(ValueError):
    """A file that cannot be used; the text says why."""


def read_result(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """result.json: the cells, each with its counterexample and history where the folder has them."""
    if document.get("version") != 1:
        raise DamagedError(f"expected version 1 of the result form, got {document.get('version')!r}")
    describe(run, document)
    slo = document.get("slo")
    run.breaches = [str(line) for line in slo.get("breaches") or ()] if isinstance(slo, dict) else []
    run.rates = _searched(document.get("search"))
    generator = document.get("generator")
    run.generator = [str(line) for line in generator.get("says") or ()] if isinstance(generator, dict) else []
    shared = _histories(path.with_name("history.jsonl"), report)
    for number, item in enumerate(document["cells"], 1):
        try:
            cell = _cell(item)
        except DAMAGE as error:
            report.skip(path, f"cell {number}: damaged: {error!r}")
            continue
        cell.history = shared.get(cell.target) or (shared.get("", []) if len(document["cells"]) == 1 else [])
        if item.get("counterexample"):
            _counterexample(cell, path.parent, Path(str(item["counterexample"])), report)
        elif not cell.history and (beside := path.parent / _stem(cell)).is_file():
            cell.history = [event for events in _histories(beside, report).values() for event in events]
        run.cells.append(cell)


def read_latency(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """latency.json of a load test: percentiles by operation, in µs, uncorrected (`raw`) and corrected."""
    run.is_closed = document.get("paced") is False
    for number, item in enumerate(document["operations"], 1):
        try:
            curves = {}
            for curve in ("raw",) if run.is_closed else ("corrected", "raw"):
                points = item.get(curve, {}).get("curve", ())
                curves[curve] = [(finite(percentile), finite(value)) for percentile, value in points]
            errors = item.get("errors") or {}
            failed = sum(errors.values()) if isinstance(errors, dict) else int(errors)
            rate = finite(item.get("rate_per_s", 0))
            run.operations.append(Operation(str(item["name"]), int(item.get("count", 0)), rate, failed, curves))
        except DAMAGE as error:
            report.skip(path, f"operation {number}: damaged: {error!r}")
    describe(run, document)


def read_benchmark(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """pytest-benchmark's own file, or a committed file of ratios."""
    run.benchmarks, damaged = benchmarks(document, name=path.stem)
    run.machine, run.versions = run.benchmarks.machine, run.benchmarks.versions
    describe(run, document)
    for reason in damaged:
        report.skip(path, reason)


def read_counterexample(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """A counterexample file on its own, with the history beside it."""
    cell = Cell(str(document["target"]), str(document["scenario"]), str(document["verdict"]), str(document["verdict"]))
    cell.words = str(document.get("words", ""))
    run.seed = str(document.get("seed", ""))
    _counterexample(cell, path.parent, path, report)
    run.cells.append(cell)


def read_over_time(run: Run, path: Path, document: Mapping[str, Any], report: Report) -> None:
    """over-time.json of a free fleet's run."""
    over_time = document["over_time"]
    spans = [
        (
            finite(one["at_s"]),
            finite(one["rate_per_s"]),
            finite(one["p50_us"]) if "p50_us" in one else None,
            finite(one["p99_us"]) if "p99_us" in one else None,
            int(finite(one["lost"])),
        )
        for one in over_time["bins"]
    ]
    faults = [
        Fault(str(one["name"]), str(one["place"]), finite(one["from_s"]), finite(one["until_s"]))
        for one in over_time["faults"]
    ]
    run.over_time = OverTime(str(over_time["target"]), spans, faults)


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


def describe(run: Run, document: Mapping[str, Any]) -> None:
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


def finite(value: Any) -> float:
    """A number that can be drawn; JSON as Python writes it may hold NaN and Infinity."""
    number = float(value)
    if not 0 <= number < 1e300:
        raise ValueError(f"expected a number from 0 up, got {value!r}")
    return number


def _read(run: Run, path: Path, report: Report) -> None:
    try:
        document = json.loads(read_regular(path))
        if not isinstance(document, dict):
            raise DamagedError("expected a JSON object")
        kind = next((kind for kind in KINDS if all(key in document for key in kind.has)), None)
        if kind is None:
            names = ", ".join(kind.name for kind in KINDS)
            raise DamagedError(f"is none of the kinds that are known: {names}")
        kind.read(run, path, document, report)
    except DAMAGE as error:
        strerror = getattr(error, "strerror", None)
        named = error if isinstance(error, ValueError) else f"damaged: {error!r}"
        if isinstance(error, json.JSONDecodeError):
            named = f"expected JSON: {error}"
        report.skip(path, str(strerror or named))


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


def _cell(item: Mapping[str, Any]) -> Cell:
    cell = Cell(str(item["target"]), str(item["scenario"]), str(item["verdict"]), str(item["expected"]))
    if cell.verdict not in VERDICTS:
        raise ValueError(f"verdict {cell.verdict!r}, expected one of {', '.join(VERDICTS)}")
    for name in ("fleet", "words", "note", "sentence", "what"):
        setattr(cell, name, str(item.get(name) or ""))
    cell.words = cell.words or {"holds": "ok", NOT_APPLICABLE: "–"}.get(cell.verdict, cell.verdict)
    cell.counts = {str(name): _count(value) for name, value in dict(item.get("counts") or {}).items()}
    cell.schedules = dict(item.get("schedules") or {})
    for name in ("run", "pruned"):
        _count(cell.schedules.get(name, 0))
    cell.elapsed_s = finite(item.get("elapsed_s") or 0)
    cell.row = int(item["row"]) if item.get("row") else None
    return cell


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"expected a whole number from 0 up, got {value!r}")
    return value


def _stem(cell: Cell) -> str:
    """The history of a cell that cannot be replayed, in the run's folder."""
    return re.sub(r"[:/]", ".", f"{cell.target}-{cell.scenario}") + HISTORY


def _searched(search: Any) -> list[tuple[float, float]]:
    """The windows of a search for the highest rate: tasks a second, and the worst p99 of any operation.

    Not those in which the generator was the limit: their latencies are its own.
    """
    steps = search.get("steps") or () if isinstance(search, dict) else ()
    return [
        (finite(step["tasks_per_s"]), finite(step["p99_us"]))
        for step in steps
        if step.get("tasks_per_s") and step.get("p99_us") and not step.get("generator")
    ]


def _counterexample(cell: Cell, folder: Path, recorded: Path, report: Report) -> None:
    """Read its sentence and history, from the run's folder if they are there (it may have been moved)."""
    path = folder / recorded.name
    path = path if path.exists() else recorded
    if not recorded.name.endswith(COUNTEREXAMPLE):
        report.skip(recorded, f"expected a *{COUNTEREXAMPLE} file")
        return
    cell.again = shlex.join(["podrace", "replay", str(path)])
    try:
        cell.sentence = str(json.loads(read_regular(path))["sentence"])
    except DAMAGE as error:
        report.skip(path, f"the counterexample of {cell.target} {cell.scenario} cannot be read: {error}")
    beside = path.with_name(path.name.removesuffix(COUNTEREXAMPLE) + HISTORY)
    if not cell.history and beside.is_file():
        cell.history = [event for events in _histories(beside, report).values() for event in events]


def _histories(path: Path, report: Report) -> dict[str, list[Event]]:
    """The events of a history by their target ('' where they name none); damaged lines are named."""
    found: dict[str, list[Event]] = {}
    damaged: list[str] = []
    lines = path.open(encoding="utf-8", errors="backslashreplace") if path.is_file() else nullcontext(())
    with lines as file:
        for number, line in enumerate(file, 1):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict) and isinstance(event.get("type"), str) and isinstance(event.get("call", 0), int):
                found.setdefault(str(event.get("target", "")), []).append(event)
            elif line.strip():
                damaged.append(str(number))
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        report.skip(path, f"damaged line {', '.join(damaged[:5])}{more}; the other lines are shown")
    return found
