"""What a report is made of, as records: runs, their cells and operations, and what was skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podrace.reports.benchmarks import Benchmarks
from podrace.reports.rows import Event

NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True)
class Skipped:
    """A file that is missing from the report, or only partly in it, and why."""

    path: str
    reason: str


@dataclass
class Cell:
    """One judgement, as result.json holds it. `anchor` is where its picture is, if it has a history."""

    target: str
    scenario: str
    verdict: str
    expected: str
    fleet: str = ""
    words: str = ""
    note: str = ""
    what: str = ""
    """What the row means."""
    row: int | None = None
    elapsed_s: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    schedules: Mapping[str, Any] = field(default_factory=dict)
    sentence: str = ""
    history: list[Event] = field(default_factory=list)
    again: str = ""
    """The command that repeats it."""
    anchor: str = ""

    @property
    def is_expected(self) -> bool:
        """Whether the verdict is expected. `–` instead of an expected `holds` counts as expected."""
        return self.verdict == self.expected or (self.verdict == NOT_APPLICABLE and self.expected == "holds")

    @property
    def is_new(self) -> bool:
        """Whether it is violated and was not known to be."""
        return self.verdict == "violated" and not self.is_expected

    @property
    def tag(self) -> str:
        """The tag shown in a cell that is not as expected."""
        return "" if self.is_expected else "new" if self.is_new else "unexpected"


@dataclass(frozen=True)
class Operation:
    """One operation's latencies. Curves are (percentile, µs), by `corrected` and `raw`.

    In a closed loop nothing is due at a time, so there is nothing to correct: only `raw`.
    """

    name: str
    count: int
    rate_per_s: float
    errors: int
    curves: Mapping[str, Sequence[tuple[float, float]]]

    @property
    def last_percentile(self) -> float:
        """The highest percentile beyond which there is a sample: 99.9 for 1,000 samples."""
        return 100 * max(0.0, 1 - 1 / self.count) if self.count else 0.0

    def points(self, curve: str) -> list[tuple[float, float]]:
        """The points of a curve that can be drawn: above 0, up to the last percentile."""
        found = [(p, v) for p, v in self.curves.get(curve, ()) if v > 0 and p <= self.last_percentile]
        return found if len(found) > 1 else []

    def at_us(self, percentile: float) -> float | None:
        """The latency at a percentile, corrected if that is known; None if there are too few samples."""
        if self.last_percentile < percentile < 100:
            return None
        for curve in ("corrected", "raw"):
            for at, value in self.curves.get(curve, ()):
                if at >= percentile:
                    return value
        return None


@dataclass(frozen=True)
class Fault:
    """A fault that was about in a run, in seconds since it began."""

    name: str
    place: str
    from_s: float
    until_s: float


@dataclass(frozen=True)
class OverTime:
    """A run over time. Of each span: its middle in seconds, calls a second, p50 and p99 in µs, losses so far."""

    target: str
    spans: Sequence[tuple[float, float, float | None, float | None, int]]
    faults: Sequence[Fault]


@dataclass
class Run:
    """One run folder or file: what was run, on what, and what came of it."""

    path: str
    command: str = ""
    seed: str = ""
    server: str = ""
    machine: str = ""
    versions: str = ""
    cells: list[Cell] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    is_closed: bool = False
    """Whether its users went on as soon as they were answered: a closed loop."""
    breaches: list[str] = field(default_factory=list)
    """Limits that a load test was given and has exceeded, one line each."""
    generator: list[str] = field(default_factory=list)
    """What a load generator says of its own health, one line each."""
    rates: list[tuple[float, float]] = field(default_factory=list)
    """(tasks a second, p99 in µs) of each step of a search for the highest rate."""
    benchmarks: Benchmarks | None = None
    over_time: OverTime | None = None


@dataclass
class Report:
    runs: list[Run] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        return [cell for run in self.runs for cell in run.cells]

    @property
    def modes(self) -> list[Cell]:
        """The cells of the matrix: a load test's workloads are no failure modes."""
        return [cell for run in self.runs if not run.operations for cell in run.cells]

    @property
    def baseline(self) -> Benchmarks | None:
        """Of several benchmark files the first is what the others are compared with."""
        found = [run.benchmarks for run in self.runs if run.benchmarks]
        return found[0] if len(found) > 1 else None

    @property
    def measured(self) -> list[Benchmarks]:
        """The benchmark files, without the baseline."""
        return [run.benchmarks for run in self.runs if run.benchmarks and run.benchmarks is not self.baseline]

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(str(path), reason))
