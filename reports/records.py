"""What a report is made of, as records: runs, their cells and operations, and what was skipped."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt
from pydantic.dataclasses import dataclass as checked

from podrace.reports.benchmarks import Benchmarks
from podrace.reports.rows import Event
from podrace.reports.safety import AS_READ, Number, Text

NOT_APPLICABLE = "not-applicable"
WORDS = {"holds": "ok", NOT_APPLICABLE: "–"}


@dataclass(frozen=True)
class Skipped:
    """A file that is missing from the report, or only partly in it, and why."""

    path: str
    reason: str


@checked(config=AS_READ)
class Cell:
    """One judgement, as result.json holds it. `what` is what its row means."""

    target: Text
    scenario: Text
    verdict: Literal["holds", "violated", "inconclusive", "not-applicable"]
    expected: Text
    fleet: Text = ""
    words: Text = ""
    note: Text = ""
    what: Text = ""
    sentence: Text = ""
    row: int | None = None
    elapsed_s: Number = 0.0
    counts: dict[Text, NonNegativeInt] = field(default_factory=dict)
    schedules: dict[Text, NonNegativeInt] = field(default_factory=dict)
    counterexample: Text = ""
    history: list[Event] = field(default_factory=list, init=False)
    again: str = field(default="", init=False)
    """The command that repeats it."""
    anchor: str = field(default="", init=False)
    """Where its picture is, if it has a history."""

    def __post_init__(self) -> None:
        self.words = self.words or WORDS.get(self.verdict, self.verdict)
        self.row = self.row or None

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


@checked(config=AS_READ)
class Percentiles:
    """A curve of latencies: percentiles and µs."""

    curve: list[tuple[Number, Number]] = field(default_factory=list)


@checked(config=AS_READ)
class Operation:
    """One operation's latencies. In a closed loop nothing is due at a time, so nothing is `corrected`."""

    name: Text
    count: int = 0
    rate_per_s: Number = 0.0
    errors: dict[Text, int] = field(default_factory=dict)
    corrected: Percentiles = field(default_factory=Percentiles)
    raw: Percentiles = field(default_factory=Percentiles)

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def last_percentile(self) -> float:
        """The highest percentile beyond which there is a sample: 99.9 for 1,000 samples."""
        return 100 * max(0.0, 1 - 1 / self.count) if self.count else 0.0

    def points(self, curve: Percentiles) -> list[tuple[float, float]]:
        """The points of a curve that can be drawn: above 0, up to the last percentile."""
        found = [(p, v) for p, v in curve.curve if v > 0 and p <= self.last_percentile]
        return found if len(found) > 1 else []

    def at_us(self, percentile: float) -> float | None:
        """The latency at a percentile, corrected if that is known; None if there are too few samples."""
        if self.last_percentile < percentile < 100:
            return None
        return next((value for at, value in self.corrected.curve + self.raw.curve if at >= percentile), None)


@checked(config=AS_READ)
class Step:
    """A window of a search for the highest rate; `p99_us` is the worst of any operation.

    Where the generator was the limit, the latencies are its own.
    """

    tasks_per_s: Number = 0.0
    p99_us: Number | None = None
    generator: Text = ""


@checked(config=AS_READ)
class Fault:
    """A fault that was about in a run, in seconds since it began."""

    name: Text
    place: Text
    from_s: Number
    until_s: Number


@checked(config=AS_READ)
class Span:
    """A part of a run: its middle, calls a second, latencies if there were calls, and losses so far."""

    at_s: Number
    rate_per_s: Number
    lost: Number
    p50_us: Number | None = None
    p99_us: Number | None = None


@checked(config=AS_READ)
class OverTime:
    """A run over time."""

    target: Text
    bins: list[Span]
    faults: list[Fault]


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
