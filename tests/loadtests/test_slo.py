from __future__ import annotations

from pathlib import Path

import pytest

from podrace.loadtests.latency import Latencies, Recorder
from podrace.loadtests.slo import Slo, breaches, load_slo
from podrace.simulator.errors import UsageError


def test_ours_is_read() -> None:
    assert load_slo(Path("loadtests/slo.toml")).lost_max == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[p99_us]\n"GET nothing" = 1', "unknown operation 'GET nothing'"),
        ("lots = 1", "unknown limit 'lots'"),
        ("p99_us = 3", "expected a table"),
        ('[p99_us]\n"absorb" = "fast"', "expected a number"),
        ("lost_max = -1", "expected a number"),
        ("not toml", "expected a TOML file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_slo(path)
    assert "\n" not in str(caught.value)


def test_each_breach_is_one_line() -> None:
    recorder, latencies = Recorder(), Latencies()
    recorder.on_request(name="absorb", response_time=2.0, context={"late_us": 0})
    recorder.on_request(name="accept", response_time=3.0, exception=OSError())
    latencies.add(recorder.take())
    slo = Slo(error_rate_max=0.1, lost_max=0, duplicated_max=5, p99_us={"absorb": 1000, "GET status": 1})
    assert breaches(slo, latencies, {"load-upload": {"lost": 2, "duplicated": 5}}) == [
        "error rate: 50.000% > 10.000% (1 of 2 operations failed)",
        "lost in load-upload: 2 > 0",
        "absorb: p99 2000 µs > 1000 µs (from the intended start)",
    ]
    assert breaches(Slo(), latencies, {"load-upload": {"lost": 2}}) == []
