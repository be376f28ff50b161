"""Latencies in microseconds: counted as they come, merged from all workers, written as JSON and .hlog.

Each operation has two histograms. `raw` is what the caller waited for; `corrected` counts from when the
operation should have begun, so that one stall shows in every operation that it delayed (coordinated omission,
as in wrk2 and HdrHistogram's own documentation).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import IO, Any

from hdrh.histogram import HdrHistogram

HIGHEST_US = 600_000_000
SIGNIFICANT_FIGURES = 3
KINDS = ("raw", "corrected")
PERCENTILES = {"p50_us": 50.0, "p90_us": 90.0, "p99_us": 99.0, "p99_9_us": 99.9}
CURVE = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99, 99.999, 100)

Interval = dict[str, Any]
"""What one process measured since it was last asked, in a form that Locust's own messages can carry."""


class Recorder:
    """One process's latencies since they were last taken: appended as they come, counted when taken."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._latencies: dict[str, tuple[list[int], list[int]]] = {}
        self._errors: Counter[tuple[str, str]] = Counter()

    def on_request(self, name: str, response_time: float, context: Any = None, exception: Any = None, **_: Any) -> None:
        """Locust's request event; `response_time` is in milliseconds. A failure has no latency, only a count."""
        if exception is not None:
            self._errors[name, type(exception).__name__] += 1
            return
        try:
            raw, corrected = self._latencies[name]
        except KeyError:
            raw, corrected = self._latencies[name] = ([], [])
        latency_us = int(response_time * 1000)  # Locust hands the float on, and rounds only in its own table
        raw.append(latency_us)
        corrected.append(latency_us + context["late_us"] if context else latency_us)

    def take(self) -> Interval:
        """All that came since the last call, as pairs of value and count."""
        latencies, errors = self._latencies, self._errors
        self._reset()
        return {
            "counts": {
                kind: {name: [*map(list, Counter(lists[which]).items())] for name, lists in latencies.items()}
                for which, kind in enumerate(KINDS)
            },
            "errors": [[*key, count] for key, count in errors.items()],
        }


def new_histogram() -> Any:
    return HdrHistogram(1, HIGHEST_US, SIGNIFICANT_FIGURES)


def percentiles_us(histogram: Any, wanted: Sequence[float]) -> list[int]:
    """The values at these percentiles; 0 where nothing was recorded. HdrHistogram's own loop is 20 times slower."""
    if not histogram.total_count:
        return [0] * len(wanted)
    length = histogram.get_counts_array_index(histogram.max_value) + 1
    cumulative = list(accumulate(histogram.counts[:length]))
    values = []
    for percentile in wanted:
        target = histogram.get_target_count_at_percentile(percentile)
        index = bisect_left(cumulative, target)
        values.append(int(histogram.get_highest_equivalent_value(histogram.get_value_from_index(index))))
    return values


class Latencies:
    """All processes' counts, merged. `log` gets one .hlog line an operation, kind and interval."""

    def __init__(self, log: IO[str] | None = None) -> None:
        self._histograms: dict[tuple[str, str], Any] = {}
        self._window: dict[str, Any] = {}
        self.errors: dict[str, Counter[str]] = defaultdict(Counter)
        self._log = log
        self._began_s = self._ended_s = time.time()
        if log:
            log.write("#[Logged with podrace; unit: microseconds; corrected: from the intended start]\n")
            log.write("#[Histogram log format version 1.3]\n")
            log.write(f"#[StartTime: {self._began_s:.3f} (seconds since epoch)]\n")
            log.write('"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n')

    @property
    def names(self) -> list[str]:
        return sorted({name for name, _ in self._histograms} | set(self.errors))

    def add(self, interval: Interval, *, pause: Callable[[], None] = lambda: None) -> None:
        """Merge one process's interval. `pause` is called between operations, to let others go on."""
        now_s = time.time()
        for name, error, count in interval["errors"]:
            self.errors[name][error] += count
        for kind in KINDS:
            for name, pairs in interval["counts"][kind].items():
                part = new_histogram()
                for value_us, count in pairs:
                    part.record_value(min(value_us, HIGHEST_US), count)
                total = self._histograms.get((name, kind))
                if total is None:
                    total = self._histograms[name, kind] = new_histogram()
                total.add(part)
                if kind == "corrected":
                    self._window.setdefault(name, new_histogram()).add(part)
                if self._log:
                    self._write(name, kind, part, now_s)
                pause()
        self._ended_s = now_s

    def _write(self, name: str, kind: str, part: Any, now_s: float) -> None:
        assert self._log is not None
        tag = f"{name}-{kind}".replace(" ", "_").replace(",", "_")  # the format allows neither in a tag
        start_s, length_s = self._ended_s, now_s - self._ended_s
        maximum_ms = part.get_max_value() / 1000
        self._log.write(f"Tag={tag},{start_s:.3f},{length_s:.3f},{maximum_ms:.3f},{part.encode().decode()}\n")
        self._log.flush()

    def take_window_p99_us(self, *, least: int = 50) -> int | None:
        """The worst corrected p99 of any operation since the last call; None where too little was measured."""
        window, self._window = self._window, {}
        enough = [histogram for histogram in window.values() if histogram.total_count >= least]
        return max(percentiles_us(histogram, [99.0])[0] for histogram in enough) if enough else None

    def summary(self, name: str, kind: str) -> dict[str, Any]:
        """`count`, `max_us` and the percentiles of one operation."""
        histogram = self._histograms.get((name, kind)) or new_histogram()
        values = percentiles_us(histogram, [*PERCENTILES.values()])
        count, maximum = int(histogram.total_count), int(histogram.get_max_value())
        return {"count": count, **dict(zip(PERCENTILES, values, strict=True)), "max_us": maximum}

    def document(self, *, duration_s: float, paced: bool) -> dict[str, Any]:
        """What latency.json holds. `paced=False`: nothing was intended, so `corrected` equals `raw`."""
        operations = []
        for name in self.names:
            entry: dict[str, Any] = {"name": name, "errors": dict(self.errors.get(name, {}))}
            for kind in KINDS:
                histogram = self._histograms.get((name, kind)) or new_histogram()
                curve = list(map(list, zip(CURVE, percentiles_us(histogram, CURVE), strict=True)))
                entry[kind] = {**self.summary(name, kind), "curve": curve}
            entry["count"] = entry["raw"]["count"]
            entry["rate_per_s"] = round(entry["count"] / duration_s, 1) if duration_s else 0.0
            operations.append(entry)
        return {"version": 1, "unit": "us", "duration_s": duration_s, "paced": paced, "operations": operations}


def merged_counts(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, Counter[str]]:
    """Counts by scenario, added up over processes."""
    merged: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        for scenario, counts in part.items():
            merged[scenario].update(counts)
    return merged
