from __future__ import annotations

import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hdrh.log import HistogramLogReader

from podrace.loadtests.latency import Latencies, Recorder, new_histogram, percentile_text, percentiles_us


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
    latencies.add("w", recorder.take())
    assert latencies.summary("GET status", "raw") == {
        "count": 1000, "p50_us": 500, "p90_us": 900, "p99_us": 990, "p99_9_us": 999, "max_us": 1000,
    }  # fmt: skip


def test_workers_are_merged_and_nothing_is_taken_twice() -> None:
    workers, latencies = [Recorder(), Recorder()], Latencies()
    for worker, latency_us in zip(workers, (100, 900), strict=True):
        record(worker, *[latency_us] * 50)
        latencies.add("w", worker.take())
        latencies.add("w", worker.take())
    summary = latencies.summary("GET status", "raw")
    assert (summary["count"], summary["p50_us"], summary["max_us"]) == (100, 100, 900)


def test_a_late_operation_is_measured_from_when_it_should_have_begun() -> None:
    """A stall of 1 s at 100 a second: ten calls of 1 ms each, of which Locust's own figures show nothing."""
    recorder, latencies = Recorder(), Latencies()
    for late_ms in range(1000, 0, -10):
        record(recorder, 1000, late_us=late_ms * 1000)
    latencies.add("w", recorder.take())
    assert latencies.summary("GET status", "raw")["p99_us"] == 1000
    assert latencies.summary("GET status", "corrected")["p50_us"] == pytest.approx(500_000, rel=0.03)


def test_failures_are_counted_by_name_and_have_latencies_of_their_own() -> None:
    recorder, latencies = Recorder(), Latencies()
    recorder.on_request(name="absorb", response_time=1.0, exception=ConnectionError("gone"))
    latencies.add("w", recorder.take())
    assert latencies.errors == {"absorb": {"ConnectionError": 1}}
    assert latencies.summary("absorb", "raw")["count"] == 0
    assert latencies.summary("absorb", "failed")["max_us"] == 1000


def test_a_p99_9_needs_a_thousand_samples() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, *[5] * 999)
    latencies.add("w", recorder.take())
    assert latencies.summary("GET status", "raw")["p99_9_us"] is None
    record(recorder, 5)
    latencies.add("w", recorder.take())
    assert latencies.summary("GET status", "raw")["p99_9_us"] == 5


def test_without_a_rate_nothing_is_corrected() -> None:
    recorder, latencies = Recorder(), Latencies()
    recorder.on_request(name="GET", response_time=1.0, context={})
    latencies.add("w", recorder.take())
    assert latencies.kinds("GET") == ["raw"]
    document = latencies.document(duration_s=1.0)
    assert document["paced"] is False
    assert "corrected" not in document["operations"][0]


def test_each_worker_has_a_log_that_hdrhistograms_own_reader_reads(tmp_path: Path) -> None:
    latencies = Latencies(tmp_path)
    for worker, latency_us in (("worker-0", 100), ("worker-1", 300)):
        recorder = Recorder()
        record(recorder, latency_us, late_us=5000)
        latencies.add(worker, recorder.take() | {"began_s": 50.0, "ended_s": 51.5})
    latencies.close()
    for worker, latency_us in (("worker-0", 100), ("worker-1", 300)):
        reader, found = HistogramLogReader(str(tmp_path / f"{worker}.hlog"), new_histogram()), []
        while (interval := reader.get_next_interval_histogram()) is not None:
            length_ms = interval.get_end_time_stamp() - interval.get_start_time_stamp()
            found.append((interval.get_tag(), length_ms, interval.get_max_value()))
        reader.close()
        assert found[0] == ("GET_status-raw", 1500, latency_us)
        assert found[1][0] == "GET_status-corrected"


NAMES = ("GET status", "GET_status", "GET,status", "GET:status", "GET/status", "a" * 300, "a" * 301)


def test_operations_that_differ_in_punctuation_only_have_files_and_tags_of_their_own(tmp_path: Path) -> None:
    recorder, latencies = Recorder(), Latencies(tmp_path)
    for latency_us, name in enumerate(NAMES, 1):
        record(recorder, latency_us, name=name)
    latencies.add("worker-0", recorder.take())
    latencies.close()
    texts = [path.read_text() for path in (tmp_path / "hgrm").iterdir()]
    assert (len(texts), len(set(texts))) == (2 * len(NAMES), len(NAMES))
    tags = {line.partition(",")[0] for line in (tmp_path / "worker-0.hlog").read_text().splitlines() if "Tag=" in line}
    assert len(tags) == 2 * len(NAMES)


def test_the_percentile_text_is_as_hdrhistogram_has_it() -> None:
    histogram, rng = new_histogram(), random.Random(3)
    for _ in range(500):
        histogram.record_value(int(rng.lognormvariate(6, 1.5)))
    theirs = io.BytesIO()
    histogram.output_percentile_distribution(theirs, 1.0)
    head, _, *lines, last, moments, end, _ = percentile_text(histogram).splitlines()
    assert head.split() == theirs.getvalue().decode().splitlines()[0].split()
    rows = [[float(word) for word in line.split()] for line in lines]
    assert [row[0] for row in rows] == [histogram.get_value_at_percentile(row[1] * 100) for row in rows]
    assert [row[3] for row in rows] == pytest.approx([1 / (1 - row[1]) for row in rows], rel=0.01)
    assert last.split()[1:] == ["1.000000000000", "500"]
    # as hdr-plot reads them, which ends with an error where one of them is missing
    found = re.match(r"#\[Mean(?:\s+)=(?:\s+)([0-9.]+),(?:\s+)StdDeviation(?:\s+)=(?:\s+)([0-9.]+)", moments)
    assert found
    assert float(found[1]) == pytest.approx(histogram.get_mean_value(), rel=0.001)
    assert float(found[2]) == pytest.approx(histogram.get_stddev(), rel=0.001)
    found = re.match(r"#\[Max(?:\s+)=(?:\s+)([0-9.]+),(?:\s+)Total count(?:\s+)=(?:\s+)([0-9.]+)", end)
    assert found
    assert found.groups() == (f"{histogram.get_max_value():.3f}", "500")


def test_an_endless_wait_is_cut_to_the_highest_value() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, 10**12)
    latencies.add("w", recorder.take())
    assert latencies.summary("GET status", "raw")["count"] == 1


def test_the_document_holds_curves_for_a_report() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, *range(1, 101))
    latencies.add("w", recorder.take())
    document: dict[str, Any] = latencies.document(duration_s=2.0)
    (operation,) = document["operations"]
    assert (operation["name"], operation["count"], operation["rate_per_s"]) == ("GET status", 100, 50.0)
    values = [value for _, value in operation["corrected"]["curve"]]
    assert values == sorted(values)
    assert values[-1] == 100


def test_the_worst_p99_is_of_what_was_measured_often_enough_and_is_forgotten_with_it() -> None:
    recorder, latencies = Recorder(), Latencies()
    record(recorder, *[700] * 60)
    record(recorder, *[9000] * 10, name="seldom")
    for _ in range(60):
        recorder.on_request(name="GET status", response_time=90.0, exception=ConnectionError("gone"))
    latencies.add("w", recorder.take())
    assert latencies.worst_p99_us() == 700
    latencies.reset()
    assert latencies.worst_p99_us() is None
