"""Latencies in microseconds: counted in each process, merged from all workers, written as JSON, .hlog and .hgrm.

Each operation has up to three histograms. `raw` is what the caller waited for; `corrected`, only where a rate says
when an operation should have begun, counts from then, so that one stall shows in every operation that it delayed
(coordinated omission, as in wrk2 and HdrHistogram's own documentation); `failed` is raw, of those that failed.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256
from itertools import accumulate
from math import log2, sqrt
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gevent
from hdrh.histogram import HdrHistogram

HIGHEST_US = 600_000_000
SIGNIFICANT_FIGURES = 3
KINDS = ("raw", "corrected", "failed")
SUMMARY = {"p50_us": 50.0, "p90_us": 90.0, "p99_us": 99.0, "p99_9_us": 99.9}
LEAST_FOR_P99_9 = 1000
"""With fewer samples, the slowest of a thousand is just the slowest."""
LEAST_FOR_P99 = 50
"""Of a step of a search."""
LONGEST_LABEL = 200
TICKS_PER_HALF = 5
"""Points of a .hgrm for each halving of what is left to 100 %."""
CURVE = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99, 99.999, 100)

LOG_HEAD = """#[Logged with podrace; unit: microseconds; corrected: from the intended start]
#[Histogram log format version 1.3]
#[StartTime: %.3f (seconds since epoch)]
"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
"""

Interval = dict[str, Any]
"""What one process measured since its last report, in a form that Locust's messages can carry."""


class Recorder:
    """One process's latencies since the last report: appended one by one, counted for the report."""

    def __init__(self) -> None:
        self._ended_s = time.time()
        self._reset()

    def _reset(self) -> None:
        self._latencies: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._errors: Counter[tuple[str, str]] = Counter()
        self._commands: Counter[str] = Counter()

    def on_request(self, name: str, response_time: float, context: Any = None, exception: Any = None, **_: Any) -> None:
        """Locust's request event; `response_time` is in milliseconds. Of a pipeline the context counts commands."""
        latency_us = int(response_time * 1000)  # Locust hands the float on, and rounds only in its own table
        if exception is not None:
            self._errors[name, type(exception).__name__] += 1
            self._latencies[name, "failed"].append(latency_us)
            return
        self._latencies[name, "raw"].append(latency_us)
        if context:
            if "late_us" in context:
                self._latencies[name, "corrected"].append(latency_us + context["late_us"])
            if "commands" in context:
                self._commands[name] += context["commands"]

    def take(self) -> Interval:
        """All that came since the last call, as pairs of value and count, and from when to when."""
        latencies, errors, commands = self._latencies, self._errors, self._commands
        self._reset()
        began_s, self._ended_s = self._ended_s, time.time()
        return {
            "began_s": began_s,
            "ended_s": self._ended_s,
            "counts": [[*key, [*map(list, Counter(found).items())]] for key, found in latencies.items()],
            "errors": [[*key, count] for key, count in errors.items()],
            "commands": dict(commands),
        }


def new_histogram() -> Any:
    return HdrHistogram(1, HIGHEST_US, SIGNIFICANT_FIGURES)


def percentiles_us(histogram: Any, wanted: Sequence[float]) -> list[int]:
    """The values at these percentiles; 0 where nothing was recorded."""
    found = histogram.get_percentile_to_value_dict(wanted)
    return [int(found.get(percentile, 0)) for percentile in wanted]


def percentile_text(histogram: Any) -> str:
    """The text that HdrHistogram's plotters read. Its own writer, with the same percentiles, is 100 times slower."""
    last = histogram.get_counts_array_index(histogram.max_value) + 1
    counts = {histogram.get_highest_equivalent_value(histogram.get_value_from_index(index)): count
              for index, count in enumerate(histogram.counts[:last]) if count}  # fmt: skip
    values, reached, total, level = list(counts), list(accumulate(counts.values())), int(histogram.total_count), 0.0
    rows = [f"{'Value':>12} {'Percentile':>14} {'TotalCount':>10} {'1/(1-Percentile)':>14}\n"]
    while (place := bisect_left(reached, histogram.get_target_count_at_percentile(level))) < len(values) - 1:
        rows.append(f"{values[place]:12.3f} {level / 100:2.12f} {reached[place]:10d} {100 / (100 - level):14.2f}")
        level += 100 / (TICKS_PER_HALF * 2 ** (int(log2(100 / (100 - level))) + 1))
    mean = sum(value * count for value, count in counts.items()) / total
    deviation = sqrt(sum((value - mean) ** 2 * count for value, count in counts.items()) / total)
    return "\n".join((
        *rows,
        f"{values[-1]:12.3f} {1:2.12f} {total:10d}",
        f"#[Mean    = {mean:12.3f}, StdDeviation   = {deviation:12.3f}]",
        f"#[Max     = {values[-1]:12.3f}, Total count    = {total:12d}]",
        f"#[Buckets = {histogram.bucket_count:12d}, SubBuckets     = {histogram.sub_bucket_count:12d}]\n",
    ))  # fmt: skip


