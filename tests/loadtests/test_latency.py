from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from hdrh.log import HistogramLogReader

from podrace.loadtests.latency import Latencies, Recorder, new_histogram, percentiles_us


def record(recorder: Recorder, *latencies_us: int, late_us: int = 0, name: str = "GET status") -> None:
    for latency_us in latencies_us:
        recorder.on_request(name=name, response_time=(latency_us + 0.5) / 1000, context={"late_us": late_us})


def test_percentiles_are_those_of_hdrhistogram() -> None:
    histogram, rng = new_histogram(), random.Random(3)
    for _ in range(5000):
        histogram.record_value(int(rng.lognormvariate(6, 1.5)))
    wanted = [0.1, 50, 90, 99, 99.9, 100]
    assert percentiles_us(histogram, wanted) == [histogram.get_value_at_percentile(p) for p in wanted]


def test_nothing_recorded_is_zero() -> None:
    assert percentiles_us(new_histogram(), [50, 99]) == [0, 0]


def test_microseconds_are_kept() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, *range(1, 1001))
    latencies.add(recorder.take())
    assert latencies.summary("GET status", "raw") == {
        "count": 1000, "p50_us": 500, "p90_us": 900, "p99_us": 990, "p99_9_us": 999, "max_us": 1000,
    }  # fmt: skip


def test_workers_are_merged_and_nothing_is_taken_twice() -> None:
    workers, latencies = [Recorder(), Recorder()], Latencies()
    for worker, latency_us in zip(workers, (100, 900), strict=True):
        record(worker, *[latency_us] * 50)
        latencies.add(worker.take())
        latencies.add(worker.take())
    summary = latencies.summary("GET status", "raw")
    assert (summary["count"], summary["p50_us"], summary["max_us"]) == (100, 100, 900)


def test_a_late_operation_is_measured_from_when_it_should_have_begun() -> None:
    """A stall of 1 s at 100 a second: ten calls of 1 ms each, of which Locust's own figures show nothing."""
    recorder, latencies = Recorder(), Latencies()
    for late_ms in range(1000, 0, -10):
        record(recorder, 1000, late_us=late_ms * 1000)
    latencies.add(recorder.take())
    assert latencies.summary("GET status", "raw")["p99_us"] == 1000
    assert latencies.summary("GET status", "corrected")["p50_us"] == pytest.approx(500_000, rel=0.03)


def test_failures_are_counted_by_name_and_have_no_latency() -> None:
    recorder, latencies = Recorder(), Latencies()
    recorder.on_request(name="absorb", response_time=1.0, exception=ConnectionError("gone"))
    latencies.add(recorder.take())
    assert latencies.errors == {"absorb": {"ConnectionError": 1}}
    assert latencies.summary("absorb", "raw")["count"] == 0


def test_the_log_is_read_by_hdrhistograms_own_reader(tmp_path: Path) -> None:
    path = tmp_path / "latency.hlog"
    with path.open("w") as log:
        latencies, recorder = Latencies(log), Recorder()
        for latency_us in (100, 300):
            record(recorder, latency_us, late_us=5000)
            latencies.add(recorder.take())
    reader, found = HistogramLogReader(str(path), new_histogram()), []
    while (interval := reader.get_next_interval_histogram()) is not None:
        found.append((interval.get_tag(), interval.get_max_value()))
    reader.close()
    assert [tag for tag, _ in found] == ["GET_status-raw", "GET_status-corrected"] * 2
    assert [value for tag, value in found if tag.endswith("raw")] == [100, 300]


def test_an_endless_wait_is_cut_to_the_highest_value() -> None:
    recorder, latencies = Recorder(), Latencies(io.StringIO())
    record(recorder, 10**12)
    latencies.add(recorder.take())
    assert latencies.summary("GET status", "raw")["count"] == 1


def test_the_document_holds_curves_for_a_report() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, *range(1, 101))
    latencies.add(recorder.take())
    document: dict[str, Any] = latencies.document(duration_s=2.0, paced=True)
    (operation,) = document["operations"]
    assert (operation["name"], operation["count"], operation["rate_per_s"]) == ("GET status", 100, 50.0)
    values = [value for _, value in operation["corrected"]["curve"]]
    assert values == sorted(values)
    assert values[-1] == 100


def test_the_window_forgets() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, *[700] * 60)
    latencies.add(recorder.take())
    assert latencies.take_window_p99_us() == 700
    assert latencies.take_window_p99_us() is None