def _label(name: str, kind: str) -> str:
    """An operation and a kind as a file's name and as a log's tag: no two share one."""
    label = quote(f"{name}-{kind}", safe=" ").replace("_", "%5F").replace(" ", "_")
    if len(label) > LONGEST_LABEL:
        label = f"{label[: LONGEST_LABEL - 17]}-{sha256(label.encode()).hexdigest()[:16]}"
    return label


class Latencies:
    """All processes' counts, merged. In `folder` each worker gets a .hlog, a line an operation, kind and interval."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._logs: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was measured; the logs go on."""
        self._histograms: dict[tuple[str, str], Any] = {}
        self.errors: dict[str, Counter[str]] = defaultdict(Counter)
        self.commands: Counter[str] = Counter()
        self.began_s = time.monotonic()

    @property
    def names(self) -> list[str]:
        return sorted({name for name, _ in self._histograms})

    def add(self, worker: str, interval: Interval, *, counted: bool = True) -> None:
        """Merge one process's interval; one that is not `counted` is only logged."""
        if counted:
            for name, error, count in interval["errors"]:
                self.errors[name][error] += count
            self.commands.update(interval["commands"])
        for name, kind, pairs in interval["counts"]:
            part = new_histogram()
            for value_us, count in pairs:
                part.record_value(min(value_us, HIGHEST_US), count)
            if counted:
                self._histograms.setdefault((name, kind), new_histogram()).add(part)
            if self._folder:
                self._write(worker, name, kind, part, interval)
            gevent.sleep(0)  # users may run in this process

    def _write(self, worker: str, name: str, kind: str, part: Any, interval: Interval) -> None:
        assert self._folder is not None
        if (log := self._logs.get(worker)) is None:
            log = self._logs[worker] = (self._folder / f"{worker}.hlog").open("w", encoding="utf-8")
            log.write(LOG_HEAD % interval["began_s"])
        start_s, length_s = interval["began_s"], interval["ended_s"] - interval["began_s"]
        maximum_ms = part.get_max_value() / 1000
        log.write(f"Tag={_label(name, kind)},{start_s:.3f},{length_s:.3f},{maximum_ms:.3f},{part.encode().decode()}\n")
        log.flush()

    def close(self) -> None:
        """Close the logs, and write each histogram as HdrHistogram's own percentile text."""
        for log in self._logs.values():
            log.close()
        if self._folder and self._histograms:
            (self._folder / "hgrm").mkdir(exist_ok=True)
            for (name, kind), histogram in self._histograms.items():
                path = self._folder / "hgrm" / f"{_label(name, kind)}.hgrm"
                path.write_text(percentile_text(histogram), encoding="ascii")

    def worst_p99_us(self) -> int | None:
        """The worst p99 of any operation; None where too little was measured."""
        enough = [
            histogram
            for (_, kind), histogram in self._histograms.items()
            if kind != "failed" and histogram.total_count >= LEAST_FOR_P99
        ]
        return max((percentiles_us(histogram, [99.0])[0] for histogram in enough), default=None)

    def kinds(self, name: str) -> list[str]:
        """Which of the three an operation has."""
        return [kind for kind in KINDS if (name, kind) in self._histograms]

    def summary(self, name: str, kind: str) -> dict[str, Any]:
        """`count`, `max_us` and the percentiles of one operation; a p99.9 of too few is None."""
        histogram = self._histograms.get((name, kind)) or new_histogram()
        values: list[int | None] = [*percentiles_us(histogram, [*SUMMARY.values()])]
        count, maximum = int(histogram.total_count), int(histogram.get_max_value())
        if count < LEAST_FOR_P99_9:
            values[-1] = None
        return {"count": count, **dict(zip(SUMMARY, values, strict=True)), "max_us": maximum}

    def judged(self, name: str) -> dict[str, Any]:
        """The summary that limits apply to: corrected if there is one, else raw."""
        return self.summary(name, "corrected" if (name, "corrected") in self._histograms else "raw")

    def document(self, *, duration_s: float) -> dict[str, Any]:
        """What latency.json holds. `paced`: whether there was a rate, so that `corrected` is there."""
        operations = []
        for name in self.names:
            entry: dict[str, Any] = {"name": name, "errors": dict(self.errors.get(name, {}))}
            for kind in self.kinds(name):
                curve = list(map(list, zip(CURVE, percentiles_us(self._histograms[name, kind], CURVE), strict=True)))
                entry[kind] = {**self.summary(name, kind), "curve": curve}
            entry["count"] = self.summary(name, "raw")["count"]
            entry["rate_per_s"] = round(entry["count"] / duration_s, 1) if duration_s else 0.0
            if name in self.commands:
                entry["commands"] = self.commands[name]
            operations.append(entry)
        paced = any(kind == "corrected" for _, kind in self._histograms)
        return {"version": 1, "unit": "us", "duration_s": duration_s, "paced": paced, "operations": operations}
